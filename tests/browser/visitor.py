"""A visitor of the shop without a browser, and what the shop has on record."""

from __future__ import annotations

import http.client
import re
from html import unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from eeflib.records import Trajectory
from eeflib.run import RunFolder


class Page(NamedTuple):
    status: int
    body: str
    headers: dict[str, str]


class Client:
    """A visitor without a browser: keeps the cookie, follows redirects, fills in forms."""

    def __init__(self, url: str) -> None:
        self.netloc = urlsplit(url).netloc
        self.cookie, self.page = "", Page(0, "", {})

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Page:
        """One request, as given."""
        connection = http.client.HTTPConnection(self.netloc, timeout=20)
        sent = {"Host": self.netloc, **({"Cookie": self.cookie} if self.cookie else {})}
        if body is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, body, {**sent, **headers})
        answer = connection.getresponse()
        page = Page(answer.status, answer.read().decode(), dict(answer.getheaders()))
        connection.close()
        return page

    def get(self, path: str = "/") -> Page:
        page = self.ask("GET", path)
        while page.status == 303:
            page = self.ask("GET", page.headers["Location"])
        self.page = page
        return page

    def start(self) -> Page:
        page = self.ask("POST", "/start", "")
        self.cookie = page.headers["Set-Cookie"].split(";")[0]
        return self.get()

    def form(self) -> dict[str, str]:
        return dict(
            re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', self.page.body)
        )

    def post(self, path: str, **fields: object) -> Page:
        """A form of the page that was read last."""
        page = self.ask("POST", path, urlencode({**self.form(), **fields}))
        assert page.status == 303, page
        return self.get(page.headers["Location"])

    def press(self, label: str) -> Page:
        """The button of that text."""
        buttons = re.findall(r'<button name="do" value="(\d+)"[^>]*>(.*?)</button>', self.page.body)
        (number,) = (n for n, text in buttons if unescape(re.sub("<[^>]+>", "", text)) == label)
        return self.post("/act", do=number)


def recorded(folder: Path) -> list[Trajectory]:
    run = RunFolder(folder)
    return list(run.read("trajectories", Trajectory)) if run.exists("trajectories") else []


def steps_used(page: Page) -> int:
    found = re.search(r"Step <b>(\d+)</b>", page.body)
    assert found, page
    return int(found[1])
