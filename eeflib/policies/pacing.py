"""How fast a server is asked: pauses that it asks for, and how many requests are in flight.

Import `Gate` and `pause_asked` from here.
"""

from __future__ import annotations

import email.utils
import re
import threading
import time
from collections.abc import Mapping, Sequence

_HEADERS = (
    ("retry-after-ms", 1e-3),
    ("retry-after", 1.0),
    ("x-ratelimit-reset-after", 1.0),
    ("x-ratelimit-reset-requests", 1.0),
    ("x-ratelimit-reset-tokens", 1.0),
    ("x-ratelimit-reset", 1.0),
    ("ratelimit-reset", 1.0),
)
_SPAN = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS = (3600.0, 60.0, 1.0, 1e-3)
_IN_BODY = re.compile(
    r"""(?:retry|again|wait)[ \w]{0,20}?\s(\d[\d.]*\s*(?:h|m|s|ms|minutes?|seconds?|milliseconds?)
    (?:\d[\d.]*\s*(?:m|s|ms))*)\b | "?retry_?(?:delay|after)(_ms)?"?\s*[:=]\s*"?(\d[\d.]*\s*\w*)""",
    re.IGNORECASE | re.VERBOSE,
)
_EPOCH = 1e9
"""Numbers from here on are times since 1970."""
_MUCH = 1 / 3
"""Share of refusals, averaged over some 32 requests, from which on fewer are sent."""


def pause_asked(headers: Mapping[str, str], body: str = "") -> float | None:
    """Seconds that a refusal asks to wait, from wherever servers say so; None if it does not.

    `Retry-After` (a number, an HTTP date, or in milliseconds), the body's words (`retryDelay`, `try
    again in 1m2.5s`), and last the times at which limits are reset, of which the longest counts.
    """
    for name, unit in _HEADERS[:2]:
        if (text := headers.get(name)) is not None and (found := _seconds(text, unit)) is not None:
            return found
    for match in _IN_BODY.finditer(body[:20_000]):
        unit = 1e-3 if match[2] else 1.0
        if (found := _seconds(match[1] or match[3], unit)) is not None:
            return found
    resets = []
    for name, unit in _HEADERS[2:]:
        left = headers.get(name.replace("reset", "remaining"))
        if name in headers and (left is None or left.strip() == "0"):
            resets.append(_seconds(headers[name], unit))
    return max((r for r in resets if r is not None), default=None)


def _seconds(text: str, unit: float) -> float | None:
    text = text.strip().lower()
    short = re.sub(r"\s*(h|m|s)(?:ours?|inutes?|econds?)\b", r"\1", text)
    short = re.sub(r"\s*(?:milliseconds?|ms)\b", "ms", short)
    try:
        value = float(short) * unit
        value -= time.time() * (1000 if value > 1e3 * _EPOCH else 1) if value > _EPOCH else 0
    except ValueError:
        span = _SPAN.fullmatch(short.replace(" ", ""))
        if span is not None and any(span.groups()):
            parts = zip(span.groups(), _UNITS, strict=True)
            value = sum(float(part) * size for part, size in parts if part)
        else:
            date = email.utils.parsedate_tz(text)
            value = email.utils.mktime_tz(date) - time.time() if date else -1.0
    return value if 0 <= value < float("inf") else None


class Gate:
    """Lets requests through: at most `most` at once, none during a pause.

    Where more than a third of late is refused for want of capacity the number is halved (once for
    all that were in flight), and every answer raises it a little: it settles at what the server
    bears, and a server that refuses now and then is not taken for a slow one.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self._inside = 0
        self._until = 0.0
        self._slowed = 0.0
        self._share = 0.0
        self._changed = threading.Condition()

    def enter(self, halts: Sequence[threading.Event]) -> float | None:
        """Wait for a place; the time of entry, None if one of `halts` was set meanwhile."""
        with self._changed:
            while not any(halt.is_set() for halt in halts):
                now = time.monotonic()
                pause = self._until - now
                if pause <= 0 and self._inside < max(1, int(self.limit)):
                    self._inside += 1
                    return now
                self._changed.wait(min(pause, 0.2) if pause > 0 else 0.2)
        return None

    def leave(self, entered: float, *, answered: bool = False, refused: bool = False) -> None:
        """The request that was let through at `entered` is over."""
        with self._changed:
            self._inside -= 1
            if entered >= self._slowed:  # else it tells of the number before
                self._share += (refused - self._share) / 32
            if answered:
                self.limit = min(self.most, self.limit + 1 / max(1.0, self.limit))
            elif self._share > _MUCH:
                self.limit = max(1.0, self.limit / 2)
                self._slowed, self._share = time.monotonic(), 0.0
            self._changed.notify()

    def hold(self, seconds: float) -> None:
        """Nothing is let through for so long."""
        with self._changed:
            self._until = max(self._until, time.monotonic() + seconds)
