"""The whole story in one call: a teacher that fails, RFT that stalls, EEF that gets further.

Owns which methods run on which seeds, in what order, and what is written at the end. Every step is
that of the notebooks and the other commands: this module only puts them together.

    RUN/seed-S/...                       see `eeflib.pipeline`
    RUN/better-teacher/seed-S/...        the same with a teacher that tires later
    RUN/summary.json, RUN/report.html
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from eeflib.errors import DataError, PrerequisiteError
from eeflib.evaluate import Outcome, outcomes_from
from eeflib.methods import Method, get_method
from eeflib.pipeline import CLONING, Pipeline, Progress
from eeflib.presets import REPORT_SEED, Preset, get_preset, recipe_for
from eeflib.prompts import get_format
from eeflib.records import Branch, Trajectory
from eeflib.rollout import Episode, run_episodes
from eeflib.store import RunFolder, open_run
from eeflib.summary import compare, method_row
from eeflib.workers import Event, Job, run_jobs, worker_folder_lock
from eeflib.world import WORLDS, World, make_world, webshop_world

__all__ = ["DemoResult", "config_of", "run_demo"]

DemoResult = dict[str, Any]
"""The content of summary.json."""

BETTER_TEACHER = "better-teacher"
BETTER_MIDDLE = 300.0
"""Words read at which the better teacher starts to tire."""


def config_of(
    env: str = "webshop",
    preset: str | Preset = "laptop",
    student: str = "tiny",
    seeds: Sequence[int] | int | None = None,
) -> dict[str, Any]:
    """Everything that decides a demo's results, as JSON values for the manifest.

    Raises:
        DataError: no such environment or preset; seeds that are negative, repeated or none.
    """
    p = get_preset(preset, env) if isinstance(preset, str) else preset
    if seeds is None or isinstance(seeds, int):
        seeds = [REPORT_SEED + i for i in range(p.seeds if seeds is None else seeds)]
    if env not in WORLDS:
        raise DataError(f"unknown environment {env!r}; choose one of {', '.join(WORLDS)}")
    if not seeds or min(seeds) < 0 or len({*seeds}) < len(seeds):
        raise DataError(f"seeds are {[*seeds]}; give one or more, different, none below 0")
    return {
        "env": env,
        "student": student,
        "preset": p.name,
        "counts": dict(p.counts),
        "iterations": p.iterations,
        "M": p.M,
        "k": p.k,
        "steps": p.steps,
        "methods": list(p.methods),
        "extras": p.extras,
        "seeds": list(seeds),
    }


def run_demo(
    config: Mapping[str, Any],
    run_dir: Path | str,
    *,
    fresh: bool = False,
    processes: int | None = None,
    progress: bool = True,
) -> DemoResult:
    """Run or continue the demo that `config` (from `config_of`) describes.

    Args:
        run_dir: the run folder; a killed demo called again with it goes on where it was.
        processes: worker processes; None: one per CPU core, at most one per job that can run.
        progress: show a progress bar.

    Raises:
        EefError: see `eeflib.pipeline.Pipeline.run` and `eeflib.store.open_run`. The first one ends
            the demo, for a table over some of the seeds or methods would mislead: a seed whose
            teacher solves nothing has nothing to clone. What is on file stays.
    """
    seeds: list[int] = list(config["seeds"])
    _check_student(config["student"])
    n = processes or min(os.cpu_count() or 1, 2 * len(seeds))
    if config["env"] != "webshop":
        n = min(n, len(seeds) + 1)
    # the tiny student is too small for two threads to help, and two on a busy core collapse
    threads = 1 if config["student"] == "tiny" else None
    with open_run(run_dir, config, seeds=seeds, fresh=fresh) as run:
        jobs = _jobs(dict(config), str(run.path))
        with _Bar(jobs, config, progress) as bar:
            run_jobs(jobs, run.path, processes=n, threads=threads, on_event=bar.on_event)
        summary = summarise(run, config)
        run.write_atomic("summary.json", summary)
    return summary


def _check_student(name: str) -> None:
    """A wrong name must not leave a run folder behind that then stands for another student."""
    from eeflib.policies.loading import NAMES, load_student

    if name not in NAMES:
        load_student(name)


def _methods(config: Mapping[str, Any]) -> list[Method]:
    """The declared methods with the demo's sizes; RFTxk becomes RFTx6 for k = 6."""
    out = []
    for name in config["methods"]:
        method = get_method(f"RFTx{config['k']}" if name == "RFTxk" else name)
        if method.explores:
            method = replace(method, iterations=config["iterations"])
        if method.explores_states:
            method = replace(method, M=config["M"])
        out.append(method)
    return out


def _unmasked(config: Mapping[str, Any]) -> Method:
    return replace(get_method("EEF-no-mask"), iterations=1, M=config["M"])


def _extra_methods(config: Mapping[str, Any]) -> list[Method]:
    """What runs with the better teacher: one iteration of the two contenders."""
    main = [m for m in _methods(config) if m.explores and m.name != "RFT"]
    return [get_method(CLONING), *(replace(m, iterations=1) for m in main)]


def _jobs(config: dict[str, Any], run_dir: str) -> list[Job]:
    main: list[Job] = []
    late: list[Job] = []
    args: tuple[Any, ...]
    methods = [m for m in _methods(config) if m.name != CLONING]
    # the longest first, so that no worker is left alone with one at the end
    methods.sort(key=lambda m: (not m.explores_states, -m.attempts))
    for seed in config["seeds"]:
        first = f"seed-{seed}"
        main.append(Job(f"{first}/{CLONING}", _start_seed, (config, run_dir, "", seed)))
        for m in methods:
            args = (config, run_dir, "", seed, m, ())
            main.append(Job(f"{first}/{m.name}", _run_method, args, (f"{first}/{CLONING}",)))
        if config["extras"]:
            m = _unmasked(config)
            args = (config, run_dir, "", seed, m, ("EEF",))
            late.append(Job(f"{first}/{m.name}", _run_method, args, (f"{first}/EEF",)))
    if config["extras"] and config["env"] == "webshop":
        seed = config["seeds"][0]
        first = f"{BETTER_TEACHER}/seed-{seed}"
        args0 = (config, run_dir, BETTER_TEACHER, seed)
        late.append(Job(f"{first}/{CLONING}", _start_seed, args0))
        for m in _extra_methods(config)[1:]:
            args = (config, run_dir, BETTER_TEACHER, seed, m, ())
            late.append(Job(f"{first}/{m.name}", _run_method, args, (f"{first}/{CLONING}",)))
    return main + late


@lru_cache(maxsize=2)
def _world(env: str, case: str, seed: int, counts: str) -> World:
    """Kept between the jobs of a worker: they often are of one seed, and Java starts slowly."""
    if case == BETTER_TEACHER:
        return webshop_world(seed, json.loads(counts), teacher_middle=BETTER_MIDDLE)
    return make_world(env, seed, json.loads(counts))


def _pipeline(
    config: Mapping[str, Any], run_dir: str, case: str, seed: int, progress: Progress | None
) -> Pipeline:
    world = _world(config["env"], case, seed, json.dumps(config["counts"]))
    path = Path(run_dir)
    folder = RunFolder(path, lock=worker_folder_lock(path)).sub(_seed_folder(case, seed))
    recipe = recipe_for(config["student"], _preset(config))
    return Pipeline(world, recipe, folder, seed, progress=progress)


def _preset(config: Mapping[str, Any]) -> Preset:
    """The sizes in `config`, which need not be those of a preset with a name."""
    sizes = {key: config[key] for key in ("counts", "iterations", "M", "k", "steps")}
    return Preset(config["preset"], seeds=len(config["seeds"]), **sizes)


def _start_seed(
    config: Mapping[str, Any], run_dir: str, case: str, seed: int, progress: Progress
) -> None:
    """Collect, let the teacher play the test tasks, clone it: what all methods of a seed need."""
    pipeline = _pipeline(config, run_dir, case, seed, progress)
    pipeline.collect()
    folder = pipeline.folder.sub("teacher")
    if not folder.phase_done("evaluate"):
        world = pipeline.world
        tasks = world.split("test")
        rollouts = run_episodes(
            [Episode(t, "teacher.test") for t in tasks],
            world.teacher,
            world.make_env,
            get_format("react", world.env),
            actor="teacher",
            seed=seed,
        )
        folder.rewrite("evaluations", outcomes_from(rollouts, tasks, "teacher", seed, 0))
        folder.mark_done("evaluate")
    try:
        pipeline.run(get_method(CLONING))
    except PrerequisiteError as exc:
        raise PrerequisiteError(
            f"seed {seed}: {exc}. In the demo: a larger --preset, or another --first-seed"
        ) from exc


def _run_method(
    config: Mapping[str, Any],
    run_dir: str,
    case: str,
    seed: int,
    method: Method,
    shares: Sequence[str],
    progress: Progress,
) -> None:
    pipeline = _pipeline(config, run_dir, case, seed, progress)
    known = {m.name: m for m in _methods(config)}
    share = [(known[name], pipeline.folder.sub(name)) for name in shares]
    pipeline.run(method, share=share)


def summarise(run: RunFolder, config: Mapping[str, Any]) -> DemoResult:
    """The content of summary.json, from the run's files alone."""
    methods = _methods(config)
    found = _case(run, config, "", methods)
    out: DemoResult = {
        "env": config["env"],
        "student": config["student"],
        "preset": config["preset"],
        "seeds": list(config["seeds"]),
        "methods": found["rows"],
        "paired": found["paired"],
        "teacher_on_training_tasks": found["teacher"],
    }
    if config["extras"]:
        unmasked = _unmasked(config)
        without = _outcomes(run, config, "", unmasked.name)
        masked = [o for o in _outcomes(run, config, "", "EEF") if o.iteration == 1]
        out["masking"] = {
            "note": "after one iteration, on the same rollouts",
            **compare(masked, without),
            "win_rates": [
                method_row("EEF", masked, simulations=0, seconds=0)["win_rate"],
                method_row(unmasked.name, without, simulations=0, seconds=0)["win_rate"],
            ],
        }
        if config["env"] == "webshop":
            one = {**config, "seeds": config["seeds"][:1]}
            better = _case(run, one, BETTER_TEACHER, _extra_methods(config))
            out["better_teacher"] = {
                "note": "one seed, one iteration, a teacher that tires later",
                "methods": better["rows"],
                "paired": better["paired"],
                "teacher_on_training_tasks": better["teacher"],
            }
    return out


def _case(
    run: RunFolder, config: Mapping[str, Any], case: str, methods: Sequence[Method]
) -> dict[str, Any]:
    outcomes = {m.name: _outcomes(run, config, case, m.name) for m in methods}
    rows = [
        method_row("teacher", _outcomes(run, config, case, "teacher"), simulations=0, seconds=0.0)
    ]
    cloning = _seconds(run, config, case, CLONING)
    for m in methods:
        seconds = _seconds(run, config, case, m.name) + (cloning if m.explores else 0.0)
        rows.append(
            method_row(
                m.name,
                outcomes[m.name],
                simulations=_simulations(run, config, case, m),
                seconds=seconds,
            )
        )
    paired = {}
    names = [m.name for m in methods]
    for a, b in (("EEF", f"RFTx{config['k']}"), (f"RFTx{config['k']}", CLONING), ("EEF", "RFT")):
        if a in names and b in names:
            paired[f"{a} - {b}"] = compare(outcomes[a], outcomes[b])
    solved = [
        t.solved
        for seed in config["seeds"]
        for t in run.sub(_seed_folder(case, seed)).read("trajectories", Trajectory)
    ]
    teacher = {
        "solved": sum(solved),
        "n": len(solved),
        "win_rate": round(sum(solved) / len(solved), 4),
    }
    return {"rows": rows, "paired": paired, "teacher": teacher}


def _seed_folder(case: str, seed: int) -> str:
    return f"{case}/seed-{seed}".lstrip("/")


def _outcomes(run: RunFolder, config: Mapping[str, Any], case: str, method: str) -> list[Outcome]:
    return [
        outcome
        for seed in config["seeds"]
        for outcome in run.sub(f"{_seed_folder(case, seed)}/{method}").read("evaluations", Outcome)
    ]


def _iterations(
    run: RunFolder, config: Mapping[str, Any], case: str, method: str
) -> list[RunFolder]:
    return [
        run.sub(f"{_seed_folder(case, seed)}/{method}/{path.name}")
        for seed in config["seeds"]
        for path in sorted((run.path / _seed_folder(case, seed) / method).glob("iter-*"))
    ]


def _simulations(run: RunFolder, config: Mapping[str, Any], case: str, method: Method) -> float:
    """Student rollouts per seed, counted in the files."""
    count = sum(
        branch.restored
        for folder in _iterations(run, config, case, method.name)
        if folder.exists("branches")
        for branch in folder.read("branches", Branch)
    )
    return count / len(config["seeds"])


def _seconds(run: RunFolder, config: Mapping[str, Any], case: str, method: str) -> float:
    """Measured seconds per seed, over all parts of an interrupted run."""
    total = 0.0
    for folder in _iterations(run, config, case, method):
        if folder.exists("timings"):
            rows = folder.read("timings")
            total += sum(float(r["seconds"]) for r in rows if r.get("name") in _STEPS)
    return total / len(config["seeds"])


_STEPS = ("explore", "train", "evaluate")


class _Bar:
    """One bar over all jobs; each job counts by how long such jobs take."""

    def __init__(self, jobs: Sequence[Job], config: Mapping[str, Any], on: bool) -> None:
        self._weight = {j.name: self._cost(j, config) for j in jobs}
        self._share: dict[str, float] = {}
        self._steps: dict[str, int] = {}
        total = sum(self._weight.values())
        self._bar = tqdm(
            total=round(total, 1),
            disable=not on,
            bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}",
            desc="demo",
            smoothing=0.0,  # steps differ too much in length for a recent rate to mean anything
        )

    @staticmethod
    def _cost(job: Job, config: Mapping[str, Any]) -> float:
        method = next((a for a in job.args if isinstance(a, Method)), None)
        if method is None:
            return 1.0
        per = 1.0 + 0.35 * (config["M"] if method.explores_states else method.attempts)
        return per * method.iterations

    def on_event(self, event: Event) -> None:
        job, step, done, total = event
        self._bar.set_postfix_str(f"{job.split('/')[-2]} {step} {done}/{total}", refresh=False)
        self._steps.setdefault(f"{job}|{step}", len([k for k in self._steps if k.startswith(job)]))
        number = self._steps[f"{job}|{step}"]
        expected = max(3.0, number + 1.0)
        share = min(1.0, (number + done / max(1, total)) / expected)
        before = self._share.get(job, 0.0)
        if share > before:
            self._share[job] = share
            so_far = sum(v * self._weight[k] for k, v in self._share.items())
            self._bar.update(min(so_far, self._bar.total) - self._bar.n)
        else:
            self._bar.refresh()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self._bar.update(self._bar.total - self._bar.n)
        self._bar.close()
