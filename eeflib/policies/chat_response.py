"""What a chat-completions server answered, and what that means for the request.

`eeflib.policies.openai_compatible` makes an `Attempt` here from a body, a status or a failed
connection. A server may send anything: no answer raises.
"""

from __future__ import annotations

import dataclasses
import email.utils
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from eeflib.policies.pricing import Price
from eeflib.records import Usage

__all__ = ["Attempt", "encodable", "read", "refused", "timed_out", "unreachable"]

logger = logging.getLogger(__name__)

_LONGEST_ERROR = 300
_TRANSIENT = frozenset({408, 409, 425, 429})
_GATEWAY_TIMED_OUT = frozenset({504, 524})
# Some servers answer 400 where OpenAI answers 404 (`transformers serve`: "pinned to"). Counts only
# where the model's name stands in the message too.
_NO_SUCH_MODEL = ("not exist", "not found", "not a valid", "unknown model", "pinned to")
_SAMPLING = ("temperature", "top_p", "stop", "seed")


@dataclass(frozen=True)
class Attempt:
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

    def finish(
        self,
        seconds: float,
        price: Price | None,
        max_wait: float,
        clean: Callable[[str, bool], str],
    ) -> Attempt:
        """With seconds and dollars filled in, texts cleaned, and no wait beyond `max_wait`."""
        usage = self.usage
        counted = usage.prompt_tokens or usage.completion_tokens
        cost = None
        if price is not None and counted:
            cost = price.cost(usage.prompt_tokens, usage.completion_tokens, self.cached_tokens)
        usage = dataclasses.replace(usage, cost_usd=cost, seconds=seconds)
        error, transient = self.error, self.transient
        if self.retry_after is not None and self.retry_after > max_wait:
            error, transient = f"{error}; asks to wait {self.retry_after:.0f} s", False
        # Cleaned before it is cut, so that no part of a key survives at the edge.
        error = _short(clean(error, False))
        text = clean(self.text, True)
        return dataclasses.replace(self, text=text, error=error, transient=transient, usage=usage)


def encodable(text: str) -> str:
    """`text` with lone surrogates replaced: they can be neither sent nor stored as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read(body_text: str, max_tokens: int | None) -> Attempt:
    """The outcome of a response with status 200."""
    try:
        body = json.loads(body_text)
    except (ValueError, RecursionError):
        start = _short(encodable(body_text), 80)
        return Attempt(error=f"the reply is not JSON: {start!r}", transient=True, maybe_billed=True)
    body = body if isinstance(body, Mapping) else {}
    usage, cached = _usage(body.get("usage"))
    base = Attempt(usage=usage, cached_tokens=cached, maybe_billed=True)
    if body.get("error"):  # some gateways report failures with status 200
        details, code, _ = _describe(body)
        status = int(code) if code.isdecimal() and len(code) == 3 else 500
        again = status in _TRANSIENT or status >= 500
        error = f"the server reported an error: {details}"
        return dataclasses.replace(base, error=error, transient=again)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        return dataclasses.replace(base, error="the reply holds no choices", transient=True)
    finish = choice.get("finish_reason")
    text = _content(message.get("content"))
    if finish == "content_filter" or (text is None and message.get("refusal")):
        return dataclasses.replace(base, error="the provider's content filter withheld the reply")
    if finish == "error":
        return dataclasses.replace(base, error="the server broke the reply off", transient=True)
    if finish == "length":
        return _truncated(base, text or "", max_tokens)
    if text is None:
        return dataclasses.replace(base, error="the reply holds no text", transient=True)
    return dataclasses.replace(base, text=encodable(text))


def refused(exc: Any, model: str, url: str) -> Attempt:
    """The outcome of a response with a 4xx or 5xx status (an `openai.APIStatusError`)."""
    status: int = exc.status_code
    message, code, param = _describe(exc.body)
    text = f"HTTP {status} from {url}: {message}"
    lower = f"{code} {message}".lower()
    if status == 401:
        return Attempt(error=f"the API key was refused or is missing; check it. {text}", fatal=True)
    if status == 402 or "insufficient_quota" in lower or "billing_hard_limit" in lower:
        return Attempt(error=f"the account has no credit left; top it up. {text}", fatal=True)
    if status == 403 and not ("flagged" in lower or "moderation" in lower):
        return Attempt(
            error=f"the API key may not use this model or endpoint; check both. {text}", fatal=True
        )
    if status == 404 or (status in (400, 422) and _names_the_model(model, param, lower)):
        return Attempt(
            error=f"no model {model!r} at {url}; check the model's name, and that base_url is "
            f"right (most end in /v1). {text}",
            fatal=True,
        )
    if status in (400, 422) and param in _SAMPLING:
        return Attempt(error=f"the model rejects {param}; set {param}=None. {text}", fatal=True)
    return Attempt(
        error=text,
        transient=status in _TRANSIENT or status >= 500,
        retry_after=_retry_after(exc.response.headers),
        maybe_billed=status in _GATEWAY_TIMED_OUT,
    )


def timed_out(exc: Exception, timeout: float) -> Attempt:
    """The outcome of an `openai.APITimeoutError`."""
    return Attempt(
        error=f"no reply within {timeout:g} s; raise timeout if the server is slow",
        transient=True,
        maybe_billed=not _never_sent(exc),
    )


def unreachable(exc: Exception, url: str) -> Attempt:
    """The outcome of an `openai.APIConnectionError`."""
    cause = exc.__cause__ or exc
    return Attempt(
        error=f"cannot reach {url}: {cause}; is the server running and base_url right?",
        transient=True,
        maybe_billed=not _never_sent(exc),
    )


def _names_the_model(model: str, param: str, lower: str) -> bool:
    """Whether a bad request is bad because of the model's name."""
    if param == "model" or "model_not_found" in lower:
        return True
    return model.lower() in lower and any(words in lower for words in _NO_SUCH_MODEL)


def _truncated(base: Attempt, text: str, max_tokens: int | None) -> Attempt:
    """Half an action must not be acted on: the unfinished last line goes, or is marked as cut."""
    limit = "its token limit" if max_tokens is None else f"max_tokens={max_tokens}"
    if not text.strip():  # a reasoning model that was still thinking
        error = f"the reply was cut at {limit} before its first word; raise max_tokens"
        return dataclasses.replace(base, error=error)
    logger.warning("a reply was cut at %s; its unfinished last line is not used", limit)
    text = encodable(text)
    whole = text.rpartition("\n")[0]
    return dataclasses.replace(base, text=whole if whole.strip() else f"{text.rstrip()}…")


def _content(content: Any) -> str | None:
    """Text of a message's content: a string, or a list of parts."""
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, Mapping)]
        texts = [p for p in parts if isinstance(p, str)]
        return "".join(texts) if texts else None
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
        return encodable(str(body or "no details")), "", ""
    message = body.get("message") or body.get("detail") or "no details"
    code = body.get("code") or body.get("type") or ""
    return encodable(str(message)), str(code), str(body.get("param") or "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (a number or an HTTP date)."""
    for header, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(header)
        if text is None:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            parsed = email.utils.parsedate_tz(text)
            seconds = email.utils.mktime_tz(parsed) - time.time() if parsed else -1.0
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _never_sent(exc: Exception) -> bool:
    # By name: the transport's package is the client library's business (httpx, httpx2).
    return type(exc.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout")


def _short(text: str, limit: int = _LONGEST_ERROR) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
