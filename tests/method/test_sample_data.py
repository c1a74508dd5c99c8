"""data/: the sample trajectories are what data/README.md says and makes."""

import json
import re
import subprocess
import sys
from pathlib import Path

from eeflib import Trajectory

DATA = Path(__file__).parents[2] / "data"


def read(folder: Path) -> list[Trajectory]:
    lines = (folder / "sample_trajectories.jsonl").read_text("utf-8").splitlines()
    return [Trajectory.from_dict(json.loads(line)) for line in lines]


def test_the_command_in_the_readme_makes_the_samples(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (DATA / "README.md").read_text("utf-8"), re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    kept = read(DATA)
    assert kept == read(tmp_path)
    assert [t.solved for t in kept] == [True] * 3 + [False] * 3
