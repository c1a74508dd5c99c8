"""The demo's progress bar: how far it is, as a user reads it."""

from __future__ import annotations

import re
from dataclasses import replace

from eeflib.config import Config
from eeflib.demo import _Bar
from eeflib.methods import get_method
from eeflib.workers import Job


def shown(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"(\d+)%", text)]


def test_the_bar_is_half_full_after_the_first_of_two_iterations(capsys):
    method = replace(get_method("EEF"), iterations=2)
    job = Job("seed-1/EEF", print, (method,))
    with _Bar([job], Config(M=3), on=True) as bar:
        for i in (1, 2):
            for step in ("explore", "train", "evaluate"):
                for done in range(11):
                    bar.on_event((job.name, f"EEF iteration {i}: {step}", done, 10))
            if i == 1:
                assert 30 < shown(capsys.readouterr().err)[-1] <= 50
    assert shown(capsys.readouterr().err)[-1] == 100
