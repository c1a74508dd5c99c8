"""Shared parts of other rooms' tests: the small environments, small models, trl's losses."""

import sys
from pathlib import Path

for room in ("envs", "train"):
    sys.path.append(str(Path(__file__).parents[1] / room))
