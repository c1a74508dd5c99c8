"""A small catalogue for tests: the same rows in memory and on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.parts.bulk_products import bulk_attributes, bulk_instruction, bulk_rows
from eeflib.envs.webshop import Catalogue, build_goals
from eeflib.envs.webshop.disk import build_catalogue

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


def same(disk: Catalogue, memory: Catalogue) -> None:
    """Everything that an environment, a goal or a reward can see."""
    assert disk.id == memory.id
    assert len(disk) == len(memory) == len(list(disk))
    assert list(disk) == list(memory)
    assert [disk.find(p.asin) for p in memory] == list(memory)
    assert list(disk.skipped) == list(memory.skipped)
    assert disk.ranges == memory.ranges
    for kind in ("human", "synthetic"):
        assert build_goals(disk, kind) == build_goals(memory, kind)  # type: ignore[arg-type]
        names = [[p.asin for p in c.instructed(kind)] for c in (disk, memory)]  # type: ignore[arg-type]
        assert names[0] == names[1]
    for product in list(memory)[::97]:
        for name in ("category", "query"):
            value = getattr(product, name)
            assert disk.numbers_with(name, value) == memory.numbers_with(name, value)  # type: ignore[arg-type]
    assert disk.numbers_with("category", "nothing") == ()


def copied(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target
