"""Annotations: kept with author and time, never lost, whoever writes at the same moment."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from eeflib.analysis.annotations import Annotations, Key, corrected
from eeflib.analysis.segments import Segment
from eeflib.errors import DataError
from eeflib.run import open_folder

KEY = Key(1, "teacher", 0, "webshop-1#teacher <b>")


def test_what_is_said_is_there_for_everybody_with_author_and_time(tmp_path):
    mine, hers = Annotations(tmp_path, "ann"), Annotations(tmp_path, "bea")
    mine.add_label(KEY, " misread the goal ")
    note = hers.add_note(KEY, "clicks the <b>first</b>\nmatch \u202e", (2, 4))
    mine.add_label(KEY._replace(seed=2), "misread the goal")
    said = mine.of(KEY)
    assert [(a.kind, a.text, a.author) for a in said] == [
        ("label", "misread the goal", "ann"),
        ("note", "clicks the <b>first</b>\nmatch \u202e", "bea"),
    ]
    assert (said[1].start, said[1].stop) == (2, 4)
    assert said[0].time <= said[1].time
    assert said[1].time.endswith("+00:00")
    assert hers.labels() == ["misread the goal"]
    assert set(mine.by_key()) == {KEY, KEY._replace(seed=2)}
    hers.retract(note)
    assert [a.text for a in mine.of(KEY)] == ["misread the goal"]
    assert len(hers.path.read_text("utf-8").splitlines()) == 4, "taking back deletes nothing"
    assert list(mine.frame()["text"]) == ["misread the goal"] * 2


def test_kernels_that_write_at_once_lose_nothing(tmp_path):
    """Real processes, one trajectory, while a run in the same folder is being continued."""
    run = open_folder(tmp_path, {"env": "toy"}, seeds=[1])
    script = (
        "import sys\n"
        "from eeflib.analysis.annotations import Annotations, Key\n"
        "notes = Annotations(sys.argv[1], sys.argv[2])\n"
        "for i in range(25):\n"
        "    notes.add_note(Key(1, 'teacher', 0, 't'), f'{sys.argv[2]} {i}')\n"
    )
    kernels = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), name], stderr=subprocess.PIPE, text=True
        )
        for name in ("ann", "bea", "cy")
    ]
    here = Annotations(tmp_path, "dan")
    for i in range(25):
        here.add_note(Key(1, "teacher", 0, "t"), f"dan {i}")
    for kernel in kernels:
        assert kernel.wait(120) == 0, kernel.stderr.read()
    run.close()
    with open_folder(tmp_path, {"env": "toy"}, seeds=[1]):
        said = here.of(Key(1, "teacher", 0, "t"))
    assert sorted(a.text for a in said) == sorted(
        f"{name} {i}" for name in ("ann", "bea", "cy", "dan") for i in range(25)
    )
    assert len({a.id for a in said}) == 100
    for name in ("ann", "dan"):  # each in the order said
        own = [a.text for a in said if a.author == name]
        assert own == [f"{name} {i}" for i in range(25)]


def test_a_line_that_a_killed_kernel_left_half_is_passed_over(tmp_path):
    notes = Annotations(tmp_path, "ann")
    notes.add_label(KEY, "whole")
    with open(notes.path, "a", encoding="utf-8") as file:
        file.write('{"kind": "note", "te')
    assert [a.text for a in notes.all()] == ["whole"]
    assert "cut off" in notes.problems[0]
    notes.add_label(KEY, "after")
    assert [a.text for a in notes.all()] == ["whole", "after"]
    assert notes.problems == []


def test_lines_of_a_newer_version_keep_what_we_do_not_know(tmp_path):
    notes = Annotations(tmp_path, "ann")
    row = {**notes.add_label(KEY, "old").to_dict(), "schema": 9, "mood": "sure", "id": "n"}
    with open(notes.path, "a", encoding="utf-8") as file:
        file.write(json.dumps({**row, "text": "new"}) + "\n")
        file.write(json.dumps({**row, "kind": "poll", "id": "o"}) + "\n")
    assert [(a.text, a.extra) for a in notes.all()] == [("old", {}), ("new", {"mood": "sure"})]
    assert "kind" in notes.problems[0]


def test_nothing_empty_or_endless_is_kept(tmp_path):
    notes = Annotations(tmp_path, "ann")
    for wrong, match in (
        (lambda: notes.add_note(KEY, "  \n"), "empty note"),
        (lambda: notes.add_note(KEY, "x" * 30_000), "20,000 characters"),
        (lambda: notes.add_label(KEY, "x", (3, 3)), "start before stop"),
        (lambda: notes.correct(KEY, "student", (0, 1)), "choose beneficial, harmful, unknown"),
    ):
        with pytest.raises(DataError, match=match):
            wrong()
    assert not notes.path.exists()


def test_a_correction_overrides_its_actions_and_names_its_author(tmp_path):
    parts = [Segment(0, 2, "beneficial", "lost 0/1 from s0"), Segment(2, 6, "unknown")]
    notes = Annotations(tmp_path, "ann")
    assert corrected(parts, notes.of(KEY), 6) == parts
    notes.correct(KEY, "harmful", (1, 4))
    Annotations(tmp_path, "bea").correct(KEY, "beneficial", (3, 99))
    found = corrected(parts, notes.of(KEY), 6)
    assert [(s.start, s.stop, s.label) for s in found] == [
        (0, 1, "beneficial"),
        (1, 2, "harmful"),
        (2, 3, "harmful"),
        (3, 6, "beneficial"),
    ]
    assert found[1].evidence.startswith("ann, 20")
    assert found[1].evidence.endswith("exploration: beneficial (lost 0/1 from s0)")
    assert found[3].evidence.startswith("bea, ")
    bare = corrected([], notes.of(KEY), 6)
    assert bare[0] == Segment(0, 1, "unknown")
