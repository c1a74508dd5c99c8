"""For all tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import pytest

from eeflib import cli

# In a run that was started in the background Ctrl-C is ignored, which every child process would
# inherit: those that a test interrupts must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)

Eef = Callable[..., tuple[int, str, str]]


@pytest.fixture
def eef(monkeypatch, capsys, tmp_path) -> Eef:
    """The command in this process and an empty folder: arguments -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["eef", *args])
        code = 0
        try:
            cli.main()
        except SystemExit as exc:
            code = int(exc.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: a file stays in one process, and the long ones must not be what
    the other processes wait for in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
