"""The study: what each part of the method does, and what the effect depends on.

Import `plan_study`, `run_study` and `write_study` from here. The study is a list of small parts,
each a question and a seed, which depend on nothing but the settings: a part can be run alone, on
another machine, or not at all. A finished part is one small file, which is never written again; the
page is made of the files that are there, and says which are not.

    WORK/CASE/seed-S/...     the run of a part, see `eeflib.pipeline`
    RESULTS/CASE-S.json      what came out of it
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Template
from tqdm.auto import tqdm

from eeflib.config import Config
from eeflib.demo import compare, method_row
from eeflib.envs.webshop import embedded_shop
from eeflib.envs.webshop.shop import OPTION_VALUES
from eeflib.envs.webshop.skills import SKILLS, skills_shown
from eeflib.errors import DataError, EefError, PrerequisiteError
from eeflib.exploration import Exploration, ExplorationReport
from eeflib.files import write_atomic
from eeflib.methods import Method
from eeflib.pipeline import CLONING, Progress, collect, encode, evaluate, explore, select, train
from eeflib.policies.base import Policy
from eeflib.policies.scripted import FLAWLESS, ScriptedShopper, Skill
from eeflib.policies.student import Student
from eeflib.records import Branch, Evaluation, Sample, Trajectory, episode_rng
from eeflib.run import Run, RunFolder, git_state, open_folder
from eeflib.stats import caution, sample, win_rate
from eeflib.workers import Job, ParentsLock, run_jobs
from eeflib.world import World, make_world

_PAGE = Path(__file__).parent / "assets" / "study.md"
SEEDS = tuple(range(2020, 2028))
"""Reporting seeds of the study, used once; half of them for all parts but `methods`."""
DOSES = {0: True, 1: False, 2: True, 4: False, 8: True, 16: False}
"""Successes of the teacher that show a skill -> whether it is run unless another is asked for."""
TESTED = {
    "paging": ("page2", "page3"),
    "sub page": ("subpage", "twins"),
    "leaving": ("back", "twins", "subpage"),
}
"""Skill -> the levels whose tasks take it; added successes are of the first. The last skill is run
only if asked for: its tasks take long to find."""
NEW_SEEDS = tuple(range(2028, 2034))
"""Reporting seeds of the part `neighbours`, used once."""
STAGES = 3
"""Iterations of the methods that explore backward, a part of the states each."""
HABITS = (0.0, 0.5, 1.0)
"""`Skill.habit` of the teacher: how imitable its mistakes are."""
CHEAP = 240.0
"""`Skill.middle` of the cheap teacher: it tires after so many words."""


@dataclass(frozen=True)
class Part:
    """A question and a seed."""

    what: str
    """`methods`, `dose`, `teachers`, `imitable` or `neighbours`."""
    seed: int
    value: float = 0
    """The dose, or the habit."""
    skill: str = ""

    @property
    def case(self) -> str:
        words = [self.what, self.skill.replace(" ", "-")]
        words += [f"{self.value:g}"] if self.what in ("dose", "imitable") else []
        return "-".join(filter(None, words))

    @property
    def name(self) -> str:
        return f"{self.case}-{self.seed}"

    @property
    def usual(self) -> bool:
        """Whether it is run unless others are asked for."""
        return self.what != "dose" or (self.skill != "leaving" and DOSES[int(self.value)])


def plan_study(parts: Iterable[str] = (), seeds: Sequence[int] = ()) -> list[Part]:
    """The parts of the study, in the order in which they are run.

    Args:
        parts: beginnings of their names, such as `dose` or `methods-2020`; none: the default ones.
        seeds: instead of `SEEDS` and `NEW_SEEDS`.

    Raises:
        DataError: no part is called so.
    """
    all_seeds = tuple(seeds) or SEEDS
    half = all_seeds if seeds else SEEDS[: len(SEEDS) // 2]
    found = [Part("methods", seed) for seed in all_seeds]
    for seed in half:
        found += [Part("dose", seed, dose, skill) for skill in TESTED for dose in DOSES]
        found.append(Part("teachers", seed))
        found += [Part("imitable", seed, habit) for habit in HABITS]
    found += [Part("neighbours", seed) for seed in tuple(seeds) or NEW_SEEDS]
    out = []
    for name in tuple(parts) or [""]:
        mine = [p for p in found if p.name.startswith(name) and (p.usual or p.case in name)]
        if not mine:
            raise DataError(f"no part is called {name}; parts are {', '.join(_cases(found))}")
        out += [p for p in mine if p not in out]
    return out


def named_parts(parts: str, seeds: str) -> list[Part]:
    """`plan_study` of what a command names, with commas between names and between seeds.

    Raises:
        DataError: a seed is no whole number; no part is called so.
    """
    try:
        numbers = [int(seed) for seed in seeds.split(",") if seed]
    except ValueError:
        raise DataError(f"seeds {seeds}: give whole numbers with commas between them") from None
    return plan_study([name for name in parts.split(",") if name], numbers)


def _cases(parts: Iterable[Part]) -> list[str]:
    return list(dict.fromkeys(p.case for p in parts))


def forecast(parts: Sequence[Part], config: Config) -> str:
    """What `parts` will cost, in words: a line a case."""
    lines, total = [], 0.0
    for case in _cases(parts):
        mine = [p for p in parts if p.case == case]
        per_task, trained = _COST[mine[0].what]
        episodes = config.train * (1 + per_task(config)) + config.test * trained
        minutes = (_SECONDS["part"] + episodes * _SECONDS["episode"]) / 60
        minutes += trained * (config.training.max_steps or 0) * _SECONDS["step"] / 60
        total += len(mine) * minutes
        lines.append(
            f"{case:18} {len(mine)} parts: at most {episodes:,} episodes and {trained} trainings, "
            f"about {minutes:.0f} minutes of a core each"
        )
    return "\n".join(
        [*lines, f"{len(parts)} parts, about {total / 60:.1f} hours of a core (a guess)"]
    )


_SECONDS = {"part": 25.0, "episode": 0.015, "step": 0.18}
"""Of a core, as measured: for a world, an episode, a step of the tiny student's training."""
_COST: Mapping[str, Any] = {
    "methods": (lambda c: c.k + c.M, 13),
    "dose": (lambda c: c.k + c.M, 3),
    "teachers": (lambda c: 2 + 3 * c.M, 4),
    "imitable": (lambda c: 1 + c.M, 5),
    "neighbours": (lambda c: c.k + 4 * c.M, 14),
}
"""Rollouts at most that a part explores each task with, and students that it trains."""


class _Bench:
    """A part at work: what it has put on file, and the rows of its table."""

    def __init__(
        self, run: Run, world: World, tries: Sequence[Trajectory], progress: Progress
    ) -> None:
        self.run, self.world, self.tries, self.progress = run, world, tries, progress
        self.base, self.rows = run.student(), list[dict[str, Any]]()
        self.clone = self.tune(CLONING)

    def method(self, like: str, /, **changes: Any) -> Method:
        return replace(self.run.method(like), **changes)

    def explore(self, method: Method, share: Sequence[str] = ()) -> Exploration:
        """The clone's rollouts."""
        where: dict[str, Any] = {"run": self.run, "share": share, "progress": self.progress}
        return explore(self.world, self.tries, self.clone, method=method, **where)

    def staged(self, name: str) -> None:
        """A method that explores backward: each iteration with the student of the one before."""
        method = self.method(name, iterations=STAGES)
        found: list[Exploration] = []
        where: dict[str, Any] = {"run": self.run, "progress": self.progress}
        student = self.clone
        for i in range(1, STAGES + 1):
            of = {"method": method, "iteration": i, **where}
            found.append(explore(self.world, self.tries, student, **of))
            if i < STAGES:
                samples = select(self.tries, found, method, iteration=i, run=self.run)
                student = train(self.base, encode(samples, self.base), **where)
        self.tune(method, found)

    def tune(
        self,
        method: str | Method,
        found: Exploration | Sequence[Exploration] | Sequence[Branch] = (),
        tries: Sequence[Trajectory] | None = None,
    ) -> Student:
        """Train a student on what `method` makes of `found`, test it, and add its row."""
        chosen = self.method(method) if isinstance(method, str) else method
        samples = select(self.tries if tries is None else tries, found, chosen, run=self.run)
        data = encode(samples, self.base)
        start = self.clone if chosen.start_from == "previous" else self.base
        tuned = train(start, data, run=self.run, progress=self.progress)
        solved = {t.id for t in self.tries if t.solved}
        branches = (b for x in found for b in (x if isinstance(x, Exploration) else [x]))
        spent = ExplorationReport.of(b for b in branches if chosen.keeps(b, b.teacher_id in solved))
        self.test(
            tuned,
            chosen.name,
            simulations=spent.simulations,
            steps=spent.simulated_steps,
            samples=len(samples),
            recovery=sum(s.kind in ("recovery", "expert") for s in samples),
            masked=sum(map(_masks, samples)),
        )
        return tuned

    def test(self, who: Student | Policy, name: str, **costs: int) -> None:
        """Add the row of one who plays the test tasks."""
        label = who.origin if isinstance(who, Student) else f"{name}/iter-0"
        key = None if isinstance(who, Student) else name
        outcomes = evaluate(self.world, who, name=key, run=self.run, progress=self.progress)
        played = self.run.folder.sub(label).found("test_rollouts", Trajectory)
        rewards = [round(o.reward, 4) for o in outcomes]
        self.rows.append({"method": name, **costs, "rewards": rewards, "shown": _skills(played)})


def _masks(sample: Sample) -> bool:
    """Whether it holds a harmful action that is not trained."""
    flags = zip(sample.trained, sample.labels, strict=True)
    return any(label == "harmful" and not trained for trained, label in flags)


def _skills(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """Skill -> solved trajectories that show it."""
    shown = Counter(skill for t in trajectories if t.solved for skill in skills_shown(t.steps))
    return {skill: shown[skill] for skill in SKILLS}


def _methods(at: _Bench) -> None:
    at.test(at.world.teacher, "teacher")
    strong = at.method("RFTxk")
    from_s0 = at.explore(strong)
    found = at.explore(at.method("EEF"), (strong.name,))
    by_steps = at.method("RFTx-steps")
    at.tune("RFT", from_s0)
    at.tune(strong, from_s0)
    at.tune(by_steps, at.explore(by_steps, (strong.name,)))
    for name in ("EEF", "EEF-no-mask", "EEF-positives", "EEF-s0-only", "EEF-r-only"):
        with suppress(PrerequisiteError):  # no recovery state at all: a row less
            at.tune(name, found)
    _rules(at, found, ("all", "random"))


def _rules(at: _Bench, found: Exploration, rules: Sequence[Any]) -> None:
    """EEF with other rules of choice, with and without its mask."""
    for rule in rules:
        at.tune(at.method("EEF", name=f"EEF-{rule}", rule=rule), found)
        name = f"EEF-{rule}-no-mask"
        at.tune(at.method("EEF-no-mask", name=name, rule=rule), found)


def _dose(at: _Bench) -> None:
    strong = at.method("RFTxk")
    from_s0 = at.explore(strong)
    at.tune(strong, from_s0)
    at.tune("EEF", at.explore(at.method("EEF"), (strong.name,)))


def _imitable(at: _Bench) -> None:
    found = at.explore(at.method("EEF"))
    at.tune("EEF", found)
    at.tune("EEF-no-mask", found)
    _rules(at, found, ("all",))


def _teachers(at: _Bench) -> None:
    """The good teacher alone, and with the cheap one's failures: as many rollouts for both."""
    cheap = _shopper("cheap-shopper", middle=CHEAP)
    failures = [t for t in collect(at.world, cheap, run=at.run, progress=False) if not t.solved]
    twice = at.explore(at.method("EEF", name="EEF-more", attempts_state=2))
    first = [b for b in twice if b.attempt == 0]
    more = [b for b in twice if b.attempt > 0]
    good, at.tries = at.tries, failures
    other = [*at.explore(at.method("EEF", name="EEF-cheap", explores_s0=False))]
    at.tries = good
    n = min(len(more), len(other))  # the longer list loses some at random
    rng = episode_rng(at.run.seed, "teachers")
    more, other = ([x[i] for i in sorted(rng.permutation(len(x))[:n])] for x in (more, other))
    at.tune("EEF", first)
    at.tune(at.method("EEF", name="EEF-more", attempts_state=2), [*first, *more])
    at.tune(at.method("EEF", name="EEF-cheap"), [*first, *other], [*good, *failures])


def _neighbours(at: _Bench) -> None:
    strong = at.method("RFTxk")
    from_s0 = at.explore(strong)
    found = at.explore(at.method("EEF"), (strong.name,))
    at.tune(strong, from_s0)
    at.tune("EEF", found)
    at.tune("SFT-all")
    at.tune("NAT")
    pairs = at.method("ETO", attempts=strong.attempts)
    at.tune(pairs, from_s0)
    at.tune(replace(pairs, name="ETO-states", attempts=1, explores_states=True), found)
    pivots = at.method("PivotRL-like")
    at.tune(pivots, at.explore(pivots, ("EEF",)))
    at.staged("TCOD-like")
    at.staged("Backplay")


_RUN = {
    "methods": _methods,
    "dose": _dose,
    "teachers": _teachers,
    "imitable": _imitable,
    "neighbours": _neighbours,
}


def _shopper(name: str = "scripted-shopper", **changes: float) -> ScriptedShopper:
    """The world's teacher with other fields of its `Skill`."""
    skill = replace(Skill(), **changes)  # type: ignore[arg-type]
    return ScriptedShopper(skill, options=OPTION_VALUES, name=name)


def _dosed(world: World, part: Part) -> tuple[World, list[Trajectory]]:
    """The world with as many successes that show the skill as `part` says, and the teacher's tries.

    Too many: the later ones go, with their tasks. Too few: tasks of the same store are added that a
    teacher without errors solved by the skill; no product of theirs is a target of another task.
    """

    def shows(t: Trajectory) -> bool:
        return t.solved and part.skill in skills_shown(t.steps)

    tries = collect(world, progress=False)
    own = [t for t in tries if shows(t)]
    kept = [t for t in tries if not shows(t) or t in own[: int(part.value)]]
    missing = max(0, int(part.value) - len(own))
    tasks = {t.id: t for t in world.split("train")}
    if missing:
        shop = embedded_shop(world.seed, {"validation": 2 * missing + 8}, mix=TESTED[part.skill][0])
        targets = {t.goal["asin"] for t in world.tasks}
        free = [replace(t, split="train") for t in shop.tasks if t.goal["asin"] not in targets]
        flawless = ScriptedShopper(FLAWLESS, options=OPTION_VALUES)
        added = collect(replace(world, tasks=tuple(free), teacher=flawless), progress=False)
        kept += [t for t in added if shows(t)][:missing]
        tasks |= {t.id: t for t in free}
    if sum(map(shows, kept)) < part.value:
        raise DataError(f"{part.name}: the store has too few tasks that take {part.skill!r}")
    chosen = tuple(tasks[t.task_id] for t in kept)
    rest = (t for t in world.tasks if t.split != "train")
    return replace(world, tasks=(*chosen, *rest)), kept


def _play(config: Config, part: Part, work: Path, results: Path, progress: Progress) -> str:
    """Run a part in a worker; what went wrong, or nothing."""
    began = time.process_time()
    folder = RunFolder(work, lock=ParentsLock(work))
    try:
        run = Run(folder, config.change(seeds=(part.seed,)), part.seed, part.case)
        world = make_world(config, part.seed)  # not run.world(): on file are a part's own tasks
        if part.what == "imitable":
            world = replace(world, teacher=_shopper(habit=part.value))
        if part.what == "dose":
            world, tries = _dosed(world, part)
            run.config = run.config.change(train=len(tries))
            with run.folder as here:
                if here.found("trajectories", Trajectory) != tries:
                    here.rewrite("trajectories", tries)
        tries = collect(world, run=run, progress=progress)
        at = _Bench(run, world, tries, progress)
        _RUN[part.what](at)
    except EefError as exc:
        return f"{part.name}: {exc}"
    result = {
        "part": part.name,
        "what": part.what,
        "skill": part.skill,
        "seed": part.seed,
        "code": git_state(),
        "config": {k: v for k, v in config.to_dict().items() if k != "seeds"},
        "seconds": round(time.process_time() - began, 1),  # of one core; of the last call
        "tasks": len(tries),
        "successes": sum(t.solved for t in tries),
        "shown": _skills(tries),
        "levels": [t.extra["level"] for t in world.split("test")],
        "rows": at.rows,
    }
    write_atomic(results / f"{part.name}.json", json.dumps(result) + "\n")
    return ""


def run_study(
    config: Config,
    parts: Sequence[Part],
    work: Path,
    results: Path,
    *,
    processes: int = 2,
    progress: bool = True,
) -> None:
    """Run those of `parts` that have no file in `results`, side by side, a core each.

    Args:
        work: the folder of their runs. What a killed study had done there is not done again.

    Raises:
        DataError: `work` was made with other settings; or some parts ended in an error, which the
            others did not wait for.
    """
    results.mkdir(parents=True, exist_ok=True)
    left = [p for p in parts if not (results / f"{p.name}.json").exists()]
    with (
        open_folder(work, config.to_dict()) as folder,
        tqdm(total=len(parts), initial=len(parts) - len(left), disable=not progress) as bar,
    ):

        def show(event: tuple[str, str, int, int]) -> None:
            bar.n = sum((results / f"{p.name}.json").exists() for p in parts)
            bar.set_postfix_str(f"{event[0]} {event[1]} {event[2]}/{event[3]}")

        jobs = [Job(p.name, _play, (config, p, folder.path, results)) for p in left]
        said = run_jobs(jobs, folder.path, processes=processes, threads=1, on_event=show)
        bar.n = len(parts)
    if failed := [text for text in said.values() if text]:
        raise DataError(f"{len(failed)} parts did not end: {'; '.join(failed)}")


def write_study(parts: Sequence[Part], results: Path, out: Path) -> Path:
    """Write the page of those of `parts` that have a file in `results`; it names the others.

    Raises:
        DataError: none has one, or they were not made with the same settings.
    """
    files = {p: results / f"{p.name}.json" for p in parts}
    done = {p: json.loads(f.read_text("utf-8")) for p, f in files.items() if f.exists()}
    if not done:
        raise DataError(f"{results} holds none of these {len(parts)} parts: run them first")
    first = next(iter(done.values()))["config"]
    for part, found in done.items():
        if found["config"] != first:
            raise DataError(f"{files[part]} was made with other settings than the parts before it")
    codes = {c["commit"] + " (changed)" * c["changed"] for r in done.values() if (c := r["code"])}
    pages: dict[str, dict[str, Any]] = {}
    for what in _RUN:
        cases = {
            p.case: [r for q, r in done.items() if q.case == p.case] for p in done if p.what == what
        }
        if cases:
            skills = [_on_skill(cases, skill) for skill in TESTED]
            pages[what] = {"rates": _rates(cases), "differences": _differences(cases)}
            pages[what]["skills"] = [*filter(None, skills)]
    levels, shown = _by_level_and_skill([r for p, r in done.items() if p.what == "methods"])
    text = Template(_PAGE.read_text("utf-8"), trim_blocks=True, keep_trailing_newline=True).render(
        done=len(done),
        planned=len(parts),
        missing=", ".join(p.name for p in parts if p not in done),
        preset=first["preset"],
        codes=", ".join(sorted(codes)) or "unknown",
        pages=pages,
        levels=levels,
        shown=shown,
        cheap=CHEAP,
        stages=STAGES,
        good=Skill().middle,
    )
    write_atomic(out, text)
    return out


Found = list[dict[str, Any]]
"""The finished parts of a case, a seed each."""


def _names(found: Found) -> list[str]:
    return [*dict.fromkeys(row["method"] for r in found for row in r["rows"])]


def _outcomes(found: Found, method: str, levels: Sequence[str] = ()) -> list[Evaluation]:
    """Of the test tasks, or those of `levels`; a task is named by its number."""
    return [
        Evaluation(method, r["seed"], 1, str(i), str(i), "test", level, reward)
        for r in found
        for row in r["rows"]
        if row["method"] == method
        for i, (level, reward) in enumerate(zip(r["levels"], row["rewards"], strict=True))
        if not levels or level in levels
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _mean(found: Found, method: str, key: str) -> str:
    """Of a count, or of the won episodes that show a skill, over the seeds."""
    rows = [row for r in found for row in r["rows"] if row["method"] == method]
    return f"{sum({**row, **row['shown']}.get(key, 0) for row in rows) / len(rows):.1f}"


def _rates(cases: Mapping[str, Found]) -> str:
    """A row a method of each case."""
    costs = ("simulations", "steps", "samples", "recovery", "masked")
    rows = []
    for case, found in cases.items():
        for name in _names(found):
            row = method_row(name, _outcomes(found, name), simulations=0, steps=0, seconds=0)
            low, high = row["interval"]
            shares = [f"{100 * row['win_rate']:.1f}", f"{100 * low:.1f} to {100 * high:.1f}"]
            spent = (_mean(found, name, key) for key in costs)
            by_seed = ", ".join(f"{100 * x:.0f}" for x in row["per_seed"])
            rows.append([case, name, *shares, f"{row['reward']:.3f}", *spent, by_seed])
    head = ["part", "method", "win rate %", "95 % interval", "reward", *costs[:3]]
    return _table([*head, "of recovery", "with masked harm", "by seed"], rows)


def _pairs(found: Found) -> list[tuple[str, str]]:
    """Whom to compare."""
    names = _names(found)
    masks = [(n.removesuffix("-no-mask"), n) for n in names if n.endswith("-no-mask")]
    if "EEF-cheap" in names:
        return [("EEF-cheap", "EEF-more"), ("EEF-cheap", "EEF"), ("EEF-more", "EEF")]
    others = [("EEF", n) for n in names if n != "EEF" and found[0]["what"] != "imitable"]
    return [*dict.fromkeys([*others, *masks])]


def _differences(cases: Mapping[str, Found], levels: Sequence[str] = ()) -> str:
    """A row a pair of methods, first minus second, in points; below it what n is."""
    rows, said = [], set[str]()
    for case, found in cases.items():
        for a, b in _pairs(found):
            c = compare(_outcomes(found, a, levels), _outcomes(found, b, levels))
            low, high = (100 * x for x in c["interval"])
            says = "includes 0" if low <= 0 <= high else "above 0" if low > 0 else "below 0"
            numbers = [f"{100 * c['difference']:+.1f}", f"{low:+.1f} to {high:+.1f}: {says}"]
            better = f"{c['better_in']} of {c['seeds']}"
            by_seed = ", ".join(f"{100 * x:+.0f}" for x in c["per_seed"])
            rows.append([case, f"{a} - {b}", *numbers, better, f"{c['p']:.3f}", by_seed])
            said.add("; ".join(filter(None, [sample(c["seeds"], c["tasks"]), caution(c["seeds"])])))
    head = ["part", "difference", "points", "95 % interval", "better in seeds", "p", "by seed"]
    return _table(head, rows) + f"\n\nn: {'. '.join(sorted(said))}."


def _on_skill(cases: Mapping[str, Found], skill: str) -> tuple[str, str, str] | None:
    """Of the doses of a skill: the levels that take it, differences on their tasks, and the doses
    at which RFTx is not below EEF there."""
    doses = {case: found for case, found in cases.items() if found[0]["skill"] == skill}
    if not doses:
        return None
    caught = []
    for case, found in doses.items():
        a, b = (win_rate(_outcomes(found, name, TESTED[skill])) for name in _pairs(found)[-1])
        caught += [case] * (a.rate <= b.rate)
    levels = f"{skill} ({', '.join(TESTED[skill])})"
    return levels, _differences(doses, TESTED[skill]), ", ".join(caught)


def doses(parts: Sequence[Part], results: Path) -> list[dict[str, Any]]:
    """What the finished dose parts say of the tasks that take their skill, a row a part.

    A row has skill, dose and seed, how many test tasks are of the skill's levels, and how many of
    them RFTx and EEF solved. `eeflib.data.path("doses.json")` holds those of paging, of the results
    in the repository.
    """
    rows = []
    for part in parts:
        file = results / f"{part.name}.json"
        if part.what == "dose" and file.exists():
            found, levels = [json.loads(file.read_text("utf-8"))], TESTED[part.skill]
            row = {"skill": part.skill, "dose": int(part.value), "seed": part.seed}
            for name, method in zip(_pairs(found)[-1], ("EEF", "RFTxk"), strict=True):
                outcomes = _outcomes(found, name, levels)
                row |= {"tasks": len(outcomes), method: sum(o.solved for o in outcomes)}
            rows.append(row)
    return rows


def _by_level_and_skill(found: Found) -> tuple[str, str]:
    levels, names = sorted({level for r in found for level in r["levels"]}), _names(found)

    def rates(name: str) -> list[str]:
        shares = [win_rate(_outcomes(found, name, [level])).rate for level in levels]
        return [f"{100 * rate:.0f}" for rate in shares]

    return (
        _table(["method", *levels], [[n, *rates(n)] for n in names]),
        _table(["method", *SKILLS], [[n, *(_mean(found, n, s) for s in SKILLS)] for n in names]),
    )
