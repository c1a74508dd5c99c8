"""The figures that README reports are those of the file it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SHOWN = README.split("## What you will see")[1].split("\n## ")[0]


def test_the_table_and_the_differences_are_those_of_the_dated_file():
    name = re.search(r"All figures: `(benchmarks/results/[^`]+\.json)`", SHOWN)[1]  # type: ignore[index]
    result = json.loads((ROOT / name).read_text("utf-8"))
    if Path(name).name > "2026-11-28":  # older files were kept by hand, without their commit
        assert re.fullmatch(r"[0-9a-f]{40}", result["code"]["commit"])
    row = r"^\| (\S+) \| ([\d.]+) % \| ([\d., ]+) \| ([\d.]+) \| ([\d,]+) \|"
    table = re.findall(row, SHOWN, re.M)
    assert [row[0] for row in table] == [m["method"] for m in result["methods"]]
    for (_, rate, by_seed, reward, simulations), m in zip(table, result["methods"], strict=True):
        assert rate == f"{100 * m['win_rate']:.1f}"
        assert by_seed.split(", ") == [f"{100 * x:.1f}" for x in m["per_seed"]]
        assert reward == f"{m['reward']:.3f}"
        assert simulations == f"{m['simulations']:,}"
    told = re.findall(r"^(\S+ - \S+): \**([+-][\d.]+) points", SHOWN, re.M)
    assert told
    for pair, points in told:
        found = result["paired"][pair]
        assert points == f"{100 * found['difference']:+.1f}"
        assert f"better in {found['better_in']} of {found['seeds']}" in SHOWN
    for seed in (result["seeds"][0], result["seeds"][-1]):
        assert seed >= 2000
        assert str(seed) in SHOWN


def test_what_is_told_of_doses_follows_from_the_shipped_ones():
    rows = json.loads((ROOT / "eeflib" / "data" / "doses.json").read_text("utf-8"))
    expected = []
    for dose in sorted({row["dose"] for row in rows}):
        gaps = [(r["EEF"] - r["RFTxk"]) / r["tasks"] for r in rows if r["dose"] == dose]
        ahead = (str(sum(gap > 0 for gap in gaps)), str(len(gaps)))
        expected.append((f"{100 * sum(gaps) / len(gaps):+.0f}", *ahead))
    told = SHOWN.split("**When does RFT catch up?**")[1].split("![")[0]
    found = re.findall(r"([+-]\d+) points(?:, ahead in| \()\s*(\d+) of (\d+)", told)
    assert found == expected
    none = [r["EEF"] / r["tasks"] for r in rows if r["dose"] == 0]
    assert f"EEF {100 * min(none):.0f} to {100 * max(none):.0f} %" in told
    assert not any(r["RFTxk"] for r in rows if r["dose"] == 0), "README says so"


def test_the_table_of_neighbours_is_that_of_the_study():
    page = (ROOT / "docs" / "neighbours.md").read_text("utf-8")
    files = sorted((ROOT / "benchmarks" / "results" / "study").glob("neighbours-*.json"))
    results = [json.loads(file.read_text("utf-8")) for file in files]
    assert f"seeds {results[0]['seed']} to {results[-1]['seed']}" in " ".join(page.split())
    told = re.findall(r"^\| (\S+) \| ([\d.]+) \| ([\d, ]+) \| (\d+) \| (\d+) \|$", page, re.M)
    assert [row[0] for row in told] == [row["method"] for row in results[0]["rows"]]
    for name, rate, by_seed, *costs in told:
        rows = [row for result in results for row in result["rows"] if row["method"] == name]
        won = [100 * sum(x >= 1 for x in r["rewards"]) / len(r["rewards"]) for r in rows]
        assert rate == f"{sum(won) / len(won):.1f}"
        assert by_seed == ", ".join(f"{x:.0f}" for x in won)
        for cost, kind in zip(costs, ("simulations", "steps"), strict=True):
            assert cost == f"{sum(row.get(kind, 0) for row in rows) / len(rows):.0f}"
