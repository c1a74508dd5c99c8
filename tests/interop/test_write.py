"""`eef export`: every dialect carries the trained flags, and the real libraries read them so.

Where a dialect's library is missing its test is skipped; docs/export.md says how each is installed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import small_run
import test_export_page
import tiny_models
from small_run import TRAINED

import eeflib as eef
from eeflib.errors import DataError, PrerequisiteError
from eeflib.interop.write import DIALECTS, export
from eeflib.masking import IGNORE, encode_samples
from eeflib.policies.chat import Chat
from eeflib.prompts import get_format
from eeflib.records import Sample

GOLDEN = Path(__file__).parents[1] / "data" / "interop" / "golden"
ROWS = [to for to in DIALECTS if to not in ("trl", "inspect")]
REACT = "smollm2"
"""A student that is asked with system text and thoughts; its weights are not needed here."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run.write_run(tmp_path_factory.mktemp("react") / "run", REACT)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return small_run.write_run(tmp_path_factory.mktemp("act") / "run")


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def replies(row: dict[str, Any], key: str) -> list[Any]:
    """`key` of every assistant message."""
    return [m[key] for m in row["messages"] if m["role"] == "assistant"]


FLAGS: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
    "jsonl": lambda row: row["trained"],
    "openai": lambda row: replies(row, "weight"),
    "axolotl": lambda row: replies(row, "train"),
    "tinker": lambda row: replies(row, "trainable"),
    "slime": lambda row: replies(row, "step_loss_mask"),
    "verl": lambda row: replies(row, "loss_mask"),
    "llamafactory": lambda row: row["loss_mask"][1::2],
    "llamafactory-v1": lambda row: replies(row, "loss_weight"),
    "agentgym": lambda row: [m["loss"] for m in row["conversations"] if m["from"] == "gpt"][1:],
    "trackio": lambda row: replies(row, "trained"),
}
"""Where a reader of each dialect finds the flags of the replies."""


def golden_file(to: str) -> Path:
    return GOLDEN / f"{to}{'.json' if to == 'inspect' else DIALECTS[to].suffix}"


@pytest.mark.parametrize("to", ROWS)
def test_a_dialect_is_written_as_its_golden_file(run, to, tmp_path):
    made = export(run, to, tmp_path / f"made{DIALECTS[to].suffix}")
    assert rows_of(made.path) == rows_of(golden_file(to))


@pytest.mark.parametrize("to", ROWS)
def test_every_reply_has_the_flag_of_its_step(run, to):
    rows = rows_of(export(run, to).path)
    flags = [[bool(on) for on in FLAGS[to](row)] for row in rows]
    expected = [list(on) for on in TRAINED.values()]
    if to == "jsonl":  # as they are, also the one that cannot be trained
        expected.append([False])
    assert flags == expected


@pytest.mark.parametrize("to", ["axolotl", "tinker", "slime", "verl"])
def test_nothing_but_replies_is_trained_and_every_message_says_so(run, to):
    key = {"axolotl": "train", "tinker": "trainable", "slime": "step_loss_mask"}
    for row in rows_of(export(run, to).path):
        others = [m for m in row["messages"] if m["role"] != "assistant"]
        assert not any(m[key.get(to, "loss_mask")] for m in others)


def test_messages_are_what_the_student_is_asked(run, tiny):
    """With the system text where its format has one; a teacher's whole reply is context."""
    fmt = get_format("react", "webshop")
    first = rows_of(export(run, "openai").path)[0]["messages"]
    sample = small_run.SAMPLES[0]
    assert [(m["role"], m["content"]) for m in first] == [
        (m.role, m.content) for m in fmt.messages(sample.instruction, sample.steps)
    ]
    assert first[0]["role"] == "system"
    assert "\u00e9t\u00e9" in first[2]["content"]
    bare = rows_of(export(tiny, "openai").path)[0]["messages"]
    assert [m["role"] for m in bare[:2]] == ["user", "assistant"]
    assert bare[1]["content"] == "search[red shirt]"
    other = rows_of(export(tiny, "openai", student=REACT).path)[0]["messages"]
    assert other == first, "another student may be named"


def test_what_a_dialect_cannot_say_is_told_in_one_line(run, caplog):
    for to in DIALECTS:
        if to in ("trl", "inspect"):
            continue
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            made = export(run, to)
        (line,) = [r.getMessage() for r in caplog.records]
        assert "1 of 5 samples are not trained: nothing trained" in line
        assert str(made.path) in line
        assert DIALECTS[to].lost in line
        assert made[1:4] == (4, 16, 11)
        assert [d.sample_id for d in made.dropped] == ["b-empty@0"]
    for to, number in (("verl", "5472"), ("llamafactory", "9630")):
        assert number in DIALECTS[to].lost


def test_a_harmful_action_is_never_trained_unasked(tmp_path):
    run = small_run.write_run(tmp_path / "run", REACT)
    wrong = replace(small_run.SAMPLES[0], trained=(True,) * 5)
    folder = run.folder.sub("EEF/iter-1")
    folder.rewrite("samples", [wrong])
    run.folder.close()
    out = tmp_path / "made.jsonl"
    out.write_text("what was there before")
    for to in ("axolotl", "trl"):
        with pytest.raises(DataError, match="trains step 1, whose action is labelled harmful"):
            export(run, to, out)
    assert out.read_text() == "what was there before"
    export(run, "axolotl", out, allow_harmful=True)
    assert replies(rows_of(out)[0], "train") == [True] * 5


def test_the_last_iteration_is_exported_and_others_can_be_named(tmp_path):
    run = small_run.write_run(tmp_path / "run", REACT)
    run.folder.sub("EEF/iter-2").append("samples", small_run.SAMPLES[:1])
    run.folder.sub("RFTx3/iter-1").append("samples", small_run.SAMPLES[1:2])
    run.folder.close()
    assert export(run, "jsonl").samples == 1
    assert export(run, "jsonl").path.name == "EEF-iter-2-jsonl.jsonl"
    assert export(run, "jsonl", iteration=1).samples == 4
    assert rows_of(export(run.path, "jsonl", method="RFTxk").path)[0]["id"] == "b-start@0"


def test_what_a_run_has_selected_is_exported_with_its_flags(tmp_path):
    """A real store, a real teacher and a real selection."""
    run = eef.open_run(tmp_path / "run", preset="tiny", seeds=(7,))
    world = run.world()
    tries = eef.collect(world, run=run, progress=False)
    found = eef.explore(world, tries, world.teacher, run=run, progress=False)
    selection = eef.select(tries, found, run=run)
    assert any(not all(s.trained) for s in selection)
    rows = rows_of(export(run, "axolotl").path)
    assert [replies(row, "train") for row in rows] == [list(s.trained) for s in selection]
    traces = rows_of(export(run, "trackio").path)
    assert {t["metadata"]["reward"] for t in traces} == {1.0}


# the real libraries


def test_trl_trains_on_the_file_with_our_tokens_and_loss(tiny, tmp_path):
    from datasets import load_dataset
    from test_trl import CONFIG, losses_of_trl

    from eeflib.policies.loading import load_student
    from eeflib.training import train

    made = export(tiny, "trl", tmp_path / "made.jsonl")
    assert rows_of(made.path) == rows_of(golden_file("trl"))
    student = tiny.student()
    data = eef.encode(small_run.SAMPLES[:4], student)
    file = load_dataset("json", data_files=str(made.path), split="train")
    for row, item in zip(file, data, strict=True):
        assert row["input_ids"] == item.input_ids.tolist()
        assert row["labels"] == item.labels.tolist()
    assert data.counts["trained_tokens"] > 0

    class FromFile:
        """Stands where an `EncodedSet` does."""

        __iter__ = data.__iter__

        @staticmethod
        def to_dataset() -> Any:
            return file

    model, tokenizer = load_student("tiny", device="cpu")
    config = replace(CONFIG, max_steps=2, batch_size=2, accumulation=1)
    ours = train((model, tokenizer), data, config, tmp_path / "ours", progress=False)
    theirs = losses_of_trl(model, tokenizer, FromFile(), tmp_path / "trl", config)
    assert theirs == pytest.approx(ours.losses, abs=1e-4)


def test_a_sample_that_is_too_long_for_the_student_is_told(tmp_path, caplog):
    run = small_run.write_run(tmp_path / "run")
    long = replace(small_run.SAMPLES[3], id="long@0", instruction="a red shirt " * 2000)
    run.folder.sub("EEF/iter-1").append("samples", [long])
    run.folder.close()
    with caplog.at_level(logging.WARNING):
        made = export(run, "trl")
    assert made.samples == len(rows_of(made.path)) == 4
    assert "1 of 6 samples are not trained: too long" in caplog.text
    assert {d.sample_id: d.reason for d in made.dropped}["long@0"] == "too long"


def ours(template: str = "chatml") -> tuple[Any, list[tuple[list[int], list[int]]]]:
    """A small tokenizer, and ids and labels of each sample as eeflib trains on them."""
    tokenizer = tiny_models.tokenizer(template)
    fmt = get_format("react", "webshop")
    data = encode_samples(small_run.SAMPLES[:4], fmt, Chat.of(tokenizer))
    return tokenizer, [(e.input_ids.tolist(), e.labels.tolist()) for e in data]


def assert_same_labels(mine: tuple[list[int], list[int]], ids: list[int], on: list[bool]) -> None:
    """Token by token; what follows the last trained token, which we leave out, is not trained."""
    assert ids[: len(mine[0])] == mine[0]
    wanted = [label != IGNORE for label in mine[1]]
    assert [a for a, b in zip_longest(on, wanted, fillvalue=False)] == [
        b for a, b in zip_longest(on, wanted, fillvalue=False)
    ]


def test_axolotl_masks_as_we_do(run):
    pytest.importorskip("axolotl")
    from axolotl.prompt_strategies.chat_template import StrategyLoader
    from axolotl.utils.dict import DictDefault

    tokenizer, mine = ours()
    settings = {"chat_template": "tokenizer_default", "message_field_training": "train"}
    cfg = DictDefault({"sequence_len": 4096, "train_on_inputs": False})
    strategy = StrategyLoader()(tokenizer, cfg, DictDefault(settings))
    for row, expected in zip(rows_of(export(run, "axolotl").path), mine, strict=True):
        made = strategy.tokenize_prompt(row)
        on = [label != IGNORE for label in made["labels"]]
        assert_same_labels(expected, list(made["input_ids"]), on)


def test_tinker_masks_as_we_do(run):
    pytest.importorskip("tinker_cookbook")
    from tinker_cookbook.renderers import TrainOnWhat
    from tinker_cookbook.renderers.qwen3 import Qwen3InstructRenderer

    tokenizer, mine = ours()
    renderer = Qwen3InstructRenderer(tokenizer)  # ChatML
    for row, expected in zip(rows_of(export(run, "tinker").path), mine, strict=True):
        made, weights = renderer.build_supervised_example(
            row["messages"], train_on_what=TrainOnWhat.CUSTOMIZED
        )
        assert_same_labels(expected, made.to_ints(), [bool(w) for w in weights.tolist()])


def test_trackio_keeps_messages_and_flags(run, tmp_path):
    pytest.importorskip("trackio")
    made = export(run, "trackio", tmp_path / "trackio.jsonl")
    (program,) = test_export_page.blocks("python trackio")
    program += (
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "print(json.dumps(SQLiteStorage.get_traces('eef', 'EEF')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "kept")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    by_id = {trace["metadata"]["sample_id"]: trace for trace in found}
    assert {name: tuple(replies(t, "trained")) for name, t in by_id.items()} == TRAINED
    for row in rows_of(made.path):
        kept = by_id[row["metadata"]["sample_id"]]
        assert (kept["messages"], kept["metadata"]) == (row["messages"], row["metadata"])


def test_inspect_reads_messages_rewards_and_branches(run, tmp_path):
    pytest.importorskip("inspect_ai")
    from inspect_ai.event import timeline_build
    from inspect_ai.log import read_eval_log

    shown = {row["metadata"]["sample_id"]: row for row in rows_of(export(run, "trackio").path)}
    for out in (None, tmp_path / "log.json"):
        log = read_eval_log(str(export(run, "inspect", out).path))
        assert log.status == "success"
        assert log.eval.task == "EEF/iter-1"
        assert log.results.scores[0].metrics["mean"].value == 1.0
        assert {s.id for s in log.samples} == set(TRAINED)
        branches = {}
        for s in log.samples:
            wanted = shown[s.id]["messages"]
            assert [(m.role, m.text) for m in s.messages] == [
                (m["role"], m["content"]) for m in wanted
            ]
            said = [m for m in s.messages if m.role == "assistant"]
            assert [m.metadata["trained"] for m in said] == list(TRAINED[s.id])
            assert s.scores["reward"].value == 1.0
            handed = s.metadata["handover"] if s.metadata["handover"] < len(said) else 0
            assert len(s.input) == 2 + 2 * handed, "what the teacher did is given"
            model = [e for e in s.events if e.event == "model"]
            assert [e.output.message.text for e in model] == [m.text for m in said[handed:]]
            assert [len(e.input) for e in model] == [
                len(s.input) + 2 * i for i in range(len(model))
            ]
            found = timeline_build(s.events).root.branches
            branches[s.id] = [b.branched_from for b in found]
            anchors = [e.anchor_id for e in s.events if e.event == "anchor"]
            assert anchors == branches[s.id]
        assert branches == {
            "b-recovery@2": ["t-failed@2"],
            "b-later@1": ["t-failed@1"],
            "b-start@0": [],
            "t-solved@0": [],
        }


def test_the_golden_inspect_log_has_the_flags():
    """Read as JSON, so that it is looked at where inspect_ai is missing, too."""
    (sample,) = json.loads(golden_file("inspect").read_text("utf-8"))["samples"]
    said = [m for m in sample["messages"] if m["role"] == "assistant"]
    assert tuple(m["metadata"]["trained"] for m in said) == TRAINED["b-recovery@2"]
    assert [m["metadata"]["label"] for m in said[:3]] == ["beneficial", "harmful", "student"]
    assert sample["scores"]["reward"]["value"] == 1.0
    events = {event["event"]: event for event in sample["events"]}
    assert events["anchor"]["anchor_id"] == events["branch"]["from_anchor"] == "t-failed@2"


def test_a_missing_library_is_named(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'eeflib\[inspect\]'"):
        export(run, "inspect", tmp_path / "log.eval")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PrerequisiteError, match="pip install pyarrow"):
        export(run, "verl", tmp_path / "rows.parquet")
    assert not list(tmp_path.iterdir())


# the command


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("nowhere --to jsonl", "nowhere is not a run folder"),
        ("papers --to jsonl", "papers is not a run folder"),
        ("run --to yaml", "unknown format 'yaml'; choose one of jsonl, trl, openai"),
        ("run --to trl --method EFF", "unknown method 'EFF'; choose one of SFT"),
        ("run --to trl --method RFT", "has no samples of RFT iteration 1; there are those of EEF/"),
        ("run --to trl --iteration 3", "`eef train run --method EEF --iteration 3`"),
        ("run --to trl --seed 3", "this run has no seed 3"),
        ("run --to openai --out papers", "papers: cannot be written (Is a directory)"),
        ("run --to trl --student ./gone", "no folder at ./gone"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(eef, tmp_path, args, line):
    small_run.write_run(tmp_path / "run")
    (tmp_path / "papers").mkdir()
    code, out, err = eef("export", *args.split())
    assert (code, out) == (1, "")
    (said,) = [text for text in err.splitlines() if text.startswith("eef: ")]
    assert line in said
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "seed-7" / "export").exists()
    assert not list((tmp_path / "papers").iterdir())


def test_a_run_that_has_selected_nothing_names_the_step(eef, tmp_path):
    eef_run = small_run.open_run(tmp_path / "run", preset="tiny", seeds=(7,))
    code, _, err = eef("export", "run", "--to", "trl")
    assert code == 1
    assert "has no samples of EEF iteration 1: select them first" in err
    eef_run.folder.sub("EEF/iter-1").append("samples", small_run.SAMPLES[4:])
    eef_run.folder.close()
    for to in ("trl", "axolotl", "inspect"):
        code, _, err = eef("export", "run", "--to", to)
        assert code == 1
        assert "no sample can be trained" in err


def test_the_command_writes_where_it_says(eef, tmp_path):
    small_run.write_run(tmp_path / "run", REACT)
    code, out, _ = eef("export", "run", "--to", "axolotl", "--out", "made/eef.jsonl", "--json")
    assert code == 0
    assert json.loads(out) == {
        "samples": 4, "replies": 16, "trained": 11, "dropped": 1, "file": "made/eef.jsonl",
    }  # fmt: skip
    assert len(rows_of(tmp_path / "made" / "eef.jsonl")) == 4
    code, out, _ = eef("export", "run", "--to", "slime")
    assert out.splitlines()[0] == "4 samples, 11 of 16 replies trained"
    assert Path(out.splitlines()[1]).exists()
    _, out, _ = eef("export", "--help")
    text = " ".join(out.replace("\u2502", " ").split())
    assert all(to in text for to in DIALECTS)
    examples = re.findall(r"^ +eef (export runs.*)$", out, re.MULTILINE)
    assert len(examples) == 3
    assert all(eef(*example.split(), "--help")[0] == 0 for example in examples)


def test_samples_exported_are_read_back(run):
    back = [Sample.from_dict(row) for row in rows_of(export(run, "jsonl").path)]
    assert tuple(back) == small_run.SAMPLES
