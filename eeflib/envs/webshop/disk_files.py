"""The folder of a catalogue on disk: which files, how they are written, whether they are whole.

Owns arrays, sorted texts and the manifest, which is written last: a folder without one is none.
Knows nothing about products or ranking. Arrays are `.npy` files, opened memory-mapped and
read-only, so that all processes of a machine share one copy of them in the page cache.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from eeflib.errors import DataError
from eeflib.files import write_atomic

__all__ = ["FORMAT", "MANIFEST", "Manifest", "SortedTexts", "fault", "load_array", "new_array",
           "read_manifest", "seal", "sync", "text_key", "write_texts"]  # fmt: skip

FORMAT = 1
"""Version of the layout; another one cannot be opened."""
MANIFEST = "manifest.json"

_SMALL = 1 << 20
"""Bytes; of larger files, only the two ends are compared when a folder is opened."""
_END = 1 << 16


class FileMark(msgspec.Struct, frozen=True):
    """What tells whether a file is whole."""

    bytes: int
    quick: str
    """SHA-256 of a small file, or of both ends of a large one."""
    sha256: str
    """Of all of it; compared on demand."""


class Manifest(msgspec.Struct, frozen=True):
    """What a folder holds; `manifest.json`."""

    format: int
    id: str
    """`Catalogue.id`."""
    seed: int
    products: int
    skipped: int
    terms: int
    postings: int
    filled: int
    """Products with any searchable term."""
    files: dict[str, FileMark]
    check: str = ""
    """SHA-256 of the manifest without this field."""


def fault(folder: Path, reason: str) -> DataError:
    """The error for a folder that cannot be used."""
    return DataError(
        f"{folder}: {reason}; build the catalogue anew (build_catalogue(rows, folder, "
        "replace=True))"
    )


def new_array(
    folder: Path, name: str, shape: tuple[int, ...], dtype: type[np.generic]
) -> np.ndarray:
    """An array to fill that is the file `NAME.npy`."""
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)


def load_array(folder: Path, name: str) -> np.ndarray:
    """The array `NAME.npy`, mapped, read-only."""
    try:
        # without the class memmap every slice costs three times as much
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (OSError, ValueError, EOFError) as exc:
        raise fault(folder, f"{name}.npy cannot be read ({exc})") from exc


def text_key(text: str) -> bytes:
    """What texts are ordered by; the order of the texts themselves, code point by code point."""
    return text.encode("utf-8", "surrogatepass")


def _head(key: bytes) -> int:
    """The first eight bytes as a number of the same order."""
    return int.from_bytes(key[:8].ljust(8, b"\0"), "big")


def write_texts(folder: Path, name: str, texts: Iterable[str]) -> None:
    """Write `texts`, ascending by `text_key`, for `SortedTexts`."""
    keys = [text_key(text) for text in texts]
    offsets = new_array(folder, f"{name}_offsets", (len(keys) + 1,), np.int64)
    offsets[0] = 0
    np.cumsum([len(key) for key in keys], out=offsets[1:])
    heads = new_array(folder, f"{name}_heads", (len(keys),), np.uint64)
    heads[:] = np.fromiter(map(_head, keys), np.uint64, len(keys))
    (folder / f"{name}.bin").write_bytes(b"".join(keys))


class SortedTexts:
    """Texts on disk, found by bisection: eight bytes of each in an array, then the rest."""

    def __init__(self, folder: Path, name: str) -> None:
        self._offsets = load_array(folder, f"{name}_offsets")
        self._heads = load_array(folder, f"{name}_heads")
        with open(folder / f"{name}.bin", "rb") as file:
            empty = not os.fstat(file.fileno()).st_size  # which cannot be mapped
            self._blob = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._heads)

    def __getitem__(self, number: int) -> str:
        return self._key(number).decode("utf-8", "surrogatepass")

    def _key(self, number: int) -> bytes:
        return self._blob[int(self._offsets[number]) : int(self._offsets[number + 1])]

    def find(self, text: str) -> int | None:
        """The number of `text`, or None."""
        key = text_key(text)
        head = np.uint64(_head(key))
        low = int(np.searchsorted(self._heads, head, "left"))
        high = int(np.searchsorted(self._heads, head, "right"))
        at = bisect_left(range(high), key, low, high, key=self._key)
        return at if at < high and self._key(at) == key else None


def seal(folder: Path, **facts: int | str) -> Manifest:
    """Write the manifest of a folder whose other files are complete, and all of it to the disk."""
    files = {}
    for path in sorted(folder.iterdir()):
        sync(path)
        files[path.name] = _mark(path)
    manifest = msgspec.convert({**facts, "format": FORMAT, "files": files}, Manifest)
    manifest = msgspec.structs.replace(manifest, check=_check(manifest))
    write_atomic(folder / MANIFEST, msgspec.json.encode(manifest).decode())
    return manifest


def _check(manifest: Manifest) -> str:
    return hashlib.sha256(
        msgspec.json.encode(msgspec.structs.replace(manifest, check=""))
    ).hexdigest()


def read_manifest(folder: Path, *, whole: bool = False) -> Manifest:
    """The manifest, after the files were compared with it.

    Args:
        whole: compare every byte (seconds for a large catalogue), not only sizes and ends.

    Raises:
        DataError: the folder is missing, half-built, damaged or of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no catalogue is here ({MANIFEST} is missing): build_catalogue(rows, "
            "folder) makes one"
        ) from None
    except (OSError, msgspec.DecodeError) as exc:
        raise fault(folder, f"{MANIFEST} cannot be read ({exc})") from exc
    if manifest.format != FORMAT:
        raise fault(folder, f"it has format {manifest.format}, this version reads {FORMAT}")
    if manifest.check != _check(manifest):
        raise fault(folder, f"{MANIFEST} is damaged: its content has changed")
    for name, mark in manifest.files.items():
        _compare(folder / name, mark, whole)
    return manifest


def _compare(path: Path, mark: FileMark, whole: bool) -> None:
    try:
        size = path.stat().st_size
        if size != mark.bytes:
            raise fault(path.parent, f"{path.name} has {size:,} bytes instead of {mark.bytes:,}")
        good = _quick(path) == mark.quick and (not whole or _sha256(path) == mark.sha256)
    except OSError as exc:
        raise fault(path.parent, f"{path.name} cannot be read ({exc.strerror or exc})") from exc
    if not good:
        raise fault(path.parent, f"{path.name} is damaged: its content has changed")


def _mark(path: Path) -> FileMark:
    return FileMark(path.stat().st_size, _quick(path), _sha256(path))


def _quick(path: Path) -> str:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= _SMALL:
            return hashlib.sha256(file.read()).hexdigest()
        ends = hashlib.sha256(file.read(_END))
        file.seek(-_END, os.SEEK_END)
        ends.update(file.read())
        return ends.hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until the file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
