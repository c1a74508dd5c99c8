"""Reading an HTML page as a browser would, for assertions about what it holds and runs."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from html.parser import HTMLParser
from typing import Any

ACTIVE = {"script", "img", "iframe", "object", "embed", "link", "form", "base", "video", "audio"}


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><style>*{background:url(//x)}</style>",
    "'--><svg onload=alert(1)>",
    "</dd></details><h1>fake</h1>",
    "javascript:alert(1)",
]
"""Texts that would like to run, or to break out of where they stand."""


class Page(HTMLParser):
    """Tags, attributes, visible text, and table rows of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.scripts: list[tuple[str, str]] = []
        """Type and content of each; of data with its id or class, as `application/json#data`."""
        self.links: list[tuple[str, str]] = []
        """Address and text of each."""
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
            given = dict(attrs)
            name = given.get("id") or given.get("class") or ""
            self.scripts.append(((given.get("type") or "") + (f"#{name}" if name else ""), ""))
        if tag == "a":
            self.links.append((dict(attrs).get("href") or "", ""))
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
        if "a" in self.open:
            self.links[-1] = (self.links[-1][0], self.links[-1][1] + data)
        if self.rows and self.rows[-1] and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        """The first table row whose first cell ends with `name`."""
        return next(r for r in self.rows if r and r[0].strip().endswith(name))

    def script(self, name: str) -> list[str]:
        """The contents of all scripts of that type, id or class."""
        return [text for kind, text in self.scripts if name in kind.split("#")]

    def data(self) -> dict[str, Any]:
        """What a report lets a reader browse."""
        (text,) = self.script("data")
        return json.loads(gzip.decompress(base64.b64decode(text)))

    def figures(self) -> list[dict[str, Any]]:
        """The plotly figures, in order."""
        return [json.loads(text) for text in self.script("figure")]


def assert_own_scripts_only(page: Page, runs: int = 2) -> None:
    """A page's policy lets run its own scripts, known by their hashes, and plotly's; no others."""
    (policy,) = [v for t, n, v in page.attributes if n == "content" and "default-src" in v]
    (plotly,) = page.script("plotly")
    code = [text for kind, text in page.scripts if kind in ("", "module")]
    assert len(code) == runs
    code.append(gzip.decompress(base64.b64decode(plotly)).decode())
    digests = [base64.b64encode(hashlib.sha256(x.encode()).digest()).decode() for x in code]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert sorted(rules["script-src"].split()) == sorted(f"'sha256-{x}'" for x in digests)
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    inert = {"application/json#figure", "application/json#look", "text/plain#data"}
    assert {kind for kind, _ in page.scripts} - {"", "module"} <= inert | {"text/plain#plotly"}
    assert_inert(page, scripts=len(page.scripts))


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
