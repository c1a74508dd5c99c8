"""Case a16: one line of a records file is not what it should be, down to its bytes.

The command names the file and the line, shows the rest, and ends with exit code 0; a file of which
nothing is left is said as well. No input ends in a traceback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eeflib.files import ReadReport, RunFolder
from eeflib.records import Trajectory


def line(i: int, **changes: object) -> str:
    step = {"observation": "Search", "action": "search[torch]", "actor": "teacher"}
    record = {
        "id": f"t{i}",
        "task_id": f"t{i}",
        "env": "webshop",
        "instruction": "a crème brûlée torch",
        "policy": "human",
        "final_observation": "",
        "reward": 1.0,
        "terminated": True,
        "truncated": False,
        "steps": [step],
    }
    return json.dumps(record | changes, ensure_ascii=False)


GOOD = line(0).encode()
BAD = {
    "saved as Windows-1252": line(1).encode("cp1252"),
    "bad byte where no table looks": line(1, note="crème").encode().replace(b"cr\xc3", b"cr\xff"),
    "one line of UTF-16": line(1).encode("utf-16-le"),
    "NUL bytes after a power cut": b"\0" * 400,
    "200,000 brackets": b"[" * 200_000,
    "brackets inside a record": line(1, goal=0).encode().replace(b": 0}", b": " + b"[" * 200_000),
    "a deep value": line(1, extra={"x": 0})
    .encode()
    .replace(b": 0}", b": %s}" % (b"[" * 150 + b"]" * 150)),
    "reward of 7.5": line(1, reward=7.5).encode(),
    "negative reward": line(1, reward=-0.5).encode(),
    "reward 1e999": line(1, reward=0.25).encode().replace(b"0.25", b"1e999"),
    "an integer above 2^63": line(1, seed=2**63).encode(),
    "an integer of 5,000 digits": line(1).encode()[:-1] + b', "seed": ' + b"9" * 5000 + b"}",
    "null for a text": line(1, instruction=None).encode(),
    "a flag written 1": line(1, terminated=1).encode(),
}


def command(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from eeflib.cli import main; sys.argv = ['eef', *sys.argv[1:]]; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("name", BAD)
def test_the_line_is_named_skipped_and_counted(tmp_path, eef, caplog, name):
    path = tmp_path / "trajectories.jsonl"
    path.write_bytes(b"\n".join([GOOD, BAD[name], line(2).encode()]) + b"\n")
    report = ReadReport()
    found = list(RunFolder(tmp_path).read("trajectories", Trajectory, report))
    assert [t.id for t in found] == ["t0", "t2"]
    assert report.records == 2
    assert [s.line for s in report.skipped] == [2]
    assert len(str(report.skipped[0])) < 600
    code, out, _ = eef("report", str(tmp_path))
    assert code == 0
    page = Path(out.strip()).read_text("utf-8")
    assert "trajectories.jsonl:2: skipped" in page
    assert caplog.text.count("trajectories.jsonl:2") == 1, "one warning per fault"
    code, out, _ = eef("compare", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])


def test_the_command_shows_one_warning_and_no_traceback(tmp_path):
    (tmp_path / "trajectories.jsonl").write_bytes(
        b"\n".join([GOOD, BAD["saved as Windows-1252"], line(2).encode(), GOOD]) + b"\n"
    )
    for args in (("report", "."), ("compare", ".", "--out", "c.html")):
        done = command(tmp_path, *args)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("trajectories.jsonl:2: not UTF-8: byte 0xe8 at position") == 1
        assert done.stderr.count("'t0' occurs twice") == 1
        assert len(done.stderr.splitlines()) == 2


def test_the_field_at_fault_is_named(tmp_path):
    rows = {
        "$.reward": BAD["reward of 7.5"],
        "$.reward is not a finite number": BAD["reward 1e999"],
        "$.seed": BAD["an integer above 2^63"],
        "$.instruction": BAD["null for a text"],
        "$.terminated": BAD["a flag written 1"],
        "$.steps[0].valid": line(
            1, steps=[{**json.loads(line(0))["steps"][0], "valid": 1}]
        ).encode(),
    }
    (tmp_path / "trajectories.jsonl").write_bytes(b"\n".join(rows.values()) + b"\n")
    report = ReadReport()
    assert not list(RunFolder(tmp_path).read("trajectories", Trajectory, report))
    for field, skipped in zip(rows, report.skipped, strict=True):
        assert field in skipped.reason


def test_a_whole_file_in_utf_16_is_said_line_by_line(tmp_path, eef):
    text = "\r\n".join(line(i) for i in range(3)) + "\r\n"
    (tmp_path / "trajectories.jsonl").write_bytes(text.encode("utf-16"))
    code, out, _ = eef("report", str(tmp_path))
    assert code == 0
    assert "trajectories.jsonl:1: skipped, not UTF-8" in Path(out.strip()).read_text("utf-8")
    code, _, err = eef("compare", str(tmp_path))
    assert code == 1
    assert len([x for x in err.splitlines() if x.startswith("eef:")]) == 1


def test_the_byte_order_mark_of_an_editor_costs_no_record(tmp_path):
    (tmp_path / "trajectories.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD + b"\n")
    report = ReadReport()
    assert len(list(RunFolder(tmp_path).read("trajectories", Trajectory, report))) == 1
    assert not report.skipped


def test_half_a_surrogate_pair_is_a_record_and_not_a_fault(tmp_path, eef):
    odd = line(0, instruction="a \ud83d torch")
    (tmp_path / "trajectories.jsonl").write_bytes(
        json.dumps(json.loads(odd)).encode() + b"\n" + line(1).encode() + b"\n"
    )
    report = ReadReport()
    run = RunFolder(tmp_path)
    found = list(run.read("trajectories", Trajectory, report))
    assert [t.id for t in found] == ["t0", "t1"]
    run.append("copy", found)  # and can be written again
    assert list(run.read("copy", Trajectory)) == found
    run.close()
    assert eef("report", str(tmp_path))[0] == 0
