"""Official WebShop data as a catalogue and its goals: `load_official`.

    python -m eeflib.envs.webshop.official FOLDER [--set small|full] [--seed N] ...

One call fetches what is missing (gdown: Google Drive or a server of your own), builds what is not
built (ijson: entry by entry, in bounded memory), and opens the catalogue. Rules: setup.sh,
`load_products` and `get_goals` of princeton-nlp/WebShop, commit 64fa2a5.

The small set is held in memory, the full one on disk: built once, in minutes, opened in seconds.
Goals exist only for products that are loaded, so the small set has the few hundred human goals of
its own products, in an order of their own (see `goals`).

Upstream publishes neither sizes nor checksums. The SHA-256 of each file is therefore written to
`checksums.json` beside it when it first arrives, and compared ever after: that finds damage and
later changes, not a file that was wrong from the start. If you know the right sums, pass them as
`expected`.

A catalogue on disk counts as stale when a file it was made from has another content: another size,
or another time and another SHA-256. A source file that is gone does not make it
stale: source files may be deleted once the catalogue is built.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ijson
import msgspec
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from eeflib.envs.webshop.catalogue import Catalogue, SkippedRow
from eeflib.envs.webshop.disk import MANIFEST, DiskCatalogue, build_catalogue, open_catalogue
from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.goals import build_goals
from eeflib.envs.webshop.reward import nouns_name
from eeflib.errors import DataError, EefError, PrerequisiteError
from eeflib.files import write_atomic

log = logging.getLogger(__name__)

Size = Literal["small", "full"]
"""1,000 products, or all 1.18 million."""

CHECKSUMS = "checksums.json"
INSTALL = "pip install 'eeflib[webshop]'"
RETRIES = 10
"""Further attempts at each file."""
TIMEOUT = 30.0
"""Seconds without a byte."""

_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


class Source(NamedTuple):
    """One file of the official data."""

    name: str
    drive_id: str
    """Id on Google Drive."""
    ends: bytes
    """First and last character: `[]` for a list of rows, `{}` for asin -> entry."""
    about: str

    @property
    def url(self) -> str:
        """The address that setup.sh downloads from."""
        return f"https://drive.google.com/uc?export=download&id={self.drive_id}"


_HUMAN = Source(
    "items_human_ins.json", "14Kb5SPBk_jfdLZ_CDBNitW98QLDlKR5O", b"{}",
    "12,087 human instructions, a few MB",
)  # fmt: skip
_ENTRIES = "their attributes and synthetic instructions"
SOURCES: Mapping[str, tuple[Source, Source, Source]] = {
    "small": (
        Source("items_shuffle_1000.json", "1EgHdxQ_YxqIQlvvq5iKlCrkEKR6-j0Ib", b"[]",
               "1,000 products, a few MB"),
        Source("items_ins_v2_1000.json", "1IduG0xl544V_A_jv3tHXC0kyFi7PnyBu", b"{}", _ENTRIES),
        _HUMAN,
    ),
    "full": (
        Source("items_shuffle.json", "1A2whVgOO0euk5O13n2iYDM0bQRkkRduB", b"[]",
               "1.18 million products, about 5 GB"),
        Source("items_ins_v2.json", "1s2j6NgHljiZzQNL3veZaAiyW_qDEgBNi", b"{}", _ENTRIES),
        _HUMAN,
    ),
}  # fmt: skip
"""Size -> the files of products, attributes and human instructions."""


def _sources(size: str) -> tuple[Source, Source, Source]:
    if size not in SOURCES:
        raise DataError(f"size must be 'small' or 'full', not {size!r}")
    return SOURCES[size]


# -- fetching --------------------------------------------------------------------------------------


def download(
    folder: str | Path,
    size: Size = "small",
    base_url: str | None = None,
    *,
    expected: Mapping[str, str] | None = None,
    progress: bool = True,
) -> None:
    """Make sure that `folder` holds the official files, whole and unchanged.

    What is there is checked, what is missing is fetched; a broken transfer goes on where it
    stopped, also in another process.

    Args:
        base_url: a folder on a web server that has the files under their names; None: Google Drive.
        expected: file name -> SHA-256 in hex, from a source you trust.

    Raises:
        PrerequisiteError: the files cannot be had (offline, quota, not found), or gdown is missing;
            says how to get them by hand and where to put them.
        DataError: a file differs from its checksum or is cut off; the disk is full; another
            process is downloading into `folder`.
    """
    folder, files = Path(folder), _sources(size)
    if strangers := set(expected or ()).difference(f.name for f in files):
        raise DataError(f"expected: {sorted(strangers)} is not among {[f.name for f in files]}")
    if base_url and not base_url.startswith(("http://", "https://")):
        raise DataError(f"{base_url}: only http and https addresses can be fetched")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock", timeout=0):
            for file in files:
                path = folder / file.name
                if not path.is_file():
                    path = folder / f"{file.name}.new"
                    url = f"{base_url.rstrip('/')}/{file.name}" if base_url else file.url
                    _fetch(url, path, files, progress)
                try:
                    _check_ends(path, file)
                except DataError:
                    (folder / f"{file.name}.new").unlink(missing_ok=True)
                    raise
                _compare(path, folder / file.name, (expected or {}).get(file.name))
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


def _fetch(url: str, path: Path, files: Sequence[Source], progress: bool) -> None:
    """Bring a file to `path`; what has arrived when this fails is in `path*.part`."""
    try:
        import gdown
        import requests  # which gdown brings
    except ImportError as exc:
        raise PrerequisiteError(f"official WebShop data needs gdown: {INSTALL}") from exc
    try:
        gdown.download(
            url, str(path), quiet=not progress, resume=True, use_cookies=False, timeout=TIMEOUT,
            retries=RETRIES,
        )  # fmt: skip
    except (
        requests.RequestException,
        gdown.exceptions.DownloadError,
        gdown.exceptions.FileURLRetrievalError,
    ) as exc:
        parts = ", ".join(p.name for p in path.parent.glob(f"{path.name}*.part"))
        kept = f"\nkept for the next run (delete it to start anew): {parts}" if parts else ""
        missing = [f for f in files if not (path.parent / f.name).is_file()]
        listed = "".join(f"\n  {f.name}  {f.url}  ({f.about})" for f in missing)
        raise PrerequisiteError(
            f"{url}: {str(exc).strip()}{kept}\nBy hand: open these addresses in a browser and save "
            f"them in {path.parent} as{listed}\nthen run the same again: it checks them. From a "
            "server of your own: --from URL, or base_url=URL. The embedded catalogue needs none of "
            "these files."
        ) from exc


def _check_ends(path: Path, file: Source) -> None:
    """First and last character; the middle is the reader's business."""
    with open(path, "rb") as stream:
        first = stream.read(1024).removeprefix(_BOM).lstrip(_BLANK)[:1]
        stream.seek(max(0, path.stat().st_size - 1024))
        last = stream.read().rstrip()[-1:]
    if first + last != file.ends:
        raise DataError(
            f"{path}: not the JSON it should be: starts with {first!r}, ends with {last!r}, "
            f"expected {file.ends!r}; it is cut off, compressed, a web page or another file: "
            "delete it if it is there, then run the same again"
        )


def _compare(path: Path, target: Path, expected: str | None) -> None:
    """Hold a file against the expected sum and the recorded one; record it if it is new."""
    found, note = sha256_of(path), target.with_name(CHECKSUMS)
    try:
        raw = note.read_bytes() if note.exists() else b"{}"
        sums = msgspec.json.decode(raw, type=dict[str, str])
    except msgspec.DecodeError as exc:
        raise DataError(f"{note}: cannot be read ({exc}); delete it to record new sums") from exc
    if expected is not None and found != expected.lower():
        raise DataError(
            f"{path}: its SHA-256 is {found}, expected {expected}. Delete it and run again; if "
            "you trust it, run without the expected sum"
        )
    if sums.setdefault(target.name, found) != found:
        raise DataError(
            f"{path}: its SHA-256 is {found}, but {CHECKSUMS} has {sums[target.name]}: it was "
            "damaged or has changed. Delete it and run again; if the new file is right, delete "
            f"its entry in {CHECKSUMS}"
        )
    write_atomic(note, json.dumps(sums, indent=2) + "\n")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- reading ---------------------------------------------------------------------------------------


def entries(path: Path, ends: bytes, progress: bool = False) -> Iterator[Any]:
    """The rows of a JSON array (`[]`), or the (key, value) pairs of an object (`{}`), one by one.

    Raises:
        DataError: the JSON is damaged; after everything before the damage was yielded.
    """
    number, bar = 0, {"desc": path.name, "disable": not progress}
    try:
        size = path.stat().st_size
        with open(path, "rb") as file, tqdm.wrapattr(file, "read", size, **bar) as watched:
            start = file.read(1024)
            whole = start.removeprefix(_BOM)
            found = whole.lstrip(_BLANK)[:1]
            if found != ends[:1]:
                raise ValueError(f"expected {ends[:1]!r}, found {found!r}" if found else "empty")
            file.seek(len(start) - len(whole))
            if ends == b"[]":
                items = ijson.items(watched, "item", use_float=True)
            else:
                items = ijson.kvitems(watched, "", use_float=True)
            for item in items:
                number += 1
                yield item
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    except (ijson.JSONError, ValueError) as exc:
        text = exc.args[0] if exc.args else ""
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        ended = "premature EOF" in text
        raise DataError(
            f"{path}: entry {number}: {'the file ends in the middle' if ended else text:.200}; it "
            "is damaged or cut off: delete it and fetch it again "
            f"(python -m eeflib.envs.webshop.official {path.parent})"
        ) from exc


def _shared(entry: Any) -> Any:
    """An entry of the attributes file, its attribute texts, which repeat, held once."""
    if isinstance(entry, dict):
        for name in ("attributes", "instruction_attributes"):
            if isinstance(entry.get(name), list):
                entry[name] = [sys.intern(v) if isinstance(v, str) else v for v in entry[name]]
    return entry


class Origin(msgspec.Struct, frozen=True):
    """What a catalogue was made of: in its manifest."""

    size: Size
    seed: int
    limit: int | None
    files: dict[str, tuple[int, int, str]]
    """Name -> bytes, time of the last change (ns), SHA-256; as they were before the build."""

    @classmethod
    def now(cls, folder: Path, size: Size, seed: int, limit: int | None) -> Origin:
        """Of the files as they are."""
        files = {}
        for path in (folder / file.name for file in _sources(size)):
            found = path.stat()
            files[path.name] = found.st_size, found.st_mtime_ns, sha256_of(path)
        return cls(size, seed, limit, files)

    def stale(self, folder: Path, *wanted: Any) -> str:
        """Why the catalogue is not the wanted (size, seed, limit) of the files; empty if it is."""
        if (self.size, self.seed, self.limit) != wanted:
            return f"it has size, seed and limit {self.size, self.seed, self.limit}, not {wanted}"
        for name, (size, changed, sha256) in self.files.items():
            path = folder / name
            if path.is_file():  # else it was deleted after the build
                now = path.stat()
                if now.st_size != size or (
                    now.st_mtime_ns != changed and sha256_of(path) != sha256
                ):
                    return f"{path} has changed"
        return ""


def _open_made(place: Path, folder: Path, *wanted: Any) -> DiskCatalogue | None:
    """The catalogue at `place`; None if it has to be built. The log says why if it is built again.

    Raises:
        DataError: it was not made of official files.
    """
    if not (place / MANIFEST).exists():
        return None
    try:
        catalogue = open_catalogue(place)
    except DataError as exc:
        log.warning("%s: it is built again: %s", place, exc)
        return None
    try:
        stale = msgspec.convert(catalogue.manifest.origin, Origin).stale(folder, *wanted)
    except msgspec.ValidationError:
        raise DataError(
            f"{place}: a catalogue that was not made from official files by load_official is left "
            "alone; choose another folder"
        ) from None
    if stale:
        log.warning("%s: it is built again: %s", place, stale)
    return None if stale else catalogue


@dataclass(frozen=True)
class Official:
    """Everything that was loaded."""

    catalogue: Catalogue
    """`catalogue.skipped` lists the rows that are not used."""
    goals: tuple[dict[str, Any], ...]
    """In official order (seed 233)."""
    kind: Literal["human", "synthetic"]
    size: Size
    strict: bool
    """Whether environments keep the official quirks."""
    limit: int | None = None
    """Rows of the products file that were read; None: all."""

    @property
    def left_out(self) -> Sequence[SkippedRow]:
        """Rows of the products file that are not used."""
        return self.catalogue.skipped

    def env(self, **options: Any) -> WebShopEnv:
        """An environment over the catalogue; `options` are those of `WebShopEnv`."""
        return WebShopEnv(self.catalogue, **{"strict": self.strict, **options})

    def summary(self) -> str:
        """One paragraph for reports: what was loaded, what was left out, which nouns are used."""
        part = f", first {self.limit:,} rows" if self.limit is not None else ""
        shop = self.catalogue
        where = f"; on disk: {shop.folder}" if isinstance(shop, DiskCatalogue) else ""
        return (
            f"official WebShop data ({self.size} set{part}): {len(shop):,} products, "
            f"{len(self.goals):,} {self.kind} goals, {len(self.left_out):,} rows left out; "
            f"seed {shop.seed}, strict {self.strict}, "
            f"title nouns {nouns_name(self.env().nouns)}{where}"
        )


def load_official(
    folder: str | Path,
    *,
    size: Size = "small",
    human: bool = True,
    strict: bool = True,
    seed: int = 0,
    limit: int | None = None,
    disk: bool | str | Path | None = None,
    fetch: bool = False,
    base_url: str | None = None,
    expected: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Official:
    """The official data in `folder`, as `download` leaves it.

    `load_official("data/webshop", size="full", fetch=True)` is all that the full set takes: the
    first call downloads it and builds its catalogue on disk (minutes), later ones open that
    (seconds). A call that is killed leaves a download that is gone on with, and no half catalogue.

    Args:
        size: `small` or `full`.
        human: goals with human instructions; else synthetic ones.
        strict: environments of `Official.env` keep the official quirks.
        seed: draws prices and price limits, which have no seed officially.
        limit: only so many rows of the products file (officially 100, 1,000 or 100,000).
        disk: whether the catalogue lies on disk, or the folder for it; True: a folder in `folder`
            that is named after size, seed and limit; None: the full set does, the small one is held
            in memory. It is built again when it is damaged or a file has changed, and needs the
            files no longer.
        fetch: download what is missing.
        base_url, expected: see `download`.
        progress: show bars where it takes long: downloading, building.

    Raises:
        PrerequisiteError: a file is missing; names the command that fetches it.
        DataError: a file is damaged or of another shape, or no product or goal is left.
    """
    folder, names = Path(folder), [file.name for file in _sources(size)]
    disk = size == "full" if disk is None else disk
    first = f"-first{limit}" if limit is not None else ""
    named = folder / f"catalogue-{size}-seed{seed}{first}"
    place = named if isinstance(disk, bool) else Path(disk)
    catalogue: Catalogue | None = _open_made(place, folder, size, seed, limit) if disk else None
    if catalogue is None:
        if fetch:
            download(folder, size, base_url, expected=expected, progress=progress)
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise PrerequisiteError(
                f"{folder}: {', '.join(missing)} missing: fetch them with "
                f"python -m eeflib.envs.webshop.official {folder} --set {size}"
            )
        origin = Origin.now(folder, size, seed, limit) if disk else None
        products, about, people = (
            entries(folder / file.name, file.ends, progress and bool(disk))
            for file in _sources(size)
        )
        attributes = {asin: _shared(entry) for asin, entry in about}
        rows, human_instructions = islice(products, limit), dict(people)
        if disk:
            catalogue = build_catalogue(
                rows, place, attributes=attributes, human_instructions=human_instructions,
                seed=seed, replace=True, progress=progress, origin=origin,
            )  # fmt: skip
        else:
            catalogue = Catalogue.from_rows(rows, attributes, human_instructions, seed=seed)
    kind: Literal["human", "synthetic"] = "human" if human else "synthetic"
    goals, skipped = tuple(build_goals(catalogue, kind)), catalogue.skipped
    if not goals:
        raise DataError(
            f"{folder}: no {kind} goals for its {len(catalogue)} products ({len(skipped)} rows "
            "left out); do the files belong together?"
        )
    for row in skipped[:5]:
        log.warning("left out: row %d (%s): %s", row.row, row.asin, row.reason)
    if len(skipped) > 5:
        log.warning("left out: %d more, see Official.left_out", len(skipped) - 5)
    return Official(catalogue, goals, kind, size, strict, limit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the summary; the exit code is 0 only if the data are ready."""
    parser = argparse.ArgumentParser(
        prog="python -m eeflib.envs.webshop.official",
        description="Make the official WebShop data ready: fetch what is missing, build the "
        "catalogue on disk if it is not there, open it, and say what it holds. Run it again to go "
        "on after an interruption.",
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER")
    add("--set", choices=("small", "full"), default="small", dest="size",
        help="1,000 products (default) or all 1.18 million (about 5 GB, 10 minutes)")  # fmt: skip
    add("--synthetic", action="store_true", help="synthetic goals instead of human ones")
    add("--seed", type=int, default=0, help="of prices and price limits (0)")
    add("--limit", type=int, metavar="N", help="only the first N rows of the products file")
    add("--from", metavar="URL", dest="base_url", help="a server with the files")
    options = vars(parser.parse_args(arguments))
    human = not options.pop("synthetic")
    try:
        found = load_official(options.pop("folder"), human=human, fetch=True, **options)
    except EefError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    sys.stdout.write(f"{found.summary()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
