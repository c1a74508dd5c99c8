"""The official WebShop files: fetched, checked, and read entry by entry in bounded memory.

Import `download` and `open_sources` from here; `official` makes a catalogue of them. gdown fetches
(Google Drive or a server of your own) and ijson reads. Rules: setup.sh and `load_products` of
princeton-nlp/WebShop, commit 64fa2a5. With human goals, products take only `attributes` from the
attributes file; with synthetic goals also the instruction.

Upstream publishes neither sizes nor checksums. The SHA-256 of each file is therefore written to
`checksums.json` beside it when it first arrives, and compared ever after: that finds damage and
later changes, not a file that was wrong from the start. If you know the right sums, pass them as
`expected`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from eeflib.errors import DataError, PrerequisiteError
from eeflib.files import write_atomic

__all__ = [
    "LeftOut",
    "OnError",
    "Size",
    "Sources",
    "download",
    "file_of",
    "open_sources",
    "sha256_of",
    "source_names",
]

log = logging.getLogger(__name__)

Size = Literal["small", "full"]
"""1,000 products, or all 1.18 million."""
OnError = Literal["raise", "report"]

SETS = ("small", "full", "human")
CHECKSUMS = "checksums.json"
INSTALL = "pip install 'eeflib[webshop]'"
RETRIES = 10
TIMEOUT = 30.0
"""Seconds without a byte."""

_CLOSING = {b"[": b"]", b"{": b"}"}
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_LARGEST = 64 << 20
"""Bytes of one entry; more means that a bracket or quote is missing somewhere."""
_DEEPEST = 2_000
"""Open brackets: the parser's memory grows with the square of their number."""


# -- fetching --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OfficialFile:
    """One file of the official data."""

    name: str
    drive_id: str
    """Id on Google Drive."""
    part_of: str
    """`small`, `full` or `human`."""
    role: str
    """`products`, `attributes` or `instructions`."""
    opening: bytes
    """First character of the JSON: `[` for a list of rows, `{` for asin -> entry."""
    about: str

    @property
    def url(self) -> str:
        """The address that setup.sh downloads from."""
        return f"https://drive.google.com/uc?export=download&id={self.drive_id}"


FILES = (
    OfficialFile(
        "items_shuffle_1000.json", "1EgHdxQ_YxqIQlvvq5iKlCrkEKR6-j0Ib",
        "small", "products", b"[", "1,000 products, a few MB",
    ),
    OfficialFile(
        "items_ins_v2_1000.json", "1IduG0xl544V_A_jv3tHXC0kyFi7PnyBu",
        "small", "attributes", b"{", "their attributes and synthetic instructions",
    ),
    OfficialFile(
        "items_shuffle.json", "1A2whVgOO0euk5O13n2iYDM0bQRkkRduB",
        "full", "products", b"[", "1.18 million products, about 5 GB",
    ),
    OfficialFile(
        "items_ins_v2.json", "1s2j6NgHljiZzQNL3veZaAiyW_qDEgBNi",
        "full", "attributes", b"{", "their attributes and synthetic instructions",
    ),
    OfficialFile(
        "items_human_ins.json", "14Kb5SPBk_jfdLZ_CDBNitW98QLDlKR5O",
        "human", "instructions", b"{", "12,087 human instructions, a few MB",
    ),
)  # fmt: skip


def file_of(part_of: str, role: str) -> OfficialFile:
    """The file of one set with one role."""
    return next(f for f in FILES if (f.part_of, f.role) == (part_of, role))


def download(
    folder: str | Path,
    which: Sequence[str] = ("small", "human"),
    base_url: str | None = None,
    *,
    expected: Mapping[str, str] | None = None,
    progress: bool = True,
    retries: int = RETRIES,
    timeout: float = TIMEOUT,
) -> dict[str, Path]:
    """Make sure that `folder` holds the official files, whole and unchanged.

    What is there is checked, what is missing is fetched; a broken transfer goes on where it
    stopped, also in another process.

    Args:
        which: `small` or `full` (products and attributes), `human` (instructions).
        base_url: a folder on a web server that has the files under their names; None: Google Drive.
        expected: file name -> SHA-256 in hex, from a source you trust.
        retries: further attempts at each file.
        timeout: seconds without a byte.

    Returns:
        File name -> path.

    Raises:
        PrerequisiteError: the files cannot be had (offline, quota, not found), or gdown is missing;
            says how to get them by hand and where to put them.
        DataError: a file differs from its checksum or is cut off; the disk is full; another
            process is downloading into `folder`.
    """
    folder, wanted = Path(folder), {which} if isinstance(which, str) else set(which)
    if not wanted or wanted.difference(SETS):
        raise DataError(f"which: {sorted(wanted) or 'nothing'} asked for; choose from {SETS}")
    files = [f for f in FILES if f.part_of in wanted]
    expected = {name: value.lower() for name, value in (expected or {}).items()}
    strangers = set(expected).difference(f.name for f in files)
    if strangers:
        raise DataError(f"expected: {sorted(strangers)} is not among {[f.name for f in files]}")
    if base_url and not base_url.startswith(("http://", "https://")):
        raise DataError(f"{base_url}: only http and https addresses can be fetched")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock", timeout=0):
            for at, file in enumerate(files):
                path, source = folder / file.name, "found in the folder"
                if not path.is_file():
                    source = f"{base_url.rstrip('/')}/{file.name}" if base_url else file.url
                    path = folder / f"{file.name}.new"
                    if not path.is_file():
                        missing = [f for f in files[at:] if not (folder / f.name).is_file()]
                        _fetch(source, file, folder, missing, progress, retries, timeout)
                try:
                    _check_ends(path, file)
                except DataError:
                    (folder / f"{file.name}.new").unlink(missing_ok=True)
                    raise
                _compare(folder, path, file, source, expected.get(file.name))
                # The sum is on disk before the name: what has its name has been checked.
                path.replace(folder / file.name)
    except Timeout:
        raise DataError(
            f"{folder}: another process is downloading into it; wait until it is done"
        ) from None
    except OSError as exc:
        raise DataError(
            f"{folder}: cannot be written ({exc.strerror or exc}); what has arrived is kept. Make "
            "room, or choose another folder, then run the same again: it continues"
        ) from exc
    return {f.name: folder / f.name for f in files}


def _fetch(
    url: str, file: OfficialFile, folder: Path, missing: Sequence[OfficialFile], progress: bool,
    retries: int, timeout: float,
) -> None:  # fmt: skip
    """Bring a file to `NAME.new`; what has arrived when this fails is in `NAME.new*.part`."""
    gdown, requests, tenacity = (_library(name) for name in ("gdown", "requests", "tenacity"))
    with tqdm(
        unit="B", unit_scale=True, unit_divisor=1024, desc=file.name, disable=not progress
    ) as bar:

        def note(have: int, total: int | None) -> None:
            free = shutil.disk_usage(folder).free
            if total is not None and total - have > free:
                raise DataError(
                    f"{folder}: the disk is too full: {total - have:,} bytes are still to come and "
                    f"{free:,} are free; what has arrived is kept. Make room, then run the same "
                    "again: it continues"
                )
            bar.total = total
            bar.update(have - bar.n)

        def busy(exc: BaseException) -> bool:
            answer = getattr(exc, "response", None)
            return answer is not None and answer.status_code in _PASSING

        try:
            tenacity.Retrying(
                retry=tenacity.retry_if_exception(busy),
                stop=tenacity.stop_after_attempt(retries + 1),
                wait=tenacity.wait_exponential(max=60) if retries else tenacity.wait_none(),
                reraise=True,
            )(
                gdown.download, url, str(folder / f"{file.name}.new"), quiet=True, resume=True,
                use_cookies=False, timeout=timeout, retries=retries, progress=note,
            )  # fmt: skip
        except (
            requests.RequestException,
            gdown.exceptions.DownloadError,
            gdown.exceptions.FileURLRetrievalError,
        ) as exc:
            parts = ", ".join(p.name for p in folder.glob(f"{file.name}.new*.part"))
            kept = f"\nkept for the next run (delete it to start anew): {parts}" if parts else ""
            raise PrerequisiteError(
                f"{url}: {str(exc).strip()}{kept}\n{_by_hand(missing, folder)}"
            ) from exc


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise PrerequisiteError(f"official WebShop data needs {name}: {INSTALL}") from exc


def _by_hand(files: Iterable[OfficialFile], folder: Path) -> str:
    """What a person without a working download does."""
    lines = [f"  {f.name}  {f.url}  ({f.about})" for f in files]
    return "\n".join(
        [
            f"By hand: open these addresses in a browser and save them in {folder} as",
            *lines,
            "(items_human_ins.json is also in the folder baseline_models/data of "
            "github.com/princeton-nlp/WebShop), then run the same again: it checks them. "
            "From a server of your own: --from URL, or base_url=URL. "
            "The embedded catalogue needs none of these files.",
        ]
    )


def _check_ends(path: Path, file: OfficialFile) -> None:
    """First and last character; the middle is the loader's business."""
    with open(path, "rb") as stream:
        first = stream.read(1024).removeprefix(_BOM).lstrip(_BLANK)[:2]
        stream.seek(max(0, path.stat().st_size - 1024))
        last = stream.read().rstrip()[-1:]
    if (first[:1], last) != (file.opening, _CLOSING[file.opening]):
        raise DataError(
            f"{path}: not the JSON it should be: starts with {first!r}, ends with {last!r}, "
            f"expected {file.opening!r} and {_CLOSING[file.opening]!r}; it is cut off, compressed, "
            "a web page or another file: delete it if it is there, then run the same again"
        )


def _sums(folder: Path) -> dict[str, Any]:
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except (OSError, msgspec.DecodeError) as exc:
        raise DataError(f"{path}: cannot be read ({exc}); delete it to record new sums") from exc


def _compare(
    folder: Path, path: Path, file: OfficialFile, source: str, expected: str | None
) -> None:
    """Hold the file against the expected sum and the recorded one; record it if it is new."""
    found, size, sums = sha256_of(path), path.stat().st_size, _sums(folder)
    if expected is not None and found != expected:
        raise DataError(
            f"{path}: its SHA-256 is {found}, expected {expected}. Delete it and run again; if "
            "you trust it, run without the expected sum"
        )
    known = sums.get(file.name)
    if known is None:
        sums[file.name] = {
            "sha256": found,
            "bytes": size,
            "source": source,
            "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_atomic(folder / CHECKSUMS, json.dumps(sums, indent=2) + "\n")
        log.info("%s: %d bytes, SHA-256 %s recorded", file.name, size, found)
    elif known.get("sha256") != found:
        raise DataError(
            f"{path}: its SHA-256 is {found} ({size:,} bytes), but {CHECKSUMS} has "
            f"{known.get('sha256')} ({known.get('bytes')} bytes, {known.get('recorded')}): it was "
            f"damaged or has changed. Delete it and run again; if the new file is right, delete "
            f"its entry in {CHECKSUMS}"
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- reading ---------------------------------------------------------------------------------------


class LeftOut(NamedTuple):
    """Something in the files that is not used, and why; `str()` is one line."""

    file: str
    place: str
    """`row 17` of the products, or an asin."""
    reason: str

    def __str__(self) -> str:
        text = f"{self.file}: {self.place}: {self.reason}"
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass
class Sources:
    """The files opened; `rows` runs once, then `left_out` is complete."""

    rows: Iterator[Any]
    """Rows of the products file, streamed."""
    attributes: dict[str, dict[str, Any]]
    """asin -> entry of the attributes file, what is not needed dropped."""
    instructions: dict[str, list[dict[str, Any]]]
    """asin -> human instructions."""
    left_out: list[LeftOut]


class _Watched:
    """A file as the parser reads it, with a bar, and guarded against missing brackets."""

    def __init__(self, file: Any, bar: Any) -> None:
        self._file, self._bar = file, bar
        self.entry()

    def entry(self) -> None:
        """An entry was complete."""
        self._unread = self._open = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._bar.update(len(data))
        self._unread += len(data)
        self._open += sum(map(data.count, (b"[", b"{"))) - sum(map(data.count, (b"]", b"}")))
        if self._unread > _LARGEST:
            raise ValueError("an entry over 64 MB: a bracket or quote is missing")
        if self._open > _DEEPEST:
            raise ValueError("brackets nested too deeply")
        return data


def _entries(
    path: Path, opening: bytes, left_out: list[LeftOut], on_error: OnError, progress: bool
) -> Iterator[Any]:
    """The rows of a JSON array, or the (key, value) pairs of an object, one by one.

    Args:
        on_error: what to do about damaged JSON, after everything before it was yielded: raise, or
            end there, log it and note it in `left_out`.
    """
    ijson, number, reason = _library("ijson"), 0, ""
    try:
        with (
            open(path, "rb") as file,
            tqdm(
                total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name,
                disable=not progress,
            ) as bar,
        ):  # fmt: skip
            start = file.read(1024)
            found = start.removeprefix(_BOM).lstrip(_BLANK)[: len(opening)]
            file.seek(len(_BOM) if start.startswith(_BOM) else 0)
            watched = _Watched(file, bar)
            try:
                if start.startswith(b"\x1f\x8b"):
                    raise ValueError("it is compressed with gzip: unpack it")
                if found != opening:
                    raise ValueError(f"expected {opening!r}, found {found!r}" if found else "empty")
                if opening == b"[":
                    items = ijson.items(watched, "item", use_float=True)
                else:
                    items = ijson.kvitems(watched, "", use_float=True)
                for item in items:
                    watched.entry()
                    number += 1
                    yield item
            except (ijson.JSONError, ValueError) as exc:
                text = exc.args[0] if exc.args else ""
                text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
                cut_off = "premature EOF" in text
                reason = "the file ends in the middle" if cut_off else text.split("\n")[0]
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    if reason:
        text = (
            f"{path}: entry {number}: {reason}; the {number} entries before it are readable, so "
            "the file is damaged or cut off: delete it and fetch it again "
            f"(python -m eeflib.envs.webshop.official {path.parent})"
        )
        if on_error == "raise":
            raise DataError(text)
        log.warning("%s", text)
        left_out.append(LeftOut(path.name, f"from entry {number} on", reason))


def source_names(size: Size, human: bool) -> list[str]:
    """Names of the files of products, attributes and, for human goals, instructions.

    Raises:
        DataError: no such size.
    """
    if size not in ("small", "full"):
        raise DataError(f"size must be 'small' or 'full', not {size!r}")
    files = [file_of(size, "products"), file_of(size, "attributes")]
    return [f.name for f in (*files, *([file_of("human", "instructions")] if human else []))]


def open_sources(
    folder: str | Path,
    *,
    size: Size = "small",
    human: bool = True,
    on_error: OnError = "raise",
    limit: int | None = None,
    progress: bool = False,
) -> Sources:
    """Read the two smaller files and start on the products.

    For builders that take rows one by one. Memory: the attributes of all products (1.18 million:
    under 1 GB), never the products. `progress` shows a bar for each file.

    Raises:
        PrerequisiteError: a file is missing; names the command that fetches it.
        DataError: a file is damaged, see `load_official`.
    """
    folder, left_out = Path(folder), list[LeftOut]()
    products, attributes, *people = wanted = source_names(size, human)
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise PrerequisiteError(
            f"{folder}: {', '.join(missing)} missing: fetch them with "
            f"python -m eeflib.envs.webshop.official {folder} --set {size}"
        )

    def entries(name: str, opening: bytes) -> Iterator[Any]:
        return _entries(folder / name, opening, left_out, on_error, progress)

    kept = {
        asin: _entry(attributes, asin, entry, human, left_out)
        for asin, entry in entries(attributes, b"{")
    }
    instructions = {
        asin: _instructions(name, asin, wishes, left_out)
        for name in people
        for asin, wishes in entries(name, b"{")
    }
    return Sources(islice(entries(products, b"["), limit), kept, instructions, left_out)


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _entry(
    name: str, asin: str, entry: Any, human: bool, left_out: list[LeftOut]
) -> dict[str, Any]:
    """An entry of the attributes file; unusable fields dropped, attribute texts shared."""
    if not isinstance(entry, Mapping):
        left_out.append(LeftOut(name, asin, f"an object is expected, got {entry!r:.60}"))
        return {}
    out: dict[str, Any] = {}
    fields = ("attributes",) if human else ("attributes", "instruction_attributes")
    for field in fields:
        value = entry.get(field)
        if value is None:
            continue
        if _strings(value):
            out[field] = [sys.intern(v) for v in value]
        else:
            left_out.append(
                LeftOut(name, asin, f"field {field}: expected texts, got {value!r:.60}")
            )
    text = entry.get("instruction")
    if not human and isinstance(text, str):
        out["instruction"] = text
    elif not human and text is not None:
        left_out.append(LeftOut(name, asin, f"field instruction: expected text, got {text!r:.60}"))
    return out


def _instructions(name: str, asin: str, rows: Any, left_out: list[LeftOut]) -> list[dict[str, Any]]:
    """The human instructions of a product that the official loader could use."""
    if not isinstance(rows, list):
        left_out.append(LeftOut(name, asin, f"a list is expected, got {rows!r:.60}"))
        return []
    kept = []
    for number, row in enumerate(rows):
        fault = _fault(row)
        if fault:
            left_out.append(LeftOut(name, f"{asin}, instruction {number}", fault))
        else:
            kept.append(row)
    return kept


def _fault(row: Any) -> str:
    """What is wrong with a human instruction; one without attributes is fine, and no goal."""
    if not isinstance(row, Mapping):
        return f"an object is expected, got {row!r:.60}"
    if not isinstance(row.get("instruction"), str):
        return f"field instruction: expected text, got {row.get('instruction')!r:.60}"
    for field in ("instruction_attributes", "instruction_options"):
        if not _strings(row.get(field)):
            return f"field {field}: expected texts, got {row.get(field)!r:.60}"
    return ""
