"""Official files to a catalogue on disk in one call: once, whole, and again when it has to be."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from eeflib.envs.webshop import task_from_goal
from eeflib.envs.webshop.disk import DiskCatalogue, build_catalogue, open_catalogue
from eeflib.envs.webshop.official import Official, load_official, main
from eeflib.errors import DataError, PrerequisiteError

VECTORS = Path(__file__).parents[1] / "data" / "webshop_parity"
PAGE = Path(__file__).parents[2] / "docs" / "webshop_official.md"
PRODUCTS, ATTRIBUTES, HUMAN = "items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"
PLACE = "catalogue-full-human-seed0"


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return json.loads(gzip.decompress((VECTORS / "catalogue.json.gz").read_bytes()))


@pytest.fixture
def folder(tmp_path: Path, rows: dict[str, Any]) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    (path / PRODUCTS).write_text(json.dumps(rows["products"]), "utf-8")
    (path / ATTRIBUTES).write_text(json.dumps(rows["attributes"]), "utf-8")
    (path / HUMAN).write_text(json.dumps(rows["human_instructions"]), "utf-8")
    return path


def full(folder: Path, **options: Any) -> Official:
    return load_official(folder, size="full", progress=False, **options)


def born(folder: Path, place: str = PLACE) -> int:
    """Tells one build from another."""
    return (folder / place / "manifest.json").stat().st_ino


def left(folder: Path) -> list[str]:
    """What lies beside the files."""
    ours = (PRODUCTS, ATTRIBUTES, HUMAN, "checksums.json")
    return sorted(p.name for p in folder.iterdir() if p.name not in ours and p.name[0] != ".")


@pytest.mark.parametrize("human", [True, False])
def test_on_disk_everything_is_as_in_memory(folder: Path, human: bool) -> None:
    memory = full(folder, seed=5, human=human, disk=False)
    assert left(folder) == []
    for disk in (full(folder, seed=5, human=human), full(folder, seed=5, human=human)):
        assert isinstance(disk.catalogue, DiskCatalogue)
        assert disk.catalogue.id == memory.catalogue.id
        assert disk.goals == memory.goals
        assert disk.left_out == memory.left_out
        assert disk.catalogue.prices == memory.catalogue.prices
        assert list(disk.catalogue.products) == list(memory.catalogue.products)
        for goal in memory.goals[:40]:
            query = goal["instruction_text"]
            found = [c.catalogue.index.scored(query) for c in (disk, memory)]
            assert found[0] == found[1]
        assert str(folder / f"catalogue-full-{memory.kind}-seed5") in disk.summary()
    task = task_from_goal(memory.goals[3], memory.catalogue)
    played = []
    for official in (disk, memory):
        env = official.env()
        seen = [env.reset(task).text, env.step(f"search[{task.instruction}]").text]
        seen.append(env.step(f"search[<c> {task.goal['category']}]").text)
        seen.append(env.step(next(a for a in env.valid_actions() if "[b0" in a)).text)
        played.append([*seen, env.step("click[Buy Now]").reward])
    assert played[0] == played[1]


def test_it_is_built_once_and_then_needs_the_files_no_more(folder: Path) -> None:
    first = full(folder)
    made = born(folder)
    assert full(folder).catalogue.id == first.catalogue.id
    shutil.copytree(folder / PLACE, folder / "elsewhere")  # as somebody else's folder
    for name in (PRODUCTS, ATTRIBUTES, HUMAN):
        (folder / name).unlink()
    assert full(folder).goals == full(folder, disk=folder / "elsewhere").goals == first.goals
    assert full(folder).left_out == first.left_out
    assert born(folder) == made
    with pytest.raises(PrerequisiteError, match=r"official .* --set full"):
        full(folder, seed=1)
    assert left(folder) == [PLACE, "elsewhere"]


def test_each_choice_has_a_catalogue_of_its_own(folder: Path) -> None:
    full(folder)
    full(folder, seed=1)
    full(folder, limit=60)
    assert left(folder) == [PLACE, f"{PLACE}-first60", "catalogue-full-human-seed1"]
    assert len(full(folder, limit=60).catalogue) == 58
    assert isinstance(load_official(folder, size="full", disk=False).catalogue.products, tuple)


def test_a_file_that_has_changed_is_built_again(
    folder: Path, rows: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    before, made = full(folder), born(folder)
    for name in (PRODUCTS, ATTRIBUTES, HUMAN):  # copied or touched: the same content
        os.utime(folder / name, (1, 1))
    assert full(folder).catalogue.id == before.catalogue.id
    assert born(folder) == made
    assert not [r for r in caplog.records if "built again" in r.getMessage()]
    note = (folder / PLACE / "made_from.json").stat().st_mtime_ns
    full(folder)  # the new times are remembered: nothing is compared a second time
    assert (folder / PLACE / "made_from.json").stat().st_mtime_ns == note
    whole = (folder / PRODUCTS).read_bytes()
    title = rows["products"][7]["name"].encode()
    (folder / PRODUCTS).write_bytes(whole.replace(title, b"x" * len(title)))  # of the same size
    changed = full(folder)
    assert changed.catalogue.products[6].title == "x" * len(title)
    assert f"{PRODUCTS} has changed" in caplog.text
    people = json.loads((folder / HUMAN).read_text())
    people.popitem()
    (folder / HUMAN).write_text(json.dumps(people))
    assert len(full(folder).goals) < len(before.goals)


def test_a_damaged_catalogue_is_built_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = full(folder)
    for name, damage in (
        ("docs.npy", lambda raw: raw[:-9]),
        ("manifest.json", lambda raw: raw[:50]),
        ("made_from.json", lambda raw: raw[:-3]),
        ("products.db", lambda raw: b""),
    ):
        path = folder / PLACE / name
        path.write_bytes(damage(path.read_bytes()))
        caplog.clear()
        assert full(folder).goals == whole.goals
        assert "built again" in caplog.text
        assert name in caplog.text or name == "made_from.json"
    assert open_catalogue(folder / PLACE, verify=True).id == whole.catalogue.id


def test_another_catalogue_is_left_alone(folder: Path, rows: dict[str, Any]) -> None:
    mine = folder / "mine"
    build_catalogue(rows["products"][:9], mine)
    with pytest.raises(DataError, match="left alone"):
        full(folder, disk=mine)
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match="left alone"):
        full(folder, disk=folder / "thesis")
    assert len(open_catalogue(mine)) == 8  # the sixth row is none
    with pytest.raises(DataError, match="no human goals"):
        load_official(folder, catalogue=open_catalogue(mine))


def test_a_truncated_file_leaves_nothing_unless_told(folder: Path) -> None:
    whole = (folder / PRODUCTS).read_bytes()
    half = len(whole) // 2
    (folder / PRODUCTS).write_bytes(whole[:half])
    with pytest.raises(DataError, match=rf"{PRODUCTS}: entry \d+: the file ends"):
        full(folder)
    assert left(folder) == []
    part = full(folder, on_error="report")
    assert 100 < len(part.catalogue) < 200
    assert part.left_out == full(folder, on_error="report").left_out
    assert any(x.place == f"from entry {len(part.catalogue) + 3} on" for x in part.left_out)
    with pytest.raises(DataError, match=rf"{PRODUCTS}: from entry \d+ on: .*before"):
        full(folder)  # whoever wants all of it is not given a part
    (folder / PRODUCTS).write_bytes(whole)
    assert len(full(folder).catalogue) == 300


def test_odd_entries_are_remembered_as_they_were_found(folder: Path) -> None:
    attributes = json.loads((folder / ATTRIBUTES).read_text())
    attributes["\ud800\n"] = 3
    (folder / ATTRIBUTES).write_text(json.dumps(attributes))
    for _ in range(2):
        (odd,) = (x for x in full(folder).left_out if "an object is expected" in x.reason)
        assert str(odd).isprintable()  # what a log can write, on one line


def test_a_file_that_changes_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eeflib.envs.webshop import official

    def build(*args: Any, **options: Any) -> Any:
        with open(folder / PRODUCTS, "ab") as file:
            file.write(b" ")
        return build_catalogue(*args, **options)

    monkeypatch.setattr(official, "build_catalogue", build)
    with pytest.raises(DataError, match="has changed while it was read"):
        full(folder)
    assert left(folder) == []


def test_a_full_disk_leaves_nothing(folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (100_000, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(DataError, match=r"cannot be written .*Make room"):
                full(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert left(folder) == []
    assert len(full(folder).catalogue) == 300


LOADER = """
import sys, time
from pathlib import Path
from eeflib.envs.webshop import disk, official
stop, flag = sys.argv[2], Path(sys.argv[3])
pack, n = disk._pack, 0
def wait():
    flag.touch()
    time.sleep(60)
def slow_pack(product):
    global n
    n += 1
    if n == 200:
        wait()
    return pack(product)
if stop == "rows":
    disk._pack = slow_pack
else:
    disk._seal = lambda *args: wait()
official.load_official(sys.argv[1], size="full")
"""


@pytest.mark.parametrize("stop", ["rows", "seal"])
def test_a_killed_build_starts_again(folder: Path, tmp_path: Path, stop: str) -> None:
    flag = tmp_path / "flag"
    process = subprocess.Popen([sys.executable, "-c", LOADER, str(folder), stop, str(flag)])
    end = time.monotonic() + 60
    while not flag.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    with pytest.raises(DataError, match="another process is building"):
        full(folder)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / PLACE).exists()
    assert full(folder).goals == full(folder, disk=False).goals
    assert left(folder) == [PLACE]


def test_the_program_of_the_page_runs(folder: Path, tmp_path: Path, rows: dict[str, Any]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    assert '"data/webshop"' in code
    text = "i need low rise jeans that are a 54w by 34l"  # place 442 of the published list
    wish = {"instruction": text, "instruction_attributes": ["soft"], "instruction_options": []}
    (folder / HUMAN).write_text(json.dumps({rows["products"][0]["asin"]: [wish]}))
    (tmp_path / "work" / "data").mkdir(parents=True)
    folder.rename(tmp_path / "work" / "data" / "webshop")
    command = [sys.executable, "-c", f"{code}\nprint(env.text)"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=tmp_path / "work"
    )
    assert "full set): 300 products, 1 human goals" in done.stdout
    assert text in done.stdout


# -- from nothing ----------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def test_one_call_from_nothing(folder: Path, server: str, tmp_path: Path) -> None:
    new = tmp_path / "new"
    found = full(new, fetch=True, base_url=server)
    assert found.goals == full(folder).goals
    nowhere = "http://127.0.0.1:9"  # nobody is asked when all is there
    assert full(new, fetch=True, base_url=nowhere).goals == found.goals
    (new / PRODUCTS).unlink()
    assert full(new, fetch=True, base_url=nowhere).goals == found.goals


def test_the_command_makes_everything_ready(
    folder: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, options = tmp_path / "new", ["--set", "full", "--quiet", "--seed", "3"]
    assert main([str(new), *options, "--no-fetch"]) == 2
    assert f"{PRODUCTS}" in capsys.readouterr().err
    assert main([str(new), *options, "--from", server]) == 0
    printed = capsys.readouterr().out
    assert "full set): 300 products" in printed
    assert str(new / "catalogue-full-human-seed3") in printed
    shutil.rmtree(folder)  # the server has nothing any more
    assert main([str(new), *options]) == 0
    assert capsys.readouterr().out == printed
    assert main([str(new), *options, "--synthetic", "--limit", "60"]) == 0
    assert "first 60 rows): 58 products" in capsys.readouterr().out
