"""Official WebShop data as a catalogue and its goals: `load_official`.

    python -m eeflib.envs.webshop.official FOLDER [--set small|full] [--seed N] ...

One call fetches what is missing, builds what is not built, and opens the catalogue. Rules:
`load_products` and `get_goals` of princeton-nlp/WebShop, commit 64fa2a5.

The small set is held in memory, the full one on disk: built once, in minutes, opened in seconds.
Goals exist only for products that are loaded, so the small set has the few hundred human goals of
its own products, in an order of their own (see `goals`).

A catalogue on disk counts as stale when a file it was made from has another content; a file that
was only copied or touched is compared by its SHA-256. A source file that is gone does not make it
stale: source files may be deleted once the catalogue is built.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from eeflib.envs.webshop.catalogue import Catalogue
from eeflib.envs.webshop.disk import MANIFEST, DiskCatalogue, build_catalogue, open_catalogue
from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.goals import build_goals
from eeflib.envs.webshop.reward import Nouns, best_nouns, nouns_name, word_nouns
from eeflib.envs.webshop.sources import (
    LeftOut,
    OnError,
    Size,
    download,
    file_of,
    open_sources,
    sha256_of,
    source_names,
)
from eeflib.errors import DataError, EefError
from eeflib.files import write_atomic

__all__ = ["LeftOut", "Official", "What", "download", "load_official", "main"]

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
    """Where a file was damaged, if the build was to go on."""


def open_made(
    place: Path, folder: str | Path, what: What, on_error: OnError
) -> tuple[DiskCatalogue, list[LeftOut]] | None:
    """The catalogue at `place` and what was left out of it; None if it has to be built.

    The log says why it has to be built again.

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
        log.warning("%s: it is built again: %s", place, exc)
        return None
    if made.what != what:
        log.warning("%s: it is built again: it has %s, wanted is %s", place, made.what, what)
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
        if size != known.bytes or sha256_of(path) != known.sha256:
            log.warning("%s: it is built again: %s has changed", place, path)
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
        files = {n: _File(*before[n], sha256_of(folder / n)) for n in names}
        changed = [n for n in names if _stat(folder / n) != before[n]]
        if changed:
            raise DataError(
                f"{folder / changed[0]}: has changed while it was read; build again when nothing "
                "writes to it"
            )
        cut = next((str(i) for i in sources.left_out if i.place.startswith("from entry")), "")
        cut = cut and f"{folder}: {cut}; the catalogue at {place} was built from what comes before"
        left_out = [(i.file, _plain(i.place), _plain(i.reason)) for i in sources.left_out]
        _write(work, _MadeFrom(what, files, left_out, cut))

    catalogue = build_catalogue(
        sources.rows,
        place,
        attributes=sources.attributes,
        human_instructions=sources.instructions,
        seed=what.seed,
        replace=True,
        progress=progress,
        last=note,
    )
    return catalogue, sources.left_out


def _plain(text: str) -> str:
    """Half surrogate pairs written out: no file can hold them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _stat(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _write(place: Path, made: _MadeFrom) -> None:
    write_atomic(place / MADE_FROM, msgspec.json.encode(made).decode())


def _remember(place: Path, made: _MadeFrom) -> None:
    """Note new times of the same content, where that is possible."""
    try:
        _write(place, made)
    except (DataError, OSError) as exc:  # a folder that may only be read
        log.info("%s: %s; the files are compared again next time", place, exc)


@dataclass(frozen=True)
class Official:
    """Everything that was loaded."""

    catalogue: Catalogue
    goals: tuple[dict[str, Any], ...]
    """In official order (seed 233)."""
    kind: Literal["human", "synthetic"]
    size: Size
    strict: bool
    """Whether environments keep the official quirks."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows, entries and instructions that are not used."""
    limit: int | None = None
    """Rows of the products file that were read; None: all."""

    @property
    def seed(self) -> int:
        """Seed of prices and price limits."""
        return self.catalogue.seed

    @property
    def nouns(self) -> Nouns:
        """Nouns of the title score, as `env` takes them; loads spaCy if strict and installed."""
        return best_nouns() if self.strict else word_nouns

    def env(self, **options: Any) -> WebShopEnv:
        """An environment over the catalogue; `options` are those of `WebShopEnv`."""
        return WebShopEnv(self.catalogue, **{"strict": self.strict, **options})

    def summary(self) -> str:
        """One paragraph for reports: what was loaded, what was left out, which nouns are used."""
        part = f", first {self.limit:,} rows" if self.limit is not None else ""
        where = (
            f"; on disk: {self.catalogue.folder}"
            if isinstance(self.catalogue, DiskCatalogue)
            else ""
        )
        return (
            f"official WebShop data ({self.size} set{part}): {len(self.catalogue):,} products, "
            f"{len(self.goals):,} {self.kind} goals, {len(self.left_out):,} entries left out; "
            f"seed {self.seed}, strict {self.strict}, title nouns {nouns_name(self.nouns)}{where}"
        )


def load_official(
    folder: str | Path,
    *,
    size: Size = "small",
    human: bool = True,
    strict: bool = True,
    seed: int = 0,
    on_error: OnError = "raise",
    limit: int | None = None,
    catalogue: Catalogue | None = None,
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
        on_error: `raise` at damaged JSON, or `report` it and use what comes before it. Single
            unusable rows and entries are always left out and listed in `Official.left_out`.
        limit: only so many rows of the products file (officially 100, 1,000 or 100,000).
        catalogue: one that was built from the same files and seed; then nothing is read.
        disk: whether the catalogue lies on disk, or the folder for it; True: a folder in `folder`,
            `What.name`; None: the full set does, the small one is held in memory. It is
            built again when it is damaged or a file has changed, and needs the files no longer.
        fetch: download what is missing.
        base_url, expected: see `download`.
        progress: show bars where it takes long: downloading, building.

    Raises:
        PrerequisiteError: a file is missing; names the command that fetches it.
        DataError: a file is damaged or of another shape, or no product or goal is left.
    """
    what = What(size, human, seed, limit)
    made: tuple[Catalogue, list[LeftOut]] | None = None
    disk = size == "full" if disk is None else disk
    place = Path(folder) / what.name if isinstance(disk, bool) else Path(disk)
    if catalogue is not None:
        if catalogue.seed != seed:
            raise DataError(f"the catalogue has seed {catalogue.seed}, asked for is {seed}")
        made = catalogue, []
    elif disk:
        made = open_made(place, folder, what, on_error)
    if made is None and fetch:
        sets = (size, "human") if human else (size,)
        download(folder, sets, base_url, expected=expected, progress=progress)
    if made is None:
        if disk:
            made = make_catalogue(place, folder, what, on_error=on_error, progress=progress)
        else:
            sources = open_sources(folder, size=size, human=human, on_error=on_error, limit=limit)
            in_memory = Catalogue.from_rows(
                sources.rows, sources.attributes, sources.instructions, seed=seed
            )
            made = in_memory, sources.left_out
    catalogue, left_out = made
    left_out += [
        LeftOut(file_of(size, "products").name, f"row {s.row}", f"{s.asin}: {s.reason}")
        for s in catalogue.skipped
    ]
    kind: Literal["human", "synthetic"] = "human" if human else "synthetic"
    goals = build_goals(catalogue, kind)
    if not goals:
        raise DataError(
            f"{folder}: no {kind} goals for its {len(catalogue)} products ({len(left_out)} entries "
            "left out); do the files belong together?"
        )
    found = Official(catalogue, tuple(goals), kind, size, strict, tuple(left_out), limit)
    for item in left_out[:5]:
        log.warning("left out: %s", item)
    if len(left_out) > 5:
        log.warning("left out: %d more, see Official.left_out", len(left_out) - 5)
    return found


def _parser() -> argparse.ArgumentParser:
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
    add(
        "--disk",
        metavar="DIR",
        help="put the catalogue on disk there (the full set: a folder in FOLDER)",
    )
    add("--report", action="store_true", help="use what comes before damage in a file")
    add("--no-fetch", action="store_true", help="download nothing")
    add("--from", metavar="URL", dest="base_url", help="a server with the files")
    add("--sha256", action="append", default=[], metavar="NAME=HEX",
        help="the sum that a file must have (may be repeated)")  # fmt: skip
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the summary; the exit code is 0 only if the data are ready."""
    options = _parser().parse_args(arguments)
    try:
        expected = dict(pair.split("=", 1) for pair in options.sha256 if "=" in pair)
        if len(expected) != len(options.sha256):
            raise DataError("--sha256 is written NAME=HEX, once per file")
        found = load_official(
            options.folder,
            size=options.size,
            human=not options.synthetic,
            seed=options.seed,
            limit=options.limit,
            on_error="report" if options.report else "raise",
            disk=options.disk,
            fetch=not options.no_fetch,
            base_url=options.base_url,
            expected=expected,
            progress=not options.quiet,
        )
    except EefError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    sys.stdout.write(f"{found.summary()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
