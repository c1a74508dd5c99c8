"""The shop on a socket: `serve`, and the handle it returns.

Owns the HTTP server, what a request may look like, starting and closing. Knows nothing about
pages. On loopback only, unless it is told otherwise.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, Self
from urllib.parse import parse_qsl

from eeflib.envs.webshop import WebShopEnv
from eeflib.errors import DataError, PrerequisiteError
from eeflib.records import Task
from eeflib.shop import pages
from eeflib.shop.app import App, Request, Response
from eeflib.shop.ledger import Ledger
from eeflib.shop.shell import POLICY

__all__ = ["Shop", "serve"]

_LOG = logging.getLogger(__name__)

_LARGEST_FORM = 16_384
_LARGEST_READ = 8_000_000
"""Bytes of a form too large that are read, so that the browser gets to see the answer."""

_HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)


class Shop:
    """A shop that is open; as a context manager it closes at the end of the block."""

    def __init__(self, server: _Server, app: App, ledger: Ledger) -> None:
        self._server, self._app, self._ledger = server, app, ledger
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where to go."""
        host, port = self._server.server_address[:2]
        name = f"[{host!s}]" if ":" in str(host) else host
        return f"http://{name!s}:{port}/"

    @property
    def file(self) -> Path:
        """The file of recorded trajectories."""
        return self._ledger.file

    @property
    def recorded(self) -> int:
        """Trajectories recorded so far."""
        return self._ledger.count

    def close(self) -> None:
        """Stop serving; what is under way is recorded as truncated. A second call does nothing.

        Raises:
            DataError: something could not be recorded.
        """
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._app.close()
        self._ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    tasks: Sequence[Task],
    make_env: Callable[[], WebShopEnv],
    *,
    out: Path | str,
    config: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (),
    host: str = "127.0.0.1",
    port: int = 0,
    names: Collection[str] = (),
    most_visits: int = 64,
    idle_seconds: float = 7200.0,
) -> Shop:
    """Open the shop in the background; every browser plays on its own.

    Finished episodes are appended to `out`/trajectories.jsonl: what was bought, given up, cut at
    the step limit or, when the shop closes or a visit has been idle for too long, abandoned.
    An episode without a step is not recorded.

    Args:
        tasks: what can be played, in this order.
        make_env: makes an environment that can hold them; they may share a catalogue.
        out: the run folder; one of the same `config` and `seeds` is added to.
        config: what decides which tasks there are (JSON values).
        host: address to listen at; anything but loopback lets others in.
        port: 0 for a free one.
        names: host names to answer to, besides `localhost` and addresses in digits.
        most_visits: browsers at a time.
        idle_seconds: a visit that did nothing for so long is over.

    Raises:
        DataError: no tasks; tasks that the environment cannot hold; an unusable run folder.
        PrerequisiteError: the port is taken, or the address is not this machine's.
    """
    if not tasks:
        raise DataError("there are no tasks to play; choose another split or level")
    make_env().reset(tasks[0])
    server = _listen(host, port)
    try:
        ledger = Ledger(out, tasks, config or {"command": "shop"}, seeds)
        app = App(
            tasks, make_env, ledger,
            cookie=f"eef_shop_{server.server_address[1]}",
            names=names, most_visits=most_visits, idle_seconds=idle_seconds,
        )  # fmt: skip
    except BaseException:
        server.server_close()
        raise
    server.app = app
    return Shop(server, app, ledger)


def _listen(host: str, port: int) -> _Server:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        kind = type("_Server", (_Server,), {"address_family": family})
        server: _Server = kind((host, port), _Handler)
    except (OSError, OverflowError) as exc:
        taken = getattr(exc, "errno", 0) in (errno.EADDRINUSE, errno.EACCES)
        why = "is in use or not allowed" if taken else f"cannot be opened ({exc})"
        raise PrerequisiteError(
            f"port {port} on {host} {why}: stop what uses it, or choose another with --port "
            "(0 finds a free one)"
        ) from exc
    return server


class _Server(ThreadingHTTPServer):
    app: App
    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there it would let two servers share a port

    def server_bind(self) -> None:
        """Without looking up the host's name, which can take seconds and is not used."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = map(str, self.server_address[:2])  # type: ignore

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Into the log, where the standard server prints a traceback."""
        _LOG.warning("a request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._reply(self._ask({}))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        form = self._form()
        if form is not None:
            self._reply(self._ask(form))

    def version_string(self) -> str:
        return "eef"

    def log_message(self, format: str, *args: Any) -> None:
        _LOG.debug(format, *args)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The standard library's own refusals, in the shop's words and with its headers."""
        self.close_connection = True
        self._reply(Response(code, pages.message("That did not work", HTTPStatus(code).phrase)))

    def _ask(self, form: Mapping[str, str]) -> Response:
        headers = {name.lower(): value for name, value in self.headers.items()}
        if len(self.headers.get_all("host", [])) != 1:
            headers.pop("host", None)
        return self.server.app.answer(Request(self.command, self.path, headers, form))

    def _form(self) -> dict[str, str] | None:
        """The fields of the request's body; None if it was refused."""
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal()) or "transfer-encoding" in self.headers:
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return None
        if int(length) > _LARGEST_FORM:
            left = min(int(length), _LARGEST_READ)
            while left > 0 and (read := len(self.rfile.read(min(left, 65_536)))):
                left -= read
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return None
        body = self.rfile.read(int(length)).decode("utf-8", "replace")
        try:
            return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=20))
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return None

    def _reply(self, response: Response) -> None:
        data = response.body.encode("utf-8", "replace")
        self.send_response(response.status)
        for name, value in (*_HEADERS, *response.headers):
            self.send_header(name, value)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
