"""Official WebShop data as a catalogue and its goals: `load_official`.

    python -m eeflib.envs.webshop.official FOLDER [--set small|full] [--seed N] ...

Owns what is loaded together, and the one call that makes everything ready: fetch what is missing,
build what is not built, open. Knows nothing about transfers (`download`), the form of the files
(`official_sources`) or splits. Rules: `load_products` and `get_goals` of princeton-nlp/WebShop,
commit 64fa2a5.

The small set is held in memory, the full one on disk: built once, in minutes, opened in seconds.
Goals exist only for products that are loaded, so the small set has the few hundred human goals of
its own products, in an order of their own (see `splits`).
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eeflib.envs.webshop.catalogue import Catalogue, Product, SkippedRow
from eeflib.envs.webshop.disk_catalogue import DiskCatalogue
from eeflib.envs.webshop.download import download
from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.goals import build_goals
from eeflib.envs.webshop.nouns import Nouns, best_nouns, nouns_name, word_nouns
from eeflib.envs.webshop.official_disk import What, make_catalogue, open_made
from eeflib.envs.webshop.official_files import Size, file_of
from eeflib.envs.webshop.official_sources import LeftOut, Sources, open_sources, source_names
from eeflib.envs.webshop.official_stream import OnError
from eeflib.errors import DataError, EefError

__all__ = ["LeftOut", "Official", "Sources", "load_official", "main", "open_sources"]

log = logging.getLogger(__name__)

_BATCH = 2_000


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
        seed: draws prices and price limits, which officially nobody seeds.
        on_error: `raise` at damaged JSON, or `report` it and use what comes before it. Single
            unusable rows and entries are always left out and listed in `Official.left_out`.
        limit: only so many rows of the products file (officially 100, 1,000 or 100,000).
        catalogue: one that was built from the same files and seed; then nothing is read.
        disk: whether the catalogue lies on disk, or the folder for it; True: a folder in `folder`,
            `What.name`; None: the full set does, the small one is held in memory. It is
            made anew when it is damaged or a file has changed, and needs the files no longer.
        fetch: download what is missing.
        base_url: where from, see `download`.
        progress: show bars where it takes long: downloading, building.

    Raises:
        PrerequisiteError: a file is missing; names the command that fetches it.
        DataError: a file is damaged or of another shape, or no product or goal is left.
    """
    names, what = source_names(size, human), What(size, human, seed, limit)
    made: tuple[Catalogue, list[LeftOut]] | None = None
    disk = size == "full" if disk is None else disk
    place = Path(folder) / what.name if isinstance(disk, bool) else Path(disk)
    if catalogue is not None:
        if catalogue.seed != seed:
            raise DataError(f"the catalogue has seed {catalogue.seed}, asked for is {seed}")
        made = catalogue, []
    elif disk:
        made = open_made(place, folder, what, on_error)
    if made is None and fetch and not all((Path(folder) / name).is_file() for name in names):
        download(folder, (size, "human") if human else (size,), base_url, progress=progress)
    if made is None:
        if disk:
            made = make_catalogue(place, folder, what, on_error=on_error, progress=progress)
        else:
            sources = open_sources(folder, size=size, human=human, on_error=on_error, limit=limit)
            made = _in_memory(sources, seed), sources.left_out
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


def _in_memory(sources: Sources, seed: int) -> Catalogue:
    """All rows as products; rows that cannot be used are listed, as `Catalogue.from_rows` does."""
    kept: dict[str, Product] = {}
    skipped: list[SkippedRow] = []
    start = 0
    while batch := list(itertools.islice(sources.rows, _BATCH)):
        part = Catalogue.from_rows(batch, sources.attributes, sources.instructions, seed=seed)
        bad = {s.row for s in part.skipped}
        found = [SkippedRow(start + s.row, s.asin, s.reason) for s in part.skipped]
        numbers = (i for i in range(len(batch)) if i not in bad)
        for number, product in zip(numbers, part.products, strict=True):
            if product.asin in kept:
                reason = f"field asin: {product.asin!r} was listed before"
                found.append(SkippedRow(start + number, product.asin, reason))
            else:
                kept[product.asin] = product
        skipped += sorted(found, key=lambda s: s.row)
        start += len(batch)
    return Catalogue(kept.values(), seed=seed, skipped=skipped)


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
    add("--quiet", action="store_true", help="no progress bars")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the summary; the exit code is 0 only if the data are ready."""
    options = _parser().parse_args(arguments)
    try:
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
            progress=not options.quiet,
        )
    except EefError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    sys.stdout.write(f"{found.summary()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
