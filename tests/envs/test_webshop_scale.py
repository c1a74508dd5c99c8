"""A catalogue on disk: the same in every number, whole or refused, shared, and small in memory."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eeflib.envs.webshop import Catalogue, WebShopEnv, build_goals, task_from_goal
from eeflib.envs.webshop.bulk import bulk_attributes, bulk_instruction, bulk_rows
from eeflib.envs.webshop.disk_build import build_catalogue
from eeflib.envs.webshop.disk_catalogue import DiskCatalogue, open_catalogue
from eeflib.envs.webshop.generator import generate_store
from eeflib.envs.webshop.parity import check_folder
from eeflib.errors import DataError
from eeflib.records import content_hash

VECTORS = Path(__file__).parents[1] / "data" / "webshop_parity"
ROWS = list(bulk_rows(1_200, seed=3))
ATTRIBUTES = {
    row["asin"]: {
        **bulk_attributes(row["asin"]),
        "instruction": f"find {row['query']}",
        "instruction_attributes": bulk_attributes(row["asin"])["attributes"][:1],
    }
    for row in ROWS[::3]
}
PEOPLE = {row["asin"]: [bulk_instruction(row)] for row in ROWS[::10]}
QUERIES = [PEOPLE[row["asin"]][0]["instruction"] for row in ROWS[::10]] + [
    "size", "the", "", "color black size small", "no such word zzzzqqq", "soft " * 40,
]  # fmt: skip


def in_memory(seed: int = 4) -> Catalogue:
    return Catalogue.from_rows(ROWS, ATTRIBUTES, PEOPLE, seed=seed)


def build(folder: Path, seed: int = 4, **options: Any) -> Any:
    """From an iterator, as nothing else is allowed to be needed."""
    return build_catalogue(
        iter(ROWS), folder, attributes=ATTRIBUTES, human_instructions=PEOPLE, seed=seed, **options
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("scale") / "catalogue"
    build(target)
    return target


def same(disk: Catalogue, memory: Catalogue) -> None:
    """Everything that an environment, a goal or a reward can see."""
    assert disk.id == memory.id
    assert len(disk) == len(memory) == len(disk.products)
    assert list(disk.products) == list(memory.products)
    assert [p.option_images for p in disk.products] == [p.option_images for p in memory.products]
    assert [p.main_image for p in disk.products] == [p.main_image for p in memory.products]
    assert list(disk.by_asin) == list(memory.by_asin)
    assert dict(disk.prices) == dict(memory.prices)
    assert dict(disk.by_lower_asin) == dict(memory.by_lower_asin)
    assert tuple(disk.skipped) == tuple(memory.skipped)
    drawn = [dict(c.draw_prices(random.Random(99))) for c in (disk, memory)]
    assert drawn[0] == drawn[1]
    for kind in ("human", "synthetic"):
        assert build_goals(disk, kind) == build_goals(memory, kind)  # type: ignore[arg-type]
        names = [[p.asin for p in c.instructed(kind)] for c in (disk, memory)]  # type: ignore[arg-type]
        assert names[0] == names[1]
    for product in memory.products[::97]:
        for name in ("category", "query"):
            value = getattr(product, name)
            assert disk.numbers_with(name, value) == memory.numbers_with(name, value)  # type: ignore[arg-type]
    assert disk.numbers_with("category", "nothing") == ()


def test_the_same_as_in_memory(folder: Path) -> None:
    disk, memory = open_catalogue(folder, verify=True), in_memory()
    same(disk, memory)
    for query in QUERIES:
        assert disk.index.scored(query) == memory.index.scored(query), query
        assert disk.index.search(query) == memory.index.search(query)
    assert disk.products[-1] == memory.products[-1]
    assert list(disk.products[5:9]) == list(memory.products[5:9])
    with pytest.raises(IndexError):
        disk.products[len(disk)]
    assert "B" not in disk.by_asin
    assert disk.by_asin.get("B") is None


def test_the_parity_checks_pass_on_disk() -> None:
    files = ("catalogue", "catalogue_loaded", "goals", "rollouts", "searches", "reset_sampling")
    for check in check_folder(VECTORS, files, disk=True):
        assert check.ok, check


def test_the_embedded_store_is_the_same_on_disk(tmp_path: Path) -> None:
    store = generate_store(2, families=4)
    build_catalogue(store.rows, tmp_path / "c", attributes=store.attributes, seed=2)
    same(open_catalogue(tmp_path / "c"), Catalogue.from_rows(store.rows, store.attributes, seed=2))


def odd_rows() -> list[Any]:
    """What real files hold: bad rows, odd letters, ids that differ in case only."""
    good = {**ROWS[0], "customization_options": {"A": [{"value": "x/Y ", "image": {"a": 1.5}}]}}
    return [
        {**good, "asin": "b1"},
        {**good, "asin": "B1", "name": "\ud800 half & <b>bold</b>\x00\x07"},
        {**good, "asin": "B1"},
        {**good, "asin": "é" * 10, "pricing": "N/A"},
        {**good, "asin": "é" * 10, "pricing": "$5 to $7", "name": "日本 ★ naïve"},
        {**good, "asin": "\U0001f600", "small_description": None, "full_description": None},
        {**good, "asin": "nan"},
        {**good, "asin": "x" * 1_000_000},
        {**good, "asin": "B\x00"},
        {**good, "asin": "B2", "pricing": "$" + "9" * 400},
        "not a row",
        None,
        {**good, "asin": "B3", "name": "word " * 40_000, "query": "\ud83d"},
    ]


def test_odd_rows_are_kept_or_reported_alike(tmp_path: Path) -> None:
    people = {"b1": [{"instruction": "a", "instruction_attributes": ["b"], "x": float("inf")}]}
    report = build_catalogue(odd_rows(), tmp_path / "c", human_instructions=people)
    disk, memory = open_catalogue(tmp_path / "c"), Catalogue.from_rows(odd_rows(), None, people)
    same(disk, memory)
    assert (report.products, report.skipped) == (len(memory), len(memory.skipped)) == (6, 7)
    for query in ("\ud800 half", "日本 naïve", "word", "x | y"):
        assert disk.index.scored(query) == memory.index.scored(query)


@pytest.mark.parametrize("rows", [[], [{"asin": "nan"}], [{**ROWS[0], "name": "the"}]])
def test_next_to_nothing(tmp_path: Path, rows: list[Any]) -> None:
    build_catalogue(rows, tmp_path / "c")
    disk = open_catalogue(tmp_path / "c", verify=True)
    same(disk, Catalogue.from_rows(rows))
    assert disk.index.search("the sofa") == ()


def test_goals_and_rewards_on_disk(folder: Path) -> None:
    disk, memory = open_catalogue(folder), in_memory()
    for number, goal in enumerate(build_goals(memory)[:12]):
        task = task_from_goal(goal, disk)
        assert task == task_from_goal(goal, memory)
        played = []
        for catalogue in (disk, memory):
            env, rng = WebShopEnv(catalogue, max_steps=30), random.Random(number)
            seen = [env.reset(task).text, env.step(f"search[{task.instruction}]").text]
            for _ in range(12):
                result = env.step(rng.choice(env.valid_actions() or ["search[size]"]))
                seen += [result.text, result.reward, json.dumps(result.info, sort_keys=True)]
            played.append(seen)
        assert played[0] == played[1]


def test_goals_and_back_doors_read_no_product_in_vain(folder: Path, tmp_path: Path) -> None:
    """Of a million products that would take minutes; here the others cannot be read at all."""
    copy, memory = copied(folder, tmp_path / "copy"), in_memory()
    kept = {p.asin for kind in ("human", "synthetic") for p in memory.instructed(kind)}  # type: ignore[arg-type]
    offsets = np.load(copy / "product_offsets.npy")
    raw = bytearray((copy / "products.bin").read_bytes())
    shown = set(memory.numbers_with("category", memory.products[0].category)[:10])
    spoilt = [i for i, p in enumerate(memory.products) if p.asin not in kept and i not in shown]
    for number in spoilt:
        middle = int(offsets[number] + offsets[number + 1]) // 2
        if 1 << 16 < middle < len(raw) - (1 << 16):  # the ends are compared when it is opened
            raw[middle - 9 : middle + 9] = bytes(18)
    (copy / "products.bin").write_bytes(raw)
    disk = open_catalogue(copy)
    with pytest.raises(DataError, match="is damaged"):
        list(disk.products)
    for kind in ("human", "synthetic"):
        assert build_goals(disk, kind) == build_goals(memory, kind)  # type: ignore[arg-type]
    task, env = task_from_goal(build_goals(disk)[0], disk), WebShopEnv(disk, strict=True)
    env.reset(task)
    found = env.step(f"search[<c> {memory.products[0].category}]")
    assert f"Total results: {len(env.hits())}" in found.text
    assert len(env.hits()) > 50


def test_any_action_is_survived_on_disk(folder: Path) -> None:
    disk = open_catalogue(folder)
    goal = build_goals(disk)[0]
    for strict in (False, True):
        env = WebShopEnv(disk, strict=strict)
        env.reset(task_from_goal(goal, disk))
        for query in ("x" * 10**6, "size " * 10**5, "\x00\x1b[31m\r", "\ud800", "<c> fashion"):
            for action in (f"search[{query}]", "click[next >]", "click[< prev]"):
                assert env.step(action).text


def test_long_queries_are_not_piled_up_in_memory(folder: Path) -> None:
    index = open_catalogue(folder).index
    index.search("size")
    tracemalloc.start()
    try:
        for number in range(20):
            index.search(f"size {'q' * 10**6} {number}")
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


def test_a_thousand_environments_share_one_catalogue(folder: Path) -> None:
    disk = open_catalogue(folder)
    tasks = [task_from_goal(goal, disk) for goal in build_goals(disk)[:20]]

    def play(env: WebShopEnv, number: int) -> WebShopEnv:
        task = tasks[number % len(tasks)]
        env.reset(task)
        env.step(f"search[{task.instruction}]")
        env.step("click[next >]")
        env.step((env.valid_actions() or [""])[-1])
        return env

    kept = [play(WebShopEnv(disk), number) for number in range(20)]  # what all of them share
    tracemalloc.start()
    try:
        kept += [play(WebShopEnv(disk), number) for number in range(1_000)]
        assert tracemalloc.get_traced_memory()[0] < 50_000_000
    finally:
        tracemalloc.stop()
    assert len({env.text for env in kept}) == len(tasks)


# -- whole or refused ------------------------------------------------------------------------------


def copied(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_truncated_damaged_or_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path / "copy")
    for name in names(folder):
        path = copy / name
        whole = path.read_bytes()
        if not whole:
            continue
        flipped = whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:] if len(whole) > 20 else b"?"
        for damaged in (whole[:-1], whole + b"x", flipped, None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            with pytest.raises(DataError, match="build") as caught:
                open_catalogue(copy)
            assert name in str(caught.value)
        path.write_bytes(whole)
    assert open_catalogue(copy).id == open_catalogue(folder).id


def test_damage_in_the_middle_of_a_large_file(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path / "copy")
    path = copy / "products.bin"
    whole = bytearray(path.read_bytes())
    assert len(whole) > 1 << 20
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"products\.bin is damaged"):
        open_catalogue(copy, verify=True)
    disk = open_catalogue(copy)
    with pytest.raises(DataError, match=r"products\.bin: product \d+ is damaged .*replace=True"):
        list(disk.products)


def test_another_version_or_no_catalogue(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no catalogue is here"):
        open_catalogue(tmp_path / "nothing")
    copy = copied(folder, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_bytes())
    for change, message in (({"format": 2}, "format 2"), ({"products": "x"}, "cannot be read")):
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
    assert names(tmp_path) in (["c"], [".c.lock", "c"])
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="left alone"):
        build(foreign, replace=True)
    assert names(foreign) == ["thesis.txt"]


def test_an_error_while_building_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Any]:
        yield from ROWS[:50]
        raise DataError("file x: byte 7: damaged")

    with pytest.raises(DataError, match="byte 7"):
        build_catalogue(broken(), tmp_path / "c")
    assert names(tmp_path) in ([], [".c.lock"])
    with pytest.raises(DataError, match="must map asin"):
        build_catalogue(ROWS, tmp_path / "c", attributes=[1])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="iterator of rows"):
        build_catalogue({"asin": "B1"}, tmp_path / "c")

    def unplugged() -> Iterator[Any]:
        yield ROWS[0]
        raise OSError(5, "Input/output error")

    with pytest.raises(DataError, match="rows cannot be read"):
        build_catalogue(unplugged(), tmp_path / "c")
    assert names(tmp_path) in ([], [".c.lock"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        build_catalogue(ROWS[:3], tmp_path / "file" / "c")


BUILDER = """
import sys, time
from pathlib import Path
from eeflib.envs.webshop import disk_build
from eeflib.envs.webshop.generator import generate_store

folder, stop, flag = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

def wait(*args, **rest):
    flag.touch()
    time.sleep(60)

def rows():
    yield from generate_store(1, families=2).rows
    if stop == "rows":
        wait()

if stop == "seal":
    disk_build.seal = wait
disk_build.build_catalogue(rows(), folder, seed=9, replace=True)
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


def test_a_kill_between_the_two_renames_is_undone(tmp_path: Path) -> None:
    target = tmp_path / "c"
    build(target)
    target.rename(tmp_path / "c.old")
    with pytest.raises(DataError, match="exists already"):
        build(target)
    assert open_catalogue(target).seed == 4


OPENER = """
import sys
from eeflib.envs.webshop.disk_catalogue import open_catalogue
c = open_catalogue(sys.argv[1])
print(c.id, len(c), *c.index.search(sys.argv[2]))
input()
"""


def test_processes_share_a_folder(folder: Path) -> None:
    command = [sys.executable, "-c", OPENER, str(folder), QUERIES[0]]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    memory = in_memory()
    expected = [memory.id, str(len(memory)), *map(str, memory.index.search(QUERIES[0]))]
    lines = [process.stdout.readline().split() for process in both]  # type: ignore[union-attr]
    for process in both:  # both have it open now
        process.communicate("\n")
    assert lines == [expected, expected]
    copy = pickle.loads(pickle.dumps(open_catalogue(folder)))
    assert isinstance(copy, DiskCatalogue)
    assert copy.id == memory.id


def test_bulk_rows_are_a_function_of_seed_and_number() -> None:
    assert list(bulk_rows(700, seed=3)) == ROWS[:700]
    assert content_hash(list(bulk_rows(20, seed=4))) != content_hash(ROWS[:20])
    assert len({row["asin"] for row in ROWS}) == len(ROWS)
    assert not in_memory().skipped
    words = [
        len(" ".join([r["name"], r["full_description"], *r["small_description"]]).split())
        for r in ROWS
    ]
    assert 240 < sum(words) / len(words) < 290  # officially 262.9
    with pytest.raises(DataError, match="-1"):
        next(bulk_rows(-1))
