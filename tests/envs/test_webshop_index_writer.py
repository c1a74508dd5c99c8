"""A search index made in a process of its own: the same bytes, and no process outlives its use."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eeflib.envs.webshop import Catalogue
from eeflib.envs.webshop.disk_build import build_catalogue
from eeflib.envs.webshop.disk_catalogue import open_catalogue
from eeflib.errors import DataError

WORDS = [
    a + b + c for a in ("so", "ta", "lu", "wi") for b in "aeiou" for c in ("ft", "n", "ble", "")
]


def row(number: int) -> dict[str, Any]:
    """A product with 500 words, enough for a process to be sent some after 600 of them."""
    words = random.Random(number).choices(WORDS, k=500)
    return {
        "asin": f"A{number}",
        "name": f"{number} {words[0]}",
        "full_description": " ".join(words),
    }


ROWS = [
    *map(row, range(900)),
    {**row(0), "asin": "B1", "name": "\ud800 half of 日本 ★ naïve"},
    {**row(0), "asin": "B2", "name": "word " * 100_000},
]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def children() -> list[int]:
    """Processes of this one."""
    threads = Path("/proc/self/task").iterdir()
    return [int(pid) for t in threads for pid in (t / "children").read_text().split()]


def gone(pid: int) -> bool:
    """Whether the process is no more, or only waits for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def soon(what: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


def test_the_same_files_byte_for_byte(tmp_path: Path) -> None:
    before = children()
    for name, process in (("one", False), ("two", True), ("few", None)):
        build_catalogue(ROWS, tmp_path / name, seed=2, process=process)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "few")
    disk, memory = open_catalogue(tmp_path / "two", verify=True), Catalogue.from_rows(ROWS, seed=2)
    assert disk.id == memory.id
    for query in ("soaft tableft", "日本 ★", "word", "\ud800 half"):
        assert disk.index.scored(query) == memory.index.scored(query)
    assert children() == before


def test_next_to_nothing(tmp_path: Path) -> None:
    for rows in ([], [{"asin": "nan"}], [{**ROWS[0], "name": "the"}]):
        build_catalogue(rows, tmp_path / "c", replace=True, process=True)
        assert open_catalogue(tmp_path / "c", verify=True).id == Catalogue.from_rows(rows).id


def rows_that(act: Callable[[], Any]) -> Iterator[Any]:
    """Rows enough for the process to have started; in their middle, `act`."""
    yield from ROWS[:600]
    act()
    yield from ROWS[600:]


def test_a_process_that_is_killed_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    before = children()

    def kill() -> None:
        (child,) = set(children()) - set(before)
        os.kill(child, signal.SIGKILL)
        assert soon(lambda: gone(child))

    with pytest.raises(DataError, match=r"search index ended with code -9.*build again"):
        build_catalogue(rows_that(kill), tmp_path / "c", process=True)
    assert not (tmp_path / "c").exists()
    assert not (tmp_path / "c.building").exists()
    assert children() == before


def test_an_error_or_ctrl_c_ends_the_process(tmp_path: Path) -> None:
    before = children()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_catalogue(rows_that(interrupt), tmp_path / "c", process=True)
    assert children() == before
    assert not (tmp_path / "c.building").exists()


@pytest.mark.parametrize("size", [50_000, 900_000])
def test_a_full_disk_is_told_whoever_meets_it(tmp_path: Path, size: int) -> None:
    """The second limit holds for the products, 0.4 MB, but not for the index, 1.4 MB."""
    words = " ".join(map(str, range(300)))
    rows = [{**ROWS[0], "asin": f"B{n}", "name": f"{words} {n}"} for n in range(600)]
    for one in rows:
        one["full_description"] = ""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be written \(File too large\)"):
            build_catalogue(rows, tmp_path / "c", process=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "c.building").exists()
    build_catalogue(rows, tmp_path / "c", process=True)
    assert (tmp_path / "c" / "products.bin").stat().st_size < 900_000


BUILDER = """
import sys, time
from pathlib import Path
from eeflib.envs.webshop.disk_build import build_catalogue
def rows():
    for n in range(600):
        yield {"asin": f"B{n}", "name": "soft tea " * 200}
    Path(sys.argv[2]).touch()
    time.sleep(60)
build_catalogue(rows(), sys.argv[1], process=True)
"""


def test_a_killed_parent_takes_its_process_along(tmp_path: Path) -> None:
    target, flag = tmp_path / "c", tmp_path / "flag"
    builder = subprocess.Popen([sys.executable, "-c", BUILDER, str(target), str(flag)])
    try:
        assert soon(flag.exists)
        found = Path(f"/proc/{builder.pid}/task/{builder.pid}/children").read_text()
        (child,) = map(int, found.split())
    finally:
        builder.kill()
        builder.wait()
    assert soon(lambda: gone(child))
    assert not target.exists()
    build_catalogue(ROWS, target, process=True)
    assert open_catalogue(target, verify=True).id == Catalogue.from_rows(ROWS).id


SCRIPT = """
from pathlib import Path
import sys
from eeflib.envs.webshop.disk_build import build_catalogue
print("top of the script")
rows = [{"asin": f"B{n}", "name": "soft tea"} for n in range(600)]
print(build_catalogue(rows, sys.argv[1], process=True).products)
"""


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("top of the script\n600\n", "")
