"""The tasks of a shipped world follow from the seed and the size of each split, nothing else."""

from __future__ import annotations

import json

import pytest

from eeflib.config import PRESETS, Config, make_config
from eeflib.envs.webshop import Catalogue
from eeflib.envs.webshop.shop import generate_store
from eeflib.envs.webshop.tasks import make_tasks
from eeflib.errors import DataError
from eeflib.records import Task
from eeflib.world import _turns, make_world

SIZES = {
    "webshop": (24, 12, 48, 20, 10),
    "textworld": (6, 3, 9, 5, 2),
    "scienceworld": (3, 2, 5, 3, 1),
}
"""Train and test tasks; then more of both, and validation tasks."""


def by_split(tasks: tuple[Task, ...]) -> dict[str, list[Task]]:
    out: dict[str, list[Task]] = {}
    for task in tasks:
        out.setdefault(task.split, []).append(task)
    return out


@pytest.mark.parametrize("name", SIZES)
def test_a_world_does_not_depend_on_the_order_or_number_of_its_splits(name: str) -> None:
    train, test, more_train, more_test, validation = SIZES[name]
    counts = {"train": train, "test": test}
    config = make_config("tiny", name, **counts, seeds=(7,))
    tasks = make_world(config).tasks
    own = by_split(tasks)
    assert {split: len(group) for split, group in own.items()} == counts
    written = json.loads(json.dumps(config.to_dict(), sort_keys=True))  # as a manifest has it
    assert make_world(Config.from_dict(written)).tasks == tasks
    larger = {"validation": validation, "test": more_test, "train": more_train}
    more = by_split(make_world(config.change(**larger)).tasks)
    assert list(more) == ["train", "validation", "test"]
    for split, group in own.items():
        assert more[split][: len(group)] == group
    everything = [t for group in more.values() for t in group]
    assert len({t.content_hash for t in everything}) == len(everything)
    assert len(everything) == sum(larger.values())


@pytest.mark.parametrize("mix", ["large", "paging"])
def test_splits_of_the_largest_preset_stay_out_of_each_others_way(mix: str) -> None:
    store = generate_store(3)
    catalogue = Catalogue.from_rows(store.rows, store.attributes, seed=3)
    counts = max((p.counts for p in PRESETS.values()), key=lambda c: sum(c.values()))
    alone = {s: make_tasks(store, catalogue, 3, {s: n}, mix=mix) for s, n in counts.items()}
    together = make_tasks(store, catalogue, 3, {**counts, "validation": 50, "more": 5}, mix=mix)
    met = [t for s in counts for t in alone[s] if t not in together]
    # `large` leaves hardly a product of the scarce levels: there the later split gives way
    assert len(met) <= (0 if mix == "paging" else 10)
    assert all(t.split == "test" for t in met)
    assert [t.split for t in together[-5:]] == ["more"] * 5
    assert len({t.goal["asin"] for t in together}) == len(together)


def test_the_task_types_of_scienceworld_can_be_chosen() -> None:
    mix = {"lifespan-shortest-lived": 0.67, "find-plant": 0.33}
    config = make_config("tiny", "scienceworld", mix=mix, train=3, test=1, seeds=(7,))
    world = make_world(config)
    kinds = [t.extra["task_type"] for t in world.split("train")]
    assert sorted(kinds) == ["find-plant", *2 * ["lifespan-shortest-lived"]]
    limits = {t.extra["task_type"]: t.settings["max_steps"] for t in world.tasks}
    assert limits["lifespan-shortest-lived"] < limits["find-plant"]
    written = json.loads(json.dumps(config.to_dict(), sort_keys=True))
    assert make_world(Config.from_dict(written)).tasks == world.tasks


def test_a_scarce_task_type_leaves_its_turns_to_the_others() -> None:
    shares, there = {"scarce": 0.9, "other": 0.1}, {"scarce": 5, "other": 100}
    turns = _turns(shares, there, 8, "test")
    assert turns.count("scarce") == 5
    assert turns[-2:] == ["other", "other"]
    assert _turns(shares, there, 6, "test") == turns[:6]


@pytest.mark.parametrize(
    ("mix", "told"),
    [
        ("find-plants", "no task 'find-plants'; did you mean find-plant"),
        ({"find-plant": 0.5, "lifespan": 0.5}, "no task 'lifespan'"),
        ({"find-plant": 0.5}, "shares that add up to 1"),
        ({}, "shares that add up to 1"),
        ("power-component", "5 variations in the test split, not 6"),
    ],
)
def test_a_mix_that_scienceworld_cannot_serve_is_refused(mix: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        make_world(make_config("tiny", "scienceworld", mix=mix, train=1, test=6))
