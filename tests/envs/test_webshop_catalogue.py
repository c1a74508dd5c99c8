"""Rows to products, prices, goals and tasks; bad rows are reported, never fatal."""

from __future__ import annotations

import pytest

from eeflib.envs.webshop import Catalogue, Product, build_goals, parse_price, task_from_goal
from eeflib.envs.webshop.reward import purchase_reward, word_nouns
from eeflib.errors import DataError
from eeflib.records import Task


def row(asin: str, /, **changes: object) -> dict[str, object]:
    out: dict[str, object] = {
        "asin": asin,
        "name": f"Acme Soft Sofa {asin}",
        "full_description": "A sofa.",
        "small_description": ["Washable", "Solid wood"],
        "pricing": "$10.00 to $20.00",
        "category": "garden",
        "query": " Sofas ",
        "product_category": "Home › Furniture › Sofas",
        "images": ["http://img.example.test/1.jpg"],
        "customization_options": {
            "Color": [{"value": " Black/Red ", "image": None}, {"value": "Navy", "image": None}],
            "Size": None,
        },
    }
    return {**out, **changes}


def test_a_row_becomes_a_product() -> None:
    product = Catalogue.from_rows([row("B1")], {"B1": {"attributes": ["easy clean"]}})[0]
    assert product.options == {"color": ("black | red", "navy")}
    assert (product.price_text, product.prices) == ("$10.0 to $20.0", (10.0, 20.0))
    assert (product.query, product.attributes) == ("sofas", ("easy clean",))
    assert product.document == "acme soft sofa b1 a sofa. washable color: black | red, navy"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"pricing": "N/A"}, "pricing"),
        ({"pricing": "$1.2.3"}, "pricing"),
        ({"pricing": 12}, "pricing"),
        ({"pricing": "$" + "9" * 400}, "pricing"),
        ({"name": None}, "name"),
        ({"full_description": ["a"]}, "full_description"),
        ({"small_description": [1]}, "small_description"),
        ({"customization_options": {"Color": [{"image": None}]}}, "customization_options"),
        ({"customization_options": {"Color": 3}}, "customization_options"),
        ({"customization_options": [1]}, "customization_options"),
        ({"asin": "nan"}, "asin"),
        ({"asin": "B0123456789"}, "asin"),
        ({"asin": None}, "asin"),
        ({"asin": "B1"}, "asin"),
        ({"asin": "\ud800\x1b[31m" * 9}, "asin"),
    ],
)
def test_a_bad_row_is_skipped_and_named(changes: dict[str, object], field: str) -> None:
    catalogue = Catalogue.from_rows([row("B1"), row("B2", **changes), row("B3")])
    assert [p.asin for p in catalogue] == ["B1", "B3"]
    (skipped,) = catalogue.skipped
    assert skipped.row == 1
    assert f"{skipped.asin} {skipped.reason}".isprintable()
    assert field in skipped.reason


def test_odd_but_usable_rows() -> None:
    rows = [row("B1", small_description=None, full_description=None, images=None, pricing=None)]
    rows += ["not a row", row("B2", small_description="one text", customization_options=None)]  # type: ignore[list-item]
    rows.append(row("B4", small_description=""))
    catalogue = Catalogue.from_rows(rows, {"B2": None})
    first, second, third = catalogue
    assert third.bullets == ("",)  # as the official loader makes it
    assert (first.bullets, first.description, first.price_text) == ((), "", "$100.0")
    assert (second.bullets, second.attributes) == (("one text",), ("DUMMY_ATTR",))
    assert len(catalogue.skipped) == 1


def test_files_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match="list of rows"):
        Catalogue.from_rows({"B1": row("B1")})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="attributes must map"):
        Catalogue.from_rows([row("B1")], [1])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="twice"):
        Catalogue([Product("B1", "a"), Product("B1", "b")])


def test_a_catalogue_is_its_content() -> None:
    rows = [row("B1"), row("B2")]
    same = Catalogue.from_rows(rows, seed=1)
    assert same.id == Catalogue.from_rows(rows, seed=1).id
    assert list(same) == list(Catalogue.from_rows(rows, seed=1))
    others = [
        Catalogue.from_rows(rows, seed=2),  # another price
        Catalogue.from_rows(rows[::-1], seed=1),
        Catalogue.from_rows([row("B1", full_description="B sofa."), row("B2")], seed=1),
        Catalogue.from_rows(rows, {"B1": {"attributes": ["x"]}}, seed=1),
    ]
    assert len({same.id, *(c.id for c in others)}) == 5
    assert all(10 <= p.price <= 20 for c in [same, *others] for p in c)


def test_parse_price_reads_what_follows_each_dollar_sign() -> None:
    assert parse_price("US $1,299.00") == ((1299.0,), "$1299.0")
    assert parse_price("$5 - $7.50 - $9") == ((5.0, 7.5), "$5.0 to $7.5")
    assert parse_price("") == parse_price(None) == ((100.0,), "$100.0")


def test_products_by_field_and_with_instructions() -> None:
    rows = [row("B1"), row("B2", category="beauty"), row("B3", query="beds")]
    entries = {"B3": {"attributes": ["a"], "instruction_attributes": ["a"]}}
    catalogue = Catalogue.from_rows(rows, entries, {"B2": [{"instruction": "x"}]})
    assert catalogue.numbers_with("category", "garden") == (0, 2)
    assert catalogue.numbers_with("query", "beds") == (2,)
    assert [p.asin for p in catalogue.instructed("human")] == ["B2"]
    assert [p.asin for p in catalogue.instructed("synthetic")] == ["B3"]


HUMAN = {
    "B1": [
        {"instruction": "a soft sofa.", "instruction_attributes": ["soft"],
         "instruction_options": ["navy"]},
        {"instruction": "no attributes", "instruction_attributes": []},
    ],
}  # fmt: skip


def test_goals_are_a_function_of_the_seed() -> None:
    catalogue = Catalogue.from_rows([row("B1")], human_instructions=HUMAN, seed=4)
    (goal,) = build_goals(catalogue)
    again = Catalogue.from_rows([row("B1")], human_instructions=HUMAN, seed=4)
    assert build_goals(again) == [goal]
    limits = {
        build_goals(Catalogue.from_rows([row("B1")], human_instructions=HUMAN, seed=s))[0][
            "price_upper"
        ]
        for s in range(20)
    }
    assert len(limits) > 1
    assert goal["price_upper"] > catalogue[0].price
    assert goal["instruction_text"] == (
        f"a soft sofa, and price lower than {goal['price_upper']:.2f} dollars"
    )


def test_a_synthetic_goal_per_combination_of_options() -> None:
    sizes = {"Size": [{"value": "S"}, {"value": "L"}], "Color": [{"value": "Red"}]}
    entry = {
        "attributes": ["soft"],
        "instruction": "Find me a sofa",
        "instruction_attributes": ["soft"],
    }
    rows = [row("B1", customization_options=sizes, pricing="$2000")]
    goals = build_goals(Catalogue.from_rows(rows, {"B1": entry}), "synthetic")
    assert sorted(g["instruction_text"] for g in goals) == [
        "Find me a sofa with color: red, and size: l",
        "Find me a sofa with color: red, and size: s",
    ]
    assert {g["price_upper"] for g in goals} == {1_000_000}
    assert [g["weight"] for g in goals] == [0.5, 0.5]


def test_a_task_holds_the_goal_and_survives_json() -> None:
    catalogue = Catalogue.from_rows([row("B1")], human_instructions=HUMAN, seed=4)
    (goal,) = build_goals(catalogue)
    task = task_from_goal(goal, catalogue, split="test", id="t1", max_steps=9)
    assert Task.from_dict(task.to_dict()) == task
    assert task.settings == {"catalogue": catalogue.id, "max_steps": 9}
    other = task_from_goal({**goal, "price_upper": 30.0}, catalogue)
    assert other.content_hash != task.content_hash
    with pytest.raises(DataError, match="no such product"):
        task_from_goal({**goal, "asin": "B9"}, catalogue)
    with pytest.raises(DataError, match="instruction_text"):
        task_from_goal({**goal, "instruction_text": " "}, catalogue)


def test_reward_by_hand() -> None:
    product = Product(
        "B1", "Soft Sofa", bullets=("Solid Wood legs",), query="sofas", attributes=("easy clean",),
        product_category="Home › Sofas",
    )  # fmt: skip
    goal = {
        "name": "Soft Sofa Bed", "query": "sofas", "product_category": "Home › Beds",
        "attributes": ["easy to clean", "solid wood", "vegan"], "price_upper": 50.0,
        "goal_options": ["dark blue", "large"],
    }  # fmt: skip
    full = purchase_reward(product, goal, 50.0, {"color": "royal blue", "size": "small"})
    # "easy to clean" holds "easy clean", a bullet "solid wood"; both colours are blue.
    assert (full.attribute_matches, full.option_matches) == (2, 1)
    assert full.value == pytest.approx((2 + 1 + 1) / 6)
    assert full.info["title_score"] == pytest.approx(2 / 3)
    dear = purchase_reward(product, goal, 50.01, {"color": "red", "size": "large"})
    assert dear.info["r_price"] is False
    assert dear.value == pytest.approx((2 + 1 + 0) / 6)
    stranger = purchase_reward(product, {**goal, "name": "Red Lamp"}, 1, {})
    assert stranger.value == 0
    lone = {**goal, "attributes": [], "goal_options": [], "price_upper": 0}
    assert purchase_reward(product, lone, 1, {}).value == 1.0


def test_nouns_fall_back_to_words() -> None:
    assert word_nouns("The Soft Sofa-Bed for 2 (Pack of 3)") == ("soft", "sofa", "bed", "pack")
