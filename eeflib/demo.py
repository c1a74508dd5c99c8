"""The whole story in one call: a teacher that fails, RFT that stalls, EEF that gets further.

Import `run_demo` from here. Every step is one of `eeflib.pipeline`'s, as in the notebooks; this
module runs them over seeds in worker processes and makes one table of the evaluations.

    RUN/seed-S/...                       see `eeflib.pipeline`
    RUN/better-teacher/seed-S/...        the same with a teacher that tires later
    RUN/summary.json                     the table
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

from tqdm.auto import tqdm

from eeflib.config import Config
from eeflib.errors import DataError, PrerequisiteError
from eeflib.exploration import ExplorationReport
from eeflib.files import MANIFEST
from eeflib.methods import Method, get_method
from eeflib.pipeline import CLONING, Progress, collect, evaluate, run_method
from eeflib.policies.hardware import hardware
from eeflib.policies.loading import NAMES
from eeflib.policies.student import Student
from eeflib.records import Branch, Evaluation
from eeflib.run import Run, RunFolder, open_folder
from eeflib.stats import (
    PairedDifference,
    caution,
    gained_lost,
    last_iteration,
    mean_reward,
    paired_difference,
    per_seed,
    sample,
    win_rate,
)
from eeflib.workers import Event, Job, ParentsLock, run_jobs

DemoResult = dict[str, Any]
"""The content of summary.json."""

BETTER_TEACHER = "better-teacher"
"""Subfolder of the runs with a teacher that tires later."""

_BETTER_MIDDLE = 600.0
"""Words read at which the better teacher starts to tire."""

_JOBS = "demo"
"""Name of the phase of all jobs."""

_TIMED = ("explore", "train", "evaluate")
"""What is timed of a method."""


def run_demo(
    config: Config,
    path: Path | str,
    *,
    fresh: bool = False,
    processes: int | None = None,
    progress: bool = True,
) -> DemoResult:
    """Run or continue the demo that `config` describes.

    Args:
        path: the run folder; a killed demo called again with it continues.
        processes: worker processes; None: one per CPU core, at most one per job that can run; on
            a GPU one.
        progress: show a progress bar.

    Raises:
        EefError: see `eeflib.pipeline.run_method` and `open_run`. The first one ends the demo, for
            a table over some of the seeds or methods would mislead: a seed whose teacher solves
            nothing has nothing to clone. What is on file stays.
    """
    if config.student not in NAMES:
        # a wrong name must not leave a run folder behind that belongs to another student
        from eeflib.policies.loading import load_config

        load_config(config.student)
        _ = Student.of(config).chat
    n = processes or _workers(config)
    # the tiny student is too small for two threads to help, and two on a busy core collapse
    threads = 1 if config.student == "tiny" else None
    with open_folder(path, config.to_dict(), seeds=config.seeds, fresh=fresh) as folder:
        jobs = _jobs(config, folder.path) if not _finished(folder) else []
        with _Bar(jobs, config, progress and bool(jobs)) as bar:
            run_jobs(jobs, folder.path, processes=n, threads=threads, on_event=bar.on_event)
        if jobs:
            folder.mark_done(_JOBS, files=_made(folder.path))
        summary = summarise(folder, config)
        folder.write_json("summary.json", summary)
    return summary


def _made(path: Path) -> list[str]:
    """What the jobs of the demo in `path` leave: records and weights."""
    found = (f for seed in path.rglob("seed-*") for f in seed.rglob("*"))
    kept = (f for f in found if f.suffix in (".jsonl", ".safetensors") and f.stem != "timings")
    return sorted(f.relative_to(path).as_posix() for f in kept)


def _finished(folder: RunFolder) -> bool:
    """Whether all jobs ended, and what they made is as it was: workers take long to start."""
    try:
        return folder.phase(_JOBS) is not None
    except DataError:  # the step that reads the file says what is wrong, or makes it again
        return False


def _workers(config: Config) -> int:
    """Processes that the machine carries at once."""
    if config.student != "tiny" and hardware(Student.of(config)).device != "cpu":
        return 1  # a GPU's memory is for one
    # Of a small run in the shop a second worker saves no more than its import of torch takes.
    small = config.env == "webshop" and config.train + config.test <= 60
    n = min(os.cpu_count() or 1, (1 if small else 2) * len(config.seeds))
    return n if config.env == "webshop" else min(n, len(config.seeds) + 1)


_EPISODE = {"webshop": 1600, "scienceworld": 3000, "textworld": 2500}
"""Tokens of an episode, about: the WebShop's as SmolLM2 played it, the others a guess."""


def forecast(config: Config) -> str:
    """What the demo will cost a real model: device, memory, episodes, tokens and hours, about.

    Nothing is loaded.

    Raises:
        PrerequisiteError: there is no such student, or a GPU is asked for and missing.
    """
    from eeflib.policies.hardware import hours

    plan = hardware(Student.of(config))
    run = Run(RunFolder("."), config)
    methods = _methods(run)
    states = config.M * config.train  # at most: a short trajectory has fewer
    explored = sum(m.iterations * m.simulations(config.train, states) for m in methods)
    rounds = sum(max(1, m.iterations) for m in methods)
    episodes = explored + rounds * config.test
    tokens = episodes * _EPISODE[config.env]
    steps = config.training.max_steps
    per_step = config.training.batch_size * config.training.accumulation
    samples = steps * per_step if steps else round(config.training.epochs * config.train)
    trained = rounds * samples * _EPISODE[config.env]
    time = hours(plan, tokens, trained)
    return (
        f"{plan}\nUp to {episodes:,} episodes a seed, {(tokens + trained) / 1e6:.1f} million tokens"
        + (f": about {time:.1f} hours (a guess)" if time else "")
    )


def _cases(config: Config) -> dict[str, Config]:
    """Subfolder -> settings: the demo itself, and its variation with a better teacher."""
    out = {"": config}
    if config.extras and config.env == "webshop":
        out[BETTER_TEACHER] = replace(
            config, teacher_middle=_BETTER_MIDDLE, iterations=1, seeds=config.seeds[:1]
        )
    return out


def _methods(run: Run) -> list[Method]:
    """The demo's methods with its sizes; with the better teacher cloning and the contenders."""
    methods = [run.method(name) for name in run.config.methods]
    if run.case:
        main = [m for m in methods if m.explores and m.name != "RFT"]
        return [get_method(CLONING), *main]
    return methods


def _unmasked(config: Config) -> Method:
    """The masking ablation: EEF's first iteration, solutions trained whole."""
    return replace(get_method("EEF-no-mask"), iterations=1, M=config.M)


def _jobs(config: Config, path: Path) -> list[Job]:
    """All jobs of the demo in `path`, those first that should be started first."""
    ranked: list[tuple[int, Job]] = []
    for case, settings in _cases(config).items():
        for seed in settings.seeds:
            place = f"{case}/seed-{seed}".lstrip("/")
            here = (settings, path, case, seed)
            found = _methods(Run(RunFolder(path), settings, seed, case))
            methods = {m.name: m for m in (get_method(CLONING), *found)}
            # the longest first, so that no worker is left alone with one at the end
            for m in sorted(methods.values(), key=lambda m: (not m.explores_states, -m.attempts)):
                needs: tuple[str, ...] = (f"{place}/{CLONING}",) if m.name != CLONING else ()
                if m.budget == "steps" and "EEF" in methods:
                    needs += (f"{place}/EEF",)
                job = Job(f"{place}/{m.name}", _play, (*here, m, ()), needs)
                ranked.append((2 if case else 0, job))
            if config.extras and not case:
                m = _unmasked(settings)
                job = Job(f"{place}/{m.name}", _play, (*here, m, ("EEF",)), (f"{place}/EEF",))
                ranked.append((1, job))
    return [job for _, job in sorted(ranked, key=itemgetter(0))]


def _play(
    config: Config,
    path: Path,
    case: str,
    seed: int,
    method: Method,
    share: Sequence[str],
    progress: Progress,
) -> None:
    """Run one method in a worker. Cloning comes first, with what all methods of a seed need: the
    teacher's trajectories and how it does on the test tasks."""
    run = Run(RunFolder(path, lock=ParentsLock(path)), config, seed, case)
    if method.name != CLONING:
        run_method(run, method, share=share, progress=progress)
        return
    world = run.world()
    collect(world, run=run, progress=progress)
    evaluate(world, world.teacher, name="teacher", run=run, progress=False)
    try:
        run_method(run, method, progress=progress)
    except PrerequisiteError as exc:
        raise PrerequisiteError(
            f"seed {seed}: {exc}. In the demo: a larger --preset, or another --first-seed"
        ) from exc


def summarise(folder: RunFolder, config: Config) -> DemoResult:
    """The content of summary.json, from the run's files alone."""
    cases = {case: _case(folder, c, case) for case, c in _cases(config).items()}
    found = cases[""]
    out: DemoResult = {
        "env": config.env,
        "student": config.student,
        "preset": config.preset,
        "seeds": list(config.seeds),
        "code": json.loads((folder.path / MANIFEST).read_text("utf-8"))["git"],
        "methods": found["rows"],
        "paired": found["paired"],
        "teacher_on_training_tasks": found["teacher"],
    }
    if config.extras:
        runs = [Run(folder, config, seed) for seed in config.seeds]
        name = _unmasked(config).name
        without = [o for r in runs for o in r.evaluations(name)]
        masked = [o for r in runs for o in r.evaluations("EEF") if o.iteration == 1]
        out["masking"] = {
            "note": "after one iteration, on the same rollouts",
            **compare(masked, without),
            "win_rates": [_number(win_rate(x).rate) for x in (masked, without)],
        }
    if BETTER_TEACHER in cases:
        better = cases[BETTER_TEACHER]
        out["better_teacher"] = {
            "note": "one seed, one iteration, a teacher that tires later",
            "methods": better["rows"],
            "paired": better["paired"],
            "teacher_on_training_tasks": better["teacher"],
        }
    return out


def _case(folder: RunFolder, config: Config, case: str) -> dict[str, Any]:
    runs = [Run(folder, config, seed, case) for seed in config.seeds]
    methods = _methods(runs[0])
    outcomes = {m.name: [o for r in runs for o in r.evaluations(m.name)] for m in methods}
    teacher = [o for r in runs for o in r.evaluations("teacher")]
    rows = [method_row("teacher", teacher, simulations=0, steps=0, seconds=0.0)]
    cloning = _cost(runs, CLONING)["seconds"]
    for m in methods:
        cost = _cost(runs, m.name)
        cost["seconds"] += cloning if m.explores else 0.0
        rows.append(method_row(m.name, outcomes[m.name], **cost))
    paired = {}
    strong = f"RFTx{config.k}"
    for a, b in (("EEF", strong), (strong, CLONING), ("EEF", "RFT")):
        if a in outcomes and b in outcomes:
            paired[f"{a} - {b}"] = compare(outcomes[a], outcomes[b])
    solved = [t.solved for r in runs for t in r.trajectories()]
    rate = round(sum(solved) / len(solved), 4)
    taught = {"solved": sum(solved), "n": len(solved), "win_rate": rate}
    return {"rows": rows, "paired": paired, "teacher": taught}


def _cost(runs: Sequence[Run], method: str) -> dict[str, float]:
    """Student rollouts, their steps and measured seconds, per seed, over all parts of an
    interrupted run."""
    spent = dict.fromkeys(("simulations", "steps", "seconds"), 0.0)
    for run in runs:
        for path in sorted((run.folder.path / method).glob("iter-*")):
            folder = run.folder.sub(f"{method}/{path.name}")
            report = ExplorationReport.of(folder.found("branches", Branch))
            spent["simulations"] += report.simulations
            spent["steps"] += report.simulated_steps
            timings = folder.found("timings", dict)
            spent["seconds"] += sum(float(r["seconds"]) for r in timings if r.get("name") in _TIMED)
    return {name: value / len(runs) for name, value in spent.items()}


def _number(value: float, digits: int = 4) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def method_row(
    name: str,
    outcomes: Sequence[Evaluation],
    *,
    simulations: float,
    steps: float,
    seconds: float,
) -> dict[str, Any]:
    """One method: mean win rate of the seeds with its interval (see `eeflib.stats`), and more.

    Args:
        outcomes: of all iterations and seeds; the row is about the last iteration.
        simulations: student rollouts per seed.
        steps: actions the student took in them, per seed.
        seconds: per seed, of one worker; cloning included for methods that start from it.
    """
    final = last_iteration(outcomes)
    overall, seeds = win_rate(final), per_seed(final)
    levels = sorted({o.level for o in final if o.level})
    iterations = []
    for i in sorted({o.iteration for o in outcomes}):
        rate = win_rate(o for o in outcomes if o.iteration == i)
        row = {"iteration": i, "win_rate": _number(rate.rate)}
        iterations.append({**row, "interval": [_number(rate.low), _number(rate.high)]})
    return {
        "method": name,
        "win_rate": _number(overall.rate),
        "interval": [_number(overall.low), _number(overall.high)],
        "reward": _number(mean_reward(final)),
        "simulations": round(simulations),
        "steps": round(steps),
        "seconds": round(seconds, 1),
        "n": overall.n,
        "per_seed": [_number(r.rate) for r in seeds.values()],
        "per_level": {
            level: _number(win_rate(o for o in final if o.level == level).rate) for level in levels
        },
        "iterations": iterations,
    }


def compare(a: Iterable[Evaluation], b: Iterable[Evaluation]) -> dict[str, Any]:
    """Paired difference a - b over seeds, with its interval, and tasks gained and lost."""
    a, b = last_iteration(a), last_iteration(b)
    d: PairedDifference = paired_difference(a, b)
    changed = gained_lost(b, a)
    return {
        "a": d.a,
        "b": d.b,
        "difference": _number(d.mean),
        "interval": [_number(d.low), _number(d.high)],
        "p": _number(d.p, 6),
        "basis": d.basis,
        "seeds": d.n,
        "tasks": d.tasks,
        "better_in": d.better,
        "per_seed": [_number(x) for x in d.differences],
        "gained": len(changed.gained),
        "lost": len(changed.lost),
        "never": len(changed.never),
    }


def sentence(c: Mapping[str, Any]) -> str:
    """A comparison in words: what was seen first, then how sure it is."""
    low, high = c["interval"]
    p = f"{c['p']:.4f}" if c["p"] >= 1e-4 else f"{c['p']:.1e}"
    said = caution(c["seeds"])
    return (
        f"{c['a']} - {c['b']}: {100 * c['difference']:+.1f} points, better in {c['better_in']} of "
        f"{c['seeds']}, 95 % interval [{100 * low:+.1f}, {100 * high:+.1f}] over {c['basis']}, "
        f"p = {p} ({sample(c['seeds'], c['tasks'])}{'; ' * bool(said)}{said}); "
        f"tasks gained {c['gained']}, lost {c['lost']}"
        + ("" if c["gained"] or c["lost"] else ": no task tells them apart")
    )


def render_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `method_row` as a plain-text table."""
    head = ("method", "win rate", "95 % interval", "reward", "simulations", "steps", "seconds")
    body = [
        (
            row["method"],
            f"{100 * row['win_rate']:.1f} %",
            f"{100 * row['interval'][0]:.1f} - {100 * row['interval'][1]:.1f}",
            f"{row['reward']:.3f}",
            f"{row['simulations']:,}",
            f"{row['steps']:,}",
            f"{row['seconds']:.0f}",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join((first, *rest)).rstrip()

    rule = "  ".join("-" * w for w in widths)
    return "\n".join([line(head), rule, *map(line, body)])


def footing(result: DemoResult) -> str:
    """What the numbers of a result's table rest on, in words."""
    seeds = len(result["seeds"])
    how = "a bootstrap over seeds, then tasks" if seeds > 1 else "Wilson, over tasks"
    return (
        f"Win rates: {sample(seeds, result['methods'][0]['n'])}, 95 % intervals by {how}. "
        "Simulations are the student's rollouts while exploring, steps its actions in them; "
        "both, and seconds, per seed."
    )


class _Bar:
    """One bar over all jobs; each job counts by how long such jobs take."""

    def __init__(self, jobs: Sequence[Job], config: Config, on: bool) -> None:
        self._weight, self._steps = {}, {}
        for job in jobs:
            method = next(a for a in job.args if isinstance(a, Method))
            rounds = max(1, method.iterations)
            rollouts = config.M if method.explores_states else method.attempts
            # explore, train, evaluate in each iteration; for cloning: collect, train, evaluate
            self._steps[job.name] = 3 * rounds
            self._weight[job.name] = (1.0 + 0.35 * rollouts) * rounds
        self._share: dict[tuple[str, str], float] = {}
        self._bar = tqdm(
            total=round(sum(self._weight.values()), 1),
            disable=not on,
            bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}",
            desc="demo",
            smoothing=0.0,  # steps differ too much in length for a recent rate to mean anything
        )

    def on_event(self, event: Event) -> None:
        job, step, done, total = event
        self._bar.set_postfix_str(f"{job.split('/')[-2]} {step} {done}/{total}", refresh=False)
        self._share[job, step] = self._weight[job] / self._steps[job] * done / max(1, total)
        self._bar.n = min(sum(self._share.values()), self._bar.total)
        self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self._bar.update(self._bar.total - self._bar.n)
        self._bar.close()


def describe(result: DemoResult) -> str:
    """What `eef demo` prints of the result of `run_demo`."""
    taught = result["teacher_on_training_tasks"]
    lines = [
        f"\nThe teacher solved {taught['solved']} of {taught['n']} training tasks "
        f"({100 * taught['win_rate']:.1f} %). On unseen test tasks:\n",
        render_table(result["methods"]),
        "",
        *(sentence(c) for c in result["paired"].values()),
        "",
        footing(result),
    ]
    if "masking" in result:
        m = result["masking"]
        lines += ["", f"Does masking matter? ({m['note']})", sentence(m)]
    if "better_teacher" in result:
        b = result["better_teacher"]
        t = b["teacher_on_training_tasks"]
        lines += [
            "",
            f"When does RFT catch up? {b['note']} ({100 * t['win_rate']:.1f} % of training tasks):",
            render_table(b["methods"]),
            *(sentence(c) for c in b["paired"].values()),
        ]
    return "\n".join(lines)
