"""What was asked of a paid model: hard caps, and a ledger from which no reply is paid for twice.

Import `Meter` from here. With a file, each request stands there before it is sent, with the most
that it may cost, and again with what came of it before that is used. So a process that is killed at
any point leaves a cap that still counts all it may have spent, and replies that the next one takes
from the file instead of asking again.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from eeflib.errors import DataError, ProviderError
from eeflib.files import ReadReport, read_objects, repair
from eeflib.policies.pricing import Price
from eeflib.records import Usage

log = logging.getLogger(__name__)

_UNPRICED = 10.0
"""Dollars per million tokens that stand for an unknown price where there is a cap in dollars."""


@dataclass(frozen=True)
class Spent:
    """What was, or may have been, spent."""

    dollars: float = 0.0
    tokens: int = 0
    requests: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.dollars + other.dollars,
            self.tokens + other.tokens,
            self.requests + other.requests,
        )


@dataclass(frozen=True)
class Ticket:
    """A request that may be sent."""

    id: str
    key: str
    most: Spent


class Meter:
    """Running totals of one policy, with hard caps. Safe to use from several threads.

    A cap is hard because the worst case of a request (every byte of the prompt a token, every
    allowed token written) is reserved before it is sent. Where only requests still in flight stand
    between a new one and the cap, the new one waits to see what they really cost.
    """

    def __init__(
        self,
        price: Price | None = None,
        *,
        who: str = "",
        max_cost_usd: float | None = None,
        max_total_tokens: int | None = None,
        max_requests: int | None = None,
    ) -> None:
        """
        Args:
            price: None: tokens are counted, dollars are not. A cap in dollars then becomes one in
                tokens, at ten dollars a million, and the log says so.
            who: the policy, whose lines of a ledger count.

        Raises:
            DataError: a cap that is no amount.
        """
        self.price, self.who = price, who
        if max_cost_usd is not None and price is None and 0 < max_cost_usd < float("inf"):
            at_most = int(max_cost_usd * 1e6 / _UNPRICED)
            max_total_tokens = min(max_total_tokens or at_most, at_most)
            log.warning(
                "no price is known for %s: its cap of $%g holds as %d tokens ($%g a million); pass "
                "price=Price(...), or max_total_tokens or max_requests instead",
                who or "this model",
                max_cost_usd,
                max_total_tokens,
                _UNPRICED,
            )
        caps = {
            "max_cost_usd": max_cost_usd,
            "max_total_tokens": max_total_tokens,
            "max_requests": max_requests,
        }
        for name, cap in caps.items():
            if cap is not None and not 0 < cap < float("inf"):
                raise DataError(f"{name} is {cap!r}: give a number above 0, or None")
        self.max_cost_usd = max_cost_usd if price is not None else None
        self.max_total_tokens, self.max_requests = max_total_tokens, max_requests
        self.usage = Usage()
        """Sum over all replies of this process that reported their tokens."""
        self._spent = Spent()
        self._flying: dict[str, Spent] = {}
        self._changed = threading.Condition()
        self._file: IO[bytes] | None = None
        self._known: dict[str, dict[str, Any]] | None = None
        self._mine: set[str] = set()

    @property
    def spent(self) -> Spent:
        """What counts against the caps, earlier processes on the same ledger included.

        Requests that may have been billed without a token count (time-outs, incomplete replies, a
        killed process) count with their worst case, so this is `usage` or more.
        """
        with self._changed:
            return self._spent

    @property
    def spent_usd(self) -> float | None:
        """Dollars of `spent`; None if the price is unknown."""
        return None if self.price is None else self.spent.dollars

    @contextmanager
    def keeping(self, path: Path | None) -> Iterator[None]:
        """Answers are kept, in `path` or only in memory, and those that are kept count and serve.

        Raises:
            DataError: the file cannot be read or written.
        """
        self._known = {}
        try:
            if path is not None:
                repair(path)
                self._load(path)
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._file = open(path, "ab", buffering=0)  # noqa: SIM115  # closed below
                except OSError as exc:
                    raise DataError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
            yield
        finally:
            with self._changed:
                if self._file is not None:
                    self._file.close()
                self._file = self._known = None

    def _load(self, path: Path) -> None:
        open_: dict[str, Spent] = {}
        total = Spent()
        for _, row in read_objects(path, ReadReport()) if path.is_file() else ():
            if row.get("who") != self.who:
                continue
            name, over = str(row.get("request")), "usage" in row
            counted = f"{name} {over}" in self._mine
            self._mine.add(f"{name} {over}")
            if over:
                open_.pop(name, None)
                total += Spent() if counted else _spent(row.get("spent"))
                if row.get("reply") is not None and self._known is not None:
                    self._known[str(row.get("key"))] = row
            elif not counted:
                open_[name] = _spent(row.get("most"))
        with self._changed:
            self._spent += sum(open_.values(), total)

    @property
    def bounds_replies(self) -> bool:
        """A cap holds only where the length of a reply has a limit."""
        return bool(self.max_cost_usd or self.max_total_tokens)

    @property
    def remembers(self) -> bool:
        """Answers are being kept, see `keeping`."""
        return self._known is not None

    def recall(self, key: str) -> dict[str, Any] | None:
        """The ledger's line of an answer to `key`: `reply` and `usage`; None if there is none."""
        return None if self._known is None else self._known.get(key)

    def reserve(self, key: str, prompt_bytes: int, max_tokens: int | None) -> Ticket | None:
        """Set the worst case of a request aside; None: it could exceed a cap, do not send it.

        Blocks while requests in flight may still turn out cheap enough.
        """
        written = max_tokens or 0
        dollars = self.price.cost(prompt_bytes, written) if self.price else 0.0
        most = Spent(dollars, prompt_bytes + written, 1)
        with self._changed:
            while self._flying and self._over(most):
                self._changed.wait()
            if self._over(most):
                return None
            ticket = Ticket(uuid.uuid4().hex, key, most)
            self._write({"request": ticket.id, "key": key, "most": astuple(most)})
            self._flying[ticket.id] = most
        return ticket

    def settle(
        self,
        ticket: Ticket,
        usage: Usage,
        *,
        maybe_billed: bool = False,
        reply: Mapping[str, Any] | None = None,
    ) -> None:
        """The request is over.

        Args:
            usage: what it reported.
            maybe_billed: where nothing was reported the worst case counts.
            reply: what may be used of it, as JSON values; it is on file when this returns.
        """
        tokens = usage.prompt_tokens + usage.completion_tokens
        dollars = usage.cost_usd
        if not tokens:
            tokens, dollars = (
                (ticket.most.tokens, ticket.most.dollars) if maybe_billed else (0, 0.0)
            )
        spent = Spent(dollars or 0.0, tokens, 1)
        row = {
            "request": ticket.id,
            "key": ticket.key,
            "spent": astuple(spent),
            "usage": usage.to_dict(),
            "reply": reply,
        }
        with self._changed:
            self._flying.pop(ticket.id, None)
            self._spent += spent
            self.usage = self.usage + usage
            if reply is not None and self._known is not None:
                self._known[ticket.key] = row
            self._changed.notify_all()
            self._write(row)

    def _write(self, row: Mapping[str, Any]) -> None:
        """A line; not waited for until it is on the disk: a killed process loses nothing by it."""
        if self._file is not None:
            self._mine.add(f"{row['request']} {'usage' in row}")
            try:
                self._file.write(msgspec.json.encode({"who": self.who, **row}) + b"\n")
            except OSError as exc:
                raise ProviderError(
                    f"{self._file.name}: cannot be written ({exc.strerror or exc}): nothing more "
                    "is asked; make room, then run the same again"
                ) from exc

    def _over(self, most: Spent) -> bool:
        all_ = sum(self._flying.values(), self._spent) + most
        # A hair of slack: sums of floats must not refuse a request that fits exactly.
        return any(
            cap is not None and value > cap * (1 + 1e-9)
            for value, cap in (
                (all_.dollars, self.max_cost_usd),
                (all_.tokens, self.max_total_tokens),
                (all_.requests, self.max_requests),
            )
        )

    def why(self) -> str:
        """What stands against the caps, and how to go on."""
        spent = self.spent
        rows = (
            ("cost", "max_cost_usd", self.max_cost_usd, f"${spent.dollars:.4f} of $%.4f"),
            ("token", "max_total_tokens", self.max_total_tokens, f"{spent.tokens} of %d tokens"),
            ("request", "max_requests", self.max_requests, f"{spent.requests} of %d requests"),
        )
        told = [(what, name, text % cap) for what, name, cap, text in rows if cap is not None]
        caps = "; ".join(f"{what} cap: {text} spent" for what, _, text in told)
        names = " or ".join(name for _, name, _ in told)
        return f"{caps}, and the next request could exceed it; raise {names} to go on"


def _spent(row: Any) -> Spent:
    try:
        dollars, tokens, requests = row
        return Spent(float(dollars), int(tokens), int(requests))
    except (TypeError, ValueError):
        return Spent(requests=1)
