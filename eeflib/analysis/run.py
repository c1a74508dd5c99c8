"""A run folder, read: which files there are and the records in them.

Owns the layout of a run folder as seen by a reader, and tolerant reading: a line that cannot be
read is noted in `Run.problems` with file and line, and skipped. Changes nothing, and knows nothing
about what the records mean. Large files (branches, samples) are streamed, never held whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from eeflib.errors import DataError
from eeflib.evaluate import Outcome, outcomes_from
from eeflib.jsonl import ReadReport, read_objects
from eeflib.records import Branch, Record, Sample, Task, Trajectory

__all__ = ["TEACHER", "Place", "Run"]

TEACHER = "teacher"
"""Method name of the teacher's own outcomes."""

R = TypeVar("R", bound=Record)

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Place(NamedTuple):
    """Where in a run a file belongs."""

    seed: int
    method: str
    iteration: int


class Run:
    """The folder of one run: `RUN/seed-S/METHOD/iter-I/...`, or the same files without subfolders.

    Missing files are empty lists, missing JSON is an empty dict.
    """

    def __init__(self, path: str | Path, summary: dict[str, Any] | None = None) -> None:
        """No file is read yet.

        Args:
            path: the folder.
            summary: instead of its `summary.json`.

        Raises:
            DataError: there is no such folder.
        """
        self.path = Path(path)
        if summary is not None:
            self.summary = summary
        if not self.path.is_dir():
            raise DataError(f"no run folder at {self.path}; run `eef demo --run {self.path}` first")
        self._problems: dict[str, None] = {}

    @property
    def problems(self) -> list[str]:
        """What could not be read so far, one line each."""
        return list(self._problems)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self._json("manifest.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        return self._json("summary.json")

    @cached_property
    def tasks(self) -> dict[int, list[Task]]:
        """Tasks by seed."""
        return self._by_seed("tasks.jsonl", Task)

    @cached_property
    def trajectories(self) -> dict[int, list[Trajectory]]:
        """The teacher's trajectories by seed."""
        return self._by_seed("trajectories.jsonl", Trajectory)

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds that have a folder or are named in the summary."""
        named = [s for s in _list(self.summary.get("seeds")) if isinstance(s, int)]
        found = [int(p.name[5:]) for p in self.path.glob("seed-*") if p.name[5:].isdecimal()]
        return sorted({*named, *found, *self.tasks, *self.trajectories})

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """Every evaluation of every method, seed and iteration."""
        return [
            o for path, _ in self._files("evaluations.jsonl") for o in self._records(path, Outcome)
        ]

    @cached_property
    def teacher_outcomes(self) -> list[Outcome]:
        """The teacher's own results on the tasks it recorded (normally training tasks)."""
        out = []
        for seed, trajectories in self.trajectories.items():
            tasks = {t.id: t for t in self.tasks.get(seed, [])}
            for t in trajectories:  # a published set may come without its tasks
                tasks.setdefault(
                    t.task_id, Task(t.task_id, t.env, t.instruction, threshold=t.threshold)
                )
            out += outcomes_from(trajectories, tasks.values(), TEACHER, seed, 0)
        return out

    def branches(self) -> Iterator[tuple[Place, Branch]]:
        """Every exploration rollout, streamed."""
        for path, place in self._files("branches.jsonl"):
            for branch in self._records(path, Branch):
                if place.iteration < 0:
                    yield place._replace(iteration=branch.iteration), branch
                else:
                    yield place, branch

    def samples(self) -> Iterator[tuple[Place, Sample]]:
        """Every training sequence, streamed."""
        for path, place in self._files("samples.jsonl"):
            for sample in self._records(path, Sample):
                yield place._replace(iteration=max(place.iteration, 0)), sample

    def cases(self) -> dict[str, Run]:
        """Runs inside this one, `RUN/CASE/seed-S/...`, such as the same with another teacher."""
        out = {}
        for folder in sorted({p.parent for p in self.path.glob("*/seed-*")}):
            noted = self.summary.get(folder.name.replace("-", "_"))
            out[folder.name] = Run(folder, noted if isinstance(noted, dict) else {})
        return out

    def phases(self, phase: str) -> Iterator[tuple[Place, dict[str, Any]]]:
        """What the finished phase `phase` (`select`, `train`, ...) of each iteration noted."""
        for path, place in self._files("phases"):
            data = self._json(str((path / f"{phase}.json").relative_to(self.path)))
            if isinstance(data.get("summary"), dict):
                yield place, data["summary"]

    @cached_property
    def method_names(self) -> dict[str, str]:
        """Folder name -> method name, as its outcomes spell it."""
        names = {}
        for path, place in self._files("evaluations.jsonl", resolve=False):
            first = next(self._records(path, Outcome), None)
            if first is not None and place.method:
                names[place.method] = first.method
        return names

    def _files(self, name: str, resolve: bool = True) -> list[tuple[Path, Place]]:
        default = _list(self.manifest.get("seeds")) or [self.manifest.get("seed", 0)]
        out = []
        for path in self.path.rglob(name):
            place = _place(path.relative_to(self.path).parts[:-1])
            if place is None:  # of another case inside this run, see `cases`
                continue
            if place.seed < 0:
                place = place._replace(seed=default[0] if isinstance(default[0], int) else 0)
            if resolve:
                name_of = self.method_names
                place = place._replace(method=name_of.get(place.method, place.method))
            out.append((path, place))
        return sorted(out, key=lambda item: (item[1], item[0]))

    def _by_seed(self, name: str, cls: type[R]) -> dict[int, list[R]]:
        out: dict[int, list[R]] = {}
        for path, place in self._files(name, resolve=False):
            if not place.method:  # a method's folder may hold rollouts of its own
                out.setdefault(place.seed, []).extend(self._records(path, cls))
        return out

    def _records(self, path: Path, cls: type[R]) -> Iterator[R]:
        report = ReadReport()
        for number, data in read_objects(path, report):
            try:
                record = cls.from_dict(_encodable(data))
            except DataError as exc:
                report.skip(path, number, str(exc)[:200])
            else:
                yield record
        for skipped in report.skipped:
            where = skipped.file.relative_to(self.path)
            self._problems[f"{where}:{skipped.line}: skipped, {skipped.reason}"] = None

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            return {}
        try:
            data = _encodable(json.loads(path.read_bytes()))
        except ValueError as exc:
            self._problems[f"{name}: not readable, {str(exc)[:200]}"] = None
            return {}
        if not isinstance(data, dict):
            self._problems[f"{name}: holds a {type(data).__name__}, not an object"] = None
            return {}
        return data


def _place(folders: Sequence[str]) -> Place | None:
    """The place of `[seed-S/][METHOD/][iter-I]`, -1 for what is not said; None for other paths."""
    rest = list(folders)
    seed = iteration = -1
    if rest and (match := re.fullmatch(r"seed-(\d+)", rest[0])):
        seed = int(match.group(1))
        rest.pop(0)
    if rest and (match := re.fullmatch(r"iter-(\d+)", rest[-1])):
        iteration = int(match.group(1))
        rest.pop()
    if len(rest) > 1:
        return None
    return Place(seed, rest[0] if rest else "", iteration)


def _encodable(value: Any) -> Any:
    """Half a surrogate pair is legal in JSON text, but no data frame and no page can hold it."""
    if isinstance(value, str):
        return value if value.isascii() else _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_encodable(k): _encodable(v) for k, v in value.items()}
    return [_encodable(v) for v in value] if isinstance(value, list) else value


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
