"""What a page shows, run in this process: another one would first import torch, for seconds."""

from __future__ import annotations

import io
import re
import shlex
import sys
from contextlib import chdir, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from eeflib.cli import main


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def program(code: str, folder: Path) -> str:
    """What a program of the page prints in `folder`."""
    with chdir(folder), redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "page", "exec"), {"__name__": "page"})
    return out.getvalue()


def command(line: str, folder: Path) -> str:
    """What an `eef` command of the page prints in `folder`; it must not fail."""
    out, argv = io.StringIO(), shlex.split(line)
    assert argv[0] == "eef"
    with chdir(folder), redirect_stdout(out), patch.object(sys, "argv", argv):
        main()
    return out.getvalue()
