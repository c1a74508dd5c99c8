"""A run with its settings: open one, look at one of its seeds, read what is on file.

Import `Run` and `open_run` from here. The steps that write into a run are `eeflib.pipeline`'s, the
files themselves `eeflib.folder`'s.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from eeflib.config import Config, make_config
from eeflib.errors import DataError, ProviderError
from eeflib.exploration import Exploration, ExplorationReport
from eeflib.methods import Method, get_method
from eeflib.policies.student import Student
from eeflib.records import Branch, Evaluation, Record, Sample, Task, Trajectory
from eeflib.run import RunFolder, open_folder
from eeflib.world import World, make_world

__all__ = [
    "Run",
    "by_id",
    "decided",
    "in_order",
    "open_run",
    "run_path",
    "set_failed_aside",
    "shared_branches",
    "stored_config",
    "timed",
]

_DRIVE = Path("/content/drive/MyDrive")


def open_run(
    path: str | Path,
    config: Config | None = None,
    *,
    preset: str | None = None,
    fresh: bool = False,
    **settings: Any,
) -> Run:
    """Start the run in `path`, or go on with the one that is there.

    A relative path lies on Google Drive where that is mounted (Colab), else in `$EEFLIB_RUNS`, else
    in the current folder.

    Args:
        config: every setting; else `preset` and `settings` make it (see
            `eeflib.config.make_config`), and with none of the three an existing run keeps its own.
        fresh: delete what is there and start over.
        settings: fields of `Config` or `TrainConfig`, such as `env`, `student`, `M`, `seeds`.

    Raises:
        DataError: unknown settings; the folder is no run or was made with other settings (named);
            another process writes it.
    """
    folder = run_path(path)
    if config is None and preset is None and not settings:
        return Run(RunFolder(folder), stored_config(folder))
    if config is None:
        config = make_config(preset or "laptop", **settings)
    elif preset or settings:
        raise DataError("give a config, or a preset and settings, not both: config.change(...)")
    with open_folder(folder, config.to_dict(), seeds=config.seeds, fresh=fresh) as opened:
        return Run(opened, config)


def run_path(path: str | Path) -> Path:
    """Where the run `path` lies, see `open_run`."""
    path = Path(path)
    if path.is_absolute():
        return path
    if _DRIVE.is_dir():
        return _DRIVE / "eeflib-runs" / path.name
    root = os.environ.get("EEFLIB_RUNS")
    return Path(root) / path.name if root else path


def stored_config(folder: Path) -> Config:
    """The settings of the run in `folder`.

    Raises:
        DataError: no run there, or one of another version of eeflib.
    """
    found = RunFolder(folder).manifest.get("config")
    if not isinstance(found, Mapping):
        raise DataError(f"{folder}/manifest.json holds no config; use another run folder")
    try:
        return Config.from_dict(found)
    except DataError as exc:
        raise DataError(
            f"{folder} was made by another version of eeflib ({exc}); `eef report` still reads it"
        ) from exc


class Run:
    """A run folder with its settings, looked at through one of its seeds.

    Args:
        root: the run's folder.
        config: its settings.
        seed: one of `config.seeds`; None: the first.
        case: subfolder of a variation, such as `better-teacher`.
    """

    def __init__(
        self, root: RunFolder, config: Config, seed: int | None = None, case: str = ""
    ) -> None:
        self.root, self.config, self.case = root, config, case
        self.seed = config.seeds[0] if seed is None else seed
        self.folder = root.sub(f"{case}/seed-{self.seed}".lstrip("/"))

    def at(self, seed: int) -> Run:
        """The same run, looked at through another of its seeds."""
        if seed not in self.config.seeds:
            raise DataError(f"this run has no seed {seed}; its seeds are {[*self.config.seeds]}")
        return Run(self.root, self.config, seed, self.case)

    @property
    def path(self) -> Path:
        return self.root.path

    def __fspath__(self) -> str:
        """A run may stand for its folder: `eef.frames.load(run)`, `eef.write_report(run)`."""
        return str(self.path)

    def world(self) -> World:
        """Tasks, environments and scripted teacher of this seed, built from the settings."""
        return make_world(self.config, self.seed)

    def method(self, name: str) -> Method:
        """A declared method with this run's M, k and number of iterations."""
        name = name.split("~")[0]
        found = get_method(f"RFTx{self.config.k}" if name == "RFTxk" else name)
        if found.explores:
            found = replace(found, iterations=self.config.iterations)
        return replace(found, M=self.config.M) if found.explores_states else found

    def student(
        self, method: str = "", iteration: int = 0, *, base: Student | None = None
    ) -> Student:
        """The student before tuning, or after iteration `iteration` of `method`.

        Args:
            base: the student before tuning, if it is loaded already.

        Raises:
            DataError: that one was not trained yet.
        """
        base = Student.of(self.config) if base is None else base
        if not method:
            return base
        origin = f"{method}/iter-{iteration}"
        folder = self.folder.sub(origin)
        if not folder.phase_done("train"):
            raise DataError(
                f"{folder.path / 'model'} is missing: run {method} with seed {self.seed} first"
            )
        return base.tuned(folder.path / "model", origin)

    def tasks(self) -> list[Task]:
        """All tasks of this seed, as on file."""
        return self._read("tasks", Task)

    def trajectories(self) -> list[Trajectory]:
        """The teacher's trajectories, as on file."""
        return self._read("trajectories", Trajectory)

    def branches(self, method: str = "EEF", iteration: int = 1) -> list[Branch]:
        """The student's rollouts of an iteration, as on file."""
        return self._read("branches", Branch, f"{method}/iter-{iteration}")

    def exploration(self, method: str = "EEF", iteration: int = 1) -> Exploration:
        """The finished exploration of an iteration, as on file.

        Raises:
            DataError: there is none.
        """
        origin = f"{method}/iter-{iteration}"
        folder = self.folder.sub(origin)
        if not folder.phase_done("explore"):
            raise DataError(f"{folder.path} holds no finished exploration: explore first")
        branches = tuple(folder.read("branches", Branch))
        return Exploration(branches, ExplorationReport.of(branches), origin)

    def samples(self, method: str = "EEF", iteration: int = 1) -> list[Sample]:
        """What an iteration was trained on, as on file."""
        return self._read("samples", Sample, f"{method}/iter-{iteration}")

    def evaluations(self, method: str) -> list[Evaluation]:
        """The evaluations of all iterations of a method, as on file."""
        return self._read("evaluations", Evaluation, method)

    def _read(self, name: str, kind: type[Record], where: str = "") -> list[Any]:
        folder = self.folder.sub(where) if where else self.folder
        return list(folder.read(name, kind)) if folder.exists(name) else []

    def place(self, method: str, iteration: int, decides: Mapping[str, Any]) -> RunFolder:
        """METHOD/iter-I of a step that depends on `decides`; METHOD~HASH/iter-I if that is taken.

        See `eeflib.run.RunFolder.step_folder`.
        """
        return self.folder.step_folder(f"{method}/iter-{iteration}", decides)

    def origin(self, folder: RunFolder) -> str:
        """METHOD/iter-I of a step's folder."""
        return folder.path.relative_to(self.folder.path).as_posix()

    def check(self, world: World) -> None:
        """That `world` is this run's: the same tasks, which are put on file if they are not yet.

        Raises:
            DataError: another seed, environment or other tasks; says what differs.
        """
        mine = self.config
        for what, here, there in (
            ("env", mine.env, world.env),
            ("seed", self.seed, world.seed),
            *((k, n, len(world.split(k))) for k, n in mine.counts.items()),
        ):
            if here != there:
                raise DataError(
                    f"this world is not the run's: {what} is {there!r}, in {self.path} it is "
                    f"{here!r}; use run.world(), or another run folder"
                )
        if not self.folder.exists("tasks"):
            self.folder.append("tasks", world.tasks)
        recorded = [t.content_hash for t in self.folder.read("tasks", Task)]
        if recorded != [t.content_hash for t in world.tasks]:
            raise DataError(
                f"{self.folder.file('tasks')} holds other tasks than this world has: the folder "
                "is of another run or version; use a new run folder, or fresh=True (--fresh)"
            )

    def __repr__(self) -> str:
        return "\n".join(f"{what}: {value}" for what, value in self._facts())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(what)}</th>"
            f"<td style='text-align:left'>{escape(value)}</td></tr>"
            for what, value in self._facts()
        )
        return f"<table>{rows}</table>"

    def _facts(self) -> list[tuple[str, str]]:
        c, root = self.config, self.folder.path
        found = [n for n in ("tasks", "trajectories") if self.folder.exists(n)]
        found += sorted(str(p.parent.relative_to(root)) for p in root.glob("*/iter-*/model"))
        # no names of the reader's machine in saved outputs
        where = f"\u2026/{self.path.parent.name}/{self.path.name}"
        return [
            ("run", where if self.path.is_absolute() else str(self.path)),
            ("preset", f"{c.preset} ({c.env}, student {c.student})"),
            ("tasks", ", ".join(f"{n} {split}" for split, n in c.counts.items())),
            ("methods", ", ".join(c.methods)),
            ("iterations, M, k", f"{c.iterations}, {c.M}, {c.k}"),
            ("seeds", f"{', '.join(map(str, c.seeds))}; this is {self.seed}"),
            ("on file", ", ".join(found) or "nothing yet"),
        ]


def decided(folder: RunFolder) -> Any:
    try:
        return json.loads((folder.path / "decides.json").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise DataError(
            f"{folder.path / 'decides.json'} cannot be read ({exc}); delete {folder.path}"
        ) from exc


def shared_branches(
    run: Run, methods: Sequence[str], iteration: int, basis: Mapping[str, Any], wanted: set[str]
) -> list[Branch]:
    """Branches of `methods` that are among the `wanted` and were made on the same basis."""
    out: dict[str, Branch] = {}
    for name in methods:
        folder = run.folder.sub(f"{name}/iter-{iteration}")
        made = decided(folder) or {}
        if folder.phase_done("explore") and all(made.get(k) == v for k, v in basis.items()):
            known = by_id(folder, "branches", Branch)
            out |= {i: b for i, b in known.items() if i in wanted}
    return list(out.values())


def by_id(folder: RunFolder, name: str, kind: Any) -> dict[str, Any]:
    if not folder.exists(name):
        return {}
    return {record.id: record for record in folder.read(name, kind)}


def in_order(
    folder: RunFolder, name: str, wanted: Sequence[str], found: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The records `wanted`, in that order: a continued run wrote them in another.

    Raises:
        DataError: the step is finished, and yet some are gone.
    """
    lost = [i for i in wanted if i not in found]
    if lost:
        raise DataError(
            f"{folder.file(name)}: {len(lost)} of {len(wanted)} records are gone, such as "
            f"{lost[0]!r}; restore the file, or delete {folder.path} to do the step again"
        )
    return tuple(found[i] for i in wanted)


def set_failed_aside(folder: RunFolder) -> None:
    """What the provider cut short is asked for again; what it has cost stays on record."""
    if not folder.exists("trajectories") or folder.phase_done("collect"):
        return
    rows = list(folder.read("trajectories", Trajectory))
    failed = [t for t in rows if t.error.startswith(ProviderError.__name__)]
    if failed:
        known = []
        if folder.exists("failed_attempts"):
            known = list(folder.read("failed_attempts", Trajectory))
        new = [t for t in failed if t not in known]  # a kill may come before the next rewrite
        folder.rewrite("failed_attempts", [*known, *new])
        folder.rewrite("trajectories", [t for t in rows if t not in failed])


@contextmanager
def timed(folder: RunFolder, name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        folder.timing(name, time.perf_counter() - started)
