"""`check_environment`: every environment of the library passes it, and each check can fail."""

from __future__ import annotations

import functools
import gc
import random
import time
from collections.abc import Iterator

import broken_envs
import psutil
import pytest
from broken_envs import EVERY, FAMILY, TASKS, Good, NoList

from eeflib.envs.base import TextEnv
from eeflib.envs.check import Check, CheckReport, check_environment
from eeflib.envs.scienceworld import ScienceWorldEnv, scienceworld_tasks
from eeflib.envs.textworld import TextWorldEnv, textworld_tasks
from eeflib.envs.webshop import Catalogue, WebShopEnv
from eeflib.envs.webshop.shop import generate_store
from eeflib.envs.webshop.tasks import make_tasks
from eeflib.errors import DataError
from eeflib.records import Task


@functools.cache
def shop() -> tuple[Catalogue, list[Task]]:
    store = generate_store(5, families=4)
    catalogue = Catalogue.from_rows(store.rows, store.attributes, seed=5)
    return catalogue, make_tasks(store, catalogue, 5, {"train": 12})


def make_webshop() -> WebShopEnv:
    return WebShopEnv(shop()[0])


def make_rich_webshop() -> WebShopEnv:
    return WebShopEnv(shop()[0], observation_mode="text_rich", show_attributes=True)


def held() -> list[int]:
    """Open files, threads and child processes of this process."""
    me = psutil.Process()
    return [me.num_fds(), me.num_threads(), len(me.children(recursive=True))]


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """What was made and closed in the test holds no file, thread or process any more."""
    shop()
    gc.collect()
    before, deadline = held(), time.monotonic() + 5
    yield
    gc.collect()
    while any(a > b for a, b in zip(held(), before, strict=True)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(a <= b for a, b in zip(held(), before, strict=True)), (before, held())


def ran(report: CheckReport) -> list[tuple[str, str]]:
    return [(check.name, check.outcome) for check in report.checks]


ALL_PASSED = [(name, "passed") for name in EVERY]


@pytest.mark.parametrize("make_env", [make_webshop, make_rich_webshop])
def test_the_webshop_passes(make_env, nothing_left) -> None:
    report = check_environment(make_env, shop()[1], walks=6)
    assert ran(report) == ALL_PASSED, report
    for i in range(500):
        env = make_env()
        env.reset(shop()[1][i % 12])
        env.step("search[red]")
        env.close()


@pytest.mark.slow
def test_textworldexpress_passes() -> None:
    """Two games: a fresh JVM is started where it is not on the machine yet."""
    tasks = textworld_tasks(["twc", "cookingworld"], 2, seed=3)
    report = check_environment(TextWorldEnv, tasks)
    assert ran(report) == ALL_PASSED, report


class Patient(ScienceWorldEnv):
    """Tries a refused state again in the same JVM; a fresh one for each would take a minute."""

    def _renew(self) -> None:
        pass


@pytest.mark.slow
def test_scienceworld_passes() -> None:
    """It may refuse pending menus, and its own list of actions names things in closed containers.

    One task with wires, which no look around tells of.
    """
    types = ("power-component", "chemistry-mix-paint-secondary-color")
    with ScienceWorldEnv() as env:
        tasks = scienceworld_tasks(types, 1, seed=3, env=env)
    report = check_environment(Patient, tasks, walks=2, depth=5, refused=0.5)
    assert ran(report) == ALL_PASSED, report


def test_a_small_good_environment_passes() -> None:
    assert ran(check_environment(Good, TASKS)) == ALL_PASSED


@pytest.mark.parametrize("broken", FAMILY, ids=lambda cls: cls.__name__)
def test_each_check_fails_on_the_environment_that_breaks_it(broken: type[Good]) -> None:
    report = check_environment(broken, TASKS)
    assert set(report.failed) == set(FAMILY[broken]), report
    assert not report.passed
    assert all(report[name].detail for name in report.failed)


def test_every_check_has_an_environment_made_to_fail_it() -> None:
    assert {checks[0] for checks in FAMILY.values()} == set(EVERY)


@pytest.mark.parametrize(
    ("broken", "check", "said"),
    [
        ("RestoresByText", "restore", "restored, but not the same: valid actions differ in 'take'"),
        ("ComparesTheLastOnly", "restore", "a wrong text recorded at s_0: restore says ok"),
        ("DoesNotSayWhere", "restore", "first_mismatch is None"),
        ("ForgetsToAskForReset", "reset", "step before reset must raise EnvironmentFault"),
        ("DiesElsewhere", "processes", "RuntimeError: no display"),
        ("FirstCharacter", "hostile", "'' (0 characters) in s_0: IndexError"),
    ],
)
def test_what_fails_is_said_with_place_and_reason(broken: str, check: str, said: str) -> None:
    assert said in check_environment(getattr(broken_envs, broken), TASKS)[check].detail


def test_a_simulators_own_limits_can_be_allowed_for() -> None:
    assert check_environment(broken_envs.Refuses, TASKS, refused=0.7).passed
    assert check_environment(broken_envs.ListsWhatItRefuses, TASKS, refused=0.5).passed
    report = check_environment(broken_envs.ListsWhatItRefuses, TASKS, refused=0.01)
    assert report.failed == ("step",)


def test_an_environment_that_lists_no_actions_needs_a_proposal() -> None:
    assert "propose=" in check_environment(NoList, TASKS)["restore"].detail

    def propose(env: TextEnv, rng: random.Random) -> str:
        return rng.choice(["left", "right", "take", "open"])

    assert check_environment(NoList, TASKS, propose=propose).passed


def test_what_another_process_cannot_import_is_skipped_with_the_reason() -> None:
    def local() -> Good:
        return Good()

    for make_env in (local, lambda: Good(), functools.partial(Good)):
        report = check_environment(make_env, TASKS)
        assert report["processes"].outcome == "skipped"
        assert "%%writefile" in report["processes"].detail
        assert report.passed
        assert str(report).startswith("corridor: 5 of 5 checks passed")


def test_no_tasks_is_a_data_error() -> None:
    with pytest.raises(DataError, match="at least one task"):
        check_environment(Good, [])


def test_the_report_is_plain_text_whatever_the_environment_said() -> None:
    row = Check("step", "what holds", "failed", "s_0: 'caf\udce9'\x1b[31m\nsecond line")
    report = CheckReport("corridor", (row, Check("close", "what holds", "passed", "5 times")))
    lines = str(report).splitlines()
    assert lines[0] == "corridor: 1 of 2 checks passed"
    assert lines[1].split()[:2] == ["failed", "step"]
    assert len(lines) == 5
    str(report).encode()
    assert "\x1b" not in str(report)
