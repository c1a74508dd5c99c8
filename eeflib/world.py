"""A world: everything about an environment that a run needs, in one value.

Import `World` (tasks, a way to make environments, a teacher) and the worlds that eeflib ships from
here: embedded WebShop, ScienceWorld, TextWorldExpress.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from eeflib.config import Config
from eeflib.envs.base import TextEnv
from eeflib.errors import DataError
from eeflib.policies.base import Policy
from eeflib.records import Task, episode_rng

if TYPE_CHECKING:
    from eeflib.envs.webshop.tasks import EmbeddedShop

TEXTWORLD_PARAMS: dict[str, dict[str, int]] = {
    "twc": {"numLocations": 1, "numItemsToPutAway": 2},
    "cookingworld": {
        "numLocations": 1,
        "numIngredients": 1,
        "numDistractorItems": 0,
        "includeDoors": 0,
    },
}
"""Games of `textworld`, smaller than TextWorldExpress has them by default: one room."""

_TEXTWORLD_STEPS = 16
_LIFESPAN_STEPS = 12


@dataclass(frozen=True)
class World:
    env: str
    seed: int
    """Of the tasks, and of the rollouts in this world."""
    tasks: tuple[Task, ...]
    """All splits."""
    make_env: Callable[[], TextEnv]
    teacher: Policy

    def split(self, name: str) -> tuple[Task, ...]:
        """The tasks of `train`, `validation` or `test`."""
        return tuple(t for t in self.tasks if t.split == name)


def webshop(
    seed: int = 7,
    train: int = 120,
    test: int = 150,
    validation: int = 0,
    *,
    mix: Mapping[str, float] | str = "default",
    teacher_middle: float | None = None,
) -> World:
    """The embedded WebShop of `seed` with its scripted teacher.

    Args:
        train, test, validation: tasks of each split.
        mix: which levels the tasks are of, see `eeflib.envs.webshop.tasks.make_tasks`.
        teacher_middle: `Skill.middle` of the teacher, in words; None for the default.
    """
    from eeflib.envs.webshop import embedded_shop

    shop = embedded_shop(seed, _counts(train, validation, test), mix=mix)
    return _shopping(seed, shop, teacher_middle)


def _shopping(seed: int, shop: EmbeddedShop, teacher_middle: float | None) -> World:
    from eeflib.envs.webshop.shop import OPTION_VALUES
    from eeflib.policies.scripted import ScriptedShopper, Skill

    skill = Skill() if teacher_middle is None else Skill(middle=teacher_middle)
    teacher = ScriptedShopper(skill, options=OPTION_VALUES)
    return World("webshop", seed, shop.tasks, shop.make_env, teacher)


def scienceworld(
    seed: int = 7,
    train: int = 10,
    test: int = 10,
    validation: int = 0,
    *,
    mix: Mapping[str, float] | str = "default",
) -> World:
    """ScienceWorld with a teacher that follows gold paths badly.

    The numbers of tasks are totals, spread over the task types; a split depends on `seed`, `mix`
    and its own total only. An episode of a `lifespan-` task ends after 12 actions, the most that
    ETO allows for this kind, any other after 40. Needs Java, see `eeflib.envs.java`.

    Args:
        mix: the task types: "default" (`CHEAP_TASKS`, of each as many), one type's name, or the
            share of each type, which add up to 1.

    Raises:
        DataError: a type that ScienceWorld does not have, shares that do not add up to 1, or more
            tasks than the types have variations.
    """
    from eeflib.envs.scienceworld import (
        CHEAP_TASKS,
        DEFAULT_MAX_STEPS,
        ScienceWorldEnv,
        scienceworld_tasks,
    )

    def draw(kinds: Sequence[str], per_kind: int, **where: Any) -> list[Task]:
        (kind,) = kinds
        limit = _LIFESPAN_STEPS if kind.startswith("lifespan-") else DEFAULT_MAX_STEPS
        return scienceworld_tasks(kinds, per_kind, **where, max_steps=limit)

    if isinstance(mix, str):
        kinds = CHEAP_TASKS if mix == "default" else (mix,)
        mix = dict.fromkeys(kinds, 1 / len(kinds))
    else:
        mix = dict(sorted(mix.items()))  # a manifest does not keep their order
    counts = _counts(train, validation, test)
    return _simulated("scienceworld", seed, counts, mix, ScienceWorldEnv, draw)


def textworld(seed: int = 7, train: int = 60, test: int = 60, validation: int = 0) -> World:
    """Small games of TextWorldExpress with a teacher that follows gold paths badly.

    All environments share one JVM, which runs while one of them is open. The numbers of tasks are
    totals, spread over the games of `TEXTWORLD_PARAMS`; a split depends on `seed` and its own total
    only. Needs Java, see `eeflib.envs.java`.
    """
    from eeflib.envs.textworld import TextWorldEnv, textworld_tasks

    def draw(games: Sequence[str], per_game: int, **where: Any) -> list[Task]:
        params = {game: TEXTWORLD_PARAMS[game] for game in games}
        return textworld_tasks(games, per_game, params=params, max_steps=_TEXTWORLD_STEPS, **where)

    counts = _counts(train, validation, test)
    shares = dict.fromkeys(TEXTWORLD_PARAMS, 1 / len(TEXTWORLD_PARAMS))
    return _simulated("textworld", seed, counts, shares, TextWorldEnv, draw)


def _simulated(
    name: str,
    seed: int,
    counts: Mapping[str, int],
    shares: Mapping[str, float],
    make_env: Any,
    draw: Callable[..., Sequence[Task]],
) -> World:
    """A world of a simulator's tasks: of each kind its share, in turns, of all splits."""
    from eeflib.policies.noisy_gold import NoisyGoldTeacher

    if min(shares.values(), default=-1) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise DataError(
            f"mix {dict(shares)} is none: it gives shares that add up to 1 to some task types, "
            'such as {"find-plant": 0.5, "lifespan-longest-lived": 0.5}'
        )
    kinds = [kind for kind, share in shares.items() if share]
    tasks: list[Task] = []
    with make_env() as env:
        for split, total in counts.items():
            # in an order of the split's own, so that a few tasks are not always of the same kind
            order = episode_rng(seed, "task types", split).permutation(len(kinds))
            left = {kinds[i]: len(env.variations(kinds[i], split)) for i in order}
            turns = _turns(shares, left, total, split)
            drawn = {
                kind: iter(draw([kind], turns.count(kind), split=split, seed=seed, env=env))
                for kind in dict.fromkeys(turns)
            }
            tasks += [next(drawn[kind]) for kind in turns]
        gold = {t.id: env.gold_actions(t) for t in tasks}
    return World(name, seed, tuple(tasks), make_env, NoisyGoldTeacher(gold, seed=seed))


def _turns(shares: Mapping[str, float], left: dict[str, int], total: int, split: str) -> list[str]:
    """A kind per task: of those that have a task `left` the one furthest behind its share.

    So a longer list begins as a shorter one.
    """
    if total > sum(left.values()):
        raise DataError(
            f"the task types {', '.join(left)} have {sum(left.values())} variations in the "
            f"{split} split, not {total}: ask for fewer tasks, or give more types to mix"
        )
    given = dict.fromkeys(left, 0)
    turns = []
    for n in range(1, total + 1):
        open_kinds = (kind for kind in left if given[kind] < left[kind])
        turns.append(max(open_kinds, key=lambda kind: shares[kind] * n - given[kind]))
        given[turns[-1]] += 1
    return turns


def _counts(train: int, validation: int, test: int) -> dict[str, int]:
    """Tasks for each split that has any, in the order in which splits are drawn."""
    return {k: n for k, n in (("train", train), ("validation", validation), ("test", test)) if n}


def make_world(config: Config, seed: int | None = None, tasks: Sequence[Task] = ()) -> World:
    """The world that `config` describes, for one of its seeds (None: the first).

    Args:
        tasks: those that were made of it before; making the WebShop's takes seconds. They are
            made anew all the same if another version made them, for a store that differs.
    """
    seed = config.seeds[0] if seed is None else seed
    if tasks and config.env == "webshop":
        from eeflib.envs.webshop.tasks import EmbeddedShop, embedded_catalogue

        shop = EmbeddedShop(embedded_catalogue(seed), tuple(tasks))
        if {t.settings.get("catalogue") for t in tasks} == {shop.catalogue.id}:
            return _shopping(seed, shop, config.teacher_middle)
    sizes = {"train": config.train, "validation": config.validation, "test": config.test}
    options = [config.env, json.dumps([sizes, config.mix, config.teacher_middle])]
    return _world(seed, *options)


@lru_cache(maxsize=2)
def _world(seed: int, env: str, options: str) -> World:
    """Cached, because the steps of a run need it repeatedly and Java starts slowly."""
    counts, mix, middle = json.loads(options)
    if env == "scienceworld":
        return scienceworld(seed, **counts, mix=mix)
    if env == "textworld":
        return textworld(seed, **counts)
    return webshop(seed, **counts, mix=mix, teacher_middle=middle)
