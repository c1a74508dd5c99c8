"""What the shop leaves on disk, and the command that serves it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from visitor import Client, recorded

from eeflib.analysis.report import write_report
from eeflib.analysis.run import Run
from eeflib.envs.webshop import EmbeddedShop, embedded_shop
from eeflib.errors import DataError, PrerequisiteError
from eeflib.run import RunFolder
from eeflib.shop import Shop, run_shop, serve


@pytest.fixture(scope="module")
def embedded() -> EmbeddedShop:
    return embedded_shop(7, {"test": 12})


@pytest.fixture
def shop(embedded: EmbeddedShop, tmp_path: Path) -> Iterator[Shop]:
    with serve(embedded.tasks, embedded.make_env, out=tmp_path / "run", seeds=[7]) as opened:
        yield opened


# -- what it leaves --------------------------------------------------------------------------------


def test_every_way_to_end_is_on_record_and_the_report_reads_it(embedded, tmp_path):
    task = embedded.tasks[0]
    short = replace(embedded.tasks[1], settings={**embedded.tasks[1].settings, "max_steps": 2})
    tasks = [task, short, *embedded.tasks[2:5]]
    folder = tmp_path / "run"
    with serve(tasks, embedded.make_env, out=folder, seeds=[7]) as shop:
        client = Client(shop.url)
        client.start()
        client.post("/search", query=" ".join([*task.goal["attributes"], task.goal["query"]]))
        while task.goal["asin"] not in client.page.body:
            client.press("Next \u203a")
        client.press(task.goal["name"])
        for option in task.goal["goal_options"]:
            client.press(option)
        assert "Solved" in client.press("Buy Now").body
        client.post("/open", position=1)
        client.post("/search", query="tea")
        page = client.press("Next \u203a")
        assert "No steps left" in page.body
        client.post("/open", position=2)
        client.post("/search", query="tea")
        assert "You gave this task up" in client.post("/give-up").body
        client.post("/open", position=3)
        client.post("/search", query="tea")
        client.post("/open", position=4)  # which gives the one before up
        client.post("/search", query="tea")
        assert len(recorded(folder)) == 4
        lines = shop.file.read_bytes()
    played = recorded(folder)
    assert shop.file.read_bytes().startswith(lines)
    assert [t.extra["ended"] for t in played] == [
        *("bought", "out of steps", "given up", "given up", "abandoned")
    ]
    assert [(t.terminated, t.truncated) for t in played] == [(True, False)] + [(False, True)] * 4
    assert [t.reward for t in played] == [1.0, 0, 0, 0, 0]
    assert all(s.usage is not None and s.usage.seconds >= 0 for t in played for s in t.steps)
    run = Run(folder)
    assert [t.id for t in run.trajectories[7]] == [t.id for t in played]
    assert {t.id for t in run.tasks[7]} == {t.id for t in tasks}
    assert not run.problems
    assert "Exploring Expert Failures" in write_report(folder).read_text("utf-8")


def test_a_folder_is_gone_on_with_and_kept_from_other_tasks(embedded, tmp_path):
    for _ in range(2):
        with serve(embedded.tasks, embedded.make_env, out=tmp_path) as shop:
            client = Client(shop.url)
            client.start()
            client.post("/search", query="tea")
            client.post("/give-up")
            assert shop.recorded == 1
    played = recorded(tmp_path)
    assert len({t.id for t in played}) == 2
    assert len(list(RunFolder(tmp_path).read("tasks"))) == len(embedded.tasks)
    other = replace(embedded.tasks[0], instruction="i need something else")
    with pytest.raises(DataError, match="another one there; use another --run"):
        serve([other], embedded.make_env, out=tmp_path)
    with pytest.raises(DataError, match="another configuration"):
        serve(embedded.tasks, embedded.make_env, out=tmp_path, seeds=[8])


def test_two_shops_cannot_write_one_folder(shop, embedded):
    script = (
        "import sys\nfrom eeflib.shop.ledger import Ledger\nfrom eeflib.errors import DataError\n"
        "try: Ledger(sys.argv[1], [], {'command': 'shop'}, [7])\nexcept DataError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(shop.file.parent)], capture_output=True, text=True
    )
    assert "is being written by process" in done.stdout


def test_a_port_in_use_is_named_with_the_way_out(embedded, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PrerequisiteError, match=rf"port {port} .* in use.*--port"):
            serve(embedded.tasks, embedded.make_env, out=tmp_path / "run", port=port)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="no tasks to play"):
        serve([], embedded.make_env, out=tmp_path / "run")


def test_a_record_that_cannot_be_written_is_tried_again(shop):
    client = Client(shop.url)
    client.start()
    client.post("/search", query="tea")
    shop.file.mkdir()  # in the way of the file
    assert "Not recorded yet" in client.post("/give-up").body
    shop.file.rmdir()
    client.post("/open", position=1)
    client.post("/search", query="tea")
    assert "Not recorded yet" not in client.post("/give-up").body
    assert len(recorded(shop.file.parent)) == shop.recorded == 2


# -- the command -----------------------------------------------------------------------------------


def test_an_unknown_level_or_split_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(DataError, match="unknown split 'dev'; choose one of train, test"):
        run_shop(split="dev", run=tmp_path / "run", say=list)
    with pytest.raises(DataError, match="unknown level 'hard'; choose one of easy, options"):
        run_shop(levels=["hard"], run=tmp_path / "run", say=list)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "level"), [(signal.SIGINT, "twins"), (signal.SIGTERM, "easy")])
def test_the_command_serves_until_it_is_stopped_and_records_who_is_there(tmp_path, number, level):
    script = (
        "import sys\nfrom pathlib import Path\nfrom eeflib.shop import run_shop\n"
        "run_shop(levels=[sys.argv[2]], run=Path(sys.argv[1]), open_browser=False,\n"
        "         say=lambda line: print(line, flush=True))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run"), level]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert found
        client = Client(found[0])
        assert f'<span class="tag">{level}</span>' in client.start().body
        client.post("/search", query="tea")
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(20) == 0
    assert "Closed. 1 trajectory recorded." in rest
    (trajectory,) = recorded(tmp_path / "run")
    assert trajectory.extra["ended"] == "abandoned"
    assert trajectory.actions == ("search[tea]",)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["seeds"] == [7]
