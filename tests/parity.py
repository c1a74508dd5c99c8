"""Compare the WebShop with recorded outputs of the official environment.

    python -m tests.parity FOLDER [--present]

FOLDER holds golden vectors as tests/data/webshop_parity does; its README describes the ten files.
Prints a line `NAME: N of N` per file and what differs below it; the exit code is 0 if nothing does,
1 if something does, 2 if a file cannot be read. `--present` compares the files that are there,
for a folder that `scripts/webshop/record.py` made. The nouns of the title score are taken from the
folder.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from eeflib.envs.base import StepResult
from eeflib.envs.webshop import reward
from eeflib.envs.webshop.catalogue import Catalogue, Product, option_value, parse_price
from eeflib.envs.webshop.disk import build_catalogue
from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.goals import SHUFFLE_SEED, build_goals, task_from_goal
from eeflib.envs.webshop.pages import WebShopState, parse_action
from eeflib.envs.webshop.reward import Nouns, best_nouns, word_nouns
from eeflib.errors import DataError, EefError
from tests.webshop_wrappers import (
    EtoEpisode,
    joined_history,
    parse_agentgym,
    parse_eto,
    sample_resets,
    size_pattern,
)

_NO_LIMIT = 1_000_000
_SHOWN = 5
_HOST = "http://127.0.0.1:3000"
_KINDS: tuple[Literal["human", "synthetic"], ...] = ("human", "synthetic")

Checks = Iterator[tuple[str, bool]]
"""(what was compared, whether it is the same), item by item."""


@dataclass(frozen=True)
class FileCheck:
    """How one file compares."""

    name: str
    total: int
    differing: tuple[str, ...]
    """Items that are not as recorded."""

    @property
    def ok(self) -> bool:
        return self.total > 0 and not self.differing


class Vectors:
    """A folder of golden vectors, and the catalogue (in memory or at `disk`) it describes."""

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
        return build_catalogue(
            rows["products"], self.disk, attributes=rest[0], human_instructions=rest[1], seed=seed
        )

    @cached_property
    def goals(self) -> dict[str, list[dict[str, Any]]]:
        return {kind: build_goals(self.catalogue, kind) for kind in _KINDS}

    @cached_property
    def nouns(self) -> Nouns:
        """The recorded nouns of a title."""
        known = self.load("title_nouns")["titles"]
        return lambda title: tuple(known[title]) if title in known else word_nouns(title)

    def product(self, asin: str) -> Product:
        found = self.catalogue.find(asin)
        if found is None:
            raise DataError(f"product {asin!r} is not in the catalogue")
        return found


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


def check_rows(v: Vectors) -> Checks:
    """Every row is kept or dropped as officially; the official loader keeps the order."""
    wanted = iter([p["asin"] for p in v.load("catalogue_loaded")["products"]])
    expected = next(wanted, None)
    dropped = {s.row for s in v.catalogue.skipped}
    for number, row in enumerate(v.load("catalogue")["products"]):
        kept = row["asin"] == expected
        if kept:
            expected = next(wanted, None)
        yield f"row {number}", kept == (number not in dropped)


def check_loaded(v: Vectors) -> Checks:
    loaded, catalogue = v.load("catalogue_loaded"), v.catalogue
    for want in loaded["products"]:
        have = catalogue.find(want["asin"])
        same = have is not None and all(_official(have).get(key) == want[key] for key in want)
        yield f"product {want['asin']}", same
    for name in ("sampled_prices", "sampled_prices_synthetic_server"):
        for asin, price in loaded[name].items():
            yield f"{name} {asin}", v.product(asin).price == price


def check_goals(v: Vectors) -> Checks:
    recorded = v.load("goals")
    loaded = v.load("catalogue_loaded")["seed_before_load"]
    yield "seed", recorded.get("seed_before_construct", loaded) == loaded
    yield "seed of the order", recorded.get("shuffle_seed", SHUFFLE_SEED) == SHUFFLE_SEED
    for kind, first, count in (
        ("human", recorded["human"], len(recorded["human"])),
        ("synthetic", recorded["synthetic_first_400"], recorded["synthetic_count"]),
    ):
        goals = v.goals[kind]
        yield f"number of {kind} goals", len(goals) == count
        for number, goal in enumerate(first):
            yield f"{kind} goal {number}", goals[number : number + 1] == [goal]
        if tail := recorded.get(f"{kind}_cum_weights_tail"):
            sums = list(itertools.accumulate(goal["weight"] for goal in goals))
            yield f"last cumulative weights, {kind}", sums[-len(tail) :] == tail


def check_rewards(v: Vectors) -> Checks:
    for case in v.load("reward_cases")["cases"]:
        product = v.product(case["asin"])
        got = reward.purchase_reward(product, case["goal"], case["price"], case["options"], v.nouns)
        want = (case["reward"], case["info"], case["num_attr_matches"], case["num_option_matches"])
        yield case["id"], (got.value, got.info, got.attribute_matches, got.option_matches) == want


def check_nouns(v: Vectors) -> Checks:
    """The tagger against the table; without spaCy only that the table has every title.

    The other files take their nouns from the table: a title that is missing would be judged by
    `word_nouns`, unlike the official reward.
    """
    table, own = v.load("title_nouns")["titles"], best_nouns()
    for product in v.catalogue:
        yield f"in the table: {product.title}", product.title in table
    if own is not word_nouns:
        for title, nouns in table.items():
            yield title, own(title) == tuple(nouns)


def check_searches(v: Vectors) -> Checks:
    """Ranking, order included, and scores to the four decimals that are recorded."""
    catalogue = v.catalogue
    for case in v.load("searches")["queries"]:
        found = catalogue.index.scored(case["query"].lower())
        asins = [catalogue[i].asin for i, _ in found]
        close = all(abs(s - w) < 6e-5 for (_, s), w in zip(found, case["scores"], strict=False))
        yield case["query"][:60], asins == case["asins"] and close


def _raises(raw: str) -> bool:
    try:
        parse_price(raw)
    except DataError:
        return True
    return False


def check_units(v: Vectors) -> Checks:
    u = v.load("units")
    for name, pairs, function in (
        ("normalize_color", u["normalize_color"], reward.normalize_color),
        ("size_mapping", u["size_mapping"].items(), size_pattern),
        ("option value", u["option_values"], option_value),
    ):
        for raw, want in pairs:
            yield f"{name} {raw}", function(raw) == want
    for raw, want in u["color_mapping"].items():
        found = next((c for c in reward.COLOURS if c in raw), "not_matched")
        yield f"color_mapping {raw}", found == want
    for case in u["normalize_color_tuple"]:
        want = case["output"] if isinstance(case["output"], str) else tuple(case["output"])
        found = reward.normalize_color(tuple(case["input"]))
        yield f"normalize_color {case['input']}", found == want
    for case in u["price_parsing"]:
        prices, text = parse_price(case["raw"])
        found = (list(prices), text, prices[0] if len(prices) == 1 else None)
        want = (case["pricing"], case["Price"], case["fixed_price"])
        yield f"price {case['raw']}", found == want
    for case in u["price_parsing_crashes"]:
        yield f"price {case['raw']}", _raises(case["raw"])
    for action, name, argument in u["parse_action"]:
        yield f"parse_action {action}", parse_action(action) == (name, argument)
    for a, b, score in u["token_set_ratio"]:
        found = (reward.token_set_ratio(a, b), reward.is_close(a, b))
        yield f"token_set_ratio {a} / {b}", found == (score, score > 85)


def check_resets(v: Vectors) -> Checks:
    """What each reset drew, recorded after one reset of the constructor.

    Goals are compared by content: equal goals occur more than once.
    """
    recorded = v.load("reset_sampling")
    for kind in _KINDS:
        goals = v.goals[kind]
        drawn = sample_resets(goals, 7, 1 + len(recorded[kind]))[1:]
        for number, (want, have) in enumerate(zip(recorded[kind], drawn, strict=True)):
            same = have[0] == want[0] and goals[have[1]] == goals[want[1]]
            yield f"{kind} reset {number}", same
    sums = [0, *itertools.accumulate(goal["weight"] for goal in v.goals["synthetic"])]
    pairs = itertools.zip_longest(sums, recorded["synthetic_cum_weights"])
    for number, (have, want) in enumerate(pairs):
        yield f"cumulative weight {number}", have == want


def _page_differs(env: WebShopEnv, text: str, want: dict[str, Any], session: str) -> list[str]:
    # in the recorded address `/session` is blanked out where it occurs first, be it in the host
    address = _HOST + env.state.address().replace("{session}", session)
    pairs = {
        "text": (text, want["obs_text"]),
        "rich": (env.rich(), want["obs_rich"]),
        "clickables": (env.clickables(), want["clickables"]),
        "search bar": (env.state.page == "index", want["has_search_bar"]),
        "address": (address.replace(f"/{session}", "/{session}", 1), want["url"]),
    }
    return [name for name, (have, wish) in pairs.items() if have != wish]


def _step_differs(env: WebShopEnv, result: StepResult, want: dict[str, Any]) -> list[str]:
    """What of a step's outcome is not as recorded."""
    out = []
    if "error" in want:
        return [] if result.info.get("reason") == want["error"] else ["error"]
    if (result.reward, result.terminated) != (want["reward"], want["done"]):
        out.append("reward or done")
    if "search" in want:
        found = [env.catalogue[i].asin for i in env.ranking(env.state)]
        keywords = list(env.state.keywords)
        if (keywords, found) != (want["search"]["keywords"], want["search"]["asins"]):
            out.append("search")
    facts = [name for name in ("reward_info", "bought") if name in want]
    return out + [name for name in facts if result.info.get(name) != want[name]]


def check_rollouts(v: Vectors) -> Checks:
    """Every reset and every step of every episode."""
    number_of = {p.asin: i for i, p in enumerate(v.catalogue)}
    drawn: list[str] = []

    class Shopper(WebShopEnv):
        def ranking(self, state: WebShopState) -> tuple[int, ...]:
            # The only random search: take the recorded draw.
            if drawn and state.query.startswith("<r>"):
                return tuple(number_of[asin] for asin in drawn)
            return super().ranking(state)

    for episode in v.load("rollouts")["episodes"]:
        shown = episode["show_attrs"]
        env = Shopper(v.catalogue, strict=True, show_attributes=shown, nouns=v.nouns)
        goal = v.goals[episode["goal_set"]][episode["goal_idx"]]
        session, want = str(episode["goal_idx"]), episode["reset"]
        text = env.reset(task_from_goal(goal, v.catalogue, max_steps=_NO_LIMIT)).text
        differs = _page_differs(env, text, want, session)
        if want["instruction_text"] != f"Instruction: {goal['instruction_text']}":
            differs.append("instruction")
        yield f"{episode['id']} reset: {', '.join(differs)}", not differs
        observations, actions = [text], []
        kept = episode["num_prev_obs"], episode["num_prev_actions"]
        for t, want in enumerate(episode["steps"]):
            drawn[:] = want.get("search", {}).get("asins", ())
            result = env.step(want["action"])
            differs = _page_differs(env, result.text, want, session)
            differs += _step_differs(env, result, want)
            if "error" not in want:  # a step that raised left no trace in the history
                observations.append(result.text)
                actions.append(want["action"])
                returned = joined_history(observations, actions, *kept)
                if returned != want.get("state_returned", want["obs_text"]):
                    differs.append("returned text")
            yield f"{episode['id']} step {t}: {', '.join(differs)}", not differs


def check_wrappers(v: Vectors) -> Checks:
    """ETO's wrapper step by step, AgentGym's parser text by text."""
    cases = v.load("wrapper_cases")
    for number, case in enumerate(cases["eto"]):
        env = WebShopEnv(v.catalogue, strict=True, nouns=v.nouns)
        goal = v.goals["human"][case["goal_idx"]]
        task = task_from_goal(goal, v.catalogue, max_steps=_NO_LIMIT)
        episode = EtoEpisode(env, task, case["max_steps"])
        yield f"eto {number} start", episode.first_message == case["first_user_message"]
        for t, want in enumerate(case["steps"]):
            have = {"parsed_action": parse_eto(want["llm_output"])}
            have["observation"] = episode.step(want["llm_output"])
            have |= asdict(episode.state)
            yield f"eto {number} step {t}", all(want[key] == have[key] for key in have)
    for case in cases["agentgym_parse_react"]:
        same = parse_agentgym(case["text"]) == (case["thought"], case["action"])
        yield f"agentgym {case['text'][:40]!r}", same


FILES: dict[str, Callable[[Vectors], Checks]] = {
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
"""Each file of a folder, and what compares it."""


def check_folder(
    folder: str | Path, files: Iterable[str] = FILES, *, disk: bool = False
) -> list[FileCheck]:
    """Compare `files` of `folder`; with `disk` over a catalogue on disk, in a temporary folder.

    Raises:
        DataError: a file is missing or unreadable.
    """
    out = []
    with tempfile.TemporaryDirectory() as temporary:
        vectors = Vectors(folder, disk=Path(temporary) / "catalogue" if disk else None)
        for name in files:
            outcome = list(FILES[name](vectors))
            differing = tuple(what for what, same in outcome if not same)
            out.append(FileCheck(name, len(outcome), differing))
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--present", action="store_true", help="compare the files that are there")
    asked = parser.parse_args(arguments)
    files = list(FILES)
    if asked.present:
        files = [name for name in FILES if (asked.folder / f"{name}.json.gz").exists()]
    try:
        if not files:
            raise DataError(f"{asked.folder}: holds none of the files of golden vectors")
        results = check_folder(asked.folder, files)
    except EefError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    for result in results:
        sys.stdout.write(
            f"{result.name}: {result.total - len(result.differing)} of {result.total}\n"
        )
        for what in result.differing[:_SHOWN]:
            sys.stdout.write(f"    differs: {what}\n")
    if "title_nouns" in files and best_nouns() is word_nouns:
        sys.stderr.write("title_nouns: no tagger to compare; pip install 'eeflib[webshop-spacy]'\n")
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
