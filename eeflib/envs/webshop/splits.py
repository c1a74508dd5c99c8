"""How many test goals of a WebShop split are trained on: computed, for published splits and ours.

Import `check_split` from here; `eef splits` prints it, docs/webshop_splits.md tells the numbers.
The published lists of places, and `content_split`, which makes a split without leaks, are in
`goals`.

| scheme | the split, and where it is written |
|---|---|
| `verl-agent` | langfengQ/verl-agent, commit d0b9724, env_package/webshop/envs.py: below |
| `baseline` | places 0-499 of one list: princeton-nlp/WebShop, baseline_models/env.py |
| `eto` | two published lists of places: Yifan-Song793/ETO, eval_agent/data/webshop |
| `eeflib` | the embedded store's tasks; of official goals, `content_split` |

verl-agent: training group w (its rollouts of one task share a seed) shuffles the whole goal list
with seed + w, validation worker v with seed + 1000 + v. Positions 0-499 of each list are called
test, the rest train. A training step draws a position for each group, without replacement within
the step, by `numpy.random.RandomState(seed)`. So a goal that one list calls test others call train.
The shuffles and draws are repeated here as they are there, seed by seed.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from eeflib.envs.webshop.goals import (
    N_GOALS,
    SHUFFLE_SEED,
    content_split,
    goal_hash,
    place_keys,
    scheme_places,
    text_key,
)
from eeflib.envs.webshop.tasks import EmbeddedShop, embedded_shop
from eeflib.errors import DataError

SCHEMES = ("verl-agent", "baseline", "eto", "eeflib")
GOALS = 6910
"""Synthetic goals of the small set, 1,000 products (README of princeton-nlp/WebShop)."""
TEST = 500
"""Positions that are called test, from the first."""
VALIDATION_SEED = 1000
"""What verl-agent adds to the seed for its validation (env_manager.py)."""
EMBEDDED = {"train": 250, "test": 150}
"""Tasks of the embedded store: as many as its default mix has."""

Goals = Sequence[Mapping[str, Any]]
Keys = Mapping[str, Sequence[Hashable]]


@dataclass(frozen=True)
class Leak:
    """How many test goals are among those trained on, by one reading of each."""

    trained: str
    """Which goals count as trained on."""
    same: str
    """What makes two goals the same: `goal` (place in the list), `text` (what is asked for, the
    price limit apart) or `product`."""
    count: int
    of: int
    """Test goals."""
    expected: float | None = None
    """Share of test goals to expect over all seeds, in closed form, where there is one."""

    def __str__(self) -> str:
        share = f"{self.count:,} of {self.of:,} ({self.count / self.of:.1%})"
        text = f"same {self.same:7} {self.trained:25} {share}"
        return text if self.expected is None else f"{text}, closed form {self.expected:.1%}"


@dataclass(frozen=True)
class SplitReport:
    """A split, and its leaks."""

    scheme: str
    about: str
    """One sentence: which goals, which settings."""
    goals: int
    leaks: tuple[Leak, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.scheme}: {self.about}", *map(str, self.leaks)])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_split(
    scheme: str,
    goals: Goals | None = None,
    *,
    n: int = GOALS,
    seed: int = 0,
    workers: int = 16,
    validation: int = 128,
    steps: int = 150,
    test: int = TEST,
) -> SplitReport:
    """The leaks of `scheme`. Defaults are those of verl-agent's examples/*/run_webshop.sh.

    Args:
        goals: a list in official order (`build_goals`, `load_official`): texts and products are
            compared as well. For `verl-agent` and `eeflib` only; the other lists are known.
        n: number of goals where there are no `goals` (`verl-agent`).
        seed: of the training run (`verl-agent`); of the tasks or the split (`eeflib`).
        workers, validation: training tasks a step, and validation tasks: lists of their own each.
        steps: training steps, each with one draw for each of `workers`.
        test: how many goals are test goals (`verl-agent`, `eeflib` with `goals`).

    Raises:
        DataError: unknown scheme, `goals` for one that has its own, or numbers that do not fit.
    """
    if scheme not in SCHEMES:
        raise DataError(f"no split scheme {scheme!r}; choose from {', '.join(SCHEMES)}")
    if scheme == "eeflib":
        return _ours(goals, seed, test)
    if scheme != "verl-agent":
        if goals is not None:
            raise DataError(f"{scheme} is a published list of its own: leave the data out")
        return _published(scheme)
    n = n if goals is None else len(goals)
    if not 0 < test <= n - workers:
        raise DataError(
            f"{n} goals are too few for {test} test positions and {workers} training tasks a step"
        )
    keys: dict[str, Sequence[Hashable]] = {"goal": range(n)}
    if goals is not None:
        # the official order is a shuffle of the loader's, which is what each worker shuffles
        loaded = [goals[i] for i in np.argsort(_order(n, SHUFFLE_SEED))]
        keys = {**_keys_of(loaded), **keys}
    lists = [_order(n, seed + w) for w in range(workers)]
    rng, drawn = np.random.RandomState(seed), list[int]()
    for _ in range(steps):
        at = rng.choice(np.arange(test, n), size=workers, replace=False)
        drawn += [int(goal[i]) for goal, i in zip(lists, at, strict=True)]
    open_to = np.unique([goal[test:] for goal in lists]).tolist()
    tested = [_order(n, seed + VALIDATION_SEED + v)[:test] for v in range(validation)]
    places = np.concatenate(tested).tolist()
    # in one list: the goal is a test goal, or it is not and no draw hits it
    share, miss = test / n, (1 - 1 / (n - test)) ** steps
    ways = (
        ("can be drawn in training", open_to, 1 - share**workers),
        (f"trained on in {steps} steps", drawn, 1 - (share + (1 - share) * miss) ** workers),
    )
    about = (
        f"{n:,} goals, {workers} training and {validation} validation lists, each shuffled with a "
        f"seed of its own (from {seed}); test goals: positions 0-{test - 1} of each validation list"
    )
    leaks = [
        _leak(places, trained, way, same, keys[same], chance if same == "goal" else None)
        for way, trained, chance in ways
        for same in keys
    ]
    return SplitReport(scheme, about, n, tuple(leaks))


def _order(n: int, seed: int) -> np.ndarray:
    """Goal numbers as a worker of that seed has them: `random.seed(seed)`, `random.shuffle`."""
    numbers = list(range(n))
    random.Random(seed).shuffle(numbers)
    return np.array(numbers)


def _leak(
    test: Sequence[int],
    trained: Iterable[int],
    way: str,
    same: str,
    keys: Sequence[Hashable],
    expected: float | None = None,
) -> Leak:
    known = {keys[goal] for goal in trained}
    return Leak(way, same, sum(keys[goal] in known for goal in test), len(test), expected)


def _keys_of(goals: Goals) -> Keys:
    return {
        "goal": [goal_hash(goal) for goal in goals],
        "text": [text_key(goal) for goal in goals],
        "product": [goal["asin"] for goal in goals],
    }


def _published(scheme: str) -> SplitReport:
    """From the places and text keys in official_splits.json."""
    split, eto = scheme_places(scheme), scheme_places("eto")["train"]
    ways = {"in its training list": split["train"]}
    if scheme == "baseline":
        ways["in ETO's training list"] = eto
    keys: Keys = {"goal": range(N_GOALS), "text": place_keys()}
    leaks = [
        _leak(split["test"], ways[way], way, same, keys[same]) for way in ways for same in keys
    ]
    sizes = ", ".join(f"{len(set(places)):,} {name}" for name, places in split.items())
    about = f"{sizes} goals of the {N_GOALS:,} that people wrote"
    return SplitReport(scheme, about, N_GOALS, tuple(leaks))


@lru_cache(maxsize=1)
def embedded(seed: int) -> EmbeddedShop:
    """The embedded shop of `seed`, with the tasks of the scheme `eeflib`; kept for a next call."""
    return embedded_shop(seed, EMBEDDED)


def _ours(goals: Goals | None, seed: int, test: int) -> SplitReport:
    if goals is None:
        tasks = embedded(seed).tasks
        goals = [task.goal for task in tasks]
        split = {name: [i for i, t in enumerate(tasks) if t.split == name] for name in EMBEDDED}
        what = f"tasks of the embedded store of seed {seed}"
    else:
        split, what = content_split(goals, test, seed), "official goals, by product and text"
    about = f"{len(split['test']):,} test and {len(split['train']):,} training {what}"
    way, keys = "in its training list", _keys_of(goals)
    leaks = (_leak(split["test"], split["train"], way, same, keys[same]) for same in keys)
    return SplitReport("eeflib", about, len(goals), tuple(leaks))
