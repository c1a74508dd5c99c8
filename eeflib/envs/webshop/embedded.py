"""The embedded WebShop in one call: a generated store, its tasks, environments over it.

Owns `embedded_shop`. Knows nothing about policies; `eeflib.world` adds a teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eeflib.envs.webshop.catalogue import Catalogue
from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.generator import generate_store
from eeflib.envs.webshop.tasks import MIX, make_tasks
from eeflib.records import Task

__all__ = ["EmbeddedShop", "embedded_shop"]


@dataclass(frozen=True)
class EmbeddedShop:
    """A store and what can be bought in it."""

    catalogue: Catalogue
    """1,680 products, shared by all environments."""
    tasks: tuple[Task, ...]
    """Of all splits; `task.split` and `task.extra["level"]` tell them apart."""

    def make_env(self, **options: Any) -> WebShopEnv:
        """An environment for any of the tasks, in microseconds; `options` are `WebShopEnv`'s."""
        return WebShopEnv(self.catalogue, **options)


def embedded_shop(
    seed: int, counts: Mapping[str, int], *, mix: Mapping[str, float] | str = MIX
) -> EmbeddedShop:
    """The embedded WebShop of `seed`, the same everywhere; takes a few seconds.

    Args:
        seed: of the products and the tasks.
        counts: tasks per split, such as {"train": 120, "test": 150}.
        mix: share of each level, see `make_tasks`.

    Raises:
        DataError: the store has too few products for so many tasks.
    """
    store = generate_store(seed)
    catalogue = Catalogue.from_rows(store.rows, store.attributes, seed=seed)
    return EmbeddedShop(catalogue, tuple(make_tasks(store, catalogue, seed, counts, mix=mix)))
