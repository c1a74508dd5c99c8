"""Official WebShop data to play: the tasks of a folder, with instructions that people wrote.

Owns what in a folder is played and under which split. Knows nothing about HTTP or the run folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from eeflib.envs.webshop import WebShopEnv, best_nouns, build_goals, nouns_name, task_from_goal
from eeflib.envs.webshop.catalogue import Catalogue
from eeflib.envs.webshop.disk_catalogue import open_catalogue
from eeflib.envs.webshop.disk_files import MANIFEST
from eeflib.envs.webshop.official import load_official
from eeflib.envs.webshop.official_files import Size, file_of
from eeflib.envs.webshop.splits import split_tasks
from eeflib.errors import DataError
from eeflib.records import Task

__all__ = ["ALL", "OfficialShop", "official_shop"]

ALL = "all"
"""The split that has every goal, in official order."""


@dataclass(frozen=True)
class OfficialShop:
    """What can be played."""

    catalogue: Catalogue
    tasks: list[Task]
    split: str
    about: str
    """One line: what was opened, and which nouns its rewards use."""

    def make_env(self) -> WebShopEnv:
        """An environment with the official quirks."""
        return WebShopEnv(self.catalogue, strict=True)


def official_shop(
    folder: Path, *, size: str | None = None, split: str | None = None, seed: int | None = None
) -> OfficialShop:
    """The tasks of official data.

    Args:
        folder: of official files, as `download` leaves it, or a catalogue that `build_catalogue`
            made.
        size: which set of files, `small` or `full`; None: the small one if it is there, else the
            full one, whose catalogue on disk is built the first time.
        split: of the baseline (`test`, `validation`, `train`), or `all`; None: `test`, or all where
            no goal is one of the baseline's test goals.
        seed: of prices and price limits; None: 0, or the catalogue's own.

    Raises:
        PrerequisiteError: files are missing.
        DataError: unusable files or catalogue, no goals of people, no such split.
    """
    if (folder / MANIFEST).is_file():
        catalogue: Catalogue = open_catalogue(folder)
        if size is not None or seed not in (None, catalogue.seed):
            raise DataError(
                f"{folder} is a catalogue (seed {catalogue.seed}): it goes without --set, and with "
                "its own --seed or none"
            )
        goals = tuple(build_goals(catalogue))
        nouns = nouns_name(best_nouns())
        about = (
            f"{len(catalogue):,} products, {len(goals):,} human goals; seed {catalogue.seed}, "
            f"title nouns {nouns}; on disk: {folder}"
        )
        if not goals:
            raise DataError(
                f"{folder}: this catalogue was built without human instructions, so that there is "
                "nothing to play; build it anew with human_instructions"
            )
    else:
        chosen = cast("Size", size) if size is not None else _present(folder)
        official = load_official(folder, size=chosen, seed=seed or 0)
        catalogue, goals, about = official.catalogue, official.goals, official.summary()
    tasks = {
        ALL: [
            task_from_goal(goal, catalogue, split=ALL, id=f"webshop-{ALL}-{i:05d}")
            for i, goal in enumerate(goals)
        ]
    }
    try:
        tasks |= {name: own for name, own in split_tasks(goals, catalogue).items() if own}
    except DataError:
        if split not in (None, ALL):  # none of the goals is in the published lists
            raise
    split = split or ("test" if "test" in tasks else ALL)
    if split not in tasks:
        raise DataError(f"{folder}: unknown split {split!r}; choose one of {', '.join(tasks)}")
    return OfficialShop(catalogue, tasks[split], split, about)


def _present(folder: Path) -> Size:
    """The small set, unless there is only the full one."""
    if (folder / file_of("small", "products").name).is_file():
        return "small"
    full = (folder / file_of("full", "products").name).is_file()
    return "full" if full or any(folder.glob("catalogue-full-*")) else "small"
