"""One large file over HTTP, resumed where it broke off.

Import `fetch` and `Patience` from here; `download` knows which files there are.

The unfinished file is `NAME.part`; the note `NAME.part.json` beside it says what it is a part of
(address, ETag, Last-Modified, length). A resumed request asks again for the last bytes that are
there and compares them, so that a part is never continued with another file, whatever the server
promises.

Google Drive may send a web page in place of a file: the "cannot be scanned for viruses" page of a
large file leads on to the file, a quota page does not. The pages are not documented; `next_address`
looks for the form `download-form` with hidden inputs, and for the link with `confirm=` that was
used before 2024.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import logging
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from tqdm.auto import tqdm

from eeflib.errors import DataError, PrerequisiteError
from eeflib.files import write_atomic

__all__ = ["Patience", "fetch"]

log = logging.getLogger(__name__)

_QUOTA = ("quota exceeded", "too many users have viewed or downloaded", "download quota")
_TRUSTED = (".google.com", ".googleusercontent.com")

_CHUNK = 1 << 18
_OVERLAP = 1 << 12
_PROGRESS = 1 << 16
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_LONGEST_WAIT = 120.0
_BLANK = b"\xef\xbb\xbf \t\r\n"


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


class Part:
    """What has arrived of the file at `url`; appended to, or thrown away."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url

    @property
    def note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def known(self) -> dict[str, Any] | None:
        """What this is a part of: etag, modified, length; None if that is unknown."""
        if not self.size():
            return None
        try:
            known = json.loads(self.note.read_bytes())
        except (OSError, ValueError):
            return None
        return known if isinstance(known, dict) and known.get("url") == self.url else None

    def tail(self, n: int) -> bytes:
        """The last n bytes."""
        if not n:
            return b""
        with open(self.path, "rb") as file:
            file.seek(-n, os.SEEK_END)
            return file.read()

    def start(self, *, etag: str | None, modified: str | None, length: int | None) -> None:
        """Empty it and say what is coming, before the first byte of it is written."""
        self.forget()
        known = {"url": self.url, "etag": etag, "modified": modified, "length": length}
        write_atomic(self.note, json.dumps(known))

    def forget(self) -> None:
        """Throw it away."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def check_room(self, missing: int) -> None:
        """Raise DataError if the disk cannot take `missing` more bytes."""
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise DataError(
                f"{self.path.parent}: the disk is too full: {missing:,} bytes are still to come "
                f"and {free:,} are free; what has arrived is kept. Make room, then run the same "
                "again: it continues"
            )

    def __enter__(self) -> Part:
        """Open for appending; every byte that `write` took survives a kill of the process."""
        try:
            self._file = open(self.path, "ab", buffering=0)
        except OSError as exc:
            raise self._fault(exc) from exc
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        """Append; raises DataError when the disk is full, with what fitted kept."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError as exc:
            raise self._fault(exc) from exc

    def sync(self) -> None:
        """Wait until all of it is on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise self._fault(exc) from exc

    def _fault(self, exc: OSError) -> DataError:
        return DataError(
            f"{self.path}: cannot be written ({exc.strerror or exc}); what has arrived is kept. "
            "Make room, or choose another folder, then run the same again: it continues"
        )


@dataclass(frozen=True)
class Patience:
    """How long to keep trying."""

    retries: int = 4
    """Attempts in a row that bring nothing new before giving up."""
    wait: float = 1.0
    """Seconds before the first of them; doubled each time. A `Retry-After` comes first."""
    timeout: float = 30.0
    """Seconds without a byte."""


class _Passing(Exception):
    """A fault that may be gone a moment later; `after` is how long the server asks to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


def fetch(
    url: str, path: Path, opening: bytes, patience: Patience | None = None, *, progress: bool = True
) -> None:
    """Bring what `url` holds to `path`, continuing what is there already.

    Args:
        path: the unfinished file; a note beside it, `PATH.json`, says what it is a part of.
        opening: the first byte that the content must have, blanks aside.

    Raises:
        PrerequisiteError: no connection, no such file, a quota, or something that is not the file.
        DataError: the disk is full or cannot be written; what has arrived is kept.
    """
    import tenacity

    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url}: only http and https addresses can be fetched")
    patience = patience or Patience()
    job = _Job(Part(path, url), opening, patience.timeout, progress)

    def pause(state: Any) -> float:
        after = state.outcome.exception().after
        delay = patience.wait * 2 ** max(0, job.fruitless - 1) if after is None else after
        return min(delay, _LONGEST_WAIT)

    def note(state: Any) -> None:
        log.warning("%s: %s; trying again", path.name, state.outcome.exception())

    try:
        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Passing),
            stop=lambda _: job.fruitless > patience.retries,
            wait=pause,
            before_sleep=note,
            reraise=True,
        )(job.attempt)
    except _Passing as exc:
        have = f"; {job.part.size():,} bytes are kept in {path.name}" if job.part.size() else ""
        raise PrerequisiteError(f"{url}: {exc} (tried {job.fruitless} times){have}") from exc


class _Job:
    """The attempts at one file."""

    def __init__(self, part: Part, opening: bytes, timeout: float, progress: bool) -> None:
        self.part, self.opening = part, opening
        self.timeout, self.progress = timeout, progress
        self.fruitless, self.best = 0, part.size()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())

    def attempt(self) -> None:
        try:
            self._attempt(self.part.known())
        except _Passing:
            # starting over and over is no progress, nor is a handful of bytes
            size = self.part.size()
            self.fruitless = 0 if size >= self.best + _PROGRESS else self.fruitless + 1
            self.best = max(self.best, size)
            raise

    def _attempt(self, known: dict[str, Any] | None) -> None:
        """One request; `known` is what the part is a part of, None to start at the beginning."""
        name = self.part.path.name
        at = self.part.size() if known else 0
        tail = self.part.tail(min(at, _OVERLAP))
        headers = {"User-Agent": "eeflib"}
        if known:
            headers["Range"] = f"bytes={at - len(tail)}-"
            validator = known.get("etag") or known.get("modified")
            if validator and not validator.startswith("W/"):
                headers["If-Range"] = validator
        with self._response(headers) as (response, head):
            if response.status != 206:
                if known:
                    log.warning("%s: the server sends it from the start again", name)
                self._check(response, head)
                get = response.headers.get
                length = _length(response)
                self.part.start(etag=get("ETag"), modified=get("Last-Modified"), length=length)
                self._copy(response, head, 0, length)
                return
            if not known:
                raise PrerequisiteError(f"{response.url}: sends a part where all is asked for")
            if _continues(response, at - len(tail), known):
                head += _read_up_to(response, len(tail) - len(head))
                if len(head) < len(tail):
                    raise _Passing("the connection ended where it should go on")
                if head.startswith(tail):
                    self._copy(response, head[len(tail) :], at, known.get("length"))
                    return
        log.warning("%s: it has changed on the server; starting again", name)
        self.part.forget()
        self._attempt(None)

    def _check(self, response: Any, head: bytes) -> None:
        start = head.lstrip(_BLANK)
        if not start.startswith(self.opening):
            raise PrerequisiteError(
                f"{response.url}: not the file; it starts with {start[:40]!r}, "
                f"expected {self.opening.decode()!r}"
            )

    def _copy(self, response: Any, chunk: bytes, at: int, total: int | None) -> None:
        """Append `chunk` and the rest of the answer."""
        if total is not None:
            self.part.check_room(total - at)
        bar = tqdm(
            total=total, initial=at, unit="B", unit_scale=True, unit_divisor=1024,
            desc=self.part.path.name.removesuffix(".part"), disable=not self.progress,
        )  # fmt: skip
        with bar, self.part as file:
            while True:
                file.write(chunk)
                at += len(chunk)
                bar.update(len(chunk))
                with _network():
                    chunk = response.read(_CHUNK)
                if not chunk:
                    break
            if total is not None and at < total:
                raise _Passing(f"the connection ended after {at:,} of {total:,} bytes")
            file.sync()

    @contextmanager
    def _response(self, headers: dict[str, str]) -> Iterator[tuple[Any, bytes]]:
        """The answer that holds the file and its first bytes; warning pages are stepped over."""
        url = self.part.url
        for _ in range(3):
            response = self._open(url, headers)
            if response is None:  # the range lies behind the end: the file is another one now
                headers = {"User-Agent": "eeflib"}
                continue
            with closing(response):
                head = _read_up_to(response, 1024)
                if len(head) < min(1024, _length(response) or 0):
                    raise _Passing("the connection ended at once")
                # The middle of a file may begin with anything, and declared types are often wrong.
                if response.status != 200 or not head.lstrip(_BLANK).startswith(b"<"):
                    yield response, head
                    return
                page = head + _read_up_to(response, 1 << 20)
            url = next_address(page.decode("utf-8", "replace"), response.url)
        raise PrerequisiteError(f"{self.part.url}: one web page after the other, and no file")

    def _open(self, url: str, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(url, headers=headers)
        try:
            with _network():
                return self.opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as exc:
            with closing(exc):
                if exc.code == 416:
                    return None
                if exc.code in _PASSING:
                    after = _retry_after(exc.headers.get("Retry-After"))
                    raise _Passing(f"the server answered {exc.code} {exc.reason}", after) from exc
                page = _read_up_to(exc, 1 << 20).decode("utf-8", "replace")
            if "quota" in page.lower():
                next_address(page, url)  # says what is wrong
            raise PrerequisiteError(f"{url}: the server answered {exc.code} {exc.reason}") from exc


@contextmanager
def _network() -> Iterator[None]:
    """Turn faults of the connection, and only those, into `_Passing`."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as exc:
        raise _Passing(f"no connection ({exc.reason})") from exc
    except (OSError, http.client.HTTPException) as exc:
        raise _Passing(f"the connection broke ({str(exc) or type(exc).__name__})") from exc


def _read_up_to(response: Any, n: int) -> bytes:
    out = b""
    while len(out) < n:
        with _network():
            chunk = response.read(n - len(out))
        if not chunk:
            break
        out += chunk
    return out


def _length(response: Any) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdigit() else None


def _continues(response: Any, start: int, known: dict[str, Any]) -> bool:
    """Whether a 206 answer goes on with the same file from byte `start`."""
    found = _RANGE.match(response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != start:
        return False
    if known.get("length") is not None and found[2] not in ("*", str(known["length"])):
        return False
    etag = response.headers.get("ETag")
    return etag is None or known.get("etag") in (None, etag)


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait: a number or a date."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
