"""What model calls cost: prices, an estimate before a run, and a meter with a hard cap during it.

Import `Price`, `LISTED` (a small dated list), `estimate_cost` and `Meter` from here.
An unknown price stays unknown: costs are then None, never 0.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from eeflib.errors import DataError, PrerequisiteError
from eeflib.records import Usage


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


LISTED_ON = "2025-11"
"""When the prices in `LISTED` were OpenAI's list prices. Providers change them: check first."""

LISTED: dict[str, Price] = {
    "gpt-4": Price(30.0, 60.0),
    "gpt-4-turbo": Price(10.0, 30.0),
    "gpt-4o": Price(2.5, 10.0, 1.25),
    "gpt-4o-mini": Price(0.15, 0.6, 0.075),
    "gpt-4.1": Price(2.0, 8.0, 0.5),
    "gpt-4.1-mini": Price(0.4, 1.6, 0.1),
    "gpt-4.1-nano": Price(0.1, 0.4, 0.025),
    "gpt-3.5-turbo": Price(0.5, 1.5),
}
"""For OpenAI's own endpoint, by the exact name: a dated snapshot may cost something else."""


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


class Meter:
    """Running totals of one policy, and its hard cap. Safe to use from several threads.

    The cap is hard because the worst case of a request (every byte of the prompt a token, every
    allowed token written) is reserved before it is sent. Where only requests still in flight stand
    between a new one and the cap, the new one waits to see what they really cost.
    """

    def __init__(
        self, price: Price | None, max_cost_usd: float | None = None, spent_usd: float = 0.0
    ) -> None:
        """Raises PrerequisiteError: a cap without a price; DataError: a cap that is no amount."""
        if max_cost_usd is not None and not 0 < max_cost_usd < float("inf"):
            raise DataError(f"max_cost_usd is {max_cost_usd!r}: give dollars above 0, or None")
        if not 0 <= spent_usd < float("inf"):
            raise DataError(f"spent_usd is {spent_usd!r}: give the dollars spent so far")
        if max_cost_usd is not None and price is None:
            raise PrerequisiteError(
                "max_cost_usd needs a price, and none is known for this model: pass "
                "price=Price(dollars per million prompt tokens, per million completion tokens)"
            )
        self.price = price
        self.max_cost_usd = max_cost_usd
        self._spent = spent_usd
        self._reserved = 0.0
        self._in_flight = 0
        self.usage = Usage()
        """Sum over all replies that reported their tokens."""
        self._changed = threading.Condition()

    @property
    def spent_usd(self) -> float | None:
        """Dollars counted against the cap; None if the price is unknown.

        Requests that may have been billed without a token count (time-outs, incomplete replies)
        count with their worst case, so this is `usage.cost_usd` or more.
        """
        with self._changed:
            return None if self.price is None else self._spent

    def reserve(self, prompt_bytes: int, max_tokens: int) -> float | None:
        """Set the worst case of a request aside; None: it could exceed the cap, do not send it.

        Blocks while requests in flight may still turn out cheap enough.
        """
        if self.price is None:
            return 0.0
        worst = self.price.cost(prompt_bytes, max_tokens)
        with self._changed:
            if self.max_cost_usd is not None:
                while self._in_flight and not self._fits(worst):
                    self._changed.wait()
                if not self._fits(worst):
                    return None
            self._reserved += worst
            self._in_flight += 1
        return worst

    def settle(self, reserved: float, usage: Usage, *, billed: float) -> None:
        """A reserved request is over: count what it reported, and `billed` dollars for the cap."""
        with self._changed:
            if self.price is not None:
                self._in_flight -= 1
                self._reserved = self._reserved - reserved if self._in_flight else 0.0
            self._spent += billed
            self.usage = self.usage + usage
            self._changed.notify_all()

    def _fits(self, worst: float) -> bool:
        assert self.max_cost_usd is not None
        # A hair of slack: sums of floats must not refuse a request that fits exactly.
        return self._spent + self._reserved + worst <= self.max_cost_usd * (1 + 1e-9)
