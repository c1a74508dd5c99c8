"""Imported trajectories as a run folder, and played again where their environment is at hand.

Import `import_run` and `replay` from here: what `eef import` does. The report, the viewer and the
frames read `tasks.jsonl` and `trajectories.jsonl`; what was read is noted in `import.json`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eeflib import world as worlds
from eeflib.envs.base import TextEnv
from eeflib.errors import DataError, EnvironmentFault, PrerequisiteError
from eeflib.files import MANIFEST, ReadReport, RunFolder, read_records
from eeflib.interop.read import stream_trajectories
from eeflib.interop.sources import ImportReport
from eeflib.records import Task, Trajectory
from eeflib.run import open_folder, open_run
from eeflib.world import World

log = logging.getLogger(__name__)

_CHUNK = 200
"""Episodes written at a time."""


def import_run(
    paths: Sequence[str | Path], run: str | Path, *, fresh: bool = False
) -> ImportReport:
    """Write every episode in `paths` into the run folder `run`, in memory that does not grow.

    An import that was stopped goes on when it is called again: what is on file is not repeated.

    Args:
        fresh: delete what the folder holds.

    Raises:
        DataError: as `read_trajectories`; the folder is no run or was made of other files.
    """
    folder = Path(run)
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder")
        if path.is_dir() and folder.resolve().is_relative_to(path.resolve()):
            raise DataError(f"{folder} lies inside {path}, which is imported: name another --run")
    report = ImportReport()
    new = not folder.exists()
    try:
        with open_folder(folder, {"imported": [Path(p).name for p in paths]}, fresh=fresh) as out:
            _write(out, paths, report)
    except (DataError, PrerequisiteError):
        if new and not report.read:  # nothing but a manifest: no reason to keep it
            for left in (MANIFEST, ".lock", ".lock.owner"):
                (folder / left).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
        raise
    return report


def _write(out: RunFolder, paths: Sequence[str | Path], report: ImportReport) -> None:
    beside = _tasks_beside(paths)
    on_file = ReadReport()
    done = {
        name: {r.id for r in out.read(name, kind, on_file)} if out.exists(name) else set[str]()
        for name, kind in (("tasks", Task), ("trajectories", Trajectory))
    }
    every = stream_trajectories(paths, report)
    while chunk := list(itertools.islice(every, _CHUNK)):
        fresh = [t for t in chunk if t.id not in done["trajectories"]]
        tasks = {}
        for t in fresh:
            if t.task_id not in done["tasks"] and t.task_id not in tasks:
                tasks[t.task_id] = _task(t, beside)
        done["tasks"] |= tasks.keys()
        out.append("tasks", tasks.values())
        out.append("trajectories", fresh)
    out.write_json("import.json", report.to_dict())


def _task(t: Trajectory, beside: dict[tuple[str, str], Task]) -> Task:
    """The task of an episode: as its run has it, else as far as the episode tells."""
    for name in (t.task_id, t.task_id.rpartition("-")[0]):  # with a suffix if the id is another's
        if known := beside.get((name, t.instruction)):
            return replace(known, id=t.task_id)
    goal = t.extra.get("goal")
    goal = goal if isinstance(goal, dict) else {}
    return Task(t.task_id, t.env, t.instruction, goal, threshold=t.threshold)


def _tasks_beside(paths: Iterable[str | Path]) -> dict[tuple[str, str], Task]:
    """(id, instruction) -> task, of runs among the paths."""
    found = {}
    for path in map(Path, paths):
        for file in path.rglob("tasks.jsonl") if path.is_dir() else [path.with_name("tasks.jsonl")]:
            if file.is_file() and file != path:
                for task in read_records(file, Task, ReadReport(), surrogates=False):
                    found[task.id, task.instruction] = task
    return found


# -- playing again --------------------------------------------------------------------------------


@dataclass
class Replays:
    """How playing imported episodes again went."""

    same: int = 0
    """Reached the recorded reward; of our own format, through the recorded observations."""
    other: int = 0
    """Did not."""
    no_task: int = 0
    """No world at hand has the task, or the environment is not known."""
    first_other: str = ""
    """Id of the first that did not reproduce."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.same} of {self.same + self.other} episodes played again reproduce"
        if self.other:
            text += f" (the first that does not: {self.first_other})"
        return f"{text}; for {self.no_task} no world at hand has the task"


def worlds_of(paths: Iterable[str | Path], env: str) -> Iterator[World]:
    """Worlds of `env` at hand: those of runs among the paths, then the one that eeflib ships."""
    for path in map(Path, paths):
        inside = path.rglob(MANIFEST) if path.is_dir() else iter(())
        above = (folder / MANIFEST for folder in path.absolute().parents)
        for manifest in itertools.chain(inside, above):
            with suppress(DataError):  # a run of another version, or itself imported
                if manifest.is_file() and (run := open_run(manifest.parent)).config.env == env:
                    yield from (run.at(seed).world() for seed in run.config.seeds)
    try:
        if env in ("webshop", "scienceworld", "textworld"):
            yield getattr(worlds, env)()
    except PrerequisiteError as exc:
        log.warning("%s is not at hand: %s", env, exc)


def replay(trajectories: Iterable[Trajectory], paths: Iterable[str | Path] = ()) -> Replays:
    """Play episodes again in the worlds at hand that have a task with their instruction.

    Args:
        paths: where runs may lie whose worlds are tried first, see `worlds_of`.
    """
    found, paths = Replays(), list(paths)
    tasks: dict[str, dict[str, list[tuple[TextEnv, Task]]]] = {}
    try:
        for t in trajectories:
            if t.env not in tasks:
                known = tasks[t.env] = {}
                for world in worlds_of(paths, t.env):
                    env = world.make_env()
                    for task in world.tasks:
                        known.setdefault(_plain(task.instruction), []).append((env, task))
            places = tasks[t.env].get(_plain(t.instruction), [])
            if not places:
                found.no_task += 1
            elif any(_reproduces(env, task, t) for env, task in places):
                found.same += 1
            else:
                found.other += 1
                found.first_other = found.first_other or t.id
    finally:
        for env in {id(e): e for k in tasks.values() for p in k.values() for e, _ in p}.values():
            env.close()
    return found


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _reproduces(env: TextEnv, task: Task, t: Trajectory) -> bool:
    """Whether the actions lead to the recorded reward; without one, whether all are understood."""
    exact, reward = t.extra.get("format") == "eeflib", 0.0
    try:
        text = env.reset(task).text
        for step in t.steps:
            if exact and step.observation != text:
                return False
            result = env.step(step.action)
            text, reward = result.text, result.reward
            if not t.rated and not result.info.get("valid", True):
                return False
    except (EnvironmentFault, DataError):
        return False
    return not t.rated or abs(reward - t.reward) < 1e-6
