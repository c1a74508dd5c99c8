"""Shared parts of other rooms' tests: the small environments, the loopback server."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / room) for room in ("envs", "policies")]
