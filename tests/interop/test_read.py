"""Trajectories that others recorded: what is read, what is said, what a bad file does."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import eeflib as eef
from eeflib.analysis.collection import Collection
from eeflib.analysis.run import Run
from eeflib.cli import app
from eeflib.errors import DataError, PrerequisiteError
from eeflib.interop import sources
from eeflib.interop.imported import import_run, replay
from eeflib.interop.read import stream_trajectories
from eeflib.interop.sources import ImportReport

DATA = Path(__file__).parents[1] / "data" / "interop"
TASK = "Instruction: [SEP] i need a green desk lamp [SEP] Search"


def episode(**more):
    return {
        "messages": [
            {"role": "user", "content": TASK},
            {"role": "assistant", "content": "Thought: t\nAction: search[lamp]"},
        ],
        **more,
    }


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def eef_command(eef):
    def call(*arguments):
        code, out, err = eef(*map(str, arguments))
        assert "Traceback" not in err
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return call


# -- formats --------------------------------------------------------------------------------------

READ = {  # file -> (format, model, actions, reward; None: unknown) of each episode
    "paper/webshop_gpt4.json": [
        ("eef paper", "gpt-4-0613", "think[a green one]|search[green desk lamp]|click[B000000002]|"
         "click[Buy Now]|finish[done]", reward)
        for reward in (1.0, 0.5)
    ],
    "paper/sciworld_0_-200.json": [
        ("eef paper", "eef-llama", "look around|open[door to kitchen]", reward)
        for reward in (0.01, 1.0, 0.25, 0.0)  # 1, 100, 25 and -100 of 100
    ],
    "openai_messages/tool_calls.jsonl": [
        ("openai messages", "some-model-1", "search[green desk lamp]|click[Buy Now]", 1.0)
    ],
    "verifiers/traces.jsonl": [
        ("verifiers v1", "qwen3-8b", "search[lamp]|click[Buy Now]", 0.7),
        ("verifiers v1", "qwen3-8b", "search[lamp]|click[Next >]", 0.7),
        ("verifiers v1", "qwen3-8b", "", None),
    ],
    "verifiers/results.jsonl": [
        ("verifiers v0", "unknown model", "search[lamp]|click[Buy Now]", 1.0)
    ],
    "atif/trajectory.json": [
        ("atif", "claude-x", "search[green desk lamp]|click[Buy Now]", 0.75)
    ],
    "hub/rows.json": [
        ("eto sft or sharegpt", "unknown model", "search[lamp]", reward) for reward in (0.25, 0.5)
    ],
    "hub/train.parquet": [
        ("openai messages", "m-1", "search[lamp]", None),
        ("openai messages", "m-2", "click[Buy Now]", 1.0),
    ],
    "eeflib/trajectories.jsonl": [("eeflib", "scripted", "search[lamp]", 0.5)],
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_every_format_gives_model_actions_and_reward(name):
    found = eef.read_trajectories(DATA / name)
    got = [
        (t.extra["format"], t.policy, "|".join(t.actions), t.reward if t.rated else None)
        for t in found
    ]
    assert got == [pytest.approx(x) if isinstance(x, float) else x for x in READ[name]]
    assert found.report.read == len(found)
    assert all(t.extra["source"].startswith(Path(name).name) for t in found)
    for t in found:  # a record like any other
        assert eef.Trajectory.from_dict(json.loads(json.dumps(t.to_dict()))) == t


def test_what_is_not_understood_stays():
    (called,) = eef.read_trajectories(DATA / "openai_messages/tool_calls.jsonl")
    assert called.extra["run"] == {"temperature": 0.7}
    assert called.steps[1].extra["reasoning_content"] == "Cheap enough."
    assert called.steps[1].extra["observed"] == {"tool_call_id": "call_1"}
    assert called.steps[0].observation.endswith("dollars [SEP] Search\n[image_url]")
    (atif,) = eef.read_trajectories(DATA / "atif/trajectory.json")
    assert (atif.usage.prompt_tokens, atif.usage.cost_usd) == (300, 0.001)
    assert atif.steps[0].thought == "A lamp."
    assert atif.final_observation == "Thank you"
    broke = eef.read_trajectories(DATA / "verifiers/traces.jsonl")[2]
    assert "502" in broke.error
    assert not broke.steps


def test_inspect_logs_need_their_package_or_are_read():
    try:
        import inspect_ai  # noqa: F401
    except ImportError:
        with pytest.raises(PrerequisiteError, match=r"eeflib\[inspect\]"):
            eef.read_trajectories(DATA / "inspect/lamps.eval")
        found = eef.read_trajectories([DATA / "inspect", DATA / "eeflib"])  # the rest is read
        assert len(found) == 1
        assert "eeflib[inspect]" in str(found.report)
        return
    found = eef.read_trajectories(DATA / "inspect/lamps.eval")
    assert [(t.id, t.reward, t.rated, t.policy) for t in found] == [
        ("lamp-1", 1.0, True, "mockllm/model"),
        ("lamp-2", 0.5, True, "mockllm/model"),
        ("lamp-3", 0.0, False, "mockllm/model"),
    ]
    assert found[0].actions == ("search[green desk lamp]", "click[Buy Now]")
    assert found[2].error == "sandbox died"
    assert found[0].extra["metadata"] == {"difficulty": "easy"}


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PrerequisiteError, match=r"eeflib\[parquet\]"):
        eef.read_trajectories(DATA / "hub/train.parquet")


def test_a_folder_keeps_models_apart_and_names_etos_from_its_path(tmp_path):
    for model in ("llama-2-7b", "gpt-4"):
        (tmp_path / f"outputs/{model}/webshop").mkdir(parents=True)
        for n, reward in ((12, 1.0), (13, 0.5)):
            content = json.loads((DATA / "eto_rollout/12.json").read_text())
            content["meta"]["reward"] = reward
            (tmp_path / f"outputs/{model}/webshop/{n}.json").write_text(json.dumps(content))
    (tmp_path / "README.txt").write_text("not data")
    found = eef.read_trajectories(tmp_path)
    assert [(t.id, t.policy) for t in found] == [
        ("12", "gpt-4"), ("13", "gpt-4"), ("12#2", "llama-2-7b"), ("13#2", "llama-2-7b"),
    ]  # fmt: skip
    assert len({t.task_id for t in found}) == 1, "the same instruction is the same task"
    assert any("README.txt" in n.first for n in found.report.skipped.values())
    assert any("occurs twice" in what for what in found.report.noted)


@pytest.mark.parametrize(
    ("rewards", "right"),
    [
        ([0, 1, 1], [0, 1, 1]),
        ([0, 1, 100], [0, 0.01, 1]),
        ([0.25, 1.0], [0.25, 1]),
        ([True, False], [1, 0]),
        (["0.5", None, "n/a"], [0.5, None, None]),
        ([-100, 43, 101], [0, 0.43, None]),
    ],
)
def test_rewards_of_both_scales_and_none(tmp_path, rewards, right):
    path = tmp_path / "a.jsonl"
    path.write_text(lines(episode(reward=r) for r in rewards))
    found = eef.read_trajectories(path)
    assert [t.reward if t.rated else None for t in found] == right


def test_own_reader_and_the_message_that_shows_how(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"talk": [["me", TASK], ["bot", "Action: search[a]"]], "points": 3}, {"talk": []}]
    path.write_text(lines(rows))
    with pytest.raises(DataError) as error:
        eef.read_trajectories(path)
    assert "points, talk" in str(error.value)
    assert "mine.jsonl:1" in str(error.value)
    assert "def reader(row):" in str(error.value)

    def reader(row):
        who = {"me": "user", "bot": "assistant"}
        turns = [{"role": who[a], "content": text} for a, text in row["talk"]]
        return {"messages": turns, "reward": row["points"] / 4} if turns else None

    found = eef.read_trajectories(path, reader=reader)
    assert [(t.actions, t.reward) for t in found] == [(("search[a]",), 0.75)]
    assert "no episode, says the reader" in found.report.skipped


# -- bad files ------------------------------------------------------------------------------------

GOOD = json.dumps(episode(id="good", reward=1.0)).encode()
BAD = {  # content -> what the report says of it
    "bom": (b"\xef\xbb\xbf" + GOOD + b"\n", ""),
    "crlf": (GOOD + b"\r\n\r\n", ""),
    "pretty": (json.dumps(json.loads(GOOD), indent=2).encode(), ""),
    "gz": (gzip.compress(GOOD), ""),
    "array after a bom": (b"\xef\xbb\xbf [" + GOOD + b"]", ""),
    "half a line": (GOOD + b"\n" + GOOD[:50], "bad:2"),
    "half an array": (b"[" + GOOD + b"," + GOOD[:50], "bad[1]"),
    "half a gz": (gzip.compress(GOOD + b"\n" + bytes(range(256)) * 9000)[:3000], "cut off"),
    "no utf-8 in a line": (b'{"messages": "\xff"}\n' + GOOD, "bad:1"),
    "no utf-8 in an array": (b'[{"messages": "\xc3("}, ' + GOOD + b"]", "bad[0]"),
    "nul in a line": (b'{"a": "\x00"}\n' + GOOD, "bad:1"),
    "nul in an array": (b'[{"a": "\x00"}, ' + GOOD + b"]", "bad[0]"),
    "nuls at the end": (GOOD + b"\n" + bytes(1000), "bad:2"),
    "rewards that are no number": (GOOD[:-4] + b"NaN}", ""),
    "no number in an array": (b"[" + GOOD[:-4] + b"NaN}]", ""),
    "an overflow": (b'{"messages": [], "reward": 1e999}\n' + GOOD, "bad:1"),
    "deep": (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}\n" + GOOD, "bad:1"),
    "huge number": (b'[{"a": 1' + b"0" * 30 + b"}, " + GOOD + b"]", "bad[0]"),
    "other things": (b'[1, null, "x", ' + GOOD + b"]", "bad[0]"),
    "roles": (b'{"messages": [{"role": "ghost", "content": "x"}]}\n' + GOOD, "ghost"),
    "odd shapes": (
        b'{"messages": [3]}\n{"messages": {}}\n{"conversations": [[]]}\n' + GOOD,
        "bad:1",
    ),
    "mixed": (b'{"id": 1, "conversations": null}\n{"strange": 1}\n' + GOOD, "strange"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_good_episode_is_read_and_the_bad_is_named(tmp_path, name):
    content, said = BAD[name]
    path = tmp_path / "bad"
    path.write_bytes(content)
    found = eef.read_trajectories(path)
    assert [t.id for t in found] == ["good"]
    assert bool(found.report.skipped) == bool(said)
    assert said in str(found.report)


def test_utf_16_an_empty_file_and_no_file_are_named(tmp_path):
    contents = {"UTF-16": GOOD.decode().encode("utf-16"), "empty": b"\n \n", "blanks": b" " * 5000}
    for words, content in contents.items():
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(DataError, match=words):
            eef.read_trajectories(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        eef.read_trajectories(tmp_path / "nothing.json")


def test_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_INFLATED", 1 << 20)
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(GOOD + b"\n")
        for _ in range(64):
            file.write(b" " * (1 << 20))
    found = eef.read_trajectories(tmp_path / "a.jsonl.gz")
    assert len(found) == 1
    assert "unpacks to more than" in str(found.report)
    with zipfile.ZipFile(tmp_path / "b.eval", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("header.json", b" " * (64 << 20))
    with pytest.raises(DataError, match="unpacks to more than"):
        eef.read_trajectories(tmp_path / "b.eval")


BOUNDED = """
import sys
from pathlib import Path
from eeflib.interop.read import read_trajectories
def peak():  # of this program; ru_maxrss holds its parent's as well
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
base = peak()
found = read_trajectories(sys.argv[1])
print(len(found), (peak() - base) // 1024, found.report)
"""


@pytest.mark.parametrize("inside", ["a line", "an array"])
def test_a_line_or_an_entry_of_a_gigabyte_does_not_fill_the_memory(tmp_path, inside):
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        file.write(b"[" * (inside != "a line") + GOOD + (b"\n" if inside == "a line" else b","))
        file.write(b'{"messages": "')
        file.seek(1 << 30)
        file.write(b'"}\n' + GOOD if inside == "a line" else b'"}]')
    if inside == "an array":  # text, not the NULs of a sparse file
        with open(path, "wb") as file:
            file.write(b"[" + GOOD + b', {"messages": "')
            for _ in range(300):
                file.write(b"x" * (1 << 20))
            file.write(b'"}]')
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, path], capture_output=True, text=True, check=True
    )
    count, grown, report = done.stdout.split(maxsplit=2)
    assert int(count) == (2 if inside == "a line" else 1)  # its id occurs twice: kept apart
    assert int(grown) < 250
    assert "of more than 64 MB" in report


def test_episodes_come_one_by_one(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text(lines(episode(id=i) for i in range(1000)))
    report = ImportReport()
    stream = stream_trajectories(path, report)
    next(stream)
    assert report.read == 1
    assert report.files == 1


# -- a run of them --------------------------------------------------------------------------------


def test_import_makes_a_run_that_everything_opens(tmp_path, eef_command):
    run = tmp_path / "theirs"
    done = eef_command("import", DATA / "eto_rollout", DATA / "eto_sft", DATA / "human_webshop",
                       "--run", run, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["read"], last["faults"], last["unrated"]) == (4, 1, 2)
    assert "4 episodes read" in done.stderr
    again = eef_command("import", DATA / "eto_rollout", DATA / "eto_sft", DATA / "human_webshop",
                        "--run", run)  # fmt: skip
    assert again.returncode == 0
    assert len((run / "trajectories.jsonl").read_text().splitlines()) == 4, "each is there once"
    taught = eef.frames.load(run).trajectories.set_index("trajectory_id")
    assert taught["reward"].isna().sum() == 2, "unknown is no 0"
    assert set(taught["policy"]) == {"unknown model", "human"}
    report = eef.write_report(run).read_text("utf-8")
    assert "solved <a" in report or "50.0" in report, "one of the two whose reward is known"
    assert eef.Viewer(run).caption.count("unknown") == 1
    with pytest.raises(DataError, match="imported trajectories"):
        eef.open_run(run)
    other = eef_command("import", DATA / "atif", "--run", run)
    assert other.returncode == 1
    assert "another --run" in other.stderr


def test_an_unknown_reward_is_no_failure_anywhere(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        lines(episode(id=f"e{i}", reward=r) for i, r in enumerate((1.0, 0, None, None)))
    )
    import_run([path], tmp_path / "run")
    run = Run(tmp_path / "run")
    assert eef.win_rate(run.teacher_outcomes).n == 2
    frames = eef.frames.load(run)
    assert set(frames.failures["trajectory_id"]) == {"e1"}
    rows = eef.figures.outcome_by_type(frames.trajectories, "env")
    assert "1 of 2" in str(rows.to_dict())
    shown = [x.outcome for x in Collection.of(run)]
    assert shown == ["solved", "failed", "unknown", "unknown"]


def test_a_failed_import_leaves_no_folder(tmp_path, eef_command):
    (tmp_path / "odd.json").write_text('{"strange": 1}')
    done = eef_command("import", tmp_path / "odd.json", "--run", tmp_path / "run")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "strange" in done.stderr
    assert not (tmp_path / "run").exists()


def test_verify_replays_what_an_environment_at_hand_has(tmp_path, eef_command):
    config = {"preset": "tiny", "seeds": (7,), "train": 4, "test": 1, "iterations": 1}
    run = eef.open_run(tmp_path / "run", **config)
    tries = eef.collect(run.world(), run=run)
    found = eef.read_trajectories(tmp_path / "run")
    assert [t.id for t in found] == [t.id for t in tries]
    assert replay(found, [tmp_path / "run"]).to_dict() == {
        "same": len(tries), "other": 0, "no_task": 0, "first_other": "",
    }  # fmt: skip
    # the same as OpenAI messages, one of them with a reward that it did not get; one from elsewhere
    path = tmp_path / "foreign.jsonl"
    rows = []
    for t in tries:
        said = [(("user", s.observation), ("assistant", s.action)) for s in t.steps]
        turns = [{"role": role, "content": text} for pair in said for role, text in pair]
        rows.append({"id": t.id, "messages": turns, "reward": t.reward})
    rows[0]["reward"] = 0.123
    rows.append(episode(id="elsewhere", reward=0.0))
    path.write_text(lines(rows))
    said = replay(eef.read_trajectories(path), [tmp_path / "run"])
    assert (said.same, said.other, said.no_task) == (len(tries) - 1, 1, 1)
    assert said.first_other == tries[0].id
    done = eef_command("import", path, "--run", tmp_path / "new", "--verify")
    assert "played again reproduce" in done.stdout


def test_view_opens_the_report_or_says_what_is_wrong(tmp_path, monkeypatch, eef_command):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    import_run([DATA / "openai_messages"], tmp_path / "run")
    done = CliRunner().invoke(app, ["view", str(tmp_path / "run")])
    assert done.exit_code == 0
    assert opened == [(tmp_path / "run/report.html").resolve().as_uri()]
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "nowhere", tmp_path / "empty", DATA / "eto_rollout/12.json"):
        done = eef_command("view", wrong)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
