"""One ScienceWorld for all test files: its JVM takes seconds to start, and more to get warm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eeflib.envs.scienceworld import ScienceWorldEnv


@pytest.fixture(scope="session")
def scienceworld() -> Iterator[ScienceWorldEnv]:
    """Tests must leave its JVM alive; an episode in it may end at any time."""
    with ScienceWorldEnv() as env:
        yield env
