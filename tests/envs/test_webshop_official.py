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
from eeflib.envs.webshop.official import load_official
from eeflib.envs.webshop.sources import LeftOut, _entries, open_sources
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
    with pytest.raises(PrerequisiteError, match=rf"{PRODUCTS}.*official {tmp_path} --set small"):
        load_official(tmp_path)
    (write(tmp_path, rows) / HUMAN).unlink()
    with pytest.raises(PrerequisiteError, match=HUMAN):
        load_official(tmp_path)
    assert load_official(tmp_path, human=False).kind == "synthetic"
    with pytest.raises(DataError, match="'tiny'"):
        load_official(tmp_path, size="tiny")  # type: ignore[arg-type]


def test_files_that_do_not_belong_together(tmp_path: Path, rows: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no human goals for its 300 products"):
        load_official(write(tmp_path, rows, human_instructions={}))


def test_a_damaged_products_file(tmp_path: Path, rows: dict[str, Any]) -> None:
    path = write(tmp_path, rows) / PRODUCTS
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{PRODUCTS}: entry \d+: the file ends in the middle"):
        load_official(tmp_path)
    official = load_official(tmp_path, on_error="report")
    assert 100 < len(official.catalogue) < 200
    left = next(x for x in official.left_out if x.place.startswith("from"))
    assert left.place == f"from entry {len(official.catalogue) + 3} on"  # three rows are none


# -- the stream ------------------------------------------------------------------------------------


def read(path: Path, content: bytes, opening: bytes = b"[") -> tuple[list[Any], list[LeftOut]]:
    path.write_bytes(content)
    left_out: list[LeftOut] = []
    return list(_entries(path, opening, left_out, "report", False)), left_out


def test_any_json_array_is_read(tmp_path: Path) -> None:
    value = [
        {"a": "é › 漢字 😀 \u2028", 'q"\\': [1, -2.5e10, True, None, {"": []}]},
        "x" * 50 + '\\"]}',
        12345, -0.5, 1e-9, None, False, [], {}, "", "x" * 300_000, {"item": ["item"]},
    ]  # fmt: skip
    for text in (
        json.dumps(value),
        json.dumps(value, ensure_ascii=False),
        json.dumps(value, indent=3) + "\n\n",
        "\ufeff \t\r\n" + json.dumps(value, separators=(",", ":")),
    ):
        assert read(tmp_path / "a.json", text.encode()) == (value, [])
    assert read(tmp_path / "a.json", b" [ ] ") == ([], [])


@pytest.mark.parametrize(
    ("content", "entries", "reason"),
    [
        (b'[{"a": 1}, {"b": 2', 1, "ends in the middle"),
        (b'[{"a": 1}, {"b": "2', 1, "ends in the middle"),
        (b'[{"a": 1}', 1, "ends in the middle"),
        (b'[{"a": 1},', 1, "ends in the middle"),
        ('[{"é": 1}, {"b": nul}, {"c": "' .encode() + b"x" * 60 + b'"}]', 1, "invalid string"),
        (b'[{"a": 1} {"b": 2}]', 1, "after array element"),
        (b'[{"a": 1}]]', 1, "trailing garbage"),
        (b'[{"a": 1}, {"b": "\xff\xfe"}]', 1, "invalid bytes in UTF8"),
        (b'[{"a": "\n"}, 3, "' + b"x" * 60 + b'"]', 0, "invalid character inside string"),
        (b'{"a": 1}', 0, "expected b'['"),
        (b"<html>", 0, "expected b'['"),
        (b"", 0, "empty"),
        (gzip.compress(b'[{"a": 1}]', mtime=0), 0, "compressed with gzip"),
        (b"[" + b"[" * 200_000, 0, "nested too deeply"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, content: bytes, entries: int, reason: str) -> None:
    found, (left,) = read(tmp_path / "a.json", content)
    assert len(found) == entries
    assert reason in left.reason
    assert left.place == f"from entry {entries} on"
    with pytest.raises(DataError, match=rf"a\.json: entry {entries}: "):
        list(_entries(tmp_path / "a.json", b"[", [], "raise", False))


def test_a_missing_bracket_does_not_swallow_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eeflib.envs.webshop.sources._LARGEST", 1 << 20)
    content = b'[{"a": [1, ' + b'{"b": 22222222222222}, ' * 200_000 + b"3]"
    assert "a bracket or quote is missing" in read(tmp_path / "a.json", content)[1][0].reason


def test_an_object_is_read_pair_by_pair(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    good = b'{"B1": {"attributes": []}, "B2" : 3, "a.b": {"c": 1}}'
    found, left_out = read(path, good, b"{")
    assert found == [("B1", {"attributes": []}), ("B2", 3), ("a.b", {"c": 1})]
    assert not left_out
    for broken in (b'{"B1": 1, B2: 2}', b'{"B1" 1}', b"[1]", b'{"B1": }'):
        assert len(read(path, broken, b"{")[1]) == 1


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
        "from pathlib import Path\n"
        "from eeflib.envs.webshop.sources import _entries\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = peak()\n"
        "n = sum(1 for _ in _entries(Path(sys.argv[1]), b'[', [], 'raise', False))\n"
        "sys.stdout.write(f'{n} {peak() - before}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    n, grown = done.stdout.split()
    assert int(n) == 25_001
    assert float(grown) < 60
