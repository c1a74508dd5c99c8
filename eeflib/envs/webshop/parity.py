"""Compares this package with recorded outputs of the official environment.

    python -m eeflib.envs.webshop.parity FOLDER [--present] [--disk]

Owns the checks of a folder of golden vectors, one function per file; each compared item counts
once, with everything that is recorded about it. Knows nothing about where the folder comes from.
The nouns of the title score are taken from the folder. With `--disk` the catalogue is built on disk
and opened from there (`build_catalogue`), else it is in memory.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from eeflib.envs.webshop.catalogue import Catalogue, Product, option_value, parse_price
from eeflib.envs.webshop.disk_build import build_catalogue
from eeflib.envs.webshop.disk_catalogue import open_catalogue
from eeflib.envs.webshop.goals import build_goals, sample_resets
from eeflib.envs.webshop.nouns import Nouns, best_nouns, fixed_nouns
from eeflib.envs.webshop.reward import (
    COLOURS,
    is_close,
    normalize_color,
    purchase_reward,
    size_pattern,
    token_set_ratio,
)
from eeflib.envs.webshop.state import parse_action
from eeflib.errors import DataError, EefError

__all__ = ["FILES", "FileCheck", "Vectors", "check_folder", "main"]

_KINDS: tuple[Literal["human", "synthetic"], ...] = ("human", "synthetic")

Outcome = Iterator[tuple[str, bool]]
"""(what was compared, whether it is the same), item by item."""


@dataclass(frozen=True)
class FileCheck:
    """How one file compares."""

    file: str
    passed: int
    total: int
    failures: tuple[str, ...]
    """Names of the first items that differ."""
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.passed == self.total > 0


class Vectors:
    """A folder of golden vectors, read as needed, and the catalogue and goals it describes.

    Args:
        disk: where to build the catalogue; None: it is in memory.
    """

    def __init__(self, folder: str | Path, *, disk: Path | None = None) -> None:
        self.folder, self.disk = Path(folder), disk
        self._read: dict[str, Any] = {}

    def load(self, name: str) -> Any:
        """The content of `NAME.json.gz`. Raises DataError if it cannot be read."""
        if name not in self._read:
            path = self.folder / f"{name}.json.gz"
            try:
                self._read[name] = json.loads(gzip.decompress(path.read_bytes()))
            except (OSError, EOFError, ValueError, zlib.error) as exc:
                raise DataError(f"{path}: not a readable file of golden vectors: {exc}") from None
        return self._read[name]

    @cached_property
    def catalogue(self) -> Catalogue:
        rows = self.load("catalogue")
        seed = self.load("catalogue_loaded")["seed_before_load"]
        rest = (rows["attributes"], rows["human_instructions"])
        if self.disk is None:
            return Catalogue.from_rows(rows["products"], *rest, seed=seed)
        build_catalogue(
            rows["products"], self.disk, attributes=rest[0], human_instructions=rest[1], seed=seed
        )
        return open_catalogue(self.disk)

    @cached_property
    def goals(self) -> dict[str, list[dict[str, Any]]]:
        return {kind: build_goals(self.catalogue, kind) for kind in _KINDS}

    @cached_property
    def nouns(self) -> Nouns:
        return fixed_nouns(self.load("title_nouns")["titles"])


def _official(p: Product) -> dict[str, Any]:
    """A product as the official loader leaves it."""
    return {
        "asin": p.asin,
        "Title": p.title,
        "name": p.title,
        "Description": p.description,
        "BulletPoints": list(p.bullets),
        "Rating": "N.A.",
        "Reviews": [],
        "pricing": list(p.prices),
        "Price": p.price_text,
        "options": {name: list(values) for name, values in p.options.items()},
        "option_to_image": p.option_images,
        "Attributes": list(p.attributes),
        "MainImage": p.main_image,
        "query": p.query,
        "category": p.category,
        "product_category": p.product_category,
    }


def check_rows(v: Vectors) -> Outcome:
    """Every row is kept or dropped as officially; the official loader keeps the order."""
    wanted = iter([p["asin"] for p in v.load("catalogue_loaded")["products"]])
    expected = next(wanted, None)
    dropped = {s.row for s in v.catalogue.skipped}
    for number, row in enumerate(v.load("catalogue")["products"]):
        kept = row["asin"] == expected
        if kept:
            expected = next(wanted, None)
        yield f"row {number}", kept == (number not in dropped)


def check_loaded(v: Vectors) -> Outcome:
    loaded, catalogue = v.load("catalogue_loaded"), v.catalogue
    for want in loaded["products"]:
        have = catalogue.by_asin.get(want["asin"])
        yield (
            f"product {want['asin']}",
            have is not None and all(_official(have).get(key) == want[key] for key in want),
        )
    for name in ("sampled_prices", "sampled_prices_synthetic_server"):
        for asin, price in loaded[name].items():
            yield f"{name} {asin}", catalogue.prices.get(asin) == price


def check_goals(v: Vectors) -> Outcome:
    recorded = v.load("goals")
    human, synthetic = v.goals["human"], v.goals["synthetic"]
    yield "number of human goals", len(human) == len(recorded["human"])
    yield "number of synthetic goals", len(synthetic) == recorded["synthetic_count"]
    for kind, want, have in (
        ("human", recorded["human"], human),
        ("synthetic", recorded["synthetic_first_400"], synthetic),
    ):
        for number, goal in enumerate(want):
            yield f"{kind} goal {number}", number < len(have) and have[number] == goal


def check_rewards(v: Vectors) -> Outcome:
    for case in v.load("reward_cases")["cases"]:
        product = v.catalogue.by_asin[case["asin"]]
        got = purchase_reward(product, case["goal"], case["price"], case["options"], v.nouns)
        want = (case["reward"], case["info"], case["num_attr_matches"], case["num_option_matches"])
        yield case["id"], (got.value, got.info, got.attribute_matches, got.option_matches) == want


def check_nouns(v: Vectors) -> Outcome:
    """The table is an input: every title of the catalogue must be in it."""
    table = v.load("title_nouns")["titles"]
    for product in v.catalogue.products:
        yield product.title, v.nouns(product.title) == tuple(table.get(product.title, ("?",)))


def check_searches(v: Vectors) -> Outcome:
    """Ranking, order included, and scores to the four decimals that are recorded."""
    catalogue = v.catalogue
    for case in v.load("searches")["queries"]:
        found = catalogue.index.scored(case["query"].lower())
        asins = [catalogue.products[i].asin for i, _ in found]
        close = all(abs(s - w) < 6e-5 for (_, s), w in zip(found, case["scores"], strict=False))
        yield case["query"][:60], asins == case["asins"] and close


def _raises(raw: str) -> bool:
    try:
        parse_price(raw)
    except DataError:
        return True
    return False


def check_units(v: Vectors) -> Outcome:
    u = v.load("units")
    for raw, want in u["normalize_color"]:
        yield f"normalize_color {raw}", normalize_color(raw) == want
    for case in u["normalize_color_tuple"]:
        want = case["output"] if isinstance(case["output"], str) else tuple(case["output"])
        yield f"normalize_color {case['input']}", normalize_color(tuple(case["input"])) == want
    for raw, want in u["color_mapping"].items():
        found = next((c for c in COLOURS if c in raw), "not_matched")
        yield f"color_mapping {raw}", found == want
    for raw, want in u["size_mapping"].items():
        yield f"size_mapping {raw}", size_pattern(raw) == want
    for case in u["price_parsing"]:
        prices, text = parse_price(case["raw"])
        fixed = prices[0] if len(prices) == 1 else None
        want = (case["pricing"], case["Price"], case["fixed_price"])
        yield f"price {case['raw']}", (list(prices), text, fixed) == want
    for case in u["price_parsing_crashes"]:
        yield f"price {case['raw']}", _raises(case["raw"])
    for raw, want in u["option_values"]:
        yield f"option value {raw}", option_value(raw) == want
    for action, name, argument in u["parse_action"]:
        yield f"parse_action {action}", parse_action(action) == (name, argument)
    for a, b, score in u["token_set_ratio"]:
        same = token_set_ratio(a, b) == score and is_close(a, b) == (score > 85)
        yield f"token_set_ratio {a} / {b}", same


def check_resets(v: Vectors) -> Outcome:
    """Recorded after one reset of the constructor."""
    recorded = v.load("reset_sampling")
    for kind in ("human", "synthetic"):
        drawn = sample_resets(v.goals[kind], 7, 1 + len(recorded[kind]))[1:]
        for number, (want, have) in enumerate(zip(recorded[kind], drawn, strict=True)):
            yield f"{kind} reset {number}", list(have) == want
    total = 0.0
    for number, (goal, want) in enumerate(
        zip(v.goals["synthetic"], recorded["synthetic_cum_weights"][1:], strict=False)
    ):
        total += goal["weight"]
        yield f"cumulative weight {number}", total == want


def _noun_note(v: Vectors) -> str:
    """How far this machine's own tagger leads to the official type score."""
    own, cases = best_nouns(), v.load("reward_cases")["cases"]
    same = sum(
        purchase_reward(v.catalogue.by_asin[c["asin"]], c["goal"], 0, {}, own).info["r_type"]
        == c["info"]["r_type"]
        for c in cases
    )
    titles = v.load("title_nouns")["titles"]
    equal = sum(own(title) == tuple(nouns) for title, nouns in titles.items())
    return (
        f"table taken as given; own tagger {own.__name__!r}: same nouns for {equal} of "
        f"{len(titles)} titles, same r_type in {same} of {len(cases)} reward cases"
    )


def _checks() -> dict[str, Callable[[Vectors], Outcome]]:
    from eeflib.envs.webshop.parity_rollouts import check_rollouts, check_wrappers

    return {
        "catalogue": check_rows,
        "catalogue_loaded": check_loaded,
        "goals": check_goals,
        "rollouts": check_rollouts,
        "reward_cases": check_rewards,
        "title_nouns": check_nouns,
        "searches": check_searches,
        "units": check_units,
        "reset_sampling": check_resets,
        "wrapper_cases": check_wrappers,
    }


FILES = (
    *("catalogue", "catalogue_loaded", "goals", "rollouts", "reward_cases", "title_nouns"),
    *("searches", "units", "reset_sampling", "wrapper_cases"),
)


def check_folder(
    folder: str | Path, files: Sequence[str] = FILES, *, disk: bool = False
) -> list[FileCheck]:
    """Compare everything in `folder`.

    Args:
        disk: with a catalogue on disk, in a temporary folder.

    Raises:
        DataError: a file is missing or unreadable.
    """
    with tempfile.TemporaryDirectory() as temporary:
        vectors = Vectors(folder, disk=Path(temporary) / "catalogue" if disk else None)
        return _check(vectors, files)


def _check(vectors: Vectors, files: Sequence[str]) -> list[FileCheck]:
    checks, out = _checks(), []
    for name in files:
        outcome = list(checks[name](vectors))
        failures = [what for what, same in outcome if not same]
        note = _noun_note(vectors) if name == "title_nouns" else ""
        out.append(
            FileCheck(
                f"{name}.json.gz",
                len(outcome) - len(failures),
                len(outcome),
                tuple(failures[:5]),
                note,
            )
        )
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per file; the exit code is 0 only if everything agrees.

    `--present` checks the files that are there, of a folder that `scripts/webshop/record.py` made.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    write = sys.stdout.write
    present, disk = ("--present" in arguments, "--disk" in arguments)
    folders = [a for a in arguments if a not in ("--present", "--disk")]
    if len(folders) != 1 or folders[0].startswith("-"):
        write("usage: python -m eeflib.envs.webshop.parity FOLDER [--present] [--disk]\n")
        return 2
    files = [f for f in FILES if not present or (Path(folders[0]) / f"{f}.json.gz").exists()]
    try:
        if not files:
            raise DataError(f"{folders[0]}: holds none of the files of golden vectors")
        results = check_folder(folders[0], files, disk=disk)
    except EefError as exc:
        write(f"{exc}\n")
        return 2
    for result in results:
        note = f"  ({result.note})" if result.note else ""
        write(f"{result.file:26} {result.passed} of {result.total}{note}\n")
        for failure in result.failures:
            write(f"    differs: {failure}\n")
    return 0 if all(r.ok for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
