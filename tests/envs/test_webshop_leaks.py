"""`eef splits` and docs/webshop_splits.md: the leaks of each split, counted another way here."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eeflib.envs.webshop.goals import content_split, text_key
from eeflib.envs.webshop.official import SOURCES, load_official
from eeflib.envs.webshop.splits import SplitReport, check_split
from eeflib.errors import DataError

PAGE = (Path(__file__).parents[2] / "docs" / "webshop_splits.md").read_text("utf-8")
VECTORS = Path(__file__).parents[1] / "data" / "webshop_parity"


@pytest.fixture
def files(tmp_path) -> Path:
    """The official files of a small shop, where the page expects them."""
    folder = tmp_path / "data" / "webshop"
    folder.mkdir(parents=True)
    rows = json.loads(gzip.decompress((VECTORS / "catalogue.json.gz").read_bytes()))
    for source, part in zip(
        SOURCES["small"], ("products", "attributes", "human_instructions"), strict=True
    ):
        (folder / source.name).write_text(json.dumps(rows[part]), "utf-8")
    return folder


def counts(report: SplitReport) -> dict[tuple[str, str], tuple[int, int]]:
    return {(x.trained.split()[0], x.same): (x.count, x.of) for x in report.leaks}


class Worker:
    """A shop of verl-agent: it shuffles its own list of goals with its own seed."""

    def __init__(self, goals: list[Any], seed: int) -> None:
        random.seed(seed)
        self.goals = list(goals)
        random.shuffle(self.goals)


def play(goals: list[Any], seed: int, tasks: int, group: int, val: int, steps: int, test: int):
    """Goals that a run may draw, goals that it draws, and test goals, of workers as there."""
    state = random.getstate()
    train = [Worker(goals, seed + i // group) for i in range(tasks * group)]
    validation = [Worker(goals, seed + 1000 + i) for i in range(val)]
    random.setstate(state)
    rng, drawn = np.random.RandomState(seed), set()
    for _ in range(steps):
        places = rng.choice(range(test, len(goals)), size=tasks, replace=False)
        for worker, place in zip(train, np.repeat(places, group).tolist(), strict=True):
            drawn.add(worker.goals[place])
    may = {goal for worker in train for goal in worker.goals[test:]}
    return may, drawn, [goal for worker in validation for goal in worker.goals[:test]]


@pytest.mark.parametrize("seed", [0, 7])
def test_verl_agent_is_counted_as_its_workers_would(seed):
    found = counts(
        check_split("verl-agent", n=60, seed=seed, workers=2, validation=5, steps=9, test=40)
    )
    may, drawn, tested = play([*range(60)], seed, 2, 3, 5, 9, 40)
    assert found["can", "goal"] == (sum(g in may for g in tested), 200)
    assert found["trained", "goal"] == (sum(g in drawn for g in tested), 200)
    assert 0 < found["trained", "goal"][0] < found["can", "goal"][0] < 200


def test_the_closed_forms_are_what_many_seeds_give():
    of_seed = [
        check_split("verl-agent", n=60, seed=s, workers=2, validation=2, steps=9, test=40).leaks
        for s in range(300)
    ]
    for leaks in zip(*of_seed, strict=True):
        mean = sum(leak.count / leak.of for leak in leaks) / len(leaks)
        assert mean == pytest.approx(leaks[0].expected, abs=0.015)
        assert 0.1 < mean < 0.9


def test_with_goals_texts_and_products_are_compared(files):
    goals = load_official(files, human=False).goals
    found = counts(check_split("verl-agent", goals, workers=2, validation=3, steps=5, test=50))
    # the loader's order has the products one after the other
    catalogue = load_official(files, human=False).catalogue
    of_product = {p.asin: [g for g in goals if g["asin"] == p.asin] for p in catalogue}
    products = [asin for asin, some in of_product.items() for _ in some]
    may, drawn, tested = play([*enumerate(products)], 0, 2, 1, 3, 5, 50)
    assert len(products) == len(goals)
    for way, trained in (("can", may), ("trained", drawn)):
        assert found[way, "goal"] == (sum(g in trained for g in tested), 150)
        same = {asin for _, asin in trained}
        assert found[way, "product"] == (sum(asin in same for _, asin in tested), 150)
    assert found["trained", "goal"] <= found["trained", "text"] <= found["trained", "product"]
    assert found["trained", "goal"] < found["trained", "product"]


def test_a_split_by_content_shares_nothing(files):
    goals = load_official(files, human=False).goals
    split = content_split(goals, test=80, seed=4)
    assert sorted(split["test"] + split["train"]) == list(range(len(goals)))
    assert 70 <= len(split["test"]) <= 80
    for same in (text_key, lambda goal: goal["asin"]):
        assert not {same(goals[i]) for i in split["test"]} & {
            same(goals[i]) for i in split["train"]
        }
    assert content_split(goals, 80, 4) == split != content_split(goals, 80, 5)
    assert {n for n, _ in counts(check_split("eeflib", goals, test=80)).values()} == {0}


def test_goals_that_hang_together_by_text_or_product_stay_together():
    def goal(asin: str, text: str) -> dict[str, str]:
        return {"asin": asin, "instruction_text": f"{text}, and price lower than {len(asin)}.00"}

    chain = [goal("A", "one"), goal("B", "One."), goal("B", "two"), goal("C", "two")]
    others = [goal(f"D{i}", f"other {i}") for i in range(6)]
    for seed in range(10):
        split = content_split(chain + others, test=4, seed=seed)
        assert {*range(4)} <= set(split["test"]) or not {*range(4)} & set(split["test"])
    with pytest.raises(DataError, match="4 goals in 1 groups"):
        content_split(chain, test=4)


def test_what_does_not_fit_is_told(files):
    goals = load_official(files).goals
    for scheme, options, message in (
        ("webshop", {}, "choose from verl-agent, baseline, eto, eeflib"),
        ("eto", {"goals": goals}, "published list of its own: leave the data out"),
        ("verl-agent", {"n": 500}, "500 goals are too few for 500 test positions and 16"),
    ):
        with pytest.raises(DataError, match=message):
            check_split(scheme, **options)


# -- the page --------------------------------------------------------------------------------------


def test_the_page_prints_what_its_commands_print(eef, files):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S)
    assert len([kind for kind, _ in blocks if kind == "sh"]) == 6
    for (kind, text), (then, output) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        for command in text.splitlines() if kind == "sh" else ():
            name, *arguments = command.split()
            code, out, err = eef(*arguments)
            assert (name, code) == ("eef", 0), err
            if then == "":
                assert out == output
            elif "--json" in arguments:
                assert {x["count"] for x in json.loads(out.splitlines()[-1])["leaks"]} == {0}
            else:
                assert "same product" in out


def test_the_numbers_in_the_text_are_those_counted(eef):
    _, out, err = eef("splits", "--scheme", "eto", "--json")
    found = json.loads(out)
    assert "21 of 200" in err
    assert [leak["count"] for leak in found["leaks"]] == [21, 23]
    assert "| `eto` | 200 | **21**; 23 " in PAGE
    expected = check_split("verl-agent", validation=1, steps=150).leaks[1].expected
    assert expected is not None
    assert f"Of 128 validation tasks that is {128 * expected:.0f}." in PAGE
    for arguments, message in (
        (["--scheme", "webshop"], "no split scheme 'webshop'"),
        (["--human"], "--human and --full"),
        (["--data", "here", "--goals", "9"], "leave one of them out"),
        (["--data", "here"], "items_shuffle_1000.json"),
    ):
        code, out, err = eef("splits", *arguments)
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert message in err


def test_the_program_on_the_page_plays(capsys):
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    exec(program, {})
    assert f"It prints `{capsys.readouterr().out.strip()}`" in PAGE
