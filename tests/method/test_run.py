"""The run folder: what is written is whole, a killed run continues, damage is reported."""

import json
import logging
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import eeflib as eef
from eeflib.errors import DataError
from eeflib.files import ReadReport, RunFolder, write_atomic
from eeflib.records import Step, Task, Trajectory, Usage
from eeflib.run import open_folder, open_run

CONFIG = {"preset": "tiny", "student": {"lr": 0.01, "layers": 2}}


def task(i: int, size: int = 10) -> Task:
    return Task(f"task-{i:04d}", "webshop", "x" * size)


def trajectory(i: int, seconds: float = 0.0) -> Trajectory:
    step = Step("o", f"click[{i}]", "student", usage=Usage(5, 1, None, seconds))
    return Trajectory(f"t{i}", f"task-{i}", "webshop", "buy", "p", (step,), "", 1.0, True, False)


def ids(run: RunFolder) -> list[str]:
    return [t.id for t in run.read("tasks", Task)]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_records_come_back_in_order_from_every_folder_of_a_run(tmp_path):
    with open_folder(tmp_path / "run", CONFIG, seeds=[0, 1]) as run:
        assert run.append("tasks", [task(0), task(1)]) == 2
        run.append("tasks", [task(2)])
        inner = run.sub("seed-0/EEF/iter-1")
        inner.append("trajectories", [trajectory(0)])
        inner.append("evaluations", [{"method": "EEF", "win_rate": 0.5}])
    run = RunFolder(tmp_path / "run")
    assert list(run.read("tasks", Task)) == [task(0), task(1), task(2)]
    assert list(run.sub("seed-0/EEF/iter-1").read("trajectories", Trajectory)) == [trajectory(0)]
    assert list(inner.read("evaluations")) == [{"method": "EEF", "win_rate": 0.5}]
    assert run.found("branches", Trajectory) == []
    assert len(lines(tmp_path / "run" / "tasks.jsonl")) == 3
    run.rewrite("tasks", [task(5)])
    assert list(run.read("tasks", Task)) == [task(5)]


def test_the_manifest_says_what_made_the_run(tmp_path):
    with open_folder(tmp_path, CONFIG, seeds=[3, 4]) as run:
        manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["config"] == CONFIG
    assert manifest["seeds"] == [3, 4]
    assert manifest["versions"]["numpy"]
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_run_continues_only_with_its_own_configuration(tmp_path):
    with open_folder(tmp_path, CONFIG, seeds=(0,)) as run:
        run.append("tasks", [task(0)])
        run.mark_done("collect", {"solved": 3})
    with open_folder(str(tmp_path), CONFIG, seeds=[0]) as run:
        assert run.phase("collect") == {"solved": 3}
        assert run.phase("explore") is None
    other = {"preset": "tiny", "student": {"lr": 0.02, "layers": 2, "rank": 8}}
    with pytest.raises(DataError) as caught:
        open_folder(tmp_path, other, seeds=[0, 1])
    message = str(caught.value)
    for part in ("student.lr: 0.01 -> 0.02", "student.rank", "seeds: [0] -> [0, 1]", "--fresh"):
        assert part in message
    assert "layers" not in message
    with open_folder(tmp_path, other, seeds=[0, 1], fresh=True) as run:
        assert not run.exists("tasks")
        assert run.phase("collect") is None


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path, fresh):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
        open_folder(tmp_path, CONFIG, fresh=fresh)
    (tmp_path / "manifest.json").write_text('{"name": "somebody else\'s"}')
    with pytest.raises(DataError, match="not the manifest of a run"):
        open_folder(tmp_path, CONFIG, fresh=fresh)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_starting_over_that_was_killed_half_way_leaves_a_run(tmp_path, monkeypatch):
    with open_folder(tmp_path, CONFIG) as run:
        run.append("tasks", [task(0)])
        run.sub("seed-0").append("tasks", [task(1)])
    for name in ("zz", "aa", "seed-1"):
        run.sub(name).mark_done("x")
    removed: list[Path] = []

    def killed(self: Path) -> None:
        removed.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        open_folder(tmp_path, {"preset": "laptop"}, fresh=True)
    monkeypatch.undo()
    assert removed == [tmp_path / "tasks.jsonl"]
    with pytest.raises(DataError, match="another configuration"):
        open_folder(tmp_path, {"preset": "laptop"})
    with open_folder(tmp_path, {"preset": "laptop"}, fresh=True):
        assert [p.name for p in tmp_path.iterdir() if p.name[0] != "."] == ["manifest.json"]


def test_two_runs_write_the_same_records_whatever_the_clock_said(tmp_path):
    for name, seconds in (("a", 0.1), ("b", 7.9)):
        with open_folder(tmp_path / name, CONFIG) as run:
            run.append("trajectories", [trajectory(i, seconds) for i in range(3)])
            run.mark_done("collect", {"n": 3})
    for file in ("trajectories.jsonl", "phases/collect.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_damage_in_the_middle_is_reported_with_its_line_and_passed_over(tmp_path, caplog):
    run = RunFolder(tmp_path)
    run.append("tasks", [task(0), task(1)])
    path = run.file("tasks")
    bad = [
        b'{"id": "half',
        b'{"id": 5, "env": "webshop", "instruction": ""}',
        b"[1]",
        b"\x00\x00\x00",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"id": "n", "env": "webshop", "instruction": "", "threshold": NaN}',
        b"",
    ]
    with path.open("ab") as file:
        file.writelines(line + b"\n" for line in bad)
    run.append("tasks", [task(2)])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # reported every time, logged once
            report = ReadReport()
            assert list(run.read("tasks", Task, report)) == [task(0), task(1), task(2)]
    assert caplog.text.count("line skipped") == 7
    assert report.records == 3
    assert [s.line for s in report.skipped] == [3, 4, 5, 6, 7, 8, 9]
    assert f"{path}:4: not a Task record: Expected `str`, got `int` - at `$.id`" in caplog.text
    assert str(report.skipped[0]).startswith(f"{path}:3: not JSON")


@pytest.mark.parametrize("tail", [b'{"id": "task-99', b"\x00" * 512, '{"id": "é'.encode()[:-1]])
def test_a_torn_last_line_is_moved_aside_at_the_next_opening(tmp_path, caplog, tail):
    with open_folder(tmp_path, CONFIG) as run:
        run.sub("seed-0").append("tasks", [task(0), task(1)])
    path = tmp_path / "seed-0" / "tasks.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert list(RunFolder(path.parent).read("tasks", Task)) == [task(0), task(1)]
    with caplog.at_level(logging.WARNING), open_folder(tmp_path, CONFIG) as run:
        assert path.read_bytes() == whole
        run.sub("seed-0").append("tasks", [task(2)])
    assert "interrupted write" in caplog.text
    assert path.with_name("tasks.jsonl.torn").read_bytes() == tail + b"\n"
    assert list(run.sub("seed-0").read("tasks", Task)) == [task(0), task(1), task(2)]


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    run = RunFolder(tmp_path)
    run.append("tasks", [task(0), task(1, 3_000_000)])
    path = run.file("tasks")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    run.append("tasks", [task(2)])
    assert list(run.read("tasks", Task)) == [task(0), task(1, 3_000_000), task(2)]
    path.write_bytes(path.read_bytes()[:-2])  # longer than what is searched at a time
    assert ids(run) == ["task-0000", "task-0001"]


def test_a_newer_schema_is_read_with_a_warning_and_loses_nothing(tmp_path, caplog):
    run = RunFolder(tmp_path)
    row = {**task(0).to_dict(), "schema": 99, "mood": "good"}
    run.append("tasks", [row, {**row, "id": "task-0001"}])
    report = ReadReport()
    with caplog.at_level(logging.WARNING):
        tasks = list(run.read("tasks", Task, report))
    assert tasks[0].extra == {"mood": "good"}
    assert report.newer == 2
    assert caplog.text.count("newer eeflib") == 1
    run.append("copy", tasks)
    assert next(run.read("copy"))["mood"] == "good"


def test_a_record_that_is_no_json_is_refused_before_anything_is_written(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(
        DataError, match=r"tasks\.jsonl: record 1 \(bad\).*\$\.goal\.x is not a finite"
    ):
        run.append("tasks", [task(0), Task("bad", "e", "i", {"x": float("nan")})])
    assert not run.exists("tasks")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "", ".hidden", "a//b", "a/../b", "a b", "a\n"])
def test_names_stay_inside_the_run(tmp_path, name):
    run = RunFolder(tmp_path)
    for call in (run.file, run.sub, run.mark_done, lambda n: run.write_json(n, "x")):
        with pytest.raises(DataError, match="no name for a file"):
            call(name)


def test_a_missing_file_and_a_missing_run_are_named(tmp_path):
    with pytest.raises(DataError, match=r"branches\.jsonl does not exist: run the step"):
        RunFolder(tmp_path).read("branches")
    with pytest.raises(DataError, match="not a run folder"):
        open_run(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        open_folder(tmp_path / "file", CONFIG)


def test_a_damaged_phase_marker_means_not_finished(tmp_path):
    run = RunFolder(tmp_path)
    run.mark_done("seed-0/train")
    assert run.phase("seed-0/train") == {}
    (tmp_path / "phases/seed-0/train.json").write_text('{"phase":')
    assert run.phase("seed-0/train") is None


@contextmanager
def files_of_at_most(size: int):
    """The kernel takes writes up to `size` bytes of a file and then fails, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_when_the_disk_is_full_the_batch_is_refused_and_what_was_there_stays(tmp_path):
    run = open_folder(tmp_path, CONFIG)
    run.append("tasks", [task(0), task(1)])
    write_atomic(tmp_path / "report.html", "old")
    before = run.file("tasks").read_bytes()
    with files_of_at_most(len(before) + 5000):
        with pytest.raises(DataError, match=r"tasks\.jsonl: cannot be written .*none of the last"):
            run.append("tasks", [task(i, 2000) for i in range(2, 9)])
        assert run.file("tasks").read_bytes() == before
        with pytest.raises(DataError, match=r"report\.html: cannot be written"):
            write_atomic(tmp_path / "report.html", "n" * 100_000)
        with pytest.raises(DataError, match="unchanged"):
            run.rewrite("tasks", [task(i, 20_000) for i in range(3)])
    assert (tmp_path / "report.html").read_text() == "old"
    assert run.append("tasks", [task(i, 2000) for i in range(2, 9)]) == 7  # room again
    assert ids(run) == [task(i).id for i in range(9)]
    assert not list(tmp_path.glob(".*.tmp"))


def test_no_space_on_drive_is_said_and_with_room_again_the_same_cells_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("eeflib.run._DRIVE", tmp_path)

    def cells() -> list[Trajectory]:
        run = eef.open_run("runs/shop", preset="tiny")
        return eef.collect(run.world(), run=run)

    place = re.escape(str(tmp_path / "eeflib-runs/shop"))
    for room in (0, 5000):
        with files_of_at_most(room), pytest.raises(DataError, match=f"^{place}.*cannot be written"):
            cells()
    assert len(cells()) == len(open_run("runs/shop").world().split("train"))


def test_what_a_killed_process_left_half_written_goes_with_the_next_write(tmp_path):
    (tmp_path / ".report.html.99999.tmp").write_text("ha")
    (tmp_path / ".other.html.99999.tmp").write_text("ha")
    write_atomic(tmp_path / "report.html", "whole")
    assert [p.name for p in tmp_path.glob(".*.tmp")] == [".other.html.99999.tmp"]
    assert (tmp_path / "report.html").read_text() == "whole"


WRITER = """
import sys
from eeflib.records import Task
from eeflib.run import open_folder, open_run
run = open_folder(sys.argv[1], {"preset": "tiny", "student": {"lr": 0.01, "layers": 2}})
print("ready", flush=True)
done = {t.id for t in run.found("tasks", Task)}
todo = [i for i in range(int(sys.argv[2])) if f"task-{i:04d}" not in done]
text = "x" * int((sys.argv[3:] or [30_000])[0])
for b in range(0, len(todo), 4):
    run.append("tasks", [Task(f"task-{i:04d}", "webshop", text) for i in todo[b : b + 4]])
"""


def start(code: str, *args: object) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.0002)


def test_killed_at_any_moment_it_keeps_whole_lines_and_gives_the_lock_back(tmp_path):
    rng = random.Random(5)
    torn = parts = 0
    for attempt in range(40):
        path = tmp_path / str(attempt)
        process = start(WRITER, path, 10_000, 2_000_000)  # long lines: most time goes into writing
        wait_for(path / "tasks.jsonl")
        time.sleep(rng.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with open_folder(path, CONFIG) as run:  # a stale lock would stop this
            torn += (path / "tasks.jsonl.torn").exists()
            report = ReadReport()
            kept = [t.id for t in run.read("tasks", Task, report)]
            assert kept == [task(i).id for i in range(len(kept))]
            parts += bool(len(kept) % 4)
            assert not report.skipped
            run.append("tasks", [task(len(kept))])
            assert ids(run) == [*kept, task(len(kept)).id]
        if torn and parts:
            break
    assert torn, "no kill came inside a write: the test proves nothing"


def test_only_one_process_writes_and_the_other_is_told_which(tmp_path):
    holder = start(WRITER.replace("for b in", "import time; time.sleep(60)\nfor b in"), tmp_path, 4)
    with pytest.raises(DataError, match=f"written by process {holder.pid} .*another --run DIR"):
        open_folder(tmp_path, CONFIG)
    reader = RunFolder(tmp_path)
    assert reader.found("tasks", Task) == []  # reading is free
    with pytest.raises(DataError, match=str(holder.pid)):
        reader.append("tasks", [task(0)])
    with pytest.raises(DataError, match=str(holder.pid)):
        open_folder(tmp_path, CONFIG, fresh=True)
    holder.kill()
    holder.wait()
    with open_folder(tmp_path, CONFIG) as run:
        run.append("tasks", [task(0)])


ORPHAN = """
import fcntl, os, sys, time
os.makedirs(sys.argv[1], exist_ok=True)
fcntl.flock(os.open(sys.argv[1] + "/.workers", os.O_RDWR | os.O_CREAT), fcntl.LOCK_SH)
print("ready", flush=True)
time.sleep(float(sys.argv[2]))
open(sys.argv[1] + "/.gone", "w").close()
"""


def test_a_run_waits_for_the_workers_of_a_killed_one(tmp_path, monkeypatch):
    process = start(ORPHAN, tmp_path / "soon", 0.3)
    with open_folder(tmp_path / "soon", CONFIG):
        assert (tmp_path / "soon/.gone").exists()
    process.wait()
    monkeypatch.setattr("eeflib.files._WORKERS_SECONDS", 0.1)
    process = start(ORPHAN, tmp_path / "never", 60)
    with pytest.raises(DataError, match="worker processes"):
        open_folder(tmp_path / "never", CONFIG)
    process.kill()
    process.wait()
    open_folder(tmp_path / "never", CONFIG).close()  # the failed opening gave the run's lock back


def test_a_notebook_cell_run_twice_does_not_lock_itself_out(tmp_path):
    first = open_folder(tmp_path, CONFIG)
    second = open_folder(tmp_path, CONFIG)
    first.close()
    second.append("tasks", [task(0)])
    probe = "import sys; from eeflib.run import open_folder, open_run; open_folder(sys.argv[1], {})"
    held = subprocess.run([sys.executable, "-c", probe, str(tmp_path)], capture_output=True)
    assert b"is being written by process %d" % os.getpid() in held.stderr
    second.close()
    free = subprocess.run([sys.executable, "-c", probe, str(tmp_path)], capture_output=True)
    assert b"another configuration" in free.stderr  # it got as far as the manifest


def test_threads_may_append_at_once(tmp_path):
    run = RunFolder(tmp_path)

    def work(worker: int) -> None:
        for i in range(10):
            run.append("tasks", [task(1000 * worker + i), task(1000 * worker + 100 + i)])

    threads = [threading.Thread(target=work, args=(w,)) for w in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = ReadReport()
    assert len({t.id for t in run.read("tasks", Task, report)}) == 80
    assert not report.skipped


def test_a_record_that_is_there_twice_counts_once_and_that_is_said_once(tmp_path, caplog):
    run = RunFolder(tmp_path)
    other = Task("task-0000", "webshop", "the second of this name")
    run.append("tasks", [task(0), task(1), other, task(0)])
    report = ReadReport()
    with caplog.at_level(logging.WARNING):
        assert list(run.read("tasks", Task, report)) == [task(0), task(1)]
        assert list(run.read("tasks", Task)) == [task(0), task(1)]
    assert (report.records, report.duplicates) == (2, 2)
    assert caplog.text.count("occurs twice") == 1
    assert f"{run.file('tasks')}:3: 'task-0000' occurs twice" in caplog.text
    rows = [{"method": "EEF", "win_rate": 0.5}] * 2  # what has no id may repeat
    run.append("evaluations", rows)
    assert list(run.read("evaluations")) == rows


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"".join(file.read_bytes().splitlines(True)[:-1])),
        lambda file: file.write_bytes(file.read_bytes().replace(b"x", b"y", 1)),
        lambda file: file.write_bytes(file.read_bytes()[:-7]),
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
    ],
)
@pytest.mark.parametrize("name", ["branches.jsonl", "model/model.safetensors"])
def test_what_a_finished_phase_left_is_watched(tmp_path, name, damage):
    with open_folder(tmp_path, CONFIG) as run:
        here = run.sub("seed-0/EEF")
        here.append("branches", [task(i) for i in range(3)])
        here.append("later", [task(0)])
        (here.path / "model").mkdir()
        (here.path / "model/model.safetensors").write_bytes(b"\n\0x" * 1000)
        here.mark_done("explore", {"n": 3}, files=("branches", "model/model.safetensors"))
        here.append("later", [task(1)])  # nobody watches this one
        assert here.phase("explore") == {"n": 3}
    damage(here.path / name)
    with open_folder(tmp_path, CONFIG) as run:  # cuts torn lines off, as always
        here = run.sub("seed-0/EEF")
        with pytest.raises(DataError) as caught:
            here.phase("explore")
        said = str(caught.value)
        assert f"{here.path / name} was changed or cut since `explore` finished" in said
        assert f"or delete {here.path} to do it again" in said


def test_a_phase_that_did_not_write_its_files_is_not_done(tmp_path):
    with pytest.raises(DataError, match=r"did not write .*branches\.jsonl"):
        RunFolder(tmp_path).mark_done("explore", files=("branches",))


def test_a_step_with_other_arguments_never_finds_the_old_records(tmp_path):
    with open_folder(tmp_path, CONFIG) as run:
        five = {"method": "EEF", "M": 5, "student": "abc"}
        first = run.step_folder("EEF/iter-1", five)
        assert first.path == tmp_path / "EEF/iter-1"
        first.append("branches", [task(0)])
        first.mark_done("explore")
        second = run.step_folder("EEF/iter-1", {**five, "M": 3})
        assert re.fullmatch(r"EEF~[0-9a-f]{6}/iter-1", str(second.path.relative_to(tmp_path)))
        assert not second.exists("branches")
        assert second.phase("explore") is None
        second.append("branches", [task(1)])
    with open_folder(tmp_path, CONFIG) as run:
        again = run.step_folder("EEF/iter-1", {"student": "abc", "M": 5, "method": "EEF"})
        assert list(again.read("branches", Task)) == [task(0)]
        again = run.step_folder("EEF/iter-1", {**five, "M": 3})
        assert list(again.read("branches", Task)) == [task(1)]
        # records of which nobody knows how they were made
        run.sub("old").append("branches", [task(0)])
        assert run.step_folder("old", {"M": 1}).path.name.startswith("old~")


def test_a_run_continued_by_other_code_says_so_in_one_line(tmp_path, caplog):
    open_folder(tmp_path, CONFIG).close()
    with caplog.at_level(logging.WARNING):
        open_folder(tmp_path, CONFIG).close()
    assert not caplog.records
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["code"] = "0123456789abcdef"
    manifest["versions"]["numpy"] = "0.1"
    path.write_text(json.dumps(manifest))
    with caplog.at_level(logging.WARNING):
        open_folder(tmp_path, CONFIG).close()
    (record,) = caplog.records
    assert "another version of the code" in record.getMessage()
    assert "code: '0123456789abcdef' -> " in record.getMessage()
    assert "versions.numpy: '0.1' -> " in record.getMessage()


SECRETS = {
    "token": "S3CRET",
    "hfToken": "S3CRET",
    "OPENAI_API_KEY": "S3CRET",
    "x-api-key": "S3CRET",
    "key": 73467,
    "Authorization": "Bearer S3CRET",
    "teacher": [{"password": "S3CRET"}, [{"passwd": "S3CRET"}]],
    "credentials": {"user": "S3CRET"},
    "aws_secret_access_key": "S3CRET",
    "bearer": "S3CRET",
    "access_tokens": ["S3CRET"],
    "base_url": "https://user:S3CRET@host/v1",
    "other_url": "see http://host/v1?x=1&api_key=S3CRET&y=2#access_token=S3CRET",
}
HARMLESS = {
    "max_tokens": 5,
    "max_new_tokens": 6,
    "n_tokens": 7,
    "tokenizer": "own",
    "monkey": "m",
    "keyboard": "k",
    "pad_token": "<pad>",
    "state_key": "s",
    "author": "me",
    "use_token": True,
    "api_key": None,
    "url": "https://host/v1?tokenizer=own&max_tokens=3",
    "mail": "me@host",
}


def test_no_secret_reaches_the_manifest(tmp_path):
    open_folder(tmp_path, {**SECRETS, **HARMLESS}).close()
    text = (tmp_path / "manifest.json").read_text()
    kept = json.loads(text)["config"]
    assert "S3CRET" not in text
    assert "73467" not in text
    assert {k: kept[k] for k in HARMLESS} == HARMLESS
    assert kept["base_url"] == "https://(not kept)@host/v1"
    assert kept["other_url"].startswith("see http://host/v1?x=1&api_key=(not kept)&y=2#")
    # another secret, or none, is the same run; another setting is not
    changed = json.loads(json.dumps(SECRETS).replace("S3CRET", "0ther"))
    open_folder(tmp_path, {**changed, **HARMLESS}).close()
    fewer = {k: v for k, v in changed.items() if k != "token"}
    open_folder(tmp_path, {**fewer, **HARMLESS}).close()
    with pytest.raises(DataError, match="max_tokens: 5 -> 6") as caught:
        open_folder(tmp_path, {**changed, **HARMLESS, "max_tokens": 6})
    assert "0ther" not in str(caught.value)


def test_an_empty_folder_starts_a_run_and_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    open_folder(tmp_path / "empty", CONFIG).close()
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(DataError, match=r"cannot be written .*another --run DIR"):
            open_folder(path, CONFIG)
    assert (tmp_path / "file").read_text() == "precious"


def test_numbers_that_no_reader_takes_are_refused_on_writing(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(DataError, match=r"\$\.goal\.price is an integer of more than 64 bits"):
        run.append("tasks", [Task("t", "e", "i", {"price": 2**63})])
    run.append("tasks", [Task("t", "e", "i", {"price": 2**63 - 1})])
    assert next(run.read("tasks", Task)).goal == {"price": 2**63 - 1}
