"""Fetch the official WebShop files: `python -m eeflib.envs.webshop.download FOLDER`.

Import `download` and the table of files from here. Source: setup.sh of princeton-nlp/WebShop,
commit 64fa2a5.

Upstream publishes neither sizes nor checksums. The SHA-256 of each file is therefore written to
`checksums.json` beside it when it first arrives, and compared ever after: that finds damage and
later changes, not a file that was wrong from the start. If you know the right sums, pass them as
`expected`. Of a file's content only the first and last character are looked at.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from eeflib.envs.webshop.official_transfer import Patience, fetch
from eeflib.errors import DataError, EefError, PrerequisiteError
from eeflib.files import write_atomic

__all__ = ["Size", "download", "file_of", "main"]

log = logging.getLogger(__name__)

Size = Literal["small", "full"]
"""1,000 products, or all 1.18 million."""

SETS = ("small", "full", "human")

CHECKSUMS = "checksums.json"
_CLOSING = {b"[": b"]", b"{": b"}"}


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


def files_of(which: Iterable[str]) -> tuple[OfficialFile, ...]:
    """The files of the named sets, in table order.

    Raises:
        DataError: an unknown set.
    """
    wanted = {which} if isinstance(which, str) else set(which)
    unknown = wanted.difference(SETS)
    if unknown or not wanted:
        raise DataError(f"which: {sorted(unknown) or 'nothing'} asked for; choose from {SETS}")
    return tuple(f for f in FILES if f.part_of in wanted)


def file_of(part_of: str, role: str) -> OfficialFile:
    """The file of one set with one role."""
    return next(f for f in files_of([part_of]) if f.role == role)


def by_hand(files: Iterable[OfficialFile], folder: Path) -> str:
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


def download(
    folder: str | Path,
    which: Sequence[str] = ("small", "human"),
    base_url: str | None = None,
    *,
    expected: Mapping[str, str] | None = None,
    patience: Patience | None = None,
    progress: bool = True,
) -> dict[str, Path]:
    """Make sure that `folder` holds the official files, whole and unchanged.

    What is there is checked, what is missing is fetched; a broken transfer goes on where it
    stopped, also in another process.

    Args:
        which: `small` or `full` (products and attributes), `human` (instructions).
        base_url: a folder on a web server that has the files under their names; None: Google Drive.
        expected: file name -> SHA-256 in hex, from a source you trust.
        patience: retries and time-outs.

    Returns:
        File name -> path.

    Raises:
        PrerequisiteError: the files cannot be had (offline, quota, not found); says how to get
            them by hand and where to put them.
        DataError: a file differs from its checksum or is cut off; the disk is full; another
            process is downloading into `folder`.
    """
    from filelock import FileLock, Timeout

    files, folder = files_of(which), Path(folder)
    expected = {name: value.lower() for name, value in (expected or {}).items()}
    strangers = set(expected).difference(f.name for f in files)
    if strangers:
        raise DataError(f"expected: {sorted(strangers)} is not among {[f.name for f in files]}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".download.lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise DataError(
            f"{folder}: another process is downloading into it; wait until it is done"
        ) from None
    except OSError as exc:
        raise DataError(f"{folder}: cannot be written ({exc.strerror or exc})") from exc
    try:
        out = {}
        for at, file in enumerate(files):
            url = f"{base_url.rstrip('/')}/{file.name}" if base_url else file.url
            try:
                out[file.name] = _one(
                    file, folder, url, expected.get(file.name), patience, progress
                )
            except PrerequisiteError as exc:
                missing = [f for f in files[at:] if not (folder / f.name).is_file()]
                raise PrerequisiteError(f"{exc}\n{by_hand(missing, folder)}") from exc
        return out
    finally:
        lock.release()


def _one(
    file: OfficialFile, folder: Path, url: str, expected: str | None,
    patience: Patience | None, progress: bool,
) -> Path:  # fmt: skip
    target = folder / file.name
    if target.is_file():
        _check_ends(target, file)
        _compare(folder, target, file, "found in the folder", expected)
        return target
    part = target.with_name(target.name + ".part")
    fetch(url, part, file.opening, patience, progress=progress)
    _check_ends(part, file)
    _compare(folder, part, file, url, expected)
    # The sum is on disk before the name: a file under its name has always been checked.
    os.replace(part, target)
    part.with_name(part.name + ".json").unlink(missing_ok=True)
    return target


def _check_ends(path: Path, file: OfficialFile) -> None:
    """First and last character; the middle is the loader's business."""
    with open(path, "rb") as stream:
        first = stream.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        stream.seek(max(0, path.stat().st_size - 1024))
        last = stream.read().rstrip()[-1:]
    if (first, last) != (file.opening, _CLOSING[file.opening]):
        raise DataError(
            f"{path}: not the JSON it should be: starts with {first!r}, ends with {last!r}, "
            f"expected {file.opening!r} and {_CLOSING[file.opening]!r}; it is cut off or another "
            "file: delete it, then run the same again"
        )


def _sums(folder: Path) -> dict[str, Any]:
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    try:
        sums = json.loads(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise DataError(f"{path}: cannot be read ({exc}); delete it to record new sums") from exc
    if not isinstance(sums, dict) or not all(isinstance(s, dict) for s in sums.values()):
        raise DataError(f"{path}: not a table of checksums; delete it to record new sums")
    return sums


def _compare(
    folder: Path, path: Path, file: OfficialFile, source: str, expected: str | None
) -> None:
    """Hold the file against the expected sum and the recorded one; record it if it is new."""
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    size, sums = path.stat().st_size, _sums(folder)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eeflib.envs.webshop.download",
        description="Fetch the official WebShop files; run it again to resume or to check them.",
    )
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument(
        "--set", choices=("small", "full"), default="small", dest="size",
        help="1,000 products (default) or all 1.18 million (about 5 GB)",
    )  # fmt: skip
    parser.add_argument("--no-human", action="store_true", help="without the human instructions")
    parser.add_argument("--from", metavar="URL", dest="base_url", help="a server with the files")
    parser.add_argument(
        "--sha256", action="append", default=[], metavar="NAME=HEX",
        help="the sum that a file must have (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per file; the exit code is 0 only if all are there and unchanged."""
    options = _parser().parse_args(arguments)
    which = (options.size,) if options.no_human else (options.size, "human")
    try:
        expected = dict(pair.split("=", 1) for pair in options.sha256 if "=" in pair)
        if len(expected) != len(options.sha256):
            raise DataError("--sha256 is written NAME=HEX, once per file")
        found = download(
            options.folder, which, options.base_url, expected=expected, progress=not options.quiet
        )
        sums = _sums(Path(options.folder))
    except EefError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    for name, path in found.items():
        sys.stdout.write(f"{path}  {sums[name]['bytes']:,} bytes  sha256 {sums[name]['sha256']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
