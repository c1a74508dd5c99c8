"""docs/webshop_agent.md: its code runs as printed, needs what it says, prints true figures."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eeflib.envs.webshop import embedded_shop
from eeflib.world import webshop

PAGE = Path(__file__).parents[2] / "docs/webshop_agent.md"
AGENT, RESTORE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """Lines that the page's code prints, all of it in one process as a reader would run it."""
    loaded = "import sys\nprint(*sorted(m for m in sys.modules if m.startswith('eeflib.')))"
    done = subprocess.run(
        [sys.executable, "-c", f"{AGENT}\n{RESTORE}\n{loaded}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def first_product_on_page_1(n: int) -> list[float]:
    """What the example's agent does, without its code: the reward of the best-ranked product."""
    world = webshop(7, test=n, train=0)
    rewards = []
    for task in world.split("test"):
        env = world.make_env()
        env.reset(task)
        env.step(f"search[{task.instruction}]")
        asin = env.catalogue[env.ranking(env.state)[0]].asin
        env.step(f"click[{asin.lower()}]")
        rewards.append(env.step("click[buy now]").reward)
    return rewards


def test_the_figures_are_those_of_a_direct_computation(printed):
    rewards = first_product_on_page_1(100)
    wins = sum(r == 1 for r in rewards) / len(rewards)
    line = f"win rate {wins:.3f}, mean reward {sum(rewards) / len(rewards):.3f}"
    assert printed[0] == line
    assert f"It prints `{line}`" in PAGE.read_text("utf-8")
    assert 0 < wins < 1


def test_thirty_lines_and_one_import_are_enough(printed):
    assert len(AGENT.strip().splitlines()) <= 30
    assert len(RESTORE.strip().splitlines()) <= 5
    imported = {
        node.module for node in ast.walk(ast.parse(AGENT)) if isinstance(node, ast.ImportFrom)
    }
    assert {name for name in imported if name and name.startswith("eeflib")} == {
        "eeflib.envs.webshop"
    }
    rooms = {name.split(".")[1] for name in printed[-1].split()}
    assert rooms <= {"envs", "errors", "records", "schema"}


def test_its_tasks_are_those_of_the_demo():
    counts = {"train": 30, "test": 40}
    assert embedded_shop(11, counts).tasks == webshop(11, **counts).tasks
