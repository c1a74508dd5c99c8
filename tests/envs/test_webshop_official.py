"""Official files to catalogue and goals, in memory and on disk: as recorded, once, and again when
it has to be; damage is named."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from eeflib.envs.webshop import Catalogue, official
from eeflib.envs.webshop.disk import DiskCatalogue, build_catalogue, open_catalogue
from eeflib.envs.webshop.official import SOURCES, Official, entries, load_official, main
from eeflib.errors import DataError, PrerequisiteError
from tests import pagecode

VECTORS = Path(__file__).parents[1] / "data" / "webshop_parity"
DOCUMENT = Path(__file__).parents[2] / "docs" / "webshop_official.md"
PRODUCTS, ATTRIBUTES, HUMAN = (source.name for source in SOURCES["full"])
PLACE = "catalogue-full-seed0"


def vector(name: str) -> Any:
    return json.loads(gzip.decompress((VECTORS / f"{name}.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    return vector("catalogue")


def write(folder: Path, rows: dict[str, Any], size: str = "full", **changes: Any) -> Path:
    """The official files of `rows`, indented as no parser should care about."""
    folder.mkdir(exist_ok=True)
    contents = {**rows, **changes}
    for source, part in zip(
        SOURCES[size], ("products", "attributes", "human_instructions"), strict=True
    ):
        (folder / source.name).write_text(json.dumps(contents[part], indent=1), "utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path, rows: dict[str, Any]) -> Path:
    return write(tmp_path / "data", rows)


def full(folder: Path, **options: Any) -> Official:
    return load_official(folder, size="full", progress=False, **options)


def born(folder: Path, place: str = PLACE) -> int:
    """Tells one build from another."""
    return (folder / place / "manifest.json").stat().st_ino


def left(folder: Path) -> list[str]:
    """What lies beside the files."""
    ours = (PRODUCTS, ATTRIBUTES, HUMAN, "checksums.json")
    return sorted(p.name for p in folder.iterdir() if p.name not in ours and p.name[0] != ".")


@pytest.mark.parametrize("disk", [False, True])
def test_goals_and_catalogue_are_the_recorded_ones(
    tmp_path: Path, rows: dict[str, Any], disk: bool
) -> None:
    goals, seed = vector("goals"), vector("catalogue_loaded")["seed_before_load"]
    folder = write(tmp_path, rows, "small")
    found = load_official(folder, seed=seed, disk=disk)
    assert list(found.goals) == goals["human"]
    synthetic = load_official(folder, seed=seed, human=False, disk=disk)
    assert list(synthetic.goals[:400]) == goals["synthetic_first_400"]
    assert len(synthetic.goals) == goals["synthetic_count"]
    assert [row.row for row in found.left_out] == [5, 50, 120]
    whole = Catalogue.from_rows(
        rows["products"], rows["attributes"], rows["human_instructions"], seed=seed
    )
    assert found.catalogue.id == whole.id
    assert list(found.catalogue) == list(whole)
    assert isinstance(found.catalogue, DiskCatalogue) == disk


def test_the_summary_says_what_was_loaded(folder: Path) -> None:
    strict, relaxed = full(folder, seed=5), full(folder, seed=5, strict=False)
    assert strict.env().strict
    assert not relaxed.env().strict
    assert str(folder / "catalogue-full-seed5") in strict.summary()
    for part in ("full set", "300 products", "seed 5", "title nouns word_nouns"):
        assert part in relaxed.summary()


def test_it_is_built_once_and_then_needs_the_files_no_more(folder: Path) -> None:
    first = full(folder)
    made = born(folder)
    assert full(folder, human=False).kind == "synthetic"
    shutil.copytree(folder / PLACE, folder / "elsewhere")  # as somebody else's folder
    part = full(folder, limit=60)
    assert len(part.catalogue) == 58
    assert {g["asin"] for g in part.goals} <= {p.asin for p in part.catalogue}
    for name in (PRODUCTS, ATTRIBUTES, HUMAN):
        (folder / name).unlink()
    assert full(folder).goals == full(folder, disk=folder / "elsewhere").goals == first.goals
    assert born(folder) == made
    with pytest.raises(PrerequisiteError, match=rf"{PRODUCTS}.*official {folder} --set full"):
        full(folder, seed=1)
    with pytest.raises(DataError, match="'tiny'"):
        load_official(folder, size="tiny")  # type: ignore[arg-type]
    assert left(folder) == [PLACE, f"{PLACE}-first60", "elsewhere"]


def test_a_file_that_has_changed_is_built_again(
    folder: Path, rows: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    before, made = full(folder), born(folder)
    for name in (PRODUCTS, ATTRIBUTES, HUMAN):  # copied or touched: the same content
        os.utime(folder / name, (1, 1))
    assert full(folder).catalogue.id == before.catalogue.id
    assert born(folder) == made
    whole = (folder / PRODUCTS).read_bytes()
    title = rows["products"][7]["name"].encode()
    (folder / PRODUCTS).write_bytes(whole.replace(title, b"x" * len(title)))  # of the same size
    os.utime(folder / PRODUCTS, (1, 1))
    assert "built again" not in caplog.text
    changed = full(folder)
    assert changed.catalogue[6].title == "x" * len(title)
    assert f"{PRODUCTS} has changed" in caplog.text
    people = json.loads((folder / HUMAN).read_text())
    people.popitem()
    (folder / HUMAN).write_text(json.dumps(people))
    assert len(full(folder).goals) < len(before.goals)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("docs.npy", lambda raw: raw[:-9]),
        ("manifest.json", lambda raw: raw[:50]),
        ("products.db", lambda raw: b""),
    ],
)
def test_a_damaged_catalogue_is_built_again(
    folder: Path, name: str, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    whole, path = full(folder), folder / PLACE / name
    path.write_bytes(damage(path.read_bytes()))
    assert full(folder).goals == whole.goals
    assert "built again" in caplog.text
    assert name in caplog.text
    assert open_catalogue(folder / PLACE, verify=True).id == whole.catalogue.id


def test_another_catalogue_is_left_alone(folder: Path, rows: dict[str, Any]) -> None:
    mine = folder / "mine"
    build_catalogue(rows["products"][:9], mine)
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.txt").write_text("years of work")
    for place in (mine, folder / "thesis"):
        with pytest.raises(DataError, match="left alone"):
            full(folder, disk=place)
    assert len(open_catalogue(mine)) == 8  # the sixth row is none


def test_a_truncated_file_leaves_nothing(folder: Path) -> None:
    whole = (folder / PRODUCTS).read_bytes()
    (folder / PRODUCTS).write_bytes(whole[: len(whole) // 2])
    for disk in (False, True):
        with pytest.raises(DataError, match=rf"{PRODUCTS}: entry \d+: the file ends"):
            full(folder, disk=disk)
    assert left(folder) == []
    (folder / PRODUCTS).write_bytes(whole)
    assert len(full(folder).catalogue) == 300


def test_a_file_that_changes_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def build(*args: Any, **options: Any) -> Any:
        with open(folder / PRODUCTS, "ab") as file:
            file.write(b" ")
        return build_catalogue(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(official, "build_catalogue", build)
        full(folder)
    made = born(folder)
    assert "built again" not in caplog.text
    full(folder)
    assert f"{PRODUCTS} has changed" in caplog.text
    assert born(folder) != made


def test_bad_entries_are_left_out_and_listed(tmp_path: Path, rows: dict[str, Any]) -> None:
    products = [dict(row) for row in rows["products"][:20]]
    good = [row["asin"] for row in products]
    products[0]["pricing"] = "N/A"
    products[1] = "not a row"  # type: ignore[call-overload]
    del products[2]["name"]
    products[3]["asin"] = "B" * 11
    attributes: dict[str, Any] = {asin: {"attributes": ["soft"]} for asin in good}
    attributes |= {good[6]: 3, good[7]: {"attributes": "soft"}, "\ud800\n": 3}
    fine = {"instruction": "buy it", "instruction_attributes": ["soft"], "instruction_options": []}
    human = {
        good[8]: [fine, {**fine, "instruction_attributes": []}],
        good[9]: fine,
        good[10]: [{**fine, "instruction_options": [1]}],
        good[11]: [{**fine, "instruction": None}],
        "B0NOTHERE0": [fine],
    }
    folder = write(
        tmp_path, rows, products=products, attributes=attributes, human_instructions=human
    )
    found = full(folder)
    assert [g["asin"] for g in found.goals] == [good[8]]
    assert found.goals[0]["instruction_text"].startswith("buy it, and price lower")
    reasons = {row.row: row.reason for row in found.left_out}
    # row 5 has no usable asin from the start
    assert list(reasons) == [0, 1, 2, 3, 5, 6, 7, 9, 10, 11]
    for number, part in ((0, "pricing"), (2, "name"), (7, "attributes"), (11, "instruction")):
        assert part in reasons[number]
    with pytest.raises(DataError, match=r"no human goals for its \d+ products"):
        full(write(tmp_path, rows, human_instructions={}))


def test_the_program_of_the_page_runs(folder: Path, tmp_path: Path, rows: dict[str, Any]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.M | re.S)
    assert '"data/webshop"' in code
    text = "i need low rise jeans that are a 54w by 34l"  # place 442 of the published list
    wish = {"instruction": text, "instruction_attributes": ["soft"], "instruction_options": []}
    (folder / HUMAN).write_text(json.dumps({rows["products"][0]["asin"]: [wish]}))
    (tmp_path / "work" / "data").mkdir(parents=True)
    folder.rename(tmp_path / "work" / "data" / "webshop")
    printed = pagecode.program(f"{code}\nprint(env.text)", tmp_path / "work")
    assert "full set): 300 products, 1 human goals" in printed
    assert text in printed


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


def test_one_call_or_command_from_nothing(
    folder: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, options = tmp_path / "new", ["--set", "full", "--seed", "3"]
    assert main([str(new), *options, "--from", server]) == 0
    printed = capsys.readouterr().out
    assert "full set): 300 products" in printed
    assert str(new / "catalogue-full-seed3") in printed
    nowhere = "http://127.0.0.1:9"  # nobody is asked when all is there
    assert full(new, seed=3, fetch=True, base_url=nowhere).goals == full(folder, seed=3).goals
    assert main([str(new), *options, "--from", nowhere]) == 0
    assert capsys.readouterr().out == printed
    assert main([str(new), *options, "--synthetic", "--limit", "60"]) == 0
    assert "first 60 rows): 58 products" in capsys.readouterr().out


# -- the stream ------------------------------------------------------------------------------------


def read(path: Path, content: bytes, ends: bytes = b"[]") -> tuple[list[Any], str]:
    """(the entries before any damage, what is said of it)."""
    path.write_bytes(content)
    found: list[Any] = []
    try:
        for entry in entries(path, ends):
            found.append(entry)
    except DataError as exc:
        return found, str(exc)
    return found, ""


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
        assert read(tmp_path / "a.json", text.encode()) == (value, "")
    assert read(tmp_path / "a.json", b" [ ] ") == ([], "")


@pytest.mark.parametrize(
    ("content", "number", "reason"),
    [
        (b'[{"a": 1}, {"b": "2', 1, "ends in the middle"),
        (b'[{"a": 1},', 1, "ends in the middle"),
        ('[{"é": 1}, {"b": nul}, {"c": "' .encode() + b"x" * 60 + b'"}]', 1, "invalid string"),
        (b'[{"a": 1} {"b": 2}]', 1, "after array element"),
        (b'[{"a": 1}]]', 1, "trailing garbage"),
        (b'[{"a": 1}, {"b": "\xff\xfe"}]', 1, "invalid bytes in UTF8"),
        (b'[{"a": "\n"}, 3, "' + b"x" * 60 + b'"]', 0, "invalid character inside string"),
        (b'{"a": 1}', 0, "expected b'['"),
        (b"<html>", 0, "expected b'['"),
        (b"", 0, "empty"),
        (gzip.compress(b'[{"a": 1}]', mtime=0), 0, "expected b'['"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, content: bytes, number: int, reason: str) -> None:
    found, said = read(tmp_path / "a.json", content)
    assert len(found) == number
    assert reason in said
    assert f"a.json: entry {number}: " in said


def test_an_object_is_read_pair_by_pair(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    good = b'{"B1": {"attributes": []}, "B2" : 3, "a.b": {"c": 1}}'
    pairs = [("B1", {"attributes": []}), ("B2", 3), ("a.b", {"c": 1})]
    assert read(path, good, b"{}") == (pairs, "")
    for broken in (b'{"B1": 1, B2: 2}', b'{"B1" 1}', b"[1]", b'{"B1": }'):
        assert read(path, broken, b"{}")[1]


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
        "from eeflib.envs.webshop.official import entries\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = peak()\n"
        "n = sum(1 for _ in entries(Path(sys.argv[1]), b'[]'))\n"
        "sys.stdout.write(f'{n} {peak() - before}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    n, grown = done.stdout.split()
    assert int(n) == 25_001
    assert float(grown) < 60
