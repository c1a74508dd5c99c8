"""One ScienceWorld and one TextWorldExpress for all test files: a JVM takes seconds to start, and
more to get warm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eeflib.envs.scienceworld import ScienceWorldEnv
from eeflib.envs.textworld import TextWorldEnv


@pytest.fixture(scope="session")
def scienceworld() -> Iterator[ScienceWorldEnv]:
    """Tests must leave its JVM alive; an episode in it may end at any time."""
    with ScienceWorldEnv() as env:
        yield env


@pytest.fixture(scope="module")
def textworld() -> Iterator[TextWorldEnv]:
    """Its JVM is that of all TextWorldEnv of the process; a test that ends it gets another. Closed
    with its file: tests of other rooms see the last environment end the JVM."""
    with TextWorldEnv() as env:
        yield env
