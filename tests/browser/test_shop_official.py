"""Official data in the shop: files or a catalogue on disk, published splits, played over HTTP."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from visitor import Client, recorded

from eeflib.envs.webshop import best_nouns, nouns_name
from eeflib.envs.webshop.disk_build import build_catalogue
from eeflib.errors import DataError, PrerequisiteError
from eeflib.shop import run_shop, serve
from eeflib.shop.official import OfficialShop, official_shop

VECTORS = Path(__file__).parents[1] / "data" / "webshop_parity"
FILES = {
    "small": ("items_shuffle_1000.json", "items_ins_v2_1000.json"),
    "full": ("items_shuffle.json", "items_ins_v2.json"),
}
TEXTS = {
    0: "i need a long clip-in hair extension which is natural looking",
    442: "i need low rise jeans that are a 54w by 34l",
    500: "i need to find a small end table that is easy to assemble; pick a blue-coated steel "
    "frame that won't rust",
    1500: "i am looking for a glitters nail polish. also, choose the 04# color",
}
"""Instructions by their place in the published list: two of test, one of validation and train."""


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    """The products of the golden vectors; four of them with a published instruction."""
    rows = json.loads(gzip.decompress((VECTORS / "catalogue.json.gz").read_bytes()))
    titles = [row["name"] for row in rows["products"]]
    plain = [
        row
        for row in rows["products"][10:200]
        if titles.count(row["name"]) == 1
        and row["name"].isascii()
        and "  " not in row["name"]
        and rows["attributes"].get(row["asin"], {}).get("attributes")
    ]
    people = dict(rows["human_instructions"])
    for row, text in zip(plain, TEXTS.values(), strict=False):
        wanted = rows["attributes"][row["asin"]]["attributes"][:1]
        people[row["asin"]] = [
            {"instruction": text, "instruction_attributes": wanted, "instruction_options": []}
        ]
    return {**rows, "human_instructions": people}


def write(folder: Path, rows: dict[str, Any], size: str = "small") -> Path:
    folder.mkdir(exist_ok=True)
    products, attributes = FILES[size]
    (folder / products).write_text(json.dumps(rows["products"]), "utf-8")
    (folder / attributes).write_text(json.dumps(rows["attributes"]), "utf-8")
    (folder / "items_human_ins.json").write_text(json.dumps(rows["human_instructions"]), "utf-8")
    return folder


def offered(kind: str, folder: Path, rows: dict[str, Any]) -> OfficialShop:
    if kind != "catalogue":
        return official_shop(write(folder, rows, kind))
    build_catalogue(
        rows["products"],
        folder,
        attributes=rows["attributes"],
        human_instructions=rows["human_instructions"],
        seed=4,
    )
    return official_shop(folder)


@pytest.mark.parametrize("kind", ["small", "full", "catalogue"])
def test_a_task_is_played_to_reward_1(tmp_path: Path, rows: dict[str, Any], kind: str) -> None:
    found = offered(kind, tmp_path / "data", rows)
    assert found.split == "test"
    assert [t.extra["official_index"] for t in found.tasks] == [0, 442]
    task = found.tasks[0]
    with serve(found.tasks, found.make_env, out=tmp_path / "run") as shop:
        client = Client(shop.url)
        client.start()
        assert TEXTS[0] in client.page.body
        client.post("/search", query=task.goal["name"][:290])
        while task.goal["asin"] not in client.page.body:
            client.press("Next \u203a")
        client.press(task.goal["name"])
        assert "Solved" in client.press("Buy Now").body
    (played,) = recorded(tmp_path / "run")
    assert played.reward == 1.0
    assert played.extra["nouns"] == nouns_name(best_nouns())
    assert played.extra["nouns"] in found.about
    assert played.extra["reward_info"]["r_type"] == 1.0


def test_official_quirks_do_not_trip_the_pages(tmp_path: Path, rows: dict[str, Any]) -> None:
    """Searches on which the official environment raises, and its back doors."""
    found = offered("full", tmp_path / "data", rows)
    with serve(found.tasks, found.make_env, out=tmp_path / "run") as shop:
        client = Client(shop.url)
        client.start()
        box = "What do you search for?"
        for query in ("<q>", "<c>", "<r> x", "<c> fashion", "no such zzqq"):
            page = client.post("/search", query=query)
            assert (box in page.body) == ("did not understand" in page.body), query
            if box not in page.body:
                client.press("Back to Search")
        page = client.post("/search", query="<a> soft")
        assert "did not understand that: TypeError" in page.body
        assert box in page.body


def test_splits(tmp_path: Path, rows: dict[str, Any]) -> None:
    folder = write(tmp_path / "data", rows)
    for split, places in (("test", [0, 442]), ("validation", [500]), ("train", [1500])):
        tasks = official_shop(folder, split=split).tasks
        assert [t.extra["official_index"] for t in tasks] == places
        assert {t.split for t in tasks} == {split}
    every = official_shop(folder, split="all")
    assert len({t.id for t in every.tasks}) == len(every.tasks) > 200
    with pytest.raises(DataError, match="'dev'; choose one of all, test, validation, train"):
        official_shop(folder, split="dev")
    unknown = {asin: w for asin, w in rows["human_instructions"].items() if len(w) > 1}
    other = write(tmp_path / "other", {**rows, "human_instructions": unknown})
    assert official_shop(other).split == "all"
    with pytest.raises(DataError, match="none of these"):
        official_shop(other, split="test")
    prices = [{t.goal["price_upper"] for t in official_shop(folder, seed=s).tasks} for s in (0, 9)]
    assert prices[0] != prices[1]


def test_a_long_list_of_tasks_comes_in_pages(tmp_path: Path, rows: dict[str, Any]) -> None:
    found = official_shop(write(tmp_path / "data", rows), split="all")
    n = len(found.tasks)
    with serve(found.tasks, found.make_env, out=tmp_path / "run") as shop:
        client = Client(shop.url)
        client.start()
        first = client.get("/tasks").body
        assert f"Tasks 1 to 200 of {n}" in first
        assert "Earlier tasks" not in first
        (link,) = set(re.findall(r'href="(/tasks\?page=\d)"', first))
        second = client.get(link).body
        assert f"Tasks 201 to {n} of {n}" in second
        assert "Later tasks" not in second
        numbers = [int(x) for x in re.findall(r'name="position" value="(\d+)"', first + second)]
        assert numbers == list(range(1, n))  # the first one is under way
        client.post("/open", position=n - 1)
        for path in (
            "/tasks",
            "/tasks?page=0",
            "/tasks?page=99",
            "/tasks?page=%00&page=",
            "/tasks?",
        ):
            assert f"Tasks 201 to {n}" in client.get(path).body, path


def test_what_does_not_go_together_is_said(tmp_path: Path, rows: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="levels belong to the embedded store"):
        run_shop(data=tmp_path, levels=["easy"], say=list)
    with pytest.raises(DataError, match="--set belongs to official data"):
        run_shop(size="full", say=list)
    with pytest.raises(DataError, match="size must be 'small' or 'full', not 'tiny'"):
        run_shop(data=tmp_path, size="tiny", say=list)
    with pytest.raises(PrerequisiteError, match=r"items_shuffle_1000.*webshop\.download"):
        run_shop(data=tmp_path / "none", say=list)
    build_catalogue(rows["products"], tmp_path / "bare")
    with pytest.raises(DataError, match="without human instructions"):
        official_shop(tmp_path / "bare")
    with pytest.raises(DataError, match=r"seed 0\): it goes without --set"):
        official_shop(tmp_path / "bare", seed=2)


def test_the_command_serves_official_data(tmp_path: Path, rows: dict[str, Any]) -> None:
    folder = write(tmp_path / "data", rows, "full")
    script = (
        "import sys\nfrom pathlib import Path\nfrom eeflib.shop import run_shop\n"
        "run_shop(data=Path(sys.argv[1]), seed=2, open_browser=False,\n"
        "         say=lambda line: print(line, flush=True))"
    )
    command = [sys.executable, "-c", script, str(folder)]
    out = subprocess.PIPE
    with subprocess.Popen(command, stdout=out, stderr=out, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        about, opened = process.stdout.readline(), process.stdout.readline()
        assert "(full set): 300 products" in about
        assert f"{folder / 'catalogue-full-human-seed2'}; split test" in about
        found = re.search(r"(http://127\.0\.0\.1:\d+/) with 2 tasks", opened)
        assert found
        client = Client(found[1])
        client.start()
        client.post("/search", query="soft")
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(20) == 0
    assert "Closed. 1 trajectory recorded." in rest
    (run,) = (tmp_path / "runs").iterdir()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["seeds"] == [2]
    assert manifest["config"]["split"] == "test"
    assert run.name == f"shop-{manifest['config']['catalogue']}-test"
    assert recorded(run)[0].actions == ("search[soft]",)
