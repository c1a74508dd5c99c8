"""A catalogue on disk that is damaged, half built, killed, in the way: whole or refused."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from disk_shop import QUERIES, ROWS, build, copied, in_memory, same

from eeflib.envs.webshop.disk import build_catalogue, open_catalogue
from eeflib.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("scale") / "catalogue"
    build(target)
    return target


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_truncated_damaged_or_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path / "copy")
    for name in names(folder):
        path = copy / name
        whole = path.read_bytes()
        flipped = whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]
        for damaged in (whole[:-1], whole + b"x", flipped, None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            if name != "manifest.json" or damaged in (whole[:-1], whole + b"x", None):
                with pytest.raises(DataError, match="build") as caught:
                    open_catalogue(copy, verify=damaged is flipped)
                assert name in str(caught.value)
        path.write_bytes(whole)
    assert open_catalogue(copy).id == open_catalogue(folder).id


def test_damage_that_the_sizes_do_not_show(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path / "copy")
    path = copy / "products.db"
    whole = bytearray(path.read_bytes())
    for at in range(len(whole) // 3, len(whole) * 2 // 3, 500):
        whole[at] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"products\.db is damaged"):
        open_catalogue(copy, verify=True)
    disk = open_catalogue(copy)
    with pytest.raises(DataError, match=r"products\.db.* is damaged .*replace=True"):
        list(disk)
    path.write_bytes(b"?" * len(whole))
    with pytest.raises(DataError, match=r"products\.db is damaged .*not a database"):
        open_catalogue(copy)


def test_another_version_or_no_catalogue(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no catalogue is here"):
        open_catalogue(tmp_path / "nothing")
    copy = copied(folder, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_bytes())
    for change, message in (({"format": 1}, "format 1"), ({"products": "x"}, "cannot be read")):
        (copy / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(DataError, match=message):
            open_catalogue(copy)


def test_what_is_there_is_left_alone_unless_told(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "c"
    build(target)
    with pytest.raises(DataError, match="exists already"):
        build(target)
    opened = open_catalogue(target)
    build(target, seed=5, replace=True)
    assert open_catalogue(target).seed == 5
    same(opened, in_memory())  # whoever has it open keeps it
    assert opened.index.scored(QUERIES[0]) == in_memory().index.scored(QUERIES[0])
    with (  # but a thread that did not have it open is not given another one
        ThreadPoolExecutor(1) as other,
        pytest.raises(DataError, match="another catalogue is here by now"),
    ):
        other.submit(opened.find, "B").result()
    assert names(tmp_path) in (["c"], [".c.lock", "c"])
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="left alone"):
        build(foreign, replace=True)
    assert names(foreign) == ["thesis.txt"]


def test_an_error_or_ctrl_c_while_building_leaves_nothing(tmp_path: Path) -> None:
    def broken(error: BaseException) -> Iterator[Any]:
        yield from ROWS[:50]
        raise error

    for error in (DataError("file x: byte 7: damaged"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            build_catalogue(broken(error), tmp_path / "c")
        assert names(tmp_path) in ([], [".c.lock"])
    with pytest.raises(DataError, match="must map asin"):
        build_catalogue(ROWS, tmp_path / "c", attributes=[1])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="list of rows"):
        build_catalogue({"asin": "B1"}, tmp_path / "c")
    assert names(tmp_path) in ([], [".c.lock"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        build_catalogue(ROWS[:3], tmp_path / "file" / "c")


BUILDER = """
import sys, time
from pathlib import Path
from eeflib.envs.webshop import disk
from eeflib.envs.webshop.shop import generate_store

folder, stop, flag = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

def wait(*args, **rest):
    flag.touch()
    time.sleep(60)

def rows():
    yield from generate_store(1, families=2).rows
    if stop == "rows":
        wait()

if stop == "seal":
    disk._sealed = wait
disk.build_catalogue(rows(), folder, seed=9, replace=True)
"""


def start_builder(folder: Path, stop: str, flag: Path) -> subprocess.Popen[bytes]:
    """A real process that stands still in the middle of a build."""
    process = subprocess.Popen([sys.executable, "-c", BUILDER, str(folder), stop, str(flag)])
    end = time.monotonic() + 60
    while not flag.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("stop", "present"), [("rows", False), ("seal", True)])
def test_a_killed_build_leaves_what_was_there(tmp_path: Path, stop: str, present: bool) -> None:
    target = tmp_path / "c"
    if present:
        build(target)
    process = start_builder(target, stop, tmp_path / "flag")
    try:
        with pytest.raises(DataError, match="another process is building"):
            build(target, replace=True)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    if present:
        assert open_catalogue(target, verify=True).seed == 4
    else:
        assert not target.exists()
        with pytest.raises(DataError, match="no catalogue is here"):
            open_catalogue(target)
        with pytest.raises(DataError, match="no catalogue is here"):
            open_catalogue(tmp_path / "c.building")
    build(target, replace=True)
    same(open_catalogue(target, verify=True), in_memory())
    assert names(tmp_path) in (["c", "flag"], [".c.lock", "c", "flag"])


@pytest.mark.parametrize("size", [100_000, 2_300_000])
def test_a_full_disk_is_told_whoever_meets_it(folder: Path, tmp_path: Path, size: int) -> None:
    """The database meets the first limit; it stays below the second, as the index does not."""
    words = " ".join(map(str, range(300)))
    rows = [{"asin": f"B{n}", "name": f"{words} {n}"} for n in range(2_000)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be written \(.*Make room"):
            build_catalogue(rows, tmp_path / "c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) in ([], [".c.lock"])
    build_catalogue(rows, tmp_path / "c")
    assert 100_000 < (tmp_path / "c" / "products.db").stat().st_size < 2_300_000
    assert (tmp_path / "c" / "docs.npy").stat().st_size > 2_300_000
