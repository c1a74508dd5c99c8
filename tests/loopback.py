"""A real HTTP server on 127.0.0.1 that speaks just enough of the chat-completions protocol."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """What the server was asked."""

    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    """`time.monotonic()` of its arrival."""
    path: str

    @property
    def last(self) -> str:
        """Text of the last message."""
        return self.body["messages"][-1]["content"]


@dataclass
class Answer:
    """What the server says: JSON of `body`, or `body` itself if it is text."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


def says(
    text: Any, *, finish: str = "stop", tokens: tuple[int, int] | None = (10, 5), **more: Any
) -> Answer:
    """A completion with one choice; `tokens` are those of prompt and completion."""
    usage = None
    if tokens is not None:
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    message = {"role": "assistant", "content": text, **more}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return Answer({"object": "chat.completion", "choices": [choice], "usage": usage})


def fails(
    status: int, message: str = "no", headers: dict[str, str] | None = None, **more
) -> Answer:
    return Answer({"error": {"message": message, **more}}, status, headers or {})


class ChatServer:
    """Answers by `respond(request)`; keeps every request and the most that were in flight."""

    def __init__(self, respond: Callable[[Request], Answer]) -> None:
        self.respond = respond
        self.requests: list[Request] = []
        self.peak = 0
        self._now = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            self._now += 1
            self.peak = max(self.peak, self._now)
        try:
            answer = self.respond(request)
            self._closing.wait(answer.delay)
            return answer
        finally:
            with self._lock:
                self._now -= 1

    def _handler(outer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}"
                headers = {k.lower(): v for k, v in self.headers.items()}
                request = Request(json.loads(raw), headers, time.monotonic(), self.path)
                answer = outer._serve(request)
                is_text = isinstance(answer.body, str)
                data = (answer.body if is_text else json.dumps(answer.body)).encode()
                try:
                    self.send_response(answer.status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(data)))
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # the client gave up waiting
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Keep the test output quiet."""

        return Handler


def in_turn(*answers: Answer) -> Callable[[Request], Answer]:
    """The first request gets the first answer, and so on; the last one repeats."""
    left = list(answers)
    lock = threading.Lock()

    def respond(_: Request) -> Answer:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return respond
