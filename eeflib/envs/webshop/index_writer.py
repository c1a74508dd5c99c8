"""The search index of a catalogue on disk, written in a process of its own where that pays.

`disk_build` imports `IndexWriter` from here. The index is the same file for file, whether the
process writes it or the caller: the process gets the texts in the order of the products and works
alone.

Writing the index costs about twice as much as everything else about a product, so the two overlap.
The process ends with its parent: it reads the pipe to the end, and a pipe that ends without the
closing mark means that the parent is gone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

import msgspec
import numpy as np

from eeflib.envs.webshop.disk_catalogue import load_array, new_array, text_key, write_texts
from eeflib.envs.webshop.postings import PostingsBuilder
from eeflib.errors import DataError

__all__ = ["IndexFacts", "IndexWriter"]

_WORTH = 20_000_000
"""Characters; below, starting a process (about a second) is not worth it."""
_FRAME = 1 << 18
"""Characters that are sent at a time."""
_FRAMES = 64
"""Frames that wait in the process, so that the parent goes on while terms are sorted."""
_LENGTH = struct.Struct("<I")


class IndexFacts(NamedTuple):
    terms: int
    postings: int
    filled: int
    """Documents that hold any term."""


def write_index(builder: PostingsBuilder, folder: Path) -> IndexFacts:
    """Write what `builder` has taken to `folder`, where `by_rank.npy` is already.

    Args:
        folder: `by_rank.npy` there lists document numbers in the order of their ids.
    """
    order = load_array(folder, "by_rank")
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)

    def keep(terms: list[str]) -> Callable[[str], None]:
        write_texts(folder, "terms", terms)
        return lambda term: None

    built = builder.finish(ranks, partial(new_array, folder), keep)
    return IndexFacts(len(built.peaks), len(built.docs), built.filled)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class IndexWriter:
    """Takes the texts of documents one by one and leaves an index in `folder`.

    As a context manager it ends its process, if there is one, at the end of the block.

    Args:
        folder: for the index; until that is written, a folder in it holds what does not fit into
            memory.
        process: whether to use a process of its own; None: for many texts, on two cores or more.
    """

    def __init__(self, folder: Path, *, process: bool | None = None) -> None:
        self._folder = folder
        if process is None and (_cores() < 2 or not sys.executable):
            process = False
        self._wanted = process
        self._texts: list[bytes] = []
        self._size = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._builder = _Local(folder) if process is False else None

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._child is not None:
            self._child.kill()  # without effect on one that has ended
            self._child.communicate()

    def add(self, text: str) -> None:
        """Take the next document.

        Raises:
            OSError: the process could not write.
            DataError: the process ended.
        """
        if self._builder is not None:
            self._builder.add(text)
            return
        self._texts.append(text_key(text))
        self._size += len(text)
        if self._size >= (_FRAME if self._child or self._wanted else _WORTH):
            self._send()

    def finish(self) -> IndexFacts:
        """Write the index; `by_rank.npy` must be in the folder. Raises as `add` does."""
        if self._child is None and not self._wanted:
            builder = self._builder or _Local(self._folder)
            for text in self._texts:
                builder.add(text.decode("utf-8", "surrogatepass"))
            return builder.finish()
        if self._texts:
            self._send()
        self._write(_LENGTH.pack(0))
        return self._answer()

    def _send(self) -> None:
        """Everything that waits, in frames."""
        while self._texts:
            size = n = 0
            while n < len(self._texts) and size < _FRAME:
                size += len(self._texts[n])
                n += 1
            frame = msgspec.msgpack.encode(self._texts[:n])
            self._write(_LENGTH.pack(len(frame)) + frame)
            del self._texts[:n]
        self._size = 0

    def _write(self, data: bytes) -> None:
        if self._child is None:
            self._child = _start(self._folder)
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(data)
            self._child.stdin.flush()
        except BrokenPipeError:
            self._answer()
            raise

    def _answer(self) -> IndexFacts:
        """What the process says at its end; the pipe to it stays open until then."""
        assert self._child is not None
        assert self._child.stdout is not None
        reply = self._child.stdout.read()
        code = self._child.wait()
        try:
            answer = json.loads(reply)
        except ValueError:
            raise DataError(
                f"{self._folder}: the process that writes the search index ended with code {code}, "
                "perhaps for want of memory; build again, or with process=False"
            ) from None
        if "errno" in answer:
            raise OSError(answer["errno"], answer["strerror"])
        return IndexFacts(**answer)


class _Local:
    """Makes the index in this process."""

    def __init__(self, folder: Path) -> None:
        # a name of its own: a build that was killed may still have a process that writes
        self._folder, self._runs = folder, TemporaryDirectory(prefix="runs-", dir=folder)
        self._builder = PostingsBuilder(Path(self._runs.name))
        self.add = self._builder.add

    def finish(self) -> IndexFacts:
        facts = write_index(self._builder, self._folder)
        self._runs.cleanup()
        return facts


def _start(folder: Path) -> subprocess.Popen[bytes]:
    # not multiprocessing: that would run the script of the user a second time
    command = [sys.executable, "-m", "eeflib.envs.webshop.index_writer", str(folder)]
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )


# -- in the process --------------------------------------------------------------------------------


def _receive(pipe: IO[bytes], texts: queue.Queue[list[bytes] | None]) -> None:
    """Pass frames on; at an end that was not announced, or after it, the parent is gone."""
    decode = msgspec.msgpack.Decoder(list[bytes]).decode
    while len(head := pipe.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(head)
        frame = pipe.read(length)
        if len(frame) < length:
            break
        texts.put(decode(frame) if length else None)
    os._exit(1)


def main() -> None:
    """Read texts from standard input, write the index, describe it on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this one
    folder, texts = Path(sys.argv[1]), queue.Queue[list[bytes] | None](_FRAMES)
    pipe = open(0, "rb", closefd=False)  # noqa: SIM115
    threading.Thread(target=_receive, args=(pipe, texts), daemon=True).start()
    try:
        builder = _Local(folder)
        while (some := texts.get()) is not None:
            for text in some:
                builder.add(text.decode("utf-8", "surrogatepass"))
        answer = builder.finish()._asdict()
    except OSError as exc:
        answer = {"errno": exc.errno, "strerror": exc.strerror or str(exc)}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # the thread still reads; the interpreter's own end would trip over it


if __name__ == "__main__":
    main()
