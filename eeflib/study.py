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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from eeflib.config import Config
from eeflib.demo import compare, method_row
from eeflib.envs.webshop import embedded_shop
from eeflib.envs.webshop.shop import OPTION_VALUES
from eeflib.envs.webshop.skills import SKILLS, skills_shown
from eeflib.errors import DataError, EefError
from eeflib.exploration import Exploration, ExplorationReport
from eeflib.files import write_atomic
from eeflib.methods import Method
from eeflib.pipeline import CLONING, Progress, collect, encode, evaluate, explore, select, train
from eeflib.policies.scripted import FLAWLESS, ScriptedShopper, Skill
from eeflib.policies.student import Student
from eeflib.records import Branch, Evaluation, Sample, Trajectory, episode_rng
from eeflib.run import Run, RunFolder, git_state, open_folder
from eeflib.stats import caution, sample, win_rate
from eeflib.workers import Job, ParentsLock, run_jobs
from eeflib.world import World

SEEDS = tuple(range(2020, 2028))
"""Reporting seeds of the study, used once; half of them for all parts but `methods`."""
DOSES = {0: True, 1: False, 2: True, 4: False, 8: True, 16: False}
"""Successes of the teacher that show a skill -> whether it is run unless another is asked for."""
DOSED = {
    "paging": {"page2": 0.65, "page3": 0.35},
    "sub page": {"subpage": 1.0},
    "leaving": {"back": 1.0},
}
"""Skill -> the levels that added demonstrations are of; the last one only if asked for."""
TESTED = {
    "paging": ("page2", "page3"),
    "sub page": ("subpage", "twins"),
    "leaving": ("subpage", "twins", "back"),
}
"""Skill -> the levels whose tasks take it."""
HABITS = (0.0, 0.5, 1.0)
"""`Skill.habit` of the teacher: how imitable its mistakes are."""
CHEAP = 240.0
"""`Skill.middle` of the cheap teacher: it tires after so many words."""


@dataclass(frozen=True)
class Part:
    """A question and a seed."""

    what: str
    """`methods`, `dose`, `teachers` or `imitable`."""
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
        seeds: instead of `SEEDS`.

    Raises:
        DataError: no part is called so.
    """
    all_seeds = tuple(seeds) or SEEDS
    half = all_seeds if seeds else SEEDS[: len(SEEDS) // 2]
    found = [Part("methods", seed) for seed in all_seeds]
    for seed in half:
        found += [Part("dose", seed, dose, skill) for skill in DOSED for dose in DOSES]
        found.append(Part("teachers", seed))
        found += [Part("imitable", seed, habit) for habit in HABITS]
    out = []
    for name in tuple(parts) or [""]:
        mine = [p for p in found if p.name.startswith(name) and (p.usual or p.case in name)]
        if not mine:
            raise DataError(f"no part is called {name}; parts are {', '.join(_cases(found))}")
        out += [p for p in mine if p not in out]
    return out


def _cases(parts: Iterable[Part]) -> list[str]:
    return list(dict.fromkeys(p.case for p in parts))


def forecast(parts: Sequence[Part], config: Config) -> str:
    """What `parts` will cost, in words: a line a case."""
    lines, total = [], 0.0
    for case in _cases(parts):
        mine = [p for p in parts if p.case == case]
        explored, tuned = _COST[mine[0].what]
        episodes = config.train + tuned * config.test + explored(config)
        minutes = 0.5 + episodes * _PER_EPISODE + tuned * _PER_STEP * _steps(config)
        total += len(mine) * minutes
        lines.append(
            f"{case:20} {len(mine)} parts, up to {episodes:5,} episodes and {tuned:2} trainings, "
            f"about {minutes:.0f} minutes each"
        )
    lines.append(
        f"{len(parts)} parts, about {total:.0f} minutes one after the other, {total / 2:.0f} on two"
        " cores (a guess)"
    )
    return "\n".join(lines)


_PER_EPISODE, _PER_STEP = 0.001, 0.001
"""Minutes of one core: of an episode, and of an optimiser step of the tiny student."""

_COST: dict[str, Any] = {
    "methods": (lambda c: c.train * (c.k + c.M), 13),
    "dose": (lambda c: c.train * (c.k + c.M), 3),
    "teachers": (lambda c: c.train * (1 + 3 * c.M), 4),
    "imitable": (lambda c: c.train * (1 + c.M), 5),
}
"""Rollouts at most that a part explores with, and students that it trains."""


def _steps(config: Config) -> int:
    return config.training.max_steps or 100


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

    def tune(
        self,
        method: str | Method,
        found: Exploration | Sequence[Branch] = (),
        tries: Sequence[Trajectory] | None = None,
    ) -> Student:
        """Train a student on what `method` makes of `found`, test it, and add its row."""
        chosen = self.method(method) if isinstance(method, str) else method
        samples = select(self.tries if tries is None else tries, found, chosen, run=self.run)
        data = encode(samples, self.base)
        tuned = train(self.base, data, run=self.run, progress=self.progress)
        outcomes = evaluate(self.world, tuned, run=self.run, progress=self.progress)
        spent = ExplorationReport.of(b for b in found if chosen.keeps(b))
        step = self.run.folder.sub(tuned.origin)
        self.rows.append(
            {
                "method": chosen.name,
                "simulations": spent.simulations,
                "steps": spent.simulated_steps,
                "samples": len(samples),
                "recovery": sum(s.kind == "recovery" for s in samples),
                "masked": sum(map(_masks, samples)),
                "rewards": [round(o.reward, 4) for o in outcomes],
                "shown": _skills(step.found("test_rollouts", Trajectory)),
            }
        )
        return tuned


def _masks(sample: Sample) -> bool:
    """Whether it holds a harmful action that is not trained."""
    flags = zip(sample.trained, sample.labels, strict=True)
    return any(label == "harmful" and not trained for trained, label in flags)


def _skills(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """Skill -> solved trajectories that show it."""
    shown = Counter(skill for t in trajectories if t.solved for skill in skills_shown(t.steps))
    return {skill: shown[skill] for skill in SKILLS}


def _methods(at: _Bench) -> None:
    strong = at.method("RFTxk")
    from_s0 = at.explore(strong)
    found = at.explore(at.method("EEF"), (strong.name,))
    by_steps = at.method("RFTx-steps")
    at.tune("RFT", from_s0)
    at.tune(strong, from_s0)
    at.tune(by_steps, at.explore(by_steps, (strong.name,)))
    for name in ("EEF", "EEF-no-mask", "EEF-positives", "EEF-s0-only", "EEF-r-only"):
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


_RUN = {"methods": _methods, "dose": _dose, "teachers": _teachers, "imitable": _imitable}


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
        shop = embedded_shop(world.seed, {"validation": 2 * missing + 8}, mix=DOSED[part.skill])
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
    began = time.perf_counter()
    folder = RunFolder(work, lock=ParentsLock(work))
    try:
        run = Run(folder, config.change(seeds=(part.seed,)), part.seed, part.case)
        world = run.world()
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
        if part.what == "methods":
            teacher = evaluate(world, world.teacher, name="teacher", run=run, progress=False)
            at.rows.insert(
                0, {"method": "teacher", "rewards": [round(o.reward, 4) for o in teacher]}
            )
        _RUN[part.what](at)
    except EefError as exc:
        return f"{part.name}: {exc}"
    result = {
        "part": part.name,
        "case": part.case,
        "seed": part.seed,
        "code": git_state(),
        "config": config.to_dict(),
        "seconds": round(time.perf_counter() - began, 1),
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
    codes = {(c["commit"] + " (changed)" * c["changed"]) for r in done.values() if (c := r["code"])}
    missing = [p.name for p in parts if p not in done]
    by_case = {case: [r for p, r in done.items() if p.case == case] for case in _cases(done)}
    text = [
        "# Study: what the parts of the method do, and what the effect depends on",
        f"Written by `eef study --report` from {len(done)} of {len(parts)} parts, preset "
        f"`{first['preset']}`, one iteration, code {', '.join(sorted(codes)) or 'unknown'}. "
        + (f"**Missing: {', '.join(missing)}.**" if missing else "No part is missing."),
        "Each seed is another store, other tasks, another teacher's luck and another student. A "
        "rate is the mean of the seeds' shares of solved test tasks. Differences are paired: the "
        "same seeds, the same test tasks. Intervals are 95 %, by a bootstrap over seeds, then tasks"
        " (one seed: over tasks); p by flipping the signs of the seeds' differences, not corrected "
        "for the number of comparisons. Simulations are the student's rollouts while exploring, "
        "steps its actions in them, both per seed.",
    ]
    for what, (title, write) in _PAGES.items():
        if cases := {k: v for k, v in by_case.items() if v[0]["case"].startswith(what)}:
            text += [f"## {title}", *write(cases)]
    write_atomic(out, "\n\n".join(text) + "\n")
    return out


Found = list[dict[str, Any]]
"""The finished parts of a case, a seed each."""


def _outcomes(found: Found, method: str, levels: Sequence[str] = ()) -> list[Evaluation]:
    """Of the test tasks, or those of `levels`; without the tasks' ids, which no file holds."""
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


def _percent(found: Found, method: str, levels: Sequence[str] = ()) -> str:
    return f"{100 * win_rate(_outcomes(found, method, levels)).rate:.1f}"


def _mean(values: Iterable[float]) -> str:
    values = [*values]
    return f"{sum(values) / len(values):.1f}"


def _rates(found: Found) -> str:
    """A row a method."""
    rows = []
    for name in (row["method"] for row in found[0]["rows"]):
        mine = [row for r in found for row in r["rows"] if row["method"] == name]
        row = method_row(name, _outcomes(found, name), simulations=0, steps=0, seconds=0)
        low, high = row["interval"]
        keys = ("simulations", "steps", "samples", "recovery", "masked")
        rows.append(
            [
                name,
                f"{100 * row['win_rate']:.1f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                f"{row['reward']:.3f}",
                *(_mean(m.get(key, 0) for m in mine) for key in keys),
                ", ".join(f"{100 * x:.0f}" for x in row["per_seed"]),
            ]
        )
    head = ["method", "win rate %", "95 % interval", "reward", "simulations", "steps", "samples"]
    return _table([*head, "of recovery", "with masked harm", "by seed"], rows)


def _differences(
    found: Found, pairs: Iterable[tuple[str, str]], levels: Sequence[str] = ()
) -> list[list[str]]:
    """A row a pair of methods, first minus second, in points."""
    rows = []
    for names in pairs:
        c = compare(*(_outcomes(found, name, levels) for name in names))
        low, high = (100 * x for x in c["interval"])
        says = "includes 0" if low <= 0 <= high else "above 0" if low > 0 else "below 0"
        difference = f"{100 * c['difference']:+.1f}"
        better = f"{c['better_in']} of {c['seeds']}"
        by_seed = ", ".join(f"{100 * x:+.0f}" for x in c["per_seed"])
        interval = f"{low:+.1f} to {high:+.1f}: {says}"
        rows.append(
            [f"{c['a']} - {c['b']}", difference, interval, better, f"{c['p']:.3f}", by_seed]
        )
    return rows


_POINTS = ["difference", "points", "95 % interval", "better in", "p", "by seed"]


def _compared(found: Found, pairs: Iterable[tuple[str, str]]) -> list[str]:
    said = caution(len(found))
    text = sample(len(found), sum(len(r["levels"]) for r in found))
    return [_table(_POINTS, _differences(found, pairs)), f"({text}{'; ' * bool(said)}{said}.)"]


def _page_methods(cases: Mapping[str, Found]) -> list[str]:
    (found,) = cases.values()
    names = [row["method"] for row in found[0]["rows"]]
    strong = next(n for n in names if n.startswith("RFTx") and n != "RFTx-steps")
    levels = sorted({level for r in found for level in r["levels"]})
    shown = [n for n in names if n != "teacher"]
    rows = {r["seed"]: {row["method"]: row for row in r["rows"]} for r in found}
    return [
        f"All methods of a seed share the teacher's tries, the clone (SFT) and the rollouts. "
        f"{strong} is matched with EEF in simulations (as many a task as EEF has at most), "
        "RFTx-steps in simulated steps. EEF chooses the `nearest` solution; `EEF-all` and "
        "`EEF-random` choose all, or any one; `no-mask` trains solutions whole.",
        _rates(found),
        "EEF against the others:",
        *_compared(found, [("EEF", n) for n in shown if n != "EEF"]),
        "The mask under each rule of choice (with minus without):",
        *_compared(found, [(n.removesuffix("-no-mask"), n) for n in names if "no-mask" in n]),
        "Win rate by level of the test task, in %:",
        _table(
            ["method", *levels], [[n, *(_percent(found, n, [x]) for x in levels)] for n in names]
        ),
        "Won test episodes whose actions show a skill, per seed:",
        _table(
            ["method", *SKILLS],
            [[n, *(_mean(m[n]["shown"][s] for m in rows.values()) for s in SKILLS)] for n in shown],
        ),
    ]


def _page_dose(cases: Mapping[str, Found]) -> list[str]:
    text = [
        "The teacher's successes that show a skill are removed, with their tasks, or added, until "
        "there are as many as the dose says; what is added was solved by a teacher without errors "
        "on further tasks of the same store. All methods start from these tries. `tasks of the "
        "skill` are the test tasks of the levels that take it.",
    ]
    for skill, levels in TESTED.items():
        key = f"dose-{skill.replace(' ', '-')}-"
        doses = {int(k.removeprefix(key)): v for k, v in cases.items() if k.startswith(key)}
        caught, rows = [], []
        for dose, found in sorted(doses.items()):
            names = [row["method"] for row in found[0]["rows"]]
            pair = [("EEF", names[1])]
            everywhere, here = (_differences(found, pair, where)[0] for where in ((), levels))
            caught += [str(dose)] * (float(here[1]) <= 0)
            rates = [_percent(found, n, levels) for n in names]
            successes = _mean(r["successes"] for r in found)
            rows.append(
                [dose, len(found), successes, *rates, here[1], here[2], here[5], *everywhere[1:3]]
            )
        if rows:
            text += [
                f"**{skill}** (levels {', '.join(levels)}; rates in % on the tasks of the skill):",
                _table(
                    [
                        *("dose", "seeds", "successes", *names, f"EEF - {names[1]}"),
                        *("95 % interval", "by seed", "on all test tasks", "95 % interval"),
                    ],
                    rows,
                ),
                f"On the tasks of the skill {names[1]} is, by the mean, not below EEF at "
                + (f"dose {', '.join(caught)}." if caught else "no dose tried."),
            ]
    return text


def _page_teachers(cases: Mapping[str, Found]) -> list[str]:
    (found,) = cases.values()
    return [
        "The student is cloned from the good teacher in each row. EEF explores the good teacher's "
        "tries. With the same further number of rollouts EEF-more explores the same states once "
        "more, EEF-cheap the failures of a second teacher, which tires earlier "
        f"(after {CHEAP:.0f} words instead of {Skill().middle:.0f}) and whose successes are not "
        "used.",
        _rates(found),
        *_compared(found, [("EEF-cheap", "EEF-more"), ("EEF-cheap", "EEF"), ("EEF-more", "EEF")]),
    ]


def _page_imitable(cases: Mapping[str, Found]) -> list[str]:
    pairs = [("EEF", "EEF-no-mask"), ("EEF-all", "EEF-all-no-mask")]
    rows = []
    for case, found in sorted(cases.items()):
        masked = [
            _mean(m["masked"] for r in found for m in r["rows"] if m["method"] == a)
            for a, _ in pairs
        ]
        for n, row in zip(masked, _differences(found, pairs), strict=True):
            rows.append([case.removeprefix("imitable-"), n, *row])
    return [
        "The habit is the probability with which the teacher's wrong listing or value is the first "
        "one instead of any: at 1 its mistakes follow a rule that a student can pick up.",
        _table(["habit", "samples with masked harm", *_POINTS], rows),
    ]


_PAGES: Mapping[str, Any] = {
    "methods": ("Methods side by side", _page_methods),
    "dose": ("How often the teacher shows a skill", _page_dose),
    "teachers": ("A cheap teacher's failures", _page_teachers),
    "imitable": ("When would the mask matter?", _page_imitable),
}
