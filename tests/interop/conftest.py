"""Shared parts of other rooms' tests: the small environments."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "envs"))
