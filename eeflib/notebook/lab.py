"""One preset name -> everything a notebook works with: sizes, seeds, world, run folder.

Owns where notebooks keep their runs, that the folder is locked only while a cell writes, and the
steps of earlier notebooks for a reader who skipped them. Knows nothing about how a step works.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from eeflib.demo import config_of
from eeflib.methods import Method, get_method
from eeflib.pipeline import CLONING, Pipeline
from eeflib.policies.loading import NAMES
from eeflib.presets import Preset, get_preset, recipe_for
from eeflib.prompts import PromptFormat, get_format
from eeflib.recipe import Recipe
from eeflib.records import Branch, Evaluation, Record, Sample, Trajectory
from eeflib.store import RunFolder, open_run
from eeflib.world import World, make_world

__all__ = ["DEVELOPMENT_SEED", "Lab", "open_lab", "versions"]

DEVELOPMENT_SEED = 7
"""Notebooks use development seeds (below 1000): results are reported on others."""

_DRIVE = Path("/content/drive/MyDrive")
_PACKAGES = ("torch", "transformers", "peft", "pandas", "numpy")


@dataclass(frozen=True)
class Lab:
    """A notebook's sizes and folders. Reading takes no lock; `writing()` does, for its block.

    So two notebooks can be open side by side, one continuing what the other wrote.
    """

    env: str
    preset: Preset
    path: Path
    """The run folder."""
    student: str = "tiny"

    @property
    def seeds(self) -> list[int]:
        return [DEVELOPMENT_SEED + i for i in range(self.preset.seeds)]

    @property
    def seed(self) -> int:
        """The seed that is looked at closely."""
        return self.seeds[0]

    @cached_property
    def config(self) -> dict[str, Any]:
        """What decides the run's results; in the run's manifest."""
        return config_of(self.env, self.preset, self.student, self.seeds)

    @cached_property
    def world(self) -> World:
        """Tasks, environments and the scripted teacher of `seed`."""
        return make_world(self.env, self.seed, self.preset.counts)

    @cached_property
    def recipe(self) -> Recipe:
        """How the student is prompted, asked and trained."""
        return recipe_for(self.student, self.preset)

    @property
    def fmt(self) -> PromptFormat:
        """The student's prompt format."""
        return get_format(self.recipe.prompt, self.env)

    @property
    def folder(self) -> RunFolder:
        """The folder of `seed` in the run, for reading."""
        return RunFolder(self.path).sub(f"seed-{self.seed}")

    @contextmanager
    def writing(self) -> Iterator[RunFolder]:
        """The folder of `seed`, locked for this notebook until the block ends.

        Raises:
            DataError: another process is writing, or the folder was made with other sizes.
        """
        with open_run(self.path, self.config, seeds=self.seeds) as run:
            yield run.sub(f"seed-{self.seed}")

    def method(self, name: str) -> Method:
        """A registered method with the preset's M and number of iterations."""
        found = get_method(f"RFTx{self.preset.k}" if name == "RFTxk" else name)
        if found.explores:
            found = replace(found, iterations=self.preset.iterations)
        return replace(found, M=self.preset.M) if found.explores_states else found

    def pipeline(self, folder: RunFolder) -> Pipeline:
        """The steps of all methods in `folder`, with a progress bar for each."""
        return Pipeline(self.world, self.recipe, folder, self.seed, progress=_Bars())

    def collect(self) -> list[Trajectory]:
        """The teacher's trajectories: from the run folder, or collected now (notebook 01)."""
        with self.writing() as folder:
            _already("collect", folder, "collect")
            return self.pipeline(folder).collect()

    def run(self, method: Method | str, share: Method | None = None) -> list[Evaluation]:
        """All steps of a method, cloning before it; what is in the run folder is not done again.

        Args:
            share: a method of this run whose rollouts are taken where they are the same.
        """
        method = self.method(method) if isinstance(method, str) else method
        with self.writing() as folder:
            pipeline = self.pipeline(folder)
            if method.explores and not folder.sub(f"{CLONING}/iter-0").phase_done("evaluate"):
                pipeline.run(get_method(CLONING))
            last = folder.sub(f"{method.name}/iter-{method.iterations}")
            if last.phase_done("evaluate"):
                _already(method.name, last, "evaluate")
                return list(folder.sub(method.name).read("evaluations", Evaluation))
            shared = [(share, folder.sub(share.name))] if share else []
            return pipeline.run(method, share=shared)

    def explore(self, name: str = "EEF") -> list[Branch]:
        """The cloned student's rollouts for a method's first iteration (notebook 03)."""
        from eeflib.explore import explore

        method = self.method(name)
        self.run(CLONING)
        with self.writing() as folder:
            here = folder.sub(f"{name}/iter-1")
            _already(f"{name}: explore", here, "explore")
            if not here.phase_done("explore"):
                pipeline = self.pipeline(folder)

                def save(chunk: list[Branch]) -> None:
                    here.append("branches", chunk)

                found = explore(
                    self.world.split("train"),
                    pipeline.collect(),
                    pipeline.policy(self.model(), greedy=False),
                    self.world.make_env,
                    self.fmt,
                    **method.exploration,
                    seed=self.seed,
                    batch_size=self.recipe.batch_size,
                    done={b.id: b for b in self.branches(name)},
                    on_done=save,
                    progress="explore",
                )
                here.mark_done("explore", found.report.to_dict())
        return self.branches(name)

    def read(self, name: str, kind: type[Record], where: str = "") -> list[Any]:
        """Records of a file of the seed's folder; empty if it is not there yet.

        Args:
            name: of the file, such as `branches`.
            where: subfolder, such as `EEF/iter-1`.
        """
        folder = self.folder.sub(where) if where else self.folder
        return list(folder.read(name, kind)) if folder.exists(name) else []

    def branches(self, method: str = "EEF", iteration: int = 1) -> list[Branch]:
        """Rollouts of the student, see notebook 03."""
        return self.read("branches", Branch, f"{method}/iter-{iteration}")

    def samples(self, method: str = "EEF", iteration: int = 1) -> list[Sample]:
        """Training sequences, see notebook 04."""
        return self.read("samples", Sample, f"{method}/iter-{iteration}")

    def model(self, method: str = CLONING, iteration: int = 0) -> Path:
        """Folder of a trained student."""
        return self.folder.sub(f"{method}/iter-{iteration}").path / "model"

    def _repr_html_(self) -> str:
        return self._shown._repr_html_()

    def __repr__(self) -> str:
        return str(self._shown)

    @property
    def _shown(self) -> Any:
        from eeflib.notebook.display import table

        p = self.preset
        rows = {
            "preset": p.name,
            "environment": self.env,
            "student": self.student,
            "tasks": ", ".join(f"{n} {split}" for split, n in p.counts.items()),
            "iterations, M, k": f"{p.iterations}, {p.M}, {p.k}",
            "seeds": ", ".join(map(str, self.seeds)),
            "run folder": _short(self.path),
            "found in it": self._found(),
        }
        return table(pd.DataFrame({"what": list(rows), "value": list(rows.values())}))

    def _found(self) -> str:
        files = ("tasks", "trajectories")
        found = [n for n in files if self.folder.exists(n)]
        root = self.folder.path
        found += sorted(str(p.parent.relative_to(root)) for p in root.glob("*/iter-*/model"))
        return ", ".join(found) or "nothing yet"


def open_lab(
    preset: str = "tiny",
    env: str = "webshop",
    *,
    name: str | None = None,
    student: str = "tiny",
    **sizes: Any,
) -> Lab:
    """The lab of `preset`. Its run folder lies on Google Drive where that is mounted (Colab), else
    in `$EEFLIB_RUNS`, else in `runs/` beside the notebook.

    Args:
        name: of the run folder; default ENV-PRESET.
        student: `tiny`, `smollm2`, a folder or a hub name.
        sizes: fields of `Preset` to change, such as `counts={"train": 40, "test": 40}`.

    Raises:
        DataError: no such preset.
    """
    chosen = replace(get_preset(preset, env), **sizes)
    if student in NAMES:  # read from disk: a bar per file would hide ours, in workers as well
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if _DRIVE.is_dir():
        root = _DRIVE / "eeflib-runs"
    else:
        root = Path(os.environ.get("EEFLIB_RUNS", "runs"))
    suffix = "" if student == "tiny" else f"-{Path(student).name}"
    return Lab(env, chosen, root / f"{name or env}-{preset}{suffix}", student)


def versions() -> Any:
    """What the notebook runs on: package versions, device, cores."""
    from eeflib.notebook.display import table

    rows = {"eeflib": _version("eeflib"), "python": platform.python_version()}
    rows |= {name: _version(name) for name in _PACKAGES}
    rows |= {"device": _device(), "cores": str(os.cpu_count())}
    return table(pd.DataFrame([rows]))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _device() -> str:
    try:
        import torch
    except ImportError:
        return "no torch: pip install 'eeflib[train]'"
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"


def _short(path: Path) -> str:
    """The folder as shown: no names of the reader's machine in saved outputs."""
    return str(path) if not path.is_absolute() else f"\u2026/{path.parent.name}/{path.name}"


def _already(what: str, folder: RunFolder, phase: str) -> None:
    """Say that nothing is left to do, the way a progress bar does."""
    summary = folder.phase_summary(phase)
    if summary is not None:
        n = int(summary.get("n", summary.get("simulations", 1)))
        tqdm(total=n, initial=n, desc=f"{what}: {n} of {n} already done").close()


class _Bars:
    """Progress of a pipeline as one bar per step; also says what an earlier session had done."""

    def __init__(self) -> None:
        self._step = ""
        self._bar: Any = None

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            if self._bar is not None:
                self._bar.close()
            self._step = step
            self._bar = tqdm(total=total, initial=done, desc=step)
            if done:
                self._bar.set_postfix_str(f"{done} of {total} already done")
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._bar.close()
