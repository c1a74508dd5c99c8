"""A catalogue on disk: the same in every number, shared, and small in memory."""

from __future__ import annotations

import sqlite3
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from disk_shop import QUERIES, ROWS, build, copied, in_memory, same

from eeflib.envs.webshop import Catalogue, WebShopEnv, build_goals, task_from_goal
from eeflib.envs.webshop.disk import build_catalogue, open_catalogue
from eeflib.errors import DataError
from tests.parity import check_folder

VECTORS = Path(__file__).parents[1] / "data" / "webshop_parity"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("scale") / "catalogue"
    build(target)
    return target


def test_the_same_as_in_memory(folder: Path) -> None:
    disk, memory = open_catalogue(folder, verify=True), in_memory()
    same(disk, memory)
    for query in QUERIES:
        assert disk.index.scored(query) == memory.index.scored(query), query
        assert disk.index.search(query) == memory.index.search(query)
    assert disk[-1] == memory[-1]
    with pytest.raises(IndexError):
        disk[len(disk)]
    assert disk.find("B") is None


def test_the_parity_checks_pass_on_disk() -> None:
    files = ("catalogue", "catalogue_loaded", "goals", "rollouts", "searches", "reset_sampling")
    for check in check_folder(VECTORS, files, disk=True):
        assert check.ok, check


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
    disk = build_catalogue(odd_rows(), tmp_path / "c", human_instructions=people)
    memory = Catalogue.from_rows(odd_rows(), None, people)
    same(disk, memory)
    assert (len(memory), len(memory.skipped)) == (6, 7)
    for query in ("\ud800 half", "日本 naïve", "word", "x | y"):
        assert disk.index.scored(query) == memory.index.scored(query)


@pytest.mark.parametrize("rows", [[], [{"asin": "nan"}], [{**ROWS[0], "name": "the"}]])
def test_next_to_nothing(tmp_path: Path, rows: list[Any]) -> None:
    build_catalogue(rows, tmp_path / "c")
    disk = open_catalogue(tmp_path / "c", verify=True)
    same(disk, Catalogue.from_rows(rows))
    assert disk.index.search("the sofa") == ()


def test_goals_and_back_doors_read_no_product_in_vain(folder: Path, tmp_path: Path) -> None:
    """Of a million products that would take minutes; here the others cannot be read at all."""
    copy, memory = copied(folder, tmp_path / "copy"), in_memory()
    kept = {p.asin for kind in ("human", "synthetic") for p in memory.instructed(kind)}  # type: ignore[arg-type]
    shown = set(memory.numbers_with("category", memory[0].category)[:10])
    spoilt = [i for i, p in enumerate(memory) if p.asin not in kept and i not in shown]
    with closing(sqlite3.connect(copy / "products.db")) as db, db:
        spoil = "UPDATE records SET record = zeroblob(length(record)) WHERE number = ?"
        db.executemany(spoil, [(number,) for number in spoilt])
    disk = open_catalogue(copy)
    with pytest.raises(DataError, match="is damaged"):
        list(disk)
    for kind in ("human", "synthetic"):
        assert build_goals(disk, kind) == build_goals(memory, kind)  # type: ignore[arg-type]
    task, env = task_from_goal(build_goals(disk)[0], disk), WebShopEnv(disk, strict=True)
    env.reset(task)
    found = env.step(f"search[<c> {memory[0].category}]")
    assert f"Total results: {len(env.ranking(env.state))}" in found.text
    assert len(env.ranking(env.state)) > 50


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


def test_threads_and_forks_have_connections_of_their_own(folder: Path) -> None:
    disk, memory = open_catalogue(folder), in_memory()

    def look(number: int) -> list[Any]:
        found = disk.index.scored(QUERIES[number % len(QUERIES)])
        return [found, disk[number].title, disk[number].price]

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(look, range(400)))
    assert [x[1] for x in seen] == [p.title for p in list(memory)[:400]]
    assert seen[0][0] == memory.index.scored(QUERIES[0])
    with get_context("fork").Pool(2) as processes:  # to which it is sent as its folder
        assert processes.map(partial(_title, disk), range(20)) == [x[1] for x in seen[:20]]


def _title(disk: Catalogue, number: int) -> str:
    return disk[number].title
