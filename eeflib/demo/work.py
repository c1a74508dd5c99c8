"""The work of a demo, cut into jobs for worker processes.

Owns which jobs there are, which needs which, and the two functions they call. Knows nothing about
processes, progress bars or tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from eeflib.demo.plan import (
    BETTER_TEACHER,
    contenders,
    declared_methods,
    preset_of,
    seed_folder,
    unmasked,
)
from eeflib.errors import PrerequisiteError
from eeflib.methods import Method, get_method
from eeflib.pipeline import CLONING, Pipeline, Progress
from eeflib.presets import recipe_for
from eeflib.prompts import get_format
from eeflib.rollout import Episode, run_episodes
from eeflib.stats import evaluations_from
from eeflib.store import RunFolder
from eeflib.workers import Job, worker_folder_lock
from eeflib.world import World, make_world, webshop_world

__all__ = ["jobs_of"]

BETTER_MIDDLE = 300.0
"""Words read at which the better teacher starts to tire."""


def jobs_of(config: dict[str, Any], run_dir: str) -> list[Job]:
    """All jobs of the demo in `run_dir`, those first that should be started first."""
    main: list[Job] = []
    late: list[Job] = []
    args: tuple[Any, ...]
    methods = [m for m in declared_methods(config) if m.name != CLONING]
    # the longest first, so that no worker is left alone with one at the end
    methods.sort(key=lambda m: (not m.explores_states, -m.attempts))
    for seed in config["seeds"]:
        first = f"seed-{seed}"
        main.append(Job(f"{first}/{CLONING}", _start_seed, (config, run_dir, "", seed)))
        for m in methods:
            args = (config, run_dir, "", seed, m, ())
            main.append(Job(f"{first}/{m.name}", _run_method, args, (f"{first}/{CLONING}",)))
        if config["extras"]:
            m = unmasked(config)
            args = (config, run_dir, "", seed, m, ("EEF",))
            late.append(Job(f"{first}/{m.name}", _run_method, args, (f"{first}/EEF",)))
    if config["extras"] and config["env"] == "webshop":
        seed = config["seeds"][0]
        first = f"{BETTER_TEACHER}/seed-{seed}"
        args0 = (config, run_dir, BETTER_TEACHER, seed)
        late.append(Job(f"{first}/{CLONING}", _start_seed, args0))
        for m in contenders(config)[1:]:
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
    folder = RunFolder(path, lock=worker_folder_lock(path)).sub(seed_folder(case, seed))
    recipe = recipe_for(config["student"], preset_of(config))
    return Pipeline(world, recipe, folder, seed, progress=progress)


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
        folder.rewrite("evaluations", evaluations_from(rollouts, tasks, "teacher", seed, 0))
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
    known = {m.name: m for m in declared_methods(config)}
    share = [(known[name], pipeline.folder.sub(name)) for name in shares]
    pipeline.run(method, share=share)
