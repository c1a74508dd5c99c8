"""The web pages that Google Drive sends in place of a file.

Owns telling them apart: a large file's "cannot be scanned for viruses" page leads on to the file, a
quota page does not. Knows nothing about requests. The pages are not documented; what is looked for
is the form `download-form` with hidden inputs, and before 2024 a link with `confirm=`.
"""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin, urlsplit

from eeflib.errors import PrerequisiteError

__all__ = ["next_address"]

_QUOTA = ("quota exceeded", "too many users have viewed or downloaded", "download quota")
_TRUSTED = (".google.com", ".googleusercontent.com")


class _Page(HTMLParser):
    """Title, text, the download form and the old confirmation link of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.title = ""
        self.action = ""
        self.inputs: dict[str, str] = {}
        self.link = ""
        self._in_form = self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = {name: value or "" for name, value in attrs}
        if tag == "form" and at.get("id") == "download-form":
            self.action, self._in_form = at.get("action", ""), True
        elif tag == "input" and self._in_form and at.get("type") == "hidden" and at.get("name"):
            self.inputs[at["name"]] = at.get("value", "")
        elif tag == "a" and "confirm=" in at.get("href", "") and not self.link:
            self.link = at["href"]
        elif tag == "title":
            self._in_title = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._in_form = False
        elif tag == "title":
            self._in_title = False

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._in_title:
            self.title += data


def next_address(html: str, address: str) -> str:
    """Where the download button of a page leads.

    Args:
        html: the page.
        address: where it came from.

    Raises:
        PrerequisiteError: a quota page, a page without such a button, or a button that leads to a
            stranger.
    """
    page = _Page()
    page.feed(html)
    page.close()
    text = " ".join(" ".join(page.words).split())
    if any(sign in text.lower() for sign in _QUOTA):
        raise PrerequisiteError(
            f"{address}: the download quota of this file is used up for now (Google Drive limits "
            "how often a file is fetched; it usually takes up to 24 hours)"
        )
    if page.action:
        query = urlencode(page.inputs)
        action = urljoin(address, page.action)
        found = f"{action}{'&' if urlsplit(action).query else '?'}{query}" if query else action
    elif page.link:
        found = urljoin(address, page.link)
    else:
        title = (page.title.strip() or text)[:100]
        raise PrerequisiteError(f"{address}: a web page in place of the file: {title!r}")
    here, there = urlsplit(address), urlsplit(found)
    same = here.netloc == there.netloc
    if there.scheme not in ("http", "https") or not (
        same or (there.hostname or "").endswith(_TRUSTED)
    ):
        raise PrerequisiteError(f"{address}: its download button leads to {found!r}; not followed")
    return found
