"""Why a purchase got its reward, part by part.

Owns the breakdown. Knows nothing about pages; the rules are `eeflib.envs.webshop.reward`'s, asked
for one wish at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eeflib.envs.webshop import purchase_reward
from eeflib.shop.episode import HumanEpisode

__all__ = ["Part", "Verdict", "judge"]


@dataclass(frozen=True)
class Part:
    """One thing that was asked for; each counts the same."""

    kind: str
    """`Attribute`, `Option` or `Price`."""
    wanted: str
    got: str
    ok: bool


@dataclass(frozen=True)
class Verdict:
    """A purchase and what its reward is made of: `r_type * matched / len(parts)`."""

    reward: float
    solved: bool
    parts: tuple[Part, ...]
    r_type: float
    """1, 0.5, 0.1 or 0: whether it is the right kind of product at all."""
    type_reason: str
    asin: str
    """What was bought."""
    target: str
    """Asin of the product that the task was made from; others can be as good."""

    @property
    def matched(self) -> int:
        return sum(part.ok for part in self.parts)


def judge(episode: HumanEpisode) -> Verdict | None:
    """The verdict on a finished episode; None if nothing was bought."""
    result = episode.result
    if result is None or "bought" not in result.info:
        return None
    env, goal, bought = episode.env, episode.task.goal, result.info["bought"]
    product, options = env.catalogue.by_asin[bought["asin"]], bought["options"]

    def alone(**wish: Any) -> Any:
        only = {**goal, "attributes": [], "goal_options": [], **wish}
        return purchase_reward(product, only, bought["price"], options, env.nouns)

    parts = []
    for attribute in goal["attributes"]:
        ok = alone(attributes=[attribute]).attribute_matches == 1
        parts.append(Part("Attribute", attribute, "it has it" if ok else "not found", ok))
    chosen = ", ".join(options.values()) or "nothing chosen"
    for wanted in _wishes(goal["goal_options"]):
        ok = alone(goal_options=[wanted]).option_matches == 1
        parts.append(Part("Option", _words(wanted), chosen, ok))
    limit, price = goal["price_upper"], f"${bought['price']:,.2f}"
    at_most = f"at most ${limit:,.2f}" if limit > 0 else "no limit"
    parts.append(Part("Price", at_most, price, not limit > 0 or bought["price"] <= limit))
    info = result.info["reward_info"]
    return Verdict(
        reward=result.reward,
        solved=bool(result.info["won"]),
        parts=tuple(parts),
        r_type=info["r_type"],
        type_reason=_type_reason(info),
        asin=bought["asin"],
        target=goal["asin"],
    )


def _wishes(options: Any) -> Iterable[Any]:
    """Official goals name values, or (name, value) pairs."""
    return list(options.items()) if isinstance(options, Mapping) else list(options)


def _words(wanted: Any) -> str:
    return wanted if isinstance(wanted, str) else ": ".join(map(str, wanted))


def _type_reason(info: Mapping[str, Any]) -> str:
    if info["r_type"] == 0:
        return "its title shares no noun with the title that was looked for"
    if info["r_type"] < 0.5:
        return "its title shares almost no noun with the title that was looked for"
    if info["r_type"] < 1:
        return "another category, another kind, and a title of other words"
    if info["query_match"]:
        return "the kind of product that was asked for"
    return "the right department" if info["category_match"] else "a similar title"
