"""A world: everything about an environment that a run needs, in one value.

Owns `World` and the worlds that eeflib ships (embedded WebShop, ScienceWorld, TextWorldExpress):
tasks, a way to make environments, a teacher. Knows nothing about methods or training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from eeflib.envs.base import TextEnv
from eeflib.errors import DataError
from eeflib.policies.base import Policy
from eeflib.records import Task, episode_rng, split_order

__all__ = [
    "TEXTWORLD_PARAMS",
    "WORLDS",
    "World",
    "make_world",
    "scienceworld_world",
    "textworld_world",
    "webshop_world",
]

TEXTWORLD_PARAMS: dict[str, dict[str, int]] = {
    "twc": {"numLocations": 1, "numItemsToPutAway": 2},
    "cookingworld": {
        "numLocations": 1,
        "numIngredients": 1,
        "numDistractorItems": 0,
        "includeDoors": 0,
    },
}
"""Games of `textworld_world`, smaller than TextWorldExpress has them by default: one room."""

_TEXTWORLD_STEPS = 16


@dataclass(frozen=True)
class World:
    env: str
    tasks: tuple[Task, ...]
    """All splits."""
    make_env: Callable[[], TextEnv]
    teacher: Policy

    def split(self, name: str) -> tuple[Task, ...]:
        """The tasks of `train`, `validation` or `test`."""
        return tuple(t for t in self.tasks if t.split == name)


def webshop_world(
    seed: int,
    counts: Mapping[str, int],
    *,
    mix: Mapping[str, float] | str = "default",
    teacher_middle: float | None = None,
) -> World:
    """The embedded WebShop of `seed` with its scripted teacher.

    Args:
        counts: tasks per split.
        mix: which levels the tasks are of, see `eeflib.envs.webshop.tasks.make_tasks`.
        teacher_middle: `Skill.middle` of the teacher, in words; None for the default.
    """
    from eeflib.envs.webshop import embedded_shop, lexicon
    from eeflib.policies.scripted import ScriptedShopper, Skill

    shop = embedded_shop(seed, counts, mix=mix)
    skill = Skill() if teacher_middle is None else Skill(middle=teacher_middle)
    return World(
        "webshop",
        shop.tasks,
        shop.make_env,
        ScriptedShopper(
            skill, option_words=lexicon.OPTION_WORDS, option_names=lexicon.OPTION_NAMES
        ),
    )


def scienceworld_world(seed: int, counts: Mapping[str, int]) -> World:
    """Cheap ScienceWorld task types with a teacher that follows gold paths badly.

    `counts` are totals per split, spread over the task types; a split depends on `seed` and its own
    total only. Needs Java, see `eeflib.envs.java`.
    """
    from eeflib.envs.scienceworld import ScienceWorldEnv
    from eeflib.envs.scienceworld_tasks import CHEAP_TASKS, scienceworld_tasks
    from eeflib.policies.noisy_gold import NoisyGoldTeacher

    tasks: list[Task] = []
    with ScienceWorldEnv() as env:
        for split in split_order(counts):
            per_type = -(-counts[split] // len(CHEAP_TASKS))
            types = _shuffled(CHEAP_TASKS, seed, split)
            drawn = scienceworld_tasks(types, per_type, split=split, seed=seed, env=env)
            tasks += _in_turns(drawn)[: counts[split]]
        gold = {t.id: env.gold_actions(t) for t in tasks}
    return World("scienceworld", tuple(tasks), ScienceWorldEnv, NoisyGoldTeacher(gold, seed=seed))


def textworld_world(seed: int, counts: Mapping[str, int]) -> World:
    """Small games of TextWorldExpress with a teacher that follows gold paths badly.

    All environments share one JVM, which runs while one of them is open. `counts` are totals per
    split, spread over the games of `TEXTWORLD_PARAMS`; a split depends on `seed` and its own total
    only. Needs Java, see `eeflib.envs.java`.
    """
    from eeflib.envs.textworld import Machine, TextWorldEnv, textworld_tasks
    from eeflib.policies.noisy_gold import NoisyGoldTeacher

    machine = Machine()
    tasks: list[Task] = []
    with TextWorldEnv(machine=machine) as env:
        for split in split_order(counts):
            drawn = textworld_tasks(
                _shuffled(TEXTWORLD_PARAMS, seed, split),
                -(-counts[split] // len(TEXTWORLD_PARAMS)),
                split=split,
                seed=seed,
                env=env,
                params=TEXTWORLD_PARAMS,
                max_steps=_TEXTWORLD_STEPS,
            )
            tasks += _in_turns(drawn)[: counts[split]]
        gold = {t.id: env.gold_actions(t) for t in tasks}
    teacher = NoisyGoldTeacher(gold, seed=seed)
    return World("textworld", tuple(tasks), lambda: TextWorldEnv(machine=machine), teacher)


def _shuffled(types: Iterable[str], seed: int, split: str) -> list[str]:
    """`types` in an order of the split's own, so that a few tasks are not always of the same."""
    names = list(types)
    return [names[i] for i in episode_rng(seed, "task types", split).permutation(len(names))]


def _in_turns(tasks: Sequence[Task]) -> list[Task]:
    """The first of each type, the second of each, ...: a larger split begins as a smaller one."""
    by_type: dict[str, list[Task]] = {}
    for task in tasks:
        by_type.setdefault(task.extra["task_type"], []).append(task)
    turns = itertools.zip_longest(*by_type.values())
    return [task for turn in turns for task in turn if task is not None]


WORLDS = {
    "webshop": webshop_world,
    "scienceworld": scienceworld_world,
    "textworld": textworld_world,
}


def make_world(name: str, seed: int, counts: Mapping[str, int]) -> World:
    """The shipped world `name`.

    The order of the keys in `counts` does not matter: read back from a run's manifest, it gives the
    same tasks.

    Raises:
        DataError: no such world.
    """
    if name not in WORLDS:
        raise DataError(f"unknown environment {name!r}; choose one of {', '.join(WORLDS)}")
    return WORLDS[name](seed, counts)
