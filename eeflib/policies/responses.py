"""What a chat-completions server said: an `Attempt`, a text or an error and what to do about it.

`eeflib.policies.openai_compatible` sends; nothing here does.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from eeflib.files import encodable
from eeflib.policies.pacing import pause_asked
from eeflib.records import Usage

logger = logging.getLogger(__name__)

SAMPLING = ("temperature", "top_p", "stop", "seed")
"""Options that a model may refuse."""
_LONGEST_REPLY = 2**22
"""Bytes of a response."""
_LONGEST_ERROR = 300
_TRANSIENT = frozenset({408, 409, 425, 429})
_GATEWAY_TIMED_OUT = frozenset({504, 524})
# Some servers answer 400 where OpenAI answers 404 (`transformers serve`: "pinned to"). Counts only
# where the model's name stands in the message too.
_NO_SUCH_MODEL = ("not exist", "not found", "not a valid", "unknown model", "pinned to")
_BUSY = frozenset({429, 503, 529})


@dataclass(frozen=True)
class Attempt:
    """One attempt: a text, or an error and what to do about it."""

    text: str = ""
    reasoning: str = ""
    error: str = ""
    usage: Usage = field(default_factory=Usage)
    cached_tokens: int = 0
    status: int = 200
    param: str = ""
    """The option that the server finds fault with."""
    again: bool = False
    """Without what was refused, at once."""
    transient: bool = False
    """Another attempt may help."""
    fatal: bool = False
    """No request of this policy can succeed."""
    retry_after: float | None = None
    """Seconds the server asks to wait."""
    maybe_billed: bool = False
    """The provider may charge for it although no token counts came back."""

    @property
    def busy(self) -> bool:
        return self.status in _BUSY


def _read(body_text: str, max_tokens: int | None) -> Attempt:
    """The outcome of a response with status 200."""
    try:
        body = json.loads(body_text)
    except (ValueError, RecursionError):
        start = short(encodable(body_text), 80)
        return Attempt(error=f"the reply is not JSON: {start!r}", transient=True, maybe_billed=True)
    body = body if isinstance(body, Mapping) else {}
    usage, cached = _usage(body.get("usage"))
    base = Attempt(usage=usage, cached_tokens=cached, maybe_billed=True)
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
    thought = _content(message.get("reasoning_content")) or _content(message.get("reasoning")) or ""
    base = replace(base, reasoning=encodable(thought))
    if finish == "content_filter" or (text is None and message.get("refusal")):
        return replace(base, error="the provider's content filter withheld the reply")
    if finish == "error":
        return replace(base, error="the server broke the reply off", transient=True)
    if finish == "length":
        return _truncated(base, text or "", max_tokens)
    if not (text or "").strip() and thought.strip():
        # Some servers put all of it there: where it is no reply either, the parser says so.
        return replace(base, text=base.reasoning, reasoning="")
    if text is None:
        return replace(base, error="the reply holds no text", transient=True)
    return replace(base, text=encodable(text))


def refused(exc: Any, model: str, url: str) -> Attempt:
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
    elif status in (400, 422) and param in SAMPLING:
        hopeless = f"the model rejects {param}; set another {param}, or {param}=None"
    known = Attempt(status=status, param=param)
    if hopeless:
        return replace(known, error=f"{hopeless}. {text}", fatal=True)
    return replace(
        known,
        error=text,
        transient=status in _TRANSIENT or status >= 500,
        retry_after=pause_asked(exc.response.headers, _text_of(exc.body)),
        maybe_billed=status in _GATEWAY_TIMED_OUT,
    )


def _text_of(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body, default=str)


def unreachable(exc: Exception, url: str, timeout: float) -> Attempt:
    """The outcome of an `openai.APIConnectionError`, such as a time-out."""
    # By name: the transport's package is the client library's business (httpx, httpx2).
    cause = type(exc.__cause__).__name__
    error = f"cannot reach {url}: {exc.__cause__ or exc}; is the server running and base_url right?"
    if type(exc).__name__ == "APITimeoutError":
        error = f"no reply within {timeout:g} s; raise timeout if the server is slow"
    sent = cause not in ("ConnectError", "ConnectTimeout", "PoolTimeout")
    return Attempt(error=error, transient=True, maybe_billed=sent)


def _truncated(base: Attempt, text: str, max_tokens: int | None) -> Attempt:
    """Half an action must not be acted on: the unfinished last line goes, or is marked as cut."""
    limit = "its token limit" if max_tokens is None else f"max_tokens={max_tokens}"
    if not text.strip():  # a reasoning model that was still thinking
        error = f"the reply was cut at {limit} before its first word; raise max_tokens"
        return replace(base, error=error)
    logger.warning("a reply was cut at %s; its unfinished last line is not used", limit)
    text = encodable(text)
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
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, Mapping) and body.get("error"):
        body = body["error"]
    if not isinstance(body, Mapping):
        return encodable(str(body or "no details")), "", ""
    message = body.get("message") or body.get("detail") or "no details"
    code = body.get("code") or body.get("type") or ""
    return encodable(str(message)), str(code), str(body.get("param") or "")


def short(text: str, limit: int = _LONGEST_ERROR) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def received(response: Any, deadline: float, max_tokens: int | None) -> Attempt:
    """The outcome of a response that is read until `deadline`, and no further than it may go."""
    parts, size = [], 0
    for part in response.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > _LONGEST_REPLY:
            error = f"the reply is over {_LONGEST_REPLY >> 20} MB; set max_tokens"
            return Attempt(error=error, maybe_billed=True)
        if time.monotonic() > deadline:
            error = "the reply came too slowly; raise timeout if the server is slow"
            return Attempt(error=error, transient=True, maybe_billed=True)
    return _read(b"".join(parts).decode("utf-8", "replace"), max_tokens)
