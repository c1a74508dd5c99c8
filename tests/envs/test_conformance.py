"""The conformance suite: environments that pass, and a broken one for every check."""

from __future__ import annotations

import functools
import gc
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import broken_envs
import pytest
from broken_envs import FAMILY, TASKS, Good, LeavesAFile, LeavesAProcess, NoList, Refuses

from eeflib.envs.base import TextEnv
from eeflib.envs.conformance import CHECKS, Check, Report, check_environment
from eeflib.envs.webshop import Catalogue, WebShopEnv
from eeflib.envs.webshop.generator import generate_store
from eeflib.envs.webshop.tasks import make_tasks
from eeflib.errors import DataError
from eeflib.records import Task

ALONE = {"processes": 0, "episodes": 20, "settle_s": 0.2}


@functools.cache
def shop() -> tuple[Catalogue, list[Task]]:
    store = generate_store(5, families=4)
    catalogue = Catalogue.from_rows(store.rows, store.attributes, seed=5)
    return catalogue, make_tasks(store, catalogue, 5, {"train": 12})


def make_webshop() -> WebShopEnv:
    return WebShopEnv(shop()[0])


def make_rich_webshop() -> WebShopEnv:
    return WebShopEnv(shop()[0], observation_mode="text_rich", show_attributes=True)


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    LeavesAProcess.stop()
    while LeavesAFile.kept:
        LeavesAFile.kept.pop().close()


def test_the_webshop_passes_over_1000_episodes() -> None:
    report = check_environment(make_webshop, shop()[1], walks=6, episodes=1000)
    assert report.passed, report
    assert [c.outcome for c in report.checks] == ["passed"] * len(CHECKS), report
    assert "1000 episodes" in report["leaks"].detail


def test_the_webshop_in_rich_mode_passes() -> None:
    report = check_environment(make_rich_webshop, shop()[1], seed=1, **ALONE)  # type: ignore[arg-type]
    assert report.passed, report


def test_a_small_good_environment_passes_every_check() -> None:
    report = check_environment(Good, TASKS)
    assert [(c.name, c.outcome) for c in report.checks] == [(n, "passed") for n in CHECKS], report


@pytest.mark.parametrize(("base", "expected"), [(Good, ()), (LeavesAFile, ("leaks",))])
def test_files_left_to_the_collector_are_no_leak_and_hide_none(
    base: type[Good], expected: tuple[str, ...], tmp_path: Path
) -> None:
    class Littered(base):  # type: ignore[misc, valid-type]
        """At every close the collector comes by, and finds one file less than the last time."""

        litter = 60

        def close(self) -> None:
            super().close()
            gc.collect()
            Littered.litter -= 1
            cycle: list[Any] = [open(tmp_path / str(i), "w") for i in range(self.litter)]  # noqa: SIM115
            cycle.append(cycle)

    gc.disable()
    try:
        report = check_environment(Littered, TASKS, **ALONE)  # type: ignore[arg-type]
    finally:
        gc.enable()
    assert report.failed == expected, report


@pytest.mark.parametrize("broken", FAMILY, ids=lambda cls: cls.__name__)
def test_each_check_fails_on_the_environment_that_breaks_it(broken: type[Good]) -> None:
    expected = FAMILY[broken]
    options = {**ALONE, "processes": 2} if expected == ("processes",) else ALONE
    report = check_environment(broken, TASKS, **options)  # type: ignore[arg-type]
    assert set(report.failed) == set(expected), report
    assert report[expected[0]].detail
    assert not report.passed


def test_every_check_has_an_environment_made_to_fail_it() -> None:
    assert {checks[0] for checks in FAMILY.values()} == set(CHECKS)
    classes = {c for c in vars(broken_envs).values() if isinstance(c, type) and issubclass(c, Good)}
    assert classes - set(FAMILY) == {Good, NoList}


def test_what_fails_is_said_with_place_and_reason() -> None:
    def detail(cls: type[Good], check: str) -> str:
        return check_environment(cls, TASKS, only=[check])[check].detail

    assert "restored, but valid actions differ in 'take'" in detail(
        broken_envs.RestoresByText, "restore"
    )
    assert "call reset(task) first" in detail(broken_envs.ForgetsToAskForReset, "contract")
    assert "open handle" in detail(broken_envs.FileAnEpisode, "leaks")
    assert "RuntimeError: no display" in detail(broken_envs.DiesElsewhere, "processes")


def test_a_simulators_own_limits_can_be_allowed_for() -> None:
    assert check_environment(Refuses, TASKS, refused_states=0.7, **ALONE).passed  # type: ignore[arg-type]
    cls = broken_envs.ListsWhatItRefuses
    assert check_environment(cls, TASKS, refused_actions=0.5, **ALONE).passed  # type: ignore[arg-type]
    report = check_environment(cls, TASKS, refused_actions=0.01, **ALONE)  # type: ignore[arg-type]
    assert report.failed == ("valid_actions",)


def test_an_environment_that_lists_no_actions_needs_a_proposal() -> None:
    report = check_environment(NoList, TASKS, only=["restore"])
    assert "propose=" in report["restore"].detail

    def propose(env: TextEnv, rng: random.Random) -> str:
        return rng.choice(["left", "right", "take", "open"])

    report = check_environment(NoList, TASKS, propose=propose, **ALONE)  # type: ignore[arg-type]
    assert report.passed, report
    assert "none are listed" in report["valid_actions"].detail


class Endless(Good):
    """Never ends by itself, and has no chest to find by chance."""

    @property
    def over(self) -> bool:
        return self.done

    def valid_actions(self) -> list[str] | None:
        return [a for a in super().valid_actions() or [] if a != "open"]

    def step(self, action: str):  # type: ignore[no-untyped-def]
        if action == "open" and self.task and self.key and not self.done:
            self.done = True
            return self.result(True, False)
        return super().step(action)


def test_what_cannot_be_looked_at_is_not_called_passed() -> None:
    report = check_environment(Endless, TASKS, only=["ending"])
    assert (report.not_run, report.failed, report.passed) == (("ending",), (), False)
    assert "endings={task.id:" in report["ending"].detail
    endings = {TASKS[0].id: ["right", "take", "right", "open"]}
    report = check_environment(Endless, TASKS, only=["ending"], endings=endings)
    assert report["ending"].outcome == "passed", report

    def local() -> Good:
        return Good()

    for make_env in (local, lambda: Good()):
        report = check_environment(make_env, TASKS, only=["processes"])
        assert "%%writefile" in report["processes"].detail
        assert not report.passed


def test_without_psutil_leaks_are_not_called_absent() -> None:
    code = (
        "import sys; sys.modules['psutil'] = None\n"
        "from broken_envs import TASKS, Good\n"
        "from eeflib.envs.conformance import check_environment\n"
        "report = check_environment(Good, TASKS, only=['leaks', 'close'])\n"
        "print(report.not_run, report.passed, report['leaks'].detail)\n"
    )
    folder = Path(broken_envs.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert "('leaks',) True" in done.stdout, done.stderr
    assert "eeflib[conformance]" in done.stdout


def test_further_tasks_that_must_be_refused() -> None:
    bad = replace(TASKS[0], id="of-nowhere", goal={})
    assert check_environment(Good, TASKS, only=["unknown_task"], unknown=[bad]).passed
    fine = replace(TASKS[0], id="a-fine-one")
    report = check_environment(Good, TASKS, only=["unknown_task"], unknown=[fine])
    assert "'a-fine-one' must raise" in report["unknown_task"].detail


def test_misuse_is_a_data_error() -> None:
    with pytest.raises(DataError, match="at least one task"):
        check_environment(Good, [])
    with pytest.raises(DataError, match=r"'speed'.*contract"):
        check_environment(Good, TASKS, only=["speed"])


def test_the_report_is_plain_text_whatever_the_environment_said() -> None:
    row = Check("texts", "failed", "s_0: 'caf\udce9'\x1b[31m\nsecond line", 0.25)
    report = Report("corridor", (row, Check("close", "passed", "5 times", 0.0)))
    lines = str(report).splitlines()
    assert lines[0] == "corridor: 1 of 2 checks passed"
    assert lines[1].split()[:2] == ["failed", "texts"]
    assert len(lines) == 5
    str(report).encode()
    assert "\x1b" not in str(report)


def test_a_script_checks_the_environment_it_defines(tmp_path: Path) -> None:
    """`make_env` of a script is found by a fresh process, without running the script again."""
    script = tmp_path / "my_env.py"
    source = Path(broken_envs.__file__).read_text()
    script.write_text(
        f"{source}\n"
        "if __name__ == '__main__':\n"
        "    from eeflib.envs.conformance import check_environment\n"
        "    print(check_environment(Good, TASKS, only=['processes'], processes=1))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert "1 of 1 checks passed" in done.stdout, done.stdout + done.stderr
