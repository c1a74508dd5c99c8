"""A teacher (or student) behind any OpenAI-compatible endpoint: `ChatModel`.

It sends a bounded number of requests at a time, with retries, time-outs, token counts and hard
caps, and says what each kind of failure means.

Only `model`, `messages` and the sampling options that are set are sent: no tools, response formats,
`n` or log-probabilities, which vLLM, llama.cpp and `transformers serve` may lack. What a model
refuses of the options is left out from then on, and said once.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from eeflib.errors import DataError, PrerequisiteError, ProviderError
from eeflib.files import encodable
from eeflib.policies.base import Conversation, Reply
from eeflib.policies.keys import ApiKey, resolve_key, scrub
from eeflib.policies.ledger import Meter, Ticket
from eeflib.policies.pacing import Gate
from eeflib.policies.pricing import Price, price_of
from eeflib.policies.responses import (
    SAMPLING,
    Attempt,
    received,
    refused,
    short,
    unreachable,
)
from eeflib.records import Usage, content_hash

logger = logging.getLogger(__name__)

MAX_WAIT = 900.0
"""Longest pause that a server may ask for, in seconds; one that asks for more is given up on."""
PATIENCE = 3600.0
"""Seconds that a request waits in all because the server asks for it."""
_LONGEST_PAUSE = 60.0
"""Between two attempts, where the server asks for none."""
_DEADLINE = 10
"""An attempt may take so many times `timeout` in all."""
_OWN_FIELDS = frozenset({"model", "messages", "n", "stream", "max_tokens", "max_completion_tokens"})
# The byte count of a text bounds its tokens; chat templates add a few per message and at the start.
_TEMPLATE_BYTES, _MESSAGE_BYTES = 256, 32
_CUT_FROM = 1000
"""Tokens of a prompt from which on a count that does not grow means that it was cut."""
_REFUSES = re.compile(
    r"unsupported|not support|unknown|unrecogni|unexpected|unavailable|not permitted|not allowed|"
    r"extra (?:inputs|fields)|only the default|deprecated|no longer",
    re.IGNORECASE,
)


class _Question(NamedTuple):
    key: str
    body: dict[str, Any]
    identity: str
    """The same in every process and at any address of the model."""


class ChatModel:
    """Answers conversations by chat completions of one model.

    What failures become:

    - Nothing can succeed (key refused, unknown model, no credit, a cap): `ProviderError`. If
      replies were received before, the call of `act` in which it happens still returns, with
      `Reply.error` and `Reply.fatal` set where there is no reply, and the next call raises: what
      was paid for can be recorded.
    - One conversation fails, after `retries` where retrying makes sense (429, 5xx, time-out,
      connection): its `Reply.error` says why; the others are not touched. Pauses that the server
      asks for are kept by all, and are no attempts.
    """

    wants_admissible = False
    independent = True
    refills = True
    alone = True
    """Each conversation is best asked by itself, from a thread of its own."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | ApiKey | None = None,
        temperature: float | None = 0.0,
        top_p: float | None = None,
        max_tokens: int | None = 512,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        timeout: float = 60.0,
        retries: int = 8,
        backoff: float = 0.5,
        concurrency: int = 8,
        price: Price | None = None,
        max_cost_usd: float | None = None,
        max_total_tokens: int | None = None,
        max_requests: int | None = None,
        system_role: bool = True,
        extra_body: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        """Makes no request.

        Args:
            base_url: e.g. `http://127.0.0.1:8000/v1`, a query (`?api-version=...`) goes with every
                request; None: `OPENAI_BASE_URL`, else OpenAI's own.
            api_key: see `eeflib.policies.keys.resolve_key`; local servers need none.
            temperature, top_p, max_tokens, stop: sent as they are; None or empty: not sent.
            seed: None: no seed is sent; else every request carries one drawn from its
                conversation's generator and this number, so that attempts differ and runs repeat.
            timeout: seconds without a sign of life from the server before an attempt is given up;
                ten times as long in all.
            retries: further attempts after the first.
            backoff: seconds before the second attempt, doubled each time, plus jitter.
            concurrency: most requests in flight at once; fewer while the server refuses some.
            price: dollars per million tokens; None: from the table of the package genai-prices.
            max_cost_usd, max_total_tokens, max_requests: hard caps for this policy, and for the
                ledger of the run that it collects for; see `eeflib.policies.ledger.Meter`.
            system_role: False puts the system text into the first user turn (for chat templates
                that know no system role).
            extra_body: further fields of the request, e.g. `{"top_k": 20}`.
            name: the policy's name in records; default: the model's.

        Raises:
            PrerequisiteError: package or key missing; a cap without `max_tokens`.
            DataError: an option that cannot be right.
        """
        if not model.strip():
            raise DataError("model is empty: give the model's name as the server knows it")
        _at_least(1, concurrency=concurrency, max_tokens=1 if max_tokens is None else max_tokens)
        _at_least(0, retries=retries, backoff=backoff, temperature=temperature or 0.0)
        if not timeout > 0:
            raise DataError(f"timeout is {timeout!r}: give seconds above 0")
        if clash := _OWN_FIELDS & set(extra_body or ()):
            raise DataError(f"extra_body must not set {', '.join(sorted(clash))}")
        if max_tokens is None and (max_cost_usd or max_total_tokens):
            raise PrerequisiteError(
                "a cap in dollars or tokens needs max_tokens: without it a reply has no bound"
            )
        self.model = model
        self.name = name or model
        self.max_tokens = max_tokens
        self.retries, self.backoff, self.concurrency = retries, backoff, concurrency
        self.timeout, self.system_role, self.seed = timeout, system_role, seed
        url = base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or None
        options = (temperature, top_p, list(stop or ()) or None, dict(extra_body or {}) or None)
        named = zip(("temperature", "top_p", "stop", "extra_body"), options, strict=True)
        self._options: dict[str, Any] = {k: v for k, v in named if v is not None}
        self._key = resolve_key(api_key, base_url=url)
        bare, _, given = (url or "").partition("?")
        query = dict(parse_qsl(given)) or None
        self._client = connect(bare, self._key, timeout, default_query=query, max_retries=0)
        self.meter = Meter(
            price_of(model, url and self.base_url) if price is None else price,
            who=self.name,
            max_cost_usd=max_cost_usd,
            max_total_tokens=max_total_tokens,
            max_requests=max_requests,
        )
        self.gate = Gate(concurrency)
        self._refused: set[str] = set()
        self._turn = threading.Lock()
        self._counted: dict[str, tuple[int, int]] = {}
        self._jitter = random.Random()
        self._halt = threading.Event()
        self._answered, self._answered_at = False, 0.0
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
        """Tokens, known dollars and request seconds of this process so far."""
        return self.meter.usage

    @property
    def spent_usd(self) -> float | None:
        """Dollars counted against the cap, see `Meter.spent`; None: unknown price."""
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
        """Episodes `keys` are over."""
        for key in keys:
            self._counted.pop(key, None)

    @contextmanager
    def keeping(self, path: Path | None) -> Iterator[None]:
        """Meanwhile each answer is kept in the ledger `path` (None: in memory) and a conversation
        that was answered before is not paid for again; a cap that was reached is looked at anew.
        """
        with self.meter.keeping(path):
            self.stopped = ""
            yield

    @property
    def remembers(self) -> bool:
        """What was answered is not paid for again: an episode may be played anew from its start."""
        return self.meter.remembers

    def interrupt(self) -> None:
        """End all pauses: who waits gets an error. Later calls are not touched."""
        self._halt.set()
        self._halt = threading.Event()

    def act(
        self, conversations: Sequence[Conversation], *, rng: Sequence[np.random.Generator]
    ) -> list[Reply]:
        """One reply per conversation, in their order; up to `concurrency` requests at once.

        Raises:
            ProviderError: no request can succeed, see the class; the message says what to do.
        """
        bodies = [self._body(c, g) for c, g in zip(conversations, rng, strict=True)]
        asked = [
            _Question(c.key, body, content_hash([c.key, self.max_tokens, body]))
            for c, body in zip(conversations, bodies, strict=True)
        ]
        if self.stopped and not all(map(self._recalled, asked)):
            raise ProviderError(self.stopped)
        halt = self._halt
        if len(asked) < 2:
            replies = [self._answer(one, (halt,)) for one in asked]
        else:
            replies = self._together(asked, halt)
        if self.stopped and not self._answered and asked:
            raise ProviderError(self.stopped)
        return replies

    def _together(self, asked: Sequence[_Question], halt: threading.Event) -> list[Reply]:
        mine = threading.Event()
        pool = ThreadPoolExecutor(min(self.concurrency, len(asked)), "eef-requests")
        finished = False
        try:
            futures = [pool.submit(self._answer, one, (halt, mine)) for one in asked]
            replies = [future.result() for future in futures]
            finished = True
        finally:
            if not finished:  # an interrupt: end the pauses, do not wait for what is in flight
                mine.set()
            pool.shutdown(wait=finished, cancel_futures=True)
        return replies

    def _body(self, conversation: Conversation, rng: np.random.Generator) -> dict[str, Any]:
        turns = [(m.role, encodable(m.content)) for m in conversation.messages]
        if not self.system_role and len(turns) > 1 and turns[0][0] == "system":
            turns = [("user", f"{turns[0][1]}\n\n{turns[1][1]}"), *turns[2:]]
        messages = [{"role": role, "content": content} for role, content in turns]
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        if self.seed is not None:
            body["seed"] = (int(rng.integers(2**31)) ^ self.seed) & (2**31 - 1)
        return body | self._options

    def _recalled(self, asked: _Question) -> Reply | None:
        row = self.meter.recall(asked.identity)
        if row is None:
            return None
        reply = row["reply"]
        usage = Usage.from_dict(row["usage"])
        return Reply(str(reply["text"]), usage, reasoning=str(reply.get("reasoning", "")))

    def _answer(self, asked: _Question, halts: Sequence[threading.Event]) -> Reply:
        """One conversation, all its attempts."""
        if (known := self._recalled(asked)) is not None:
            self._answered = True
            return known
        used, outcome = Usage(), None
        failures, waited = 0, 0.0
        in_a_row, failed_at = 0, 0.0
        while not self.stopped:
            if (entered := self.gate.enter(halts)) is None:
                outcome = None
                break
            attempt = None
            try:
                if not self.stopped:
                    attempt = outcome = self._send(asked)
            finally:
                good, busy = (not attempt.error, attempt.busy) if attempt else (False, False)
                self.gate.leave(entered, answered=good, refused=busy)
            if outcome is None or attempt is None:
                break
            used = used + outcome.usage
            if not outcome.error:
                self._answered_at = time.monotonic()
            if outcome.fatal:
                self.stopped = self.stopped or outcome.error
            if outcome.again:
                continue
            if not outcome.transient:
                break
            pause = outcome.retry_after
            if pause is not None and waited + pause <= PATIENCE:
                waited += pause + self.backoff
                self.gate.hold(pause + self._jitter.uniform(0.0, 0.1 * self.backoff))
            elif (failures := failures + 1) > self.retries:
                break
            else:
                # while others are answered the server is up: no need to wait longer and longer
                in_a_row = 1 if self._answered_at > failed_at else in_a_row + 1
                failed_at = time.monotonic()
                pause = min(_LONGEST_PAUSE, self.backoff * 2.0 ** (in_a_row - 1))
                pause += self._jitter.uniform(0.0, self.backoff)
                _sleep(pause, halts, lambda: bool(self.stopped))
            logger.info("%s; again in %.1f s", outcome.error, pause)
        if outcome is None:
            why = self.stopped or "interrupted"
            return Reply("", used, error=why, fatal=bool(self.stopped))
        if outcome.error:
            gave_up = outcome.transient and self.retries > 0
            tries = f" (after {failures} attempts)" if gave_up else ""
            fatal = bool(self.stopped) and outcome.error == self.stopped
            return Reply("", used, error=outcome.error + tries, fatal=fatal)
        self._answered = True
        return Reply(outcome.text, used, reasoning=outcome.reasoning)

    def _send(self, asked: _Question) -> Attempt:
        """One attempt, metered. Never raises for anything a server can do."""
        import openai

        body = asked.body
        size = sum(len(m["content"].encode()) + _MESSAGE_BYTES for m in body["messages"])
        sent = {k: v for k, v in body.items() if k not in self._refused}
        if extra := sent.get("extra_body"):
            sent["extra_body"] = {k: v for k, v in extra.items() if k not in self._refused}
        # newer models of OpenAI know only the second
        limits = [f for f in ("max_tokens", "max_completion_tokens") if f not in self._refused]
        if self.max_tokens is not None and limits:
            sent[limits[0]] = self.max_tokens
        bound = self.max_tokens if limits else None
        ticket = self.meter.reserve(asked.identity, size + _TEMPLATE_BYTES, bound)
        if ticket is None:
            return Attempt(error=self.meter.why(), fatal=True)
        started = time.perf_counter()
        outcome = Attempt(error="interrupted", maybe_billed=True)
        try:
            deadline = time.monotonic() + _DEADLINE * self.timeout
            create = self._client.chat.completions.with_streaming_response.create
            # As further fields: checking each message against its type takes most of the time.
            rest = {k: v for k, v in sent.items() if k not in ("model", "extra_body")}
            rest |= sent.get("extra_body", {})
            with create(model=self.model, messages=[], extra_body=rest) as response:
                outcome = received(response, deadline, self.max_tokens)
        except openai.APIStatusError as exc:
            outcome = refused(exc, self.model, self.base_url)
            outcome = self._without(outcome, sent) or outcome
        except openai.APIConnectionError as exc:
            outcome = unreachable(exc, self.base_url, self.timeout)
        except openai.OpenAIError as exc:
            outcome = Attempt(error=f"{type(exc).__name__}: {exc}", maybe_billed=True)
        except Exception as exc:
            # A body that breaks off is an error of the transport's own package (httpx, httpx2).
            if type(exc).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore"):
                raise
            outcome = unreachable(exc, self.base_url, self.timeout)
        finally:
            outcome = self._settled(ticket, asked.key, size, outcome, time.perf_counter() - started)
        return outcome

    def _settled(
        self, ticket: Ticket, key: str, size: int, outcome: Attempt, seconds: float
    ) -> Attempt:
        """What came of an attempt, clean and on the meter."""
        usage, price = outcome.usage, self.meter.price
        counted = (usage.prompt_tokens, usage.completion_tokens)
        cost = price.cost(*counted, outcome.cached_tokens) if price and any(counted) else None
        usage = replace(usage, cost_usd=cost, seconds=seconds)
        if outcome.retry_after is not None and outcome.retry_after > MAX_WAIT:
            error = f"{outcome.error}; asks to wait {outcome.retry_after:.0f} s"
            outcome = replace(outcome, error=error, transient=False)
        if not outcome.error and (cut := self._cut(key, size, usage.prompt_tokens)):
            outcome = replace(outcome, error=cut, text="")
        # Cleaned before it is cut, so that no part of a key survives at the edge.
        error = short(scrub(outcome.error, self._key))
        text, reasoning = (
            t if self._key is None else self._key.scrub(t)
            for t in (outcome.text, outcome.reasoning)
        )
        reply = None if error else {"text": text, "reasoning": reasoning}
        self.meter.settle(ticket, usage, maybe_billed=outcome.maybe_billed, reply=reply)
        return replace(outcome, usage=usage, error=error, text=text, reasoning=reasoning)

    def _cut(self, key: str, size: int, tokens: int) -> str:
        """Why this cannot have been the whole prompt; empty if it can."""
        before_size, before = self._counted.get(key, (size, 0))
        if key and tokens:
            self._counted[key] = (max(size, before_size), max(tokens, before))
        if tokens < _CUT_FROM or size < before_size + 200 or tokens > before:
            return ""
        return (
            f"the server cut the prompt: it counted {tokens} tokens, and {before} for a shorter "
            "one. Raise its context length (Ollama: OLLAMA_CONTEXT_LENGTH or num_ctx; llama.cpp: "
            "--ctx-size; vLLM: --max-model-len)"
        )

    def _without(self, outcome: Attempt, sent: Mapping[str, Any]) -> Attempt | None:
        """The attempt to make again without an option that was just refused; None: none was."""
        text, extra = outcome.error, sent.get("extra_body", ())
        if outcome.status not in (400, 422) or not _REFUSES.search(text):
            return None
        limit = next((f for f in ("max_tokens", "max_completion_tokens") if f in sent), None)
        options = [n for n in (*SAMPLING, *extra) if n in sent or n in extra]
        named = [
            name
            for name in (*options, limit)
            if name and (outcome.param == name or re.search(rf"\b{re.escape(name)}\b", text))
        ]
        if not named:
            return None
        found, again = named[0], replace(outcome, again=True, fatal=False, transient=False)
        with self._turn:  # requests that were in flight together are refused together
            if found in self._refused:
                return again
            if found == "max_completion_tokens" and self.meter.bounds_replies:
                error = f"{text}; a cap in dollars or tokens needs it: use max_requests instead"
                return replace(outcome, error=error, fatal=True)
            self._refused.add(found)
        logger.warning("%s refuses %s: left out from now on", self.model, found)
        return again


def _sleep(seconds: float, halts: Sequence[threading.Event], over: Callable[[], bool]) -> None:
    """Until the time is up or there is no use in waiting any longer."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not over():
        if halts[-1].wait(min(left, 0.2)) or any(h.is_set() for h in halts):
            return


def _at_least(least: float, **options: float) -> None:
    for name, value in options.items():
        if not value >= least:
            raise DataError(f"{name} is {value!r}: give {least} or more")


def connect(url: str, key: ApiKey | None, timeout: float, **options: Any) -> Any:
    """The openai package's client of the endpoint `url` (empty: OpenAI's own).

    Raises:
        PrerequisiteError: the package is missing.
        DataError: `url` is no address.
    """
    try:
        import openai
    except ImportError:
        raise PrerequisiteError("openai is missing: pip install 'eeflib[openai]'") from None
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if url and not good:
        raise DataError("base_url must look like http://host:port/v1")
    secret = key.reveal() if key is not None else "EMPTY"
    return openai.OpenAI(api_key=secret, base_url=url or None, timeout=timeout, **options)
