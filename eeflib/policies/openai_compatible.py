"""A teacher (or student) behind any OpenAI-compatible endpoint: `ChatModel`.

It sends a bounded number of requests at a time, with retries, time-outs, token counts and a cost
cap, and says what each kind of failure means.

Only `model`, `messages` and the sampling options that are set are sent: no tools, response formats,
`n` or log-probabilities, which vLLM, llama.cpp and `transformers serve` may lack.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from eeflib.errors import DataError, PrerequisiteError, ProviderError
from eeflib.policies.base import Conversation, Reply
from eeflib.policies.keys import ApiKey, resolve_key, scrub
from eeflib.policies.pricing import LISTED, Meter, Price
from eeflib.records import Usage

logger = logging.getLogger(__name__)

MAX_WAIT = 60.0
"""Longest pause between two attempts, in seconds; a server that asks for more is given up on."""
_OWN_FIELDS = frozenset({"model", "messages", "n", "stream", "max_tokens", "max_completion_tokens"})
# The byte count of a text bounds its tokens; chat templates add a few per message and at the start.
_TEMPLATE_BYTES, _MESSAGE_BYTES = 256, 32
_LONGEST_ERROR = 300
_TRANSIENT = frozenset({408, 409, 425, 429})
_GATEWAY_TIMED_OUT = frozenset({504, 524})
# Some servers answer 400 where OpenAI answers 404 (`transformers serve`: "pinned to"). Counts only
# where the model's name stands in the message too.
_NO_SUCH_MODEL = ("not exist", "not found", "not a valid", "unknown model", "pinned to")
_SAMPLING = ("temperature", "top_p", "stop", "seed")


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
        except ImportError:
            raise PrerequisiteError("openai is missing: pip install 'eeflib[openai]'") from None
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
        self.timeout, self.system_role, self.seed = timeout, system_role, seed
        self._url = base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or None
        if self._url is not None:
            _check_url(self._url)
        if price is None and self._url is None:
            price = LISTED.get(model)
        self.meter = Meter(price, max_cost_usd, spent_usd)
        options = (temperature, top_p, list(stop) or None, dict(extra_body or {}) or None)
        named = zip(("temperature", "top_p", "stop", "extra_body"), options, strict=True)
        self._options = {k: v for k, v in named if v is not None}
        self._key = resolve_key(api_key, base_url=self._url)
        self._client = openai.OpenAI(
            api_key=self._key.reveal() if self._key is not None else "EMPTY",
            base_url=self._url,
            timeout=timeout,
            max_retries=0,
        )
        self._tokens_field = "max_tokens"
        self._jitter = random.Random()
        self._answered = False
        self.stopped = ""
        """Why no further request is made; empty while all is well."""

    @property
    def base_url(self) -> str:
        """The endpoint, without credentials or query."""
        parts = urlsplit(str(self._client.base_url))
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/")

    @property
    def usage(self) -> Usage:
        """Tokens, known dollars and request seconds so far."""
        return self.meter.usage

    @property
    def spent_usd(self) -> float | None:
        """Dollars counted against the cap, see `Meter.spent_usd`; None: unknown price."""
        return self.meter.spent_usd

    def config(self) -> dict[str, Any]:
        """What decides an answer, and where it came from; no key."""
        return {
            "model": self.model,
            "base_url": self.base_url,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "system_role": self.system_role,
            **self._options,
        }

    def __repr__(self) -> str:
        return f"ChatModel({self.model!r}, base_url={self.base_url!r})"

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is cached."""

    def act(
        self, conversations: Sequence[Conversation], *, rng: Sequence[np.random.Generator]
    ) -> list[Reply]:
        """One reply per conversation, in their order; up to `concurrency` requests at once.

        Raises:
            ProviderError: no request can succeed, see the class; the message says what to do.
        """
        if self.stopped:
            raise ProviderError(self.stopped)
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
        if self.stopped and not self._answered:
            raise ProviderError(self.stopped)
        return replies

    def _body(self, conversation: Conversation, rng: np.random.Generator) -> dict[str, Any]:
        turns = [(m.role, _encodable(m.content)) for m in conversation.messages]
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

        def attempt() -> _Attempt:
            nonlocal used
            if self.stopped or halt.is_set():
                return _Attempt(error=self.stopped or "interrupted")
            outcome = self._send(body)
            used = used + outcome.usage
            if outcome.fatal:
                self.stopped = self.stopped or outcome.error
            if self.stopped:
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
            fatal = bool(self.stopped) and outcome.error == self.stopped
            return Reply("", used, error=outcome.error + tries, fatal=fatal)
        self._answered = True
        return Reply(outcome.text, used)

    def _pause(self, state: Any) -> float:
        """Seconds until the next attempt: what the server asks for, else exponential; jittered."""
        outcome: _Attempt = state.outcome.result()
        seconds = outcome.retry_after
        if seconds is None:
            seconds = min(MAX_WAIT, self.backoff * 2.0 ** (state.attempt_number - 1))
        seconds += self._jitter.uniform(0.0, self.backoff)
        logger.info("attempt %d: %s; again in %.1f s", state.attempt_number, outcome.error, seconds)
        return seconds

    def _send(self, body: dict[str, Any]) -> _Attempt:
        """One attempt, metered. Never raises for anything a server can do."""
        import openai

        size = sum(len(m["content"].encode()) + _MESSAGE_BYTES for m in body["messages"])
        worst = self.meter.reserve(size + _TEMPLATE_BYTES, self.max_tokens or 0)
        if worst is None:
            spent, cap = self.meter.spent_usd or 0.0, self.meter.max_cost_usd or 0.0
            return _Attempt(
                error=f"cost cap: ${spent:.4f} of ${cap:.4f} spent, and the next request could "
                "exceed the cap; raise max_cost_usd to go on",
                fatal=True,
            )
        field = self._tokens_field
        if self.max_tokens is not None:
            body = body | {field: self.max_tokens}
        started = time.perf_counter()
        outcome = _Attempt(error="interrupted", maybe_billed=True)
        try:
            raw = self._client.chat.completions.with_raw_response.create(**body)
            outcome = _read(raw.http_response.text, self.max_tokens)
        except openai.APIStatusError as exc:
            outcome = _refused(exc, self.model, self.base_url)
        except openai.APIConnectionError as exc:
            outcome = _unreachable(exc, self.base_url, self.timeout)
        finally:
            usage, price = outcome.usage, self.meter.price
            counted = (usage.prompt_tokens, usage.completion_tokens)
            cost = price.cost(*counted, outcome.cached_tokens) if price and any(counted) else None
            usage = replace(usage, cost_usd=cost, seconds=time.perf_counter() - started)
            billed = (worst if outcome.maybe_billed else 0.0) if cost is None else cost
            self.meter.settle(worst, usage, billed=billed)
        if outcome.retry_after is not None and outcome.retry_after > MAX_WAIT:
            error = f"{outcome.error}; asks to wait {outcome.retry_after:.0f} s"
            outcome = replace(outcome, error=error, transient=False)
        # Cleaned before it is cut, so that no part of a key survives at the edge.
        error = _short(scrub(outcome.error, self._key))
        text = outcome.text if self._key is None else self._key.scrub(outcome.text)
        if error and field == "max_tokens" and "max_completion_tokens" in error:
            self._tokens_field = "max_completion_tokens"  # newer OpenAI models know only this one
            return self._send({k: v for k, v in body.items() if k != "max_tokens"})
        return replace(outcome, usage=usage, error=error, text=text)


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


@dataclass(frozen=True)
class _Attempt:
    """One attempt: a text, or an error and what to do about it."""

    text: str = ""
    error: str = ""
    usage: Usage = field(default_factory=Usage)
    cached_tokens: int = 0
    transient: bool = False
    """Another attempt may help."""
    fatal: bool = False
    """No request of this policy can succeed."""
    retry_after: float | None = None
    """Seconds the server asks to wait."""
    maybe_billed: bool = False
    """The provider may charge for it although no token counts came back."""


def _encodable(text: str) -> str:
    """`text` with lone surrogates replaced: they can be neither sent nor stored as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _read(body_text: str, max_tokens: int | None) -> _Attempt:
    """The outcome of a response with status 200."""
    try:
        body = json.loads(body_text)
    except (ValueError, RecursionError):
        start = _short(_encodable(body_text), 80)
        return _Attempt(
            error=f"the reply is not JSON: {start!r}", transient=True, maybe_billed=True
        )
    body = body if isinstance(body, Mapping) else {}
    usage, cached = _usage(body.get("usage"))
    base = _Attempt(usage=usage, cached_tokens=cached, maybe_billed=True)
    if body.get("error"):  # some gateways report failures with status 200
        details, code, _ = _describe(body)
        status = int(code) if code.isdecimal() and len(code) == 3 else 500
        again = status in _TRANSIENT or status >= 500
        error = f"the server reported an error: {details}"
        return replace(base, error=error, transient=again)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        return replace(base, error="the reply holds no choices", transient=True)
    finish = choice.get("finish_reason")
    text = _content(message.get("content"))
    if finish == "content_filter" or (text is None and message.get("refusal")):
        return replace(base, error="the provider's content filter withheld the reply")
    if finish == "error":
        return replace(base, error="the server broke the reply off", transient=True)
    if finish == "length":
        return _truncated(base, text or "", max_tokens)
    if text is None:
        return replace(base, error="the reply holds no text", transient=True)
    return replace(base, text=_encodable(text))


def _refused(exc: Any, model: str, url: str) -> _Attempt:
    """The outcome of a response with a 4xx or 5xx status (an `openai.APIStatusError`)."""
    status: int = exc.status_code
    message, code, param = _describe(exc.body)
    text = f"HTTP {status} from {url}: {message}"
    lower = f"{code} {message}".lower()
    hopeless = ""
    named = model.lower() in lower and any(words in lower for words in _NO_SUCH_MODEL)
    named = named or param == "model" or "model_not_found" in lower
    if status == 401:
        hopeless = "the API key was refused or is missing; check OPENAI_API_KEY or pass api_key"
    elif status == 402 or "insufficient_quota" in lower or "billing_hard_limit" in lower:
        hopeless = "the account has no credit left; top it up"
    elif status == 403 and not ("flagged" in lower or "moderation" in lower):
        hopeless = "the API key may not use this model or endpoint; check both"
    elif status == 404 or (status in (400, 422) and named):
        hopeless = f"no model {model!r} at {url}; check its name, and base_url (most end in /v1)"
    elif status in (400, 422) and param in _SAMPLING:
        hopeless = f"the model rejects {param}; set {param}=None"
    if hopeless:
        return _Attempt(error=f"{hopeless}. {text}", fatal=True)
    return _Attempt(
        error=text,
        transient=status in _TRANSIENT or status >= 500,
        retry_after=_retry_after(exc.response.headers),
        maybe_billed=status in _GATEWAY_TIMED_OUT,
    )


def _unreachable(exc: Exception, url: str, timeout: float) -> _Attempt:
    """The outcome of an `openai.APIConnectionError`, such as a time-out."""
    # By name: the transport's package is the client library's business (httpx, httpx2).
    cause = type(exc.__cause__).__name__
    error = f"cannot reach {url}: {exc.__cause__ or exc}; is the server running and base_url right?"
    if type(exc).__name__ == "APITimeoutError":
        error = f"no reply within {timeout:g} s; raise timeout if the server is slow"
    sent = cause not in ("ConnectError", "ConnectTimeout", "PoolTimeout")
    return _Attempt(error=error, transient=True, maybe_billed=sent)


def _truncated(base: _Attempt, text: str, max_tokens: int | None) -> _Attempt:
    """Half an action must not be acted on: the unfinished last line goes, or is marked as cut."""
    limit = "its token limit" if max_tokens is None else f"max_tokens={max_tokens}"
    if not text.strip():  # a reasoning model that was still thinking
        error = f"the reply was cut at {limit} before its first word; raise max_tokens"
        return replace(base, error=error)
    logger.warning("a reply was cut at %s; its unfinished last line is not used", limit)
    text = _encodable(text)
    whole = text.rpartition("\n")[0]
    return replace(base, text=whole if whole.strip() else f"{text.rstrip()}…")


def _content(content: Any) -> str | None:
    """Text of a message's content: a string, or a list of parts."""
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, Mapping)]
        content = "".join(p for p in parts if isinstance(p, str)) or None
    return content if isinstance(content, str) else None


def _usage(usage: Any) -> tuple[Usage, int]:
    if not isinstance(usage, Mapping):
        return Usage(), 0
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    counts = Usage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))
    return counts, _count(cached)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    return int(value) if 0 <= value < 2**53 else 0


def _describe(body: Any) -> tuple[str, str, str]:
    """Message, code and parameter of an error body, whatever its shape."""
    if isinstance(body, Mapping) and body.get("error"):
        body = body["error"]
    if not isinstance(body, Mapping):
        return _encodable(str(body or "no details")), "", ""
    message = body.get("message") or body.get("detail") or "no details"
    code = body.get("code") or body.get("type") or ""
    return _encodable(str(message)), str(code), str(body.get("param") or "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (a number or an HTTP date)."""
    given = [(headers.get(h), unit) for h, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0))]
    for text, unit in ((text, unit) for text, unit in given if text is not None):
        try:
            seconds = float(text) * unit
        except ValueError:
            parsed = email.utils.parsedate_tz(text)
            seconds = email.utils.mktime_tz(parsed) - time.time() if parsed else -1.0
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _short(text: str, limit: int = _LONGEST_ERROR) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
