"""Reading an HTML page as a browser would, for assertions about what it holds and runs."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from typing import Any

ACTIVE = {"script", "img", "iframe", "object", "embed", "link", "form", "base", "video", "audio"}


class Page(HTMLParser):
    """Tags, attributes, visible text, and table rows of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.scripts: list[tuple[str, str]] = []
        """Type and content of each."""
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        self.text = " ".join("".join(self.pieces).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag in ("td", "th", "p", "li", "div", "h2", "h3", "summary", "dd", "text"):
            self.pieces.append(" ")

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
            return
        if "style" in self.open:
            return
        self.pieces.append(data)
        if self.rows and self.rows[-1] and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        """The first table row whose first cell ends with `name`."""
        return next(r for r in self.rows if r and r[0].strip().endswith(name))

    def data(self) -> dict[str, Any]:
        """What a report lets a reader browse."""
        (text,) = [text for kind, text in self.scripts if kind == "application/json"]
        return json.loads(text)


def assert_own_script_only(page: Page) -> None:
    """A report: its policy lets run one script, known by its hash, which it brings itself."""
    (policy,) = [v for t, n, v in page.attributes if n == "content" and "default-src" in v]
    ((_, code),) = [script for script in page.scripts if script[0] != "application/json"]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert rules["trusted-types"] == "'none'"
    assert_inert(page, scripts=2)


def assert_inert(page: Page, scripts: int = 0) -> None:
    """Nothing in the page runs, loads or leads elsewhere, but for so many script elements."""
    assert page.tags.count("script") == scripts
    assert not (ACTIVE - {"script"}) & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name, value)
        assert name != "src", (tag, value)
        if name == "href":
            assert value.startswith("#"), (tag, value)
        if name == "style":
            assert "url(" not in value, value
            assert "expression" not in value, value
