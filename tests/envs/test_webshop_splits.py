"""Published splits, found by what a goal asks for; leaks between test and train are told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from eeflib.envs.webshop import Catalogue, WebShopEnv, build_goals
from eeflib.envs.webshop import goals as splits
from eeflib.envs.webshop.goals import (
    find_split,
    goal_hash,
    scheme_places,
    split_tasks,
    text_key,
)
from eeflib.errors import DataError

TEXTS = {
    0: "i need a long clip-in hair extension which is natural looking",
    500: "i need to find a small end table that is easy to assemble; pick a blue-coated steel "
    "frame that won't rust",
    442: "i need low rise jeans that are a 54w by 34l",
    728: "i would like a storage case for my dentures",
    818: "i want a screen protector made with tempered glass",
    978: "i need cupcake toppers for a baby shower",
    1500: "i am looking for a glitters nail polish. also, choose the 04# color",
    2853: "i would like a smartwatch case that has four colors and is easy to install",
    15: "i need a gingko light and 20x20 pillow cover that is hand painted",  # and 6664
    4116: "i would like a pink size 5 high heel shoe with a rubber sole",  # and 10547
}
"""Some places of the official order, from baseline_models/data/human_goals.json (MIT)."""


def shop(texts: dict[Any, str], seed: int = 0) -> tuple[Catalogue, list[dict[str, Any]]]:
    """A catalogue with one product per text, and its goals, as the official loader makes them."""
    rows = [{"asin": f"B{i:09d}", "name": f"thing {i}", "pricing": "$5.00"} for i in texts]
    human = {
        f"B{i:09d}": [
            {
                "instruction": text.capitalize() + ".",
                "instruction_attributes": ["soft"],
                "instruction_options": [],
            }
        ]
        for i, text in texts.items()
    }
    catalogue = Catalogue.from_rows(rows, None, human, seed=seed)
    return catalogue, build_goals(catalogue)


def places(goals: list[Any]) -> list[int]:
    return [int(goal["asin"][1:]) for goal in goals]


def assigned(scheme: str, **options: Any) -> dict[str, list[int]]:
    """Split -> the places whose texts `TEXTS` has, in the order of the tasks."""
    catalogue, goals = shop(TEXTS)
    found = split_tasks(goals, catalogue, scheme, **options)
    return {name: places([task.goal for task in tasks]) for name, tasks in found.items()}


def test_the_baseline_split_of_a_subset() -> None:
    """Wherever a goal stands in the list at hand: what counts is its place in the full list."""
    found = assigned("baseline")
    assert found["test"] == [0, 442]
    assert found["validation"] == [500, 728, 818, 978]
    assert sorted(found["train"]) == [1500, 2853, 4116]
    _, goals = shop(TEXTS)
    detail = find_split(goals, "baseline")
    assert places([goals[i] for i in detail.ambiguous]) == [15]  # in test and in train
    assert not detail.complete
    assert {places([goals[i]])[0]: place for i, place in detail.places.items()} == {
        i: i for i in TEXTS if i not in (15, 4116)
    }


def test_etos_split_of_a_subset() -> None:
    found = assigned("eto")
    assert found["test"] == [2853, 978, 818]  # in the order of its list
    assert found["train"] == [0, 818, 978, 1500]
    _, goals = shop(TEXTS)
    assert places([goals[i] for i in find_split(goals, "eto").ambiguous]) == [4116]
    kept = assigned("eto", drop_leaked=True)
    assert kept["test"] == [2853, 978, 818]
    assert kept["train"] == [0, 1500]
    assert assigned("eto-500")["test"] == [728, 442]


def test_the_lists() -> None:
    baseline = scheme_places("baseline")
    assert [len(baseline[s]) for s in ("test", "validation", "train")] == [500, 1000, 10_587]
    eto = scheme_places("eto")
    assert (len(eto["train"]), len(set(eto["train"])), len(set(eto["test"]))) == (1824, 1823, 200)
    assert list(eto["test"][:4]) == [2853, 5934, 1642, 4914]
    assert len(set(eto["train"]) & set(eto["test"])) == 21
    assert len(set(eto["train"]) & set(range(500))) == 274  # the baseline's test goals
    with pytest.raises(DataError, match=r"'etoo'.*baseline, eto"):
        scheme_places("etoo")


def test_tasks_carry_split_and_hash() -> None:
    catalogue, goals = shop(TEXTS)
    tasks = split_tasks(goals, catalogue, "eto", max_steps=10)
    first = tasks["test"][0]
    assert (first.split, first.settings["max_steps"]) == ("test", 10)
    assert first.extra["official_index"] == 2853
    assert first.extra["scheme"] == "eto"
    goal = next(g for g in goals if g["asin"] == first.goal["asin"])
    assert first.extra["goal_hash"] == goal_hash(goal)
    assert len({t.id for s in tasks.values() for t in s}) == 7
    assert WebShopEnv(catalogue).reset(first).text
    assert split_tasks(goals, catalogue, "eto", drop_leaked=True)["train"][0].split == "train"


def test_the_two_identities_of_a_goal() -> None:
    """The hash knows the price limit, the key does not: limits are drawn anew for each seed."""
    one, again, two = (shop(TEXTS, seed)[1] for seed in (1, 1, 2))
    assert [goal_hash(g) for g in one] == [goal_hash(g) for g in again]
    assert [goal_hash(g) for g in one] != [goal_hash(g) for g in two]
    assert [text_key(g) for g in one] == [text_key(g) for g in two]
    assert text_key(
        {"instruction_text": "A “soft” Sofa..., and price lower than 30.00 dollars"}
    ) == (text_key({"instruction_text": "a soft sofa"}))
    assert len({goal_hash(g) for g in one}) == len(one)


def test_goals_of_other_data_are_refused_or_told() -> None:
    vectors = Path(__file__).parents[1] / "data" / "webshop_parity" / "goals.json.gz"
    invented = json.loads(gzip.decompress(vectors.read_bytes()))["human"]
    with pytest.raises(DataError, match=r"none of these \d+ goals is an official"):
        find_split(invented)
    _, goals = shop({**TEXTS, 99_999: "i want a thing that nobody has asked for yet"})
    (unknown,) = find_split(goals).unknown
    assert places([goals[unknown]]) == [99_999]


def test_in_the_complete_list_the_place_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal texts stand in several splits; 12,087 goals in the official order are told apart."""
    texts = [f"i want the thing number {i % 12_000}" for i in range(splits.N_GOALS)]
    goals = [{"instruction_text": text, "asin": f"B{i:09d}"} for i, text in enumerate(texts)]
    keys = "".join(text_key(goal) for goal in goals)
    monkeypatch.setattr(splits, "_data", lambda: {"keys": keys})
    found = find_split(goals)
    assert found.complete
    assert (found.ambiguous, found.unknown) == ([], [])
    assert found.positions["test"] == list(range(500))
    assert found.positions["train"] == list(range(1500, splits.N_GOALS))
    shifted = find_split(goals[1:])
    assert not shifted.complete
    assert len(shifted.ambiguous) == 2 * 87 - 1  # one of the first pair is not there
    assert len(shifted.positions["test"]) == 500 - 87
