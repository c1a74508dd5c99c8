"""A pretend model provider on this machine, to see paid calls at work without paying.

Owns a loopback HTTP server that speaks enough of the chat-completions protocol, and a shopper of
three rules behind it. Real requests, real token counts (four characters a token), no model.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

__all__ = ["DemoEndpoint", "three_rules"]

_ASIN = re.compile(r"^B[A-Z0-9]{9}$")
_SMALL = frozenset(
    re.findall(
        r"\w+",
        "i am looking for a an the and which must be with to buy find me need want my please that "
        "is of in or it are on some so we shopping described dollars price lower than",
    )
)


def three_rules(messages: Sequence[Mapping[str, str]]) -> str:
    """Search for the instruction's words, open the first product, buy it."""
    seen = messages[-1]["content"].split(" [SEP] ")
    listed = [part.strip() for part in seen if _ASIN.match(part.strip())]
    if any("Buy Now" in part for part in seen):
        return "Thought: This is the first product I found.\nAction: click[Buy Now]"
    if listed:
        return f"Thought: Take the first result.\nAction: click[{listed[0]}]"
    first = next(m["content"] for m in messages if m["role"] == "user")
    wish = first.split("\n")[0].removeprefix("Instruction: ").split(", and price")[0]
    words = [w for w in re.findall(r"[a-z0-9-]+", wish.lower()) if w not in _SMALL]
    return f"Thought: Search for what is asked.\nAction: search[{' '.join(words)}]"


class DemoEndpoint:
    """As a context manager: the server runs inside the block; `url` is its base URL."""

    def __init__(self) -> None:
        self.requests = 0
        """Answered so far."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        text = three_rules(body["messages"])
        read = sum(len(m["content"]) for m in body["messages"]) // 4
        self.requests += 1
        return {
            "object": "chat.completion",
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": read, "completion_tokens": len(text) // 4},
        }

    def _handler(outer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                data = json.dumps(outer._answer(body)).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Requests are counted, not written into the notebook."""

        return Handler
