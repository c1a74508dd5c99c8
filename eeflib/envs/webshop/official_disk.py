"""The catalogue on disk of a folder of official files: made once, opened in moments after that.

Owns where it lies, what it was made from, and whether that is still what the files hold. Knows
nothing about goals. A catalogue counts as stale when a file it was made from has another content;
a file that was only copied or touched is compared by its SHA-256. Files that are gone are no
reason to doubt it: they may be deleted once it is built.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from eeflib.envs.webshop.disk_build import build_catalogue
from eeflib.envs.webshop.disk_catalogue import DiskCatalogue, open_catalogue
from eeflib.envs.webshop.disk_files import MANIFEST
from eeflib.envs.webshop.official_files import Size
from eeflib.envs.webshop.official_sources import LeftOut, open_sources, source_names
from eeflib.envs.webshop.official_stream import OnError
from eeflib.errors import DataError
from eeflib.files import write_atomic

__all__ = ["MADE_FROM", "What", "make_catalogue", "open_made"]

log = logging.getLogger(__name__)

MADE_FROM = "made_from.json"
"""In the folder of the catalogue; outside of what its manifest compares, as times may change."""


class What(msgspec.Struct, frozen=True):
    """What a catalogue is made of; another one is another catalogue."""

    size: Size
    human: bool
    seed: int
    limit: int | None

    @property
    def name(self) -> str:
        """Of its folder."""
        kind = "human" if self.human else "synthetic"
        first = f"-first{self.limit}" if self.limit is not None else ""
        return f"catalogue-{self.size}-{kind}-seed{self.seed}{first}"


class _File(msgspec.Struct, frozen=True):
    bytes: int
    mtime_ns: int
    sha256: str


class _MadeFrom(msgspec.Struct, frozen=True):
    what: What
    files: dict[str, _File]
    left_out: list[tuple[str, str, str]] = []
    cut: str = ""
    """Where a file was damaged, if the build was told to go on."""


def open_made(
    place: Path, folder: str | Path, what: What, on_error: OnError
) -> tuple[DiskCatalogue, list[LeftOut]] | None:
    """The catalogue at `place` and what was left out of it; None if it has to be made (anew).

    Why it has to be made anew is said in the log.

    Args:
        folder: holds the files that it was made from.

    Raises:
        DataError: it was made from a damaged file and `on_error` is `raise`, or not here at all.
    """
    if not (place / MANIFEST).exists():
        return None
    if not (place / MADE_FROM).exists():
        raise DataError(
            f"{place}: a catalogue that was not made from official files by load_official is left "
            "alone; choose another folder, or pass catalogue=open_catalogue(...)"
        )
    try:
        catalogue = open_catalogue(place)
        made = msgspec.json.decode((place / MADE_FROM).read_bytes(), type=_MadeFrom)
    except (DataError, OSError, msgspec.DecodeError) as exc:
        log.warning("%s: it is made anew: %s", place, exc)
        return None
    if made.what != what:
        log.warning("%s: it is made anew: it has %s, wanted is %s", place, made.what, what)
        return None
    found: dict[str, _File] = {}
    for name, known in made.files.items():
        path = Path(folder) / name
        found[name] = known
        if not path.is_file():
            continue  # deleted after the build
        size, time = _stat(path)
        if (size, time) == (known.bytes, known.mtime_ns):
            continue
        if size != known.bytes or _sha256(path) != known.sha256:
            log.warning("%s: it is made anew: %s has changed", place, path)
            return None
        found[name] = msgspec.structs.replace(known, mtime_ns=time)
    if made.cut and on_error == "raise":
        raise DataError(made.cut)
    if found != made.files:
        _remember(place, msgspec.structs.replace(made, files=found))
    return catalogue, [LeftOut(*item) for item in made.left_out]


def make_catalogue(
    place: Path, folder: str | Path, what: What, *, on_error: OnError, progress: bool
) -> tuple[DiskCatalogue, list[LeftOut]]:
    """Build the catalogue of the files in `folder` at `place`, in the place of any that is there.

    Raises:
        PrerequisiteError: a file is missing.
        DataError: a file is damaged or changes meanwhile, or see `build_catalogue`.
    """
    folder = Path(folder)
    names = source_names(what.size, what.human)
    before = {name: _stat(folder / name) for name in names if (folder / name).is_file()}
    sources = open_sources(
        folder,
        size=what.size,
        human=what.human,
        on_error=on_error,
        limit=what.limit,
        progress=progress,
    )

    def note(work: Path) -> None:
        files = {n: _File(*before[n], _sha256(folder / n)) for n in names}
        changed = [n for n in names if _stat(folder / n) != before[n]]
        if changed:
            raise DataError(
                f"{folder / changed[0]}: has changed while it was read; build again when nothing "
                "writes to it"
            )
        cut = next((str(i) for i in sources.left_out if i.place.startswith("from byte")), "")
        cut = cut and f"{folder}: {cut}; the catalogue at {place} was built from what comes before"
        left_out = [(i.file, _plain(i.place), _plain(i.reason)) for i in sources.left_out]
        _write(work, _MadeFrom(what, files, left_out, cut))

    build_catalogue(
        sources.rows,
        place,
        attributes=sources.attributes,
        human_instructions=sources.instructions,
        seed=what.seed,
        replace=True,
        progress="index" if progress else False,
        last=note,
    )
    return open_catalogue(place), sources.left_out


def _plain(text: str) -> str:
    """Half surrogate pairs written out: no file can hold them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _stat(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(place: Path, made: _MadeFrom) -> None:
    write_atomic(place / MADE_FROM, msgspec.json.encode(made).decode())


def _remember(place: Path, made: _MadeFrom) -> None:
    """Note new times of the same content, where that is possible."""
    try:
        _write(place, made)
    except (DataError, OSError) as exc:  # a folder that may only be read
        log.info("%s: %s; the files are compared again next time", place, exc)
