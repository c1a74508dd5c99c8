"""docs/environments.md: its programs run as they stand, and do what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "environments.md"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The page's Python blocks as files; the first is `corridor.py`."""
    folder = tmp_path_factory.mktemp("page")
    names = ("corridor", "check", "replays", "method", "gym")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(names)
    paths = [folder / f"{name}.py" for name in names]
    for path, block in zip(paths, blocks, strict=True):
        path.write_text(block)
    return paths


def run(program: Path) -> str:
    done = subprocess.run(
        [sys.executable, program.name], cwd=program.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_is_short_and_passes_the_checks(programs: list[Path]) -> None:
    code = [line for line in programs[0].read_text().splitlines() if line.strip()]
    body = code[code.index("class CorridorEnv:") : code.index("TASKS = tuple(")]
    assert len(body) <= 40
    assert "corridor: 6 of 6 checks passed" in run(programs[1])


def test_the_example_replays(programs: list[Path]) -> None:
    assert run(programs[2]).split() == ["5", "verified,", "0", "refused"]


def test_the_method_runs_on_the_example(programs: list[Path]) -> None:
    teacher, student, samples = run(programs[3]).splitlines()
    solved, tried = map(int, re.findall(r"\d+", teacher))
    assert 0 < solved < tried
    won, explored = map(int, re.findall(r"\d+", student.replace("s0", "")))
    assert 0 < won < explored
    assert all(int(n) > 0 for n in re.findall(r"\d+", samples))


def test_the_example_steps_in_gymnasium(programs: list[Path]) -> None:
    assert run(programs[4]).startswith("You are in room 1. ['left', 'right'")


def test_the_quoted_finding_is_one_that_is_reported(programs: list[Path]) -> None:
    """A restore that forgets what the text does not show."""
    broken = programs[0].parent / "forgetful.py"
    broken.write_text(
        "from corridor import TASKS, CorridorEnv\n"
        "from eeflib.envs.check import check_environment\n"
        "class Forgetful(CorridorEnv):\n"
        "    def restore(self, task, prefix, expected=None):\n"
        "        restored = super().restore(task, prefix, expected)\n"
        "        self.has_key = False\n"
        "        return restored\n"
        "if __name__ == '__main__':\n"
        "    print(check_environment(Forgetful, TASKS))\n"
    )
    report = run(broken)
    assert re.search(
        r"s_\d+: restored, but not the same: valid actions differ in '(take|open)'", report
    )
    assert "4 of 5 checks passed" in report
    assert re.search(r"skipped +processes", report)  # a script's own class: nobody can import it
