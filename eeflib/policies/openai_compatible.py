"""A teacher (or student) behind any OpenAI-compatible endpoint: `ChatModel`.

It sends a bounded number of requests at a time, with retries, time-outs, token counts and a cost
cap, and says what each kind of failure means.

Only `model`, `messages` and the sampling options that are set are sent: no tools, response formats,
`n` or log-probabilities, which vLLM, llama.cpp and `transformers serve` may lack.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from eeflib.errors import DataError, PrerequisiteError, ProviderError
from eeflib.policies import chat_response as response
from eeflib.policies.base import Conversation, Reply
from eeflib.policies.keys import ApiKey, resolve_key, scrub
from eeflib.policies.pricing import Meter, Price, listed_price
from eeflib.records import Usage

__all__ = ["ChatModel"]

logger = logging.getLogger(__name__)

MAX_WAIT = 60.0
"""Longest pause between two attempts, in seconds; a server that asks for more is given up on."""
_OWN_FIELDS = frozenset({"model", "messages", "n", "stream", "max_tokens", "max_completion_tokens"})
# The byte count of a text bounds its tokens; chat templates add a few per message and at the start.
_TEMPLATE_BYTES, _MESSAGE_BYTES = 256, 32
_PLACEHOLDER_KEY = "EMPTY"


class ChatModel:
    """Answers conversations by chat completions of one model.

    What failures become:

    - Nothing can succeed (key refused, unknown model, no credit, an option the model rejects, the
      cost cap): `ProviderError`. If replies were received before, the call of `act` in which it
      happens still returns, with `Reply.error` and `Reply.fatal` set where there is no reply, and
      the next call raises: what was paid for can be recorded.
    - One conversation fails, after `retries` where retrying makes sense (429, 5xx, time-out,
      connection): its `Reply.error` says why; the others are not touched.
    """

    wants_admissible = False
    independent = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | ApiKey | None = None,
        temperature: float | None = 0.0,
        top_p: float | None = None,
        max_tokens: int | None = 512,
        stop: Sequence[str] = (),
        seed: int | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        backoff: float = 1.0,
        concurrency: int = 8,
        price: Price | None = None,
        max_cost_usd: float | None = None,
        spent_usd: float = 0.0,
        system_role: bool = True,
        extra_body: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        """Makes no request.

        Args:
            base_url: e.g. `http://127.0.0.1:8000/v1`; None: `OPENAI_BASE_URL`, else OpenAI's own.
            api_key: see `eeflib.policies.keys.resolve_key`; local servers need none.
            temperature, top_p, max_tokens, stop: sent as they are; None or empty: not sent.
            seed: None: no seed is sent; else every request carries one drawn from its
                conversation's generator and this number, so that attempts differ and runs repeat.
            timeout: seconds without a sign of life from the server before an attempt is given up.
            retries: further attempts after the first.
            backoff: seconds before the second attempt, doubled each time, plus jitter.
            concurrency: most requests in flight at once.
            price: dollars per million tokens; None: the listed price, for OpenAI's own endpoint.
            max_cost_usd: hard cap in dollars, for `spent_usd` and this policy together.
            spent_usd: what earlier parts of the run have spent.
            system_role: False puts the system text into the first user turn (for chat templates
                that know no system role).
            extra_body: further fields of the request, e.g. `{"top_k": 20}`.
            name: the policy's name in records; default: the model's.

        Raises:
            PrerequisiteError: package or key missing; a cap without a price or `max_tokens`.
            DataError: an option that cannot be right.
        """
        try:
            import openai
        except ImportError as exc:
            raise PrerequisiteError(
                f"{exc.name} is not installed: pip install 'eeflib[openai]'"
            ) from None
        if not model.strip():
            raise DataError("model is empty: give the model's name as the server knows it")
        _at_least(1, concurrency=concurrency, max_tokens=1 if max_tokens is None else max_tokens)
        _at_least(0, retries=retries, backoff=backoff, temperature=temperature or 0.0)
        if not timeout > 0:
            raise DataError(f"timeout is {timeout!r}: give seconds above 0")
        if clash := _OWN_FIELDS & set(extra_body or ()):
            raise DataError(f"extra_body must not set {', '.join(sorted(clash))}")
        if max_cost_usd is not None and max_tokens is None:
            raise PrerequisiteError(
                "max_cost_usd needs max_tokens: without it a reply's cost has no bound"
            )
        self.model = model
        self.name = name or model
        self.max_tokens = max_tokens
        self.retries, self.backoff, self.concurrency = retries, backoff, concurrency
        self.timeout = timeout
        self.system_role = system_role
        self.seed = seed
        self._url = base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or None
        if self._url is not None:
            _check_url(self._url)
        if price is None and self._url is None:
            price = listed_price(model)
        self.meter = Meter(price, max_cost_usd, spent_usd)
        self._options: dict[str, Any] = {
            "temperature": temperature,
            "top_p": top_p,
            "stop": list(stop) or None,
            "extra_body": dict(extra_body or {}) or None,
        }
        self._options = {k: v for k, v in self._options.items() if v is not None}
        self._key = resolve_key(api_key, base_url=self._url)
        self._client = openai.OpenAI(
            api_key=self._key.reveal() if self._key is not None else _PLACEHOLDER_KEY,
            base_url=self._url,
            timeout=timeout,
            max_retries=0,
        )
        self._tokens_field = "max_tokens"
        self._jitter = random.Random()
        self._answered = False
        self._stopped = ""

    @property
    def base_url(self) -> str:
        """The endpoint, without credentials or query."""
        return _shown(str(self._client.base_url))

    @property
    def usage(self) -> Usage:
        """Tokens, known dollars and request seconds so far."""
        return self.meter.usage

    @property
    def spent_usd(self) -> float | None:
        """Dollars counted against the cap, see `Meter.spent_usd`; None: unknown price."""
        return self.meter.spent_usd

    @property
    def stopped(self) -> str:
        """Why no further request is made; empty while all is well."""
        return self._stopped

    def config(self) -> dict[str, Any]:
        """What a run's manifest should hold; no key."""
        return {
            "model": self.model,
            "base_url": self.base_url,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "system_role": self.system_role,
            "max_cost_usd": self.meter.max_cost_usd,
            **self._options,
        }

    def __repr__(self) -> str:
        return f"ChatModel({self.model!r}, base_url={self.base_url!r})"

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is cached."""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def act(
        self, conversations: Sequence[Conversation], *, rng: Sequence[np.random.Generator]
    ) -> list[Reply]:
        """One reply per conversation, in their order; up to `concurrency` requests at once.

        Raises:
            ProviderError: no request can succeed, see the class; the message says what to do.
        """
        if self._stopped:
            raise ProviderError(self._stopped)
        bodies = [self._body(c, g) for c, g in zip(conversations, rng, strict=True)]
        if not bodies:
            return []
        halt = threading.Event()
        pool = ThreadPoolExecutor(min(self.concurrency, len(bodies)), "eef-requests")
        finished = False
        try:
            futures = [pool.submit(self._answer, body, halt) for body in bodies]
            replies = [future.result() for future in futures]
            finished = True
        finally:
            if not finished:  # an interrupt: end the pauses, do not wait for what is in flight
                halt.set()
            pool.shutdown(wait=finished, cancel_futures=True)
        if self._stopped and not self._answered:
            raise ProviderError(self._stopped)
        return replies

    def _body(self, conversation: Conversation, rng: np.random.Generator) -> dict[str, Any]:
        turns = [(m.role, response.encodable(m.content)) for m in conversation.messages]
        if not self.system_role and len(turns) > 1 and turns[0][0] == "system":
            turns = [("user", f"{turns[0][1]}\n\n{turns[1][1]}"), *turns[2:]]
        messages = [{"role": role, "content": content} for role, content in turns]
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        if self.seed is not None:
            body["seed"] = (int(rng.integers(2**31)) ^ self.seed) & (2**31 - 1)
        return body | self._options

    def _answer(self, body: dict[str, Any], halt: threading.Event) -> Reply:
        """One conversation, all its attempts."""
        import tenacity

        used = Usage()

        def attempt() -> response.Attempt:
            nonlocal used
            if self._stopped or halt.is_set():
                return response.Attempt(error=self._stopped or "interrupted")
            outcome = self._send(body)
            used = used + outcome.usage
            if outcome.fatal and not self._stopped:
                self._stopped = outcome.error
            if self._stopped:
                halt.set()
            return outcome

        outcome = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda o: o.transient),
            stop=tenacity.stop_after_attempt(self.retries + 1),
            wait=self._pause,
            sleep=tenacity.sleep_using_event(halt),
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )(attempt)
        if outcome.error:
            gave_up = outcome.transient and self.retries > 0
            tries = f" (after {self.retries + 1} attempts)" if gave_up else ""
            fatal = bool(self._stopped) and outcome.error == self._stopped
            return Reply("", used, error=outcome.error + tries, fatal=fatal)
        self._answered = True
        return Reply(outcome.text, used)

    def _pause(self, state: Any) -> float:
        """Seconds until the next attempt: what the server asks for, else exponential; jittered."""
        outcome: response.Attempt = state.outcome.result()
        seconds = outcome.retry_after
        if seconds is None:
            seconds = min(MAX_WAIT, self.backoff * 2.0 ** (state.attempt_number - 1))
        seconds += self._jitter.uniform(0.0, self.backoff)
        logger.info("attempt %d: %s; again in %.1f s", state.attempt_number, outcome.error, seconds)
        return seconds

    def _send(self, body: dict[str, Any]) -> response.Attempt:
        """One attempt, metered. Never raises for anything a server can do."""
        import openai

        size = sum(len(m["content"].encode()) + _MESSAGE_BYTES for m in body["messages"])
        worst = self.meter.reserve(size + _TEMPLATE_BYTES, self.max_tokens or 0)
        if worst is None:
            return response.Attempt(error=self._cap_message(), fatal=True)
        field = self._tokens_field
        if self.max_tokens is not None:
            body = body | {field: self.max_tokens}
        started = time.perf_counter()
        outcome = response.Attempt(error="interrupted", maybe_billed=True)
        try:
            raw = self._client.chat.completions.with_raw_response.create(**body)
            outcome = response.read(raw.http_response.text, self.max_tokens)
        except openai.APIStatusError as exc:
            outcome = response.refused(exc, self.model, self.base_url)
        except openai.APITimeoutError as exc:
            outcome = response.timed_out(exc, self.timeout)
        except openai.APIConnectionError as exc:
            outcome = response.unreachable(exc, self.base_url)
        finally:
            seconds = time.perf_counter() - started
            outcome = outcome.finish(seconds, self.meter.price, MAX_WAIT, self._clean)
            known = outcome.usage.cost_usd
            billed = (worst if outcome.maybe_billed else 0.0) if known is None else known
            self.meter.settle(worst, outcome.usage, billed=billed)
        if outcome.error and field == "max_tokens" and "max_completion_tokens" in outcome.error:
            self._tokens_field = "max_completion_tokens"  # newer OpenAI models know only this one
            return self._send({k: v for k, v in body.items() if k != "max_tokens"})
        return outcome

    def _clean(self, text: str, is_reply: bool) -> str:
        if is_reply:
            return self._key.scrub(text) if self._key is not None else text
        return scrub(text, self._key)

    def _cap_message(self) -> str:
        spent, cap = self.meter.spent_usd or 0.0, self.meter.max_cost_usd or 0.0
        return (
            f"cost cap: ${spent:.4f} of ${cap:.4f} spent, and the next request could exceed the "
            "cap; raise max_cost_usd to go on"
        )


def _at_least(least: float, **options: float) -> None:
    for name, value in options.items():
        if not value >= least:
            raise DataError(f"{name} is {value!r}: give {least} or more")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise DataError("base_url must look like http://host:port/v1")


def _shown(url: str) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/")
