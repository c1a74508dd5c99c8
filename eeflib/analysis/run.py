"""A run folder, read: which files there are and the records in them.

Import `Run`. It never changes a file. A line that cannot be read is skipped and noted in
`Run.problems` with file and line. Large files (branches, samples) are streamed, never held whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from eeflib.errors import DataError
from eeflib.files import ReadReport, encodable, read_records
from eeflib.records import Branch, Evaluation, Record, Sample, Task, Trajectory
from eeflib.stats import evaluations_from

TEACHER = "teacher"
"""Method name of the teacher's own outcomes."""

Who = Literal["teacher", "students", "all"]
"""Whose episodes: the teacher's recorded trajectories, the students' test episodes, or both."""

_RECORDS = ("tasks", "trajectories", "branches", "samples", "evaluations", "test_rollouts")
"""Names of the files of records, without their ending."""

R = TypeVar("R", bound=Record)


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
            DataError: there is no such folder, or it holds nothing of a run.
        """
        self.path = Path(path)
        if summary is not None:
            self.summary = summary
        if not self.path.is_dir():
            raise DataError(f"no run folder at {self.path}; run `eef demo --run {self.path}` first")
        self._problems: dict[str, None] = {}
        own = ("manifest.json", "summary.json", "phases", *(f"{n}.jsonl" for n in _RECORDS))
        if summary is None and not any(self.has(name) for name in own):
            raise DataError(
                f"{self.path} is not a run folder: it holds no manifest.json and no records such "
                f"as trajectories.jsonl; run `eef demo --run {self.path}` first"
            )

    @property
    def problems(self) -> list[str]:
        """What could not be read so far, one line each."""
        return list(self._problems)

    @classmethod
    def of(cls, run: Run | str | PathLike[str]) -> Run:
        """A run, given itself or its folder."""
        return run if isinstance(run, Run) else cls(Path(run))

    def has(self, name: str) -> bool:
        """Whether a file `name` belongs to this run, at any place in it."""
        return bool(self.files(name))

    def note(self, problem: str) -> None:
        """Add a line to `problems`, once."""
        self._problems[problem] = None

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self._json("manifest.json")

    @cached_property
    def summary(self) -> dict[str, Any]:
        return self._json("summary.json")

    @cached_property
    def tasks(self) -> dict[int, list[Task]]:
        """Tasks by seed."""
        return _by_seed(self._stream("tasks.jsonl", Task, ""))

    @cached_property
    def trajectories(self) -> dict[int, list[Trajectory]]:
        """The teacher's trajectories by seed."""
        return _by_seed(self._stream("trajectories.jsonl", Trajectory, ""))

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds that have a folder or are named in the summary."""
        named = [s for s in _list(self.summary.get("seeds")) if isinstance(s, int)]
        found = [int(p.name[5:]) for p in self.path.glob("seed-*") if p.name[5:].isdecimal()]
        return sorted({*named, *found, *self.tasks, *self.trajectories})

    @cached_property
    def outcomes(self) -> list[Evaluation]:
        """Every evaluation of every method, seed and iteration."""
        return [outcome for _, outcome in self._stream("evaluations.jsonl", Evaluation)]

    @cached_property
    def teacher_outcomes(self) -> list[Evaluation]:
        """The teacher's own results on the tasks it recorded (normally training tasks)."""
        out = []
        for seed, trajectories in self.trajectories.items():
            tasks = {t.id: t for t in self.tasks.get(seed, [])}
            trajectories = [t for t in trajectories if t.rated]
            for t in trajectories:  # a published set may come without its tasks
                tasks.setdefault(
                    t.task_id, Task(t.task_id, t.env, t.instruction, threshold=t.threshold)
                )
            by_policy: dict[str, list[Trajectory]] = {}
            for t in trajectories:
                by_policy.setdefault(t.policy, []).append(t)
            for policy, theirs in by_policy.items():  # two models are never one teacher
                name = TEACHER if len(by_policy) == 1 else policy
                out += evaluations_from(theirs, tasks.values(), name, seed, 0)
        return out

    @cached_property
    def _by_id(self) -> dict[tuple[int, str], Task]:
        return {(seed, t.id): t for seed, group in self.tasks.items() for t in group}

    def task(self, seed: int, task_id: str) -> Task | None:
        """The task `task_id` of a seed; None if it is not recorded."""
        return self._by_id.get((seed, task_id))

    def episodes(self, who: Who = "all") -> Iterator[tuple[Place, Trajectory]]:
        """The teacher's trajectories and the test episodes, streamed."""
        if who != "students" and "trajectories" in vars(self):  # read already
            for seed, group in self.trajectories.items():
                yield from ((Place(seed, TEACHER, 0), t) for t in group)
        elif who != "students":
            for place, t in self._stream("trajectories.jsonl", Trajectory, ""):
                yield Place(place.seed, TEACHER, 0), t
        if who != "teacher":
            yield from self._stream("test_rollouts.jsonl", Trajectory)

    def branches(self, method: str | None = None) -> Iterator[tuple[Place, Branch]]:
        """Every exploration rollout, or those of one method, streamed."""
        return self._stream("branches.jsonl", Branch, method)

    def samples(self) -> Iterator[tuple[Place, Sample]]:
        """Every training sequence, streamed."""
        return self._stream("samples.jsonl", Sample)

    def cases(self) -> dict[str, Run]:
        """Runs inside this one, `RUN/CASE/seed-S/...`, such as the same with another teacher."""
        out = {}
        for folder in sorted({p.parent for p in self.path.glob("*/seed-*")}):
            noted = self.summary.get(folder.name.replace("-", "_"))
            out[folder.name] = Run(folder, noted if isinstance(noted, dict) else {})
        return out

    def phases(self, phase: str) -> Iterator[tuple[Place, dict[str, Any]]]:
        """What the finished phase `phase` (`select`, `train`, ...) of each iteration noted."""
        for path, place in self.files("phases"):
            data = self._json(str((path / f"{phase}.json").relative_to(self.path)))
            if isinstance(data.get("summary"), dict):
                yield place, data["summary"]

    def files(self, name: str) -> list[tuple[Path, Place]]:
        """The files `name` of this run with their places, in order; -1: the path does not say."""
        default = _list(self.manifest.get("seeds")) or [self.manifest.get("seed", 0)]
        out = []
        for path in self.path.rglob(name):
            place = _place(path.relative_to(self.path).parts[:-1])
            if place is None:  # of another case inside this run, see `cases`
                continue
            if place.seed < 0:
                place = place._replace(seed=default[0] if isinstance(default[0], int) else 0)
            out.append((path, place))
        return sorted(out, key=lambda item: (item[1], item[0]))

    def _stream(
        self, name: str, cls: type[R], method: str | None = None
    ) -> Iterator[tuple[Place, R]]:
        """The records of a kind; where the path names no iteration, the record's own.

        Args:
            method: only what this one recorded; empty: only what is recorded once per seed (a
                method's folder may hold files of that name too).
        """
        for path, place in self.files(name):
            if method is not None and place.method != method:
                continue
            for record in self._records(path, cls):
                own = place.iteration if place.iteration >= 0 else getattr(record, "iteration", 0)
                yield place._replace(iteration=own), record

    def _records(self, path: Path, cls: type[R]) -> Iterator[R]:
        report = ReadReport()
        yield from read_records(path, cls, report, surrogates=False)
        where = path.relative_to(self.path)
        for skipped in report.skipped:
            self.note(f"{where}:{skipped.line}: skipped, {skipped.reason[:200]}")
        if report.duplicates:
            self.note(f"{where}: {report.duplicates} records occur twice; each id is counted once")
        if report.newer:
            self.note(
                f"{where}: {report.newer} records of a newer version of eeflib, read as far as "
                "this one knows them: upgrade eeflib to read them in full"
            )

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            return {}
        try:
            data = encodable(json.loads(path.read_bytes()))
        except (ValueError, RecursionError) as exc:
            self.note(f"{name}: not readable, {str(exc)[:200]}")
            return {}
        if not isinstance(data, dict):
            self.note(f"{name}: holds a {type(data).__name__}, not an object")
            return {}
        return data


def _by_seed(records: Iterator[tuple[Place, R]]) -> dict[int, list[R]]:
    out: dict[int, list[R]] = {}
    for place, record in records:
        out.setdefault(place.seed, []).append(record)
    return out


def _place(folders: Sequence[str]) -> Place | None:
    """The place of `[seed-S/][METHOD/][iter-I]`, -1 for what is not given; None for other paths."""
    path = "".join(f"{folder}/" for folder in folders)
    found = re.fullmatch(r"(?:seed-(\d+)/)?(?:([^/]+)/)??(?:iter-(\d+)/)?", path)
    if found is None:
        return None
    seed, method, iteration = found.groups()
    return Place(int(seed or -1), method or "", int(iteration or -1))


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
