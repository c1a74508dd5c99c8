"""What the shop answers to a request: who is let in, what a form does, which page comes back.

Owns the addresses, the checks against foreign pages (host name, origin, cookie, form token) and
stale forms. Knows nothing about sockets. A POST changes the state and sends the browser to the page
of the new turn, so that reloading does nothing and going back is noticed.

| address | |
|---|---|
| `GET /` | the welcome page, or the current page of a visit |
| `GET /step/TURN` | the visit's page; of an earlier turn: the current one, and a word about it |
| `GET /tasks?page=N` | all tasks |
| `POST /start` | begin a visit |
| `POST /search`, `/act`, `/give-up`, `/open` | act |
"""

from __future__ import annotations

import hmac
import ipaddress
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from eeflib.envs.webshop import WebShopEnv
from eeflib.records import Task
from eeflib.shop import pages
from eeflib.shop.ledger import Ledger
from eeflib.shop.listing import task_list
from eeflib.shop.visit import ShopFull, Visit, Visits

__all__ = ["App", "Request", "Response"]

_BACK = (
    "The browser's Back button does not undo a step: this is where you are. "
    "The page has buttons of its own to go back."
)
_STALE = "That was a button of an earlier page, so nothing was done: this is where you are."
_ENDED = "Your visit is over: it was idle for too long, or the shop was restarted."


class Request(NamedTuple):
    method: str
    path: str
    """With its query, as sent."""
    headers: Mapping[str, str]
    """Names in lower case."""
    form: Mapping[str, str] = {}


class Response(NamedTuple):
    status: int
    body: str = ""
    """HTML."""
    headers: tuple[tuple[str, str], ...] = ()


class App:
    """The shop; requests may come from many threads and are answered one after the other.

    Args:
        tasks: at least one.
        make_env: makes an environment for an episode.
        ledger: where finished episodes go.
        cookie: name of the cookie.
        names: host names it answers to besides `localhost` and addresses in digits.
        most_visits, idle_seconds: see `Visits`.
    """

    def __init__(
        self, tasks: Sequence[Task], make_env: Callable[[], WebShopEnv], ledger: Ledger, *,
        cookie: str, names: Collection[str], most_visits: int, idle_seconds: float,
    ) -> None:  # fmt: skip
        self._tasks, self._ledger, self._cookie = tasks, ledger, cookie
        self._names = {name.lower() for name in names}
        self._visits = Visits(
            lambda: Visit(tasks, make_env, ledger.add), most=most_visits, idle_seconds=idle_seconds
        )
        self._one_at_a_time = threading.Lock()
        self._open = True

    def answer(self, request: Request) -> Response:
        """The response to a request; never raises on what it holds."""
        host = request.headers.get("host", "")
        if not _is_address(host, self._names):
            # a name that a foreign site made point here would let its pages read these
            return _error(421, "Not this shop", "Open it under the address that eef shop prints.")
        if request.method == "POST" and not _same_origin(request.headers.get("origin"), host):
            return _error(403, "Refused", "That form came from another site.")
        with self._one_at_a_time:
            if not self._open:
                return _error(503, "Closed", "The shop is closed. Start it again with eef shop.")
            return self._route(request)

    def close(self) -> None:
        """Everybody leaves, episodes under way are recorded; later requests are turned away."""
        with self._one_at_a_time:
            if self._open:
                self._open = False
                self._visits.close()

    def _route(self, request: Request) -> Response:
        path, query = urlsplit(request.path)[2:4]
        visit = self._visits.get(_cookie(request.headers.get("cookie", ""), self._cookie))
        if request.method == "POST":
            if path == "/start":
                return self._start(visit)
            act = _ACTS.get(path)
            if act is None:
                return _not_found()
            return self._act(visit, request.form, act)
        if path == "/":
            if visit is None:
                return Response(200, self._welcome())
            return _to(visit)
        if path == "/ended" and visit is None:
            return Response(200, self._welcome(_ENDED))
        if path == "/tasks" and visit is not None:
            number = parse_qs(query).get("page", [None])[0]
            return Response(200, task_list(visit, _number(number)))
        if visit is not None and path == f"/step/{visit.turn}":
            return Response(200, pages.visit_page(visit))
        if visit is not None and path.startswith("/step/"):
            visit.notice = visit.notice or _BACK
            return _to(visit)
        return _to(visit) if path.startswith(("/step/", "/tasks", "/ended")) else _not_found()

    def _welcome(self, notice: str = "") -> str:
        first = self._tasks[0]
        steps = int(first.settings.get("max_steps", 0)) or 15
        return pages.welcome(len(self._tasks), steps, str(self._ledger.file), notice)

    def _start(self, visit: Visit | None) -> Response:
        if visit is not None:
            return _to(visit)
        try:
            visit = self._visits.new()
        except ShopFull as exc:
            return _error(503, "The shop is full", str(exc))
        cookie = f"{self._cookie}={visit.token}; Path=/; HttpOnly; SameSite=Lax"
        return _to(visit)._replace(headers=(*_to(visit).headers, ("Set-Cookie", cookie)))

    def _act(
        self, visit: Visit | None, form: Mapping[str, str], act: Callable[[Visit, Mapping], None]
    ) -> Response:
        if visit is None:
            return _to(None)
        given = form.get("csrf", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, visit.csrf.encode()):
            return _error(403, "Refused", "That form is not one of this visit.")
        if form.get("turn") != str(visit.turn):
            visit.notice = _STALE
        else:
            act(visit, form)
        return _to(visit)


_ACTS: dict[str, Callable[[Visit, Mapping], None]] = {
    "/act": lambda visit, form: visit.act(_number(form.get("do"))),
    "/search": lambda visit, form: visit.search(form.get("query", "")),
    "/give-up": lambda visit, _: visit.give_up(),
    "/open": lambda visit, form: visit.open(_number(form.get("position"))),
}


def _number(text: str | None) -> int:
    """-1 for what is none."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else -1


def _to(visit: Visit | None) -> Response:
    where = "/ended" if visit is None else f"/step/{visit.turn}"
    return Response(303, "", (("Location", where),))


def _error(status: int, title: str, text: str) -> Response:
    return Response(status, pages.message(title, text))


def _not_found() -> Response:
    return _error(404, "No such page", "The shop has no page at this address.")


def _cookie(header: str, name: str) -> str:
    for part in header.split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value
    return ""


def _is_address(host: str, names: Collection[str]) -> bool:
    """Whether a Host header names the shop by an address in digits, `localhost` or a known name."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in names or name == "localhost":
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same_origin(origin: str | None, host: str) -> bool:
    """Old browsers send no origin; then the form's token alone decides."""
    if origin is None:
        return True
    return origin.partition("://")[2] == host
