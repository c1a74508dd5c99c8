"""What model calls cost: prices, and an estimate before a run.

Import `Price`, `price_of`, `estimate_cost` and `expected_usage` from here.
An unknown price stays unknown: costs are then None, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from eeflib.errors import DataError
from eeflib.records import Trajectory, Usage


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    prompt: float
    """Per million tokens read."""
    completion: float
    """Per million tokens written (hidden reasoning counts as written)."""
    cached_prompt: float | None = None
    """Per million tokens read from the provider's prompt cache; None: the full price."""

    def __post_init__(self) -> None:
        for name in ("prompt", "completion", "cached_prompt"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise DataError(f"Price.{name} is {value!r}: give dollars per million tokens")

    @classmethod
    def of(cls, text: str) -> Self:
        """From `2.5,10`: read, written. Raises DataError: it is not two numbers."""
        try:
            read, written = (float(part) for part in text.split(","))
        except ValueError:
            raise DataError(f"the price {text!r} is not two numbers, such as 2.5,10") from None
        return cls(read, written)

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """Dollars; `cached_tokens` is the part of `prompt_tokens` that came from the cache."""
        cached = min(cached_tokens, prompt_tokens)
        cached_price = self.prompt if self.cached_prompt is None else self.cached_prompt
        millionths = (
            (prompt_tokens - cached) * self.prompt
            + cached * cached_price
            + completion_tokens * self.completion
        )
        return millionths / 1e6


def price_of(model: str, base_url: str | None = None) -> Price | None:
    """The price in the table of the package genai-prices; None: not listed, or not installed.

    Providers change their prices, and the table has that of the day it was released: check first.
    Where a price depends on the prompt's length the dearest counts.

    Args:
        base_url: the endpoint, by which the provider is known; None: OpenAI's.
    """
    try:
        from genai_prices import Usage as Counts
        from genai_prices import calc_price
    except ImportError:
        return None
    one = Counts(input_tokens=1, output_tokens=1)
    try:
        if base_url:
            found = calc_price(one, model, provider_api_url=base_url).model_price
        else:
            found = calc_price(one, model, provider_id="openai").model_price
    except (LookupError, ValueError):
        return None
    read, written = _dearest(found.input_mtok), _dearest(found.output_mtok)
    if read is None or written is None:
        return None
    return Price(read, written, _dearest(found.cache_read_mtok))


def _dearest(price: Any) -> float | None:
    if price is None:
        return None
    return float(
        max([getattr(price, "base", price), *(t.price for t in getattr(price, "tiers", ()))])
    )


def estimate_cost(
    episodes: int,
    *,
    price: Price | None = None,
    steps: float = 7.0,
    head_tokens: int = 200,
    observation_tokens: int = 220,
    reply_tokens: int = 60,
) -> Usage:
    """Tokens and dollars for `episodes` episodes of about `steps` requests each, no cache assumed.

    Every request sends the whole history again, so the tokens read grow with the square of the
    episode's length: step t reads head + t observations + (t - 1) replies.

    Args:
        steps: requests per episode, on average.
        head_tokens: system text and instruction.
        observation_tokens, reply_tokens: per step. The defaults fit WebShop in text mode (about
            700 characters an observation); measure yours on a handful of episodes.
    """
    if min(episodes, steps, head_tokens, observation_tokens, reply_tokens) < 0:
        raise DataError("estimate_cost: every figure must be 0 or more")
    observations = observation_tokens * steps * (steps + 1) / 2
    replies = reply_tokens * steps * max(0.0, steps - 1) / 2
    prompt = round(episodes * (head_tokens * steps + observations + replies))
    completion = round(episodes * reply_tokens * steps)
    cost = None if price is None else price.cost(prompt, completion)
    return Usage(prompt, completion, cost)


def expected_usage(tries: Sequence[Trajectory], episodes: int) -> Usage:
    """Tokens and dollars of so many episodes, by those that were played; wins and faults alike."""
    paid = [t.usage for t in tries]
    share = episodes / max(1, len(paid))
    costs = [u.cost_usd for u in paid]
    known = [c for c in costs if c is not None]
    return Usage(
        round(sum(u.prompt_tokens for u in paid) * share),
        round(sum(u.completion_tokens for u in paid) * share),
        sum(known) * share if len(known) == len(costs) and known else None,
    )
