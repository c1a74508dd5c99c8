"""Official files to catalogue and goals: the same as recorded, and damage is named."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eeflib.envs.webshop import Catalogue, build_goals, task_from_goal
from eeflib.envs.webshop.official import load_official, open_sources
from eeflib.envs.webshop.official_sources import StreamReport, iter_entries, iter_products
from eeflib.errors import DataError, PrerequisiteError

VECTORS = Path(__file__).parents[1] / "data" / "webshop_parity"
PRODUCTS, ATTRIBUTES = "items_shuffle_1000.json", "items_ins_v2_1000.json"
HUMAN = "items_human_ins.json"


def vector(name: str) -> Any:
    return json.loads(gzip.decompress((VECTORS / f"{name}.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return vector("catalogue")


@pytest.fixture(scope="module")
def goals() -> dict[str, Any]:
    return vector("goals")


@pytest.fixture(scope="module")
def seed() -> int:
    return vector("catalogue_loaded")["seed_before_load"]


def write(folder: Path, rows: dict[str, Any], *, full: bool = False, **changes: Any) -> Path:
    """The official files of `rows`, indented as no parser should care about."""
    rows = {**rows, **changes}
    products, attributes = (PRODUCTS, ATTRIBUTES)
    if full:
        products, attributes = "items_shuffle.json", "items_ins_v2.json"
    (folder / products).write_text(json.dumps(rows["products"], indent=1), "utf-8")
    (folder / attributes).write_text(json.dumps(rows["attributes"], ensure_ascii=False), "utf-8")
    (folder / HUMAN).write_text(json.dumps(rows["human_instructions"]), "utf-8")
    return folder


@pytest.mark.parametrize("full", [False, True])
def test_the_goals_are_the_recorded_ones(
    tmp_path: Path, rows: dict[str, Any], goals: dict[str, Any], seed: int, full: bool
) -> None:
    folder = write(tmp_path, rows, full=full)
    size: Any = "full" if full else "small"
    official = load_official(folder, size=size, seed=seed)
    assert list(official.goals) == goals["human"]
    synthetic = load_official(folder, size=size, seed=seed, human=False)
    assert list(synthetic.goals[:400]) == goals["synthetic_first_400"]
    assert len(synthetic.goals) == goals["synthetic_count"]
    assert [(x.file, x.place) for x in official.left_out] == [
        ("items_shuffle.json" if full else PRODUCTS, f"row {n}") for n in (5, 50, 120)
    ]


def test_the_catalogue_is_the_one_of_the_whole_rows(
    tmp_path: Path, rows: dict[str, Any], seed: int
) -> None:
    whole = Catalogue.from_rows(
        rows["products"], rows["attributes"], rows["human_instructions"], seed=seed
    )
    official = load_official(write(tmp_path, rows), seed=seed)
    assert official.catalogue.id == whole.id
    assert official.catalogue.prices == whole.prices
    assert official.catalogue.skipped == whole.skipped


def test_it_plays(tmp_path: Path, rows: dict[str, Any]) -> None:
    official = load_official(write(tmp_path, rows), seed=3)
    env = official.env()
    assert env.strict
    task = task_from_goal(official.goals[0], official.catalogue)
    assert official.goals[0]["instruction_text"].strip() in env.reset(task).text
    assert not env.step(f"search[{official.goals[0]['name']}]").terminated
    relaxed = load_official(tmp_path, seed=3, strict=False)
    assert not relaxed.env().strict
    assert relaxed.env().nouns is relaxed.nouns
    for part in ("small set", "300 products", "seed 3", "title nouns word_nouns"):
        assert part in relaxed.summary()


def test_the_first_rows_only(tmp_path: Path, rows: dict[str, Any]) -> None:
    official = load_official(write(tmp_path, rows), limit=60)
    assert len(official.catalogue) == 58
    assert {g["asin"] for g in official.goals} <= set(official.catalogue.by_asin)
    assert official.limit == 60


def test_a_catalogue_made_elsewhere(tmp_path: Path, rows: dict[str, Any], seed: int) -> None:
    sources = open_sources(write(tmp_path, rows))
    catalogue = Catalogue.from_rows(
        list(sources.rows), sources.attributes, sources.instructions, seed=seed
    )
    official = load_official("nowhere", seed=seed, catalogue=catalogue)
    assert list(official.goals) == build_goals(catalogue)
    with pytest.raises(DataError, match="seed"):
        load_official("nowhere", seed=seed + 1, catalogue=catalogue)


def test_bad_entries_are_left_out_and_listed(tmp_path: Path, rows: dict[str, Any]) -> None:
    products = [dict(row) for row in rows["products"][:20]]
    good = [row["asin"] for row in products]
    products[0]["pricing"] = "N/A"
    products[1] = "not a row"  # type: ignore[call-overload]
    del products[2]["name"]
    products[3]["asin"] = "B" * 11
    attributes = {asin: {"attributes": ["soft"]} for asin in good}
    attributes[good[6]] = 3  # type: ignore[assignment]
    attributes[good[7]] = {"attributes": "soft"}  # type: ignore[dict-item]
    fine = {"instruction": "buy it", "instruction_attributes": ["soft"], "instruction_options": []}
    human = {
        good[8]: [fine, {**fine, "instruction": None}, {**fine, "instruction_attributes": []}],
        good[9]: fine,
        good[10]: [{**fine, "instruction_options": [1]}, "x"],
        "B0NOTHERE0": [fine],
    }
    folder = write(
        tmp_path, rows, products=products, attributes=attributes, human_instructions=human
    )
    official = load_official(folder)
    assert [g["asin"] for g in official.goals] == [good[8]]
    assert official.goals[0]["instruction_text"].startswith("buy it, and price lower")
    found = {(x.file, x.place.split(",")[0]): x.reason for x in official.left_out}
    assert len(official.left_out) == 11  # row 5 has no usable asin from the start
    assert "pricing" in found[PRODUCTS, "row 0"]
    assert "name" in found[PRODUCTS, "row 2"]
    assert "an object is expected" in found[ATTRIBUTES, good[6]]
    assert "field attributes" in found[ATTRIBUTES, good[7]]
    assert "field instruction:" in found[HUMAN, good[8]]
    assert "a list is expected" in found[HUMAN, good[9]]
    assert official.catalogue.by_asin[good[7]].attributes == ("DUMMY_ATTR",)


def test_missing_files_name_the_command(tmp_path: Path, rows: dict[str, Any]) -> None:
    with pytest.raises(PrerequisiteError, match=rf"{PRODUCTS}.*download {tmp_path} --set small"):
        load_official(tmp_path)
    (write(tmp_path, rows) / HUMAN).unlink()
    with pytest.raises(PrerequisiteError, match=HUMAN):
        load_official(tmp_path)
    assert load_official(tmp_path, human=False).kind == "synthetic"
    with pytest.raises(DataError, match="'tiny'"):
        load_official(tmp_path, size="tiny")  # type: ignore[arg-type]
    with pytest.raises(PrerequisiteError, match="download"):
        list(iter_products(tmp_path / "none.json"))


def test_files_that_do_not_belong_together(tmp_path: Path, rows: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no human goals for its 300 products"):
        load_official(write(tmp_path, rows, human_instructions={}))


def test_a_damaged_products_file(tmp_path: Path, rows: dict[str, Any]) -> None:
    path = write(tmp_path, rows) / PRODUCTS
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{PRODUCTS}: byte {len(whole) // 2:,}, entry \d+: .*end"):
        load_official(tmp_path)
    official = load_official(tmp_path, on_error="report")
    assert 100 < len(official.catalogue) < 200
    assert f"from byte {len(whole) // 2:,} on" in str(official.left_out)


# -- the stream ------------------------------------------------------------------------------------


def read(path: Path, content: bytes) -> tuple[list[Any], StreamReport]:
    path.write_bytes(content)
    report = StreamReport()
    found = list(iter_products(path, on_error="report", report=report))
    assert [n for n, _ in found] == list(range(report.entries))
    return [row for _, row in found], report


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1 << 20])
def test_any_json_array_is_read(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eeflib.envs.webshop.official_sources._PIECE", piece)
    value = [
        {"a": "é › 漢字 😀 \u2028", 'q"\\': [1, -2.5e10, True, None, {"": []}]},
        "x" * 50 + '\\"]}',
        12345, -0.5, 1e-9, None, False, [], {}, "",
    ]  # fmt: skip
    for text in (
        json.dumps(value),
        json.dumps(value, ensure_ascii=False),
        json.dumps(value, indent=3) + "\n\n",
        "\ufeff \t\r\n" + json.dumps(value, separators=(",", ":")),
    ):
        found, report = read(tmp_path / "a.json", text.encode())
        assert found == value
        assert report.fault is None
    assert read(tmp_path / "a.json", b" [ ] ")[0] == []


@pytest.mark.parametrize("piece", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    ("content", "entries", "offset", "reason"),
    [
        (b'[{"a": 1}, {"b": 2', 1, 18, "ends in the middle"),
        (b'[{"a": 1}, {"b": "2', 1, 19, "ends in the middle"),
        (b'[{"a": 1}', 1, 9, "ends in the middle"),
        (b'[{"a": 1},', 1, 10, "ends in the middle"),
        ('[{"é": 1}, {"b": nul}, {"c": "' .encode() + b"x" * 60 + b'"}]', 1, 18, "Expecting value"),
        (b'[{"a": 1} {"b": 2}]', 1, 10, "expected ','"),
        (b'[{"a": 1}]]', 1, 10, "after the end"),
        (b'[{"a": 1}, {"b": "\xff\xfe"}]', 1, 18, "not UTF-8"),
        (b'[{"a": "\n"}, 3, "' + b"x" * 60 + b'"]', 0, 8, "control character"),
        (b'{"a": 1}', 0, 0, "expected '['"),
        (b"<html>", 0, 0, "expected '['"),
        (b"", 0, 0, "ends in the middle"),
        (b"[" + b"[" * 200_000, 0, None, ""),
    ],
)  # fmt: skip
def test_damage_is_found_where_it_is(
    tmp_path: Path, content: bytes, entries: int, offset: int | None, reason: str, piece: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if len(content) > 1000 and piece < 100:
        piece = 1000
    monkeypatch.setattr("eeflib.envs.webshop.official_sources._PIECE", piece)
    path = tmp_path / "a.json"
    found, report = read(path, content)
    assert len(found) == entries
    assert report.fault is not None
    assert reason in report.fault.reason
    if offset is not None:
        assert report.fault.offset == offset
    with pytest.raises(DataError, match=r"a\.json: byte [\d,]+, entry \d+: "):
        list(iter_products(path))


def test_a_missing_bracket_does_not_swallow_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eeflib.envs.webshop.official_sources._LARGEST", 1 << 20)
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"a": [1, ' + b'{"b": 22222222222222}, ' * 200_000 + b"3]")
    with pytest.raises(DataError, match="a bracket or quote is missing"):
        list(iter_products(path))


def test_an_object_is_read_pair_by_pair(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"B1": {"attributes": []}, "B2" : 3}')
    assert list(iter_entries(path)) == [("B1", {"attributes": []}), ("B2", 3)]
    for broken in ('{"B1": 1, B2: 2}', '{"B1" 1}', "[1]", '{"B1": }'):
        path.write_text(broken)
        with pytest.raises(DataError, match="byte"):
            list(iter_entries(path))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """100 MB are read in a process that may not take 60 MB more than at its start."""
    path = tmp_path / "big.json"
    row = json.dumps({"asin": "B0", "name": "sofa " * 400, "bullets": ["x" * 500] * 4})
    with open(path, "w", encoding="utf-8") as file:
        file.write("[" + row)
        for _ in range(25_000):
            file.write(",\n" + row)
        file.write("]")
    assert path.stat().st_size > 100_000_000
    program = (
        "import resource, sys\n"
        "from eeflib.envs.webshop.official_sources import iter_products\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = peak()\n"
        "n = sum(1 for _ in iter_products(sys.argv[1]))\n"
        "sys.stdout.write(f'{n} {peak() - before}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    n, grown = done.stdout.split()
    assert int(n) == 25_001
    assert float(grown) < 60
