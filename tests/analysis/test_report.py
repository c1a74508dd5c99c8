"""The one-file report: its numbers, what it says of missing data, and that it is inert."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from pages import HOSTILE, Page, assert_own_scripts_only
from sample_run import M, write_hostile, write_jsonl, write_run

from eeflib.analysis import frames, tables
from eeflib.analysis.collection import Collection
from eeflib.analysis.labels import label_failures
from eeflib.analysis.report import write_report
from eeflib.analysis.taxonomy import Case
from eeflib.errors import DataError
from eeflib.records import Branch, Evaluation, Step, Trajectory
from eeflib.stats import last_iteration, paired_difference, win_rate

SECTIONS = (
    "The methods, side by side",
    "Is the difference real?",
    "How each method got there",
    "How far into a failure can the student still win?",
    "The recovery map",
    "One failure, read closely",
    "What became solvable",
    "What the training data teaches",
    "What was counted",
    "How to reproduce this",
    "What these numbers do not show",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = write_run(tmp_path_factory.mktemp("run"), seeds=(1, 2, 3), tasks=30)
    return path, write_report(path).read_text("utf-8")


def outcomes(path, method):
    rows = []
    for file in sorted(path.glob(f"seed-*/{method}/evaluations.jsonl")):
        rows += [Evaluation.from_dict(json.loads(x)) for x in file.read_text("utf-8").splitlines()]
    return last_iteration(rows)


def test_every_section_is_there_in_one_small_inert_file(whole):
    html = whole[1]
    page = Page(html)
    for title in SECTIONS:
        assert title in page.text
    assert len(html.encode()) < 4_000_000
    assert_own_scripts_only(page)
    elsewhere = [line for line in html.splitlines() if "http://" in line or "https://" in line]
    assert not any("src=" in line or "url(" in line for line in elsewhere)
    assert not {"missing"} & {v for t, n, v in page.attributes if n == "class"}


def test_the_table_holds_the_last_iterations_numbers(whole):
    path, html = whole
    page = Page(html)
    for method in ("SFT", "RFT", "RFTx6", "EEF"):
        rate = win_rate(outcomes(path, method))
        row = page.row(method)
        assert row[1] == f"{rate.rate * 100:.1f}\u202f%"
        assert row[2] == f"{rate.low * 100:.1f} – {rate.high * 100:.1f}"
    assert page.row("EEF")[5] == "1,440"  # simulations, from summary.json
    assert "teacher †" in page.row("†")[0]


def test_the_difference_is_that_of_the_paired_test(whole):
    path, html = whole
    p = paired_difference(outcomes(path, "EEF"), outcomes(path, "RFTx6"))
    text = Page(html).text
    assert f"EEF solves {abs(p.mean) * 100:.1f} percentage points" in text
    assert f"p = {p.p:.3f}" in text or f"p = {p.p:.2f}" in text or "p < 0.001" in text
    assert f"ahead in {p.better} of 3" in text
    assert ("The interval includes zero" in text) == (p.low <= 0 <= p.high)


def test_the_failure_shown_has_beneficial_and_harmful_segments(whole):
    text = Page(whole[1]).text
    at = text.index("One failure, read closely")
    shown = text[at : text.index("What became solvable")]
    assert "▲ beneficial lost" in shown
    assert "▼ harmful won" in shown
    assert "Last won after" in shown, "the point of no return"
    assert "not solved: reward" in shown


def test_map_counts_and_reproduction(whole):
    path, html = whole
    page = Page(html)
    assert ["task", "seed", "level", "actions", *(f"s{k}" for k in range(M + 1))] in page.rows
    restored = skipped = 0
    for file in path.glob("seed-*/EEF/iter-*/branches.jsonl"):
        for line in file.read_text("utf-8").splitlines():
            b = Branch.from_dict(json.loads(line))
            restored += b.k > 0 and b.restored
            skipped += b.k > 0 and not b.restored
    row = [r for r in page.rows if r[0] == "EEF" and len(r) == 10][-1]
    assert row[2:4] == [f"{restored:,}", f"{skipped:,}"]
    assert skipped > 0
    assert page.row("config hash")[1] == "0123456789abcdef"
    assert '"student": "tiny"' in page.text


def test_a_run_that_was_only_begun_gives_a_report_that_says_so(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert_own_scripts_only(page)
    assert page.figures() == []
    for piece in (
        "An empty run folder",
        "This run holds no results yet",
        "No method has been evaluated yet",
        "Two evaluated methods are needed",
        "No exploration from expert states is recorded",
        "No teacher trajectory is recorded",
        "There is no readable manifest.json",
    ):
        assert piece in page.text
    with pytest.raises(DataError, match="no run folder"):
        write_report(tmp_path / "nowhere")


def test_a_folder_that_is_no_run_gets_no_page(tmp_path):
    (tmp_path / "papers").mkdir()
    for content in (None, "thesis.txt"):
        if content:
            (tmp_path / "papers" / content).touch()
        with pytest.raises(DataError, match=r"papers is not a run folder: .*eef demo --run"):
            write_report(tmp_path / "papers")
        assert not (tmp_path / "papers" / "report.html").exists()


def test_one_seed_without_branches_and_an_unfinished_method(tmp_path):
    run = write_run(tmp_path, seeds=(4,), tasks=8)
    for file in run.rglob("branches.jsonl"):
        file.unlink()
    for name in ("EEF", "EEF-no-mask"):
        path = run / "seed-4" / name / "evaluations.jsonl"
        lines = path.read_text("utf-8").splitlines()
        path.write_text("\n".join(lines[:24]), "utf-8")  # iteration 0 only
    text = Page(write_report(run).read_text("utf-8")).text
    assert "One seed only" in text
    assert "One seed. Training is random" in text
    assert "No exploration from expert states is recorded" in text
    assert "Expert states have not been explored" in text
    assert "Evaluated on 24 tasks of one seed" in text


def test_trajectories_alone_are_worth_a_report(tmp_path):
    steps = (Step("start", "search[lamp]", "teacher"),)
    failed = Trajectory("e", "u", "webshop", "buy", "gpt", steps, "end", 0.3, True, False)
    write_jsonl(tmp_path / "trajectories.jsonl", [failed])
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert "This is a failed trajectory as recorded" in page.text
    assert page.row("teacher †")[1] == "0.0\u202f%"


def test_two_models_are_never_one_teacher_and_the_same_instruction_is_the_same_task(tmp_path):
    def episode(name, task, wish, policy, reward):
        step = Step("page", "click[Buy Now]", "teacher", reward=reward)
        end = {"reward": reward, "terminated": True, "truncated": False}
        return Trajectory(name, task, "shop", wish, policy, (step,), "end", **end)

    rows = [episode(f"a{i}", f"own-{i}", f"wish {i}", "big", float(i < 2)) for i in range(4)]
    rows += [
        episode(f"b{i}", f"shop-{i:08x}", f"wish {i}", "small", float(i > 0)) for i in range(3)
    ]
    twice = [episode(f"c{i}", f"boil-{i}", "boil", "big", 1.0) for i in range(2)]
    rows += [*twice, episode("d", "boil-9", "boil", "small", 1.0)]
    write_jsonl(tmp_path / "trajectories.jsonl", rows)
    found = frames.load(tmp_path).trajectories
    assert tables.shared_tasks(found) == {(0, f"shop-{i:08x}"): f"own-{i}" for i in range(3)}
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert "Its 2 teachers solved 70.0" in page.text
    big, small = page.row("big"), page.row("small")
    assert (big[:4], big[5:7]) == (["big", "6", "4", "66.7\u202f%"], ["4", "0"])
    assert (small[:4], small[5:7]) == (["small", "4", "3", "75.0\u202f%"], ["2", "1"])
    patterns = {r[0]: r[1] for r in page.rows if len(r) == 2 and r[1] == "1"}
    assert {"big": "1", "small": "1", "big, small": "1"}.items() <= patterns.items()
    assert ["own-2", "\u2717 0.00", "\u2713 1.00"] in page.rows


def test_what_a_large_run_leaves_out_is_said_among_the_counts(tmp_path):
    run = write_run(tmp_path, seeds=(1,), tasks=8, episodes=True)
    whole = Page(write_report(run).read_text("utf-8"))
    assert "what can be read is less" not in whole.text
    students = [x for x in whole.data()["items"] if whole.data()["texts"][x["method"]] == "EEF"]
    assert len(students) == 3 * 24  # the test episodes of every iteration
    cut = Page(write_report(run, budget=9_000).read_text("utf-8"))
    assert "what can be read is less" in cut.text
    assert "episodes of students are left out" in cut.text


def test_the_nouns_that_the_reward_went_by_are_named(tmp_path):
    step = Step("WebShop", "search[shirt]", "human")
    facts = ("e", "u", "webshop", "a shirt", "human", (step,), "page", 0.0, False, True)
    bought = Trajectory(*facts, extra={"nouns": "words <b>"})
    write_jsonl(tmp_path / "seed-1" / "trajectories.jsonl", [bought])
    (tmp_path / "manifest.json").write_text('{"seed": 1}')
    assert "title nouns words <b>" in Page(write_report(tmp_path).read_text("utf-8")).text


def test_methods_evaluated_on_different_tasks_are_not_compared(tmp_path):
    run = write_run(tmp_path, seeds=(1,), tasks=8)
    path = run / "seed-1" / "RFT" / "evaluations.jsonl"
    rows = [json.loads(x) for x in path.read_text("utf-8").splitlines()]
    rows[-1]["task_hash"] = "regenerated"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    text = Page(write_report(run).read_text("utf-8")).text
    assert "Not comparable: EEF against RFT: seed 1" in text
    assert "EEF − RFTx6" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_anywhere_in_a_run_is_inert(tmp_path, text):
    write_hostile(tmp_path, text)
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert_own_scripts_only(page)
    harmless = tmp_path / "harmless"
    write_hostile(harmless, "plain")
    assert Page(write_report(harmless).read_text("utf-8")).tags == page.tags
    assert " ".join(text.split()) in page.text


def test_odd_characters_and_megabytes_do_not_break_the_file(tmp_path):
    write_hostile(tmp_path, "\x1b[31m\u202e\x00 🫖 \ud800 " + "w" * 1_000_000)
    path = write_report(tmp_path)
    assert path.stat().st_size < 4_000_000
    html = path.read_text("utf-8")
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert "🫖" in html


def test_the_report_needs_no_torch(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    code = (
        "import sys; from eeflib.analysis.report import write_report; write_report(sys.argv[1]); "
        "print(sorted({'torch', 'transformers', 'IPython'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_methods_that_start_from_the_clone_are_compared_after_equally_many_iterations(tmp_path):
    """As the pipeline writes it: cloning is SFT's iteration 0, an ablation may run only one."""
    here = tmp_path / "seed-1"

    def write(folder, method, wins):
        rows = [
            Evaluation(method, 1, i, f"t{j}", f"h{j}", "test", "hard", float(j < n))
            for i, n in wins.items()
            for j in range(20)
        ]
        write_jsonl(here / folder / "evaluations.jsonl", rows)

    write("teacher", "teacher", {0: 4})
    write("SFT", "SFT", {0: 6})
    write("EEF", "EEF", {1: 9, 2: 11, 3: 14})
    write("EEF-no-mask", "EEF-no-mask", {1: 10})
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert page.row("EEF")[1] == "70.0\u202f%"
    assert page.row("EEF-no-mask after 1 of 3 iterations")[1] == "50.0\u202f%"
    assert page.row("EEF − EEF-no-mask (1 it.)")[1] == "−5.0 points"  # 9 - 10 of 20, not 14 - 10
    assert "EEF solves 40.0 percentage points more than SFT" in page.text
    assert "The teacher it learned from solves 20.0 % of the same tasks" in page.text
    assert ["EEF", "0", "6", "20"] in [r[:4] for r in page.rows]  # the clone begins EEF's line


def test_a_case_inside_the_run_is_reported_apart(tmp_path):
    write_run(tmp_path, seeds=(1,), tasks=8)
    rate = Page(write_report(tmp_path).read_text("utf-8")).row("EEF")[1]
    write_run(tmp_path / "better-teacher", seeds=(1,), tasks=8, seed=99)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["better_teacher"] = {"note": "a teacher that <i>tires</i> later", "methods": []}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert page.row("EEF")[1] == rate
    at = page.text.index("Another case: better teacher a teacher that <i>tires</i> later.")
    assert "The teacher solved" in page.text[at : at + 200]


def test_what_the_pipeline_dropped_is_said(tmp_path):
    for i, n in ((1, 2), (2, 3)):
        folder = tmp_path / "seed-1" / "EEF" / f"iter-{i}" / "phases"
        folder.mkdir(parents=True)
        summary = {"samples": 10, "dropped: too long": n}
        (folder / "select.json").write_text(json.dumps({"phase": "select", "summary": summary}))
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert "Samples dropped before training: EEF: 5 dropped: too long." in page.text
    assert ["EEF", "samples", "20"] in page.rows


def test_where_no_file_can_be_written_that_is_said_and_elsewhere_it_can(tmp_path):
    run = write_run(tmp_path / "run", seeds=(1,), tasks=6)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    (run / "report.html").mkdir()
    with pytest.raises(DataError, match=r"report\.html"):
        write_report(run)
    out = write_report(run, tmp_path / "elsewhere" / "page.html")
    again = write_report(run, tmp_path / "again.html")
    assert out == tmp_path / "elsewhere" / "page.html"
    assert out.read_bytes() == again.read_bytes(), "the same run gives the same page"
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


class Answers:
    """A labeller that gives the same kind to every failure."""

    name = "oracle <b>"

    def act(self, conversations, *, rng):
        return [SimpleNamespace(text="Kind: never_bought\nWhy: it stopped", error="")] * len(rng)


def test_a_models_labels_are_held_against_the_rules(tmp_path):
    run = write_run(tmp_path, seeds=(1,), tasks=12)
    failed = [x for x in Collection.of(run) if x.outcome == "failed"]
    cases = [Case(x.key.seed, "teacher", 0, x.trajectory, x.task) for x in failed]
    label_failures(cases, Answers(), cache=run / "failure_labels.jsonl")
    page = Page(write_report(run).read_text("utf-8"))
    same = sum(x.failure == "never_bought" for x in failed)
    assert "A language model, oracle <b>, was asked" in page.text
    assert f"{same} of {len(failed)} with the same kind" in page.text
    assert "kappa" in page.text
    assert_own_scripts_only(page)


def test_the_points_of_no_return_are_listed(whole):
    path, html = whole
    states = frames.load(path).states
    states = states[(states["method"] == "EEF") & ~states["teacher_solved"] & (states["wins"] > 0)]
    last = states[states["iteration"] == 1].groupby(["seed", "trajectory_id"])["t"].max()
    page = Page(html)
    assert f"{len(last)} failures of the teacher could still be won" in page.text
    (head,) = (i for i, r in enumerate(page.rows) if "the teacher's next action" in r)
    row = page.rows[head + 1]
    assert int(row[3]) == last.max(), "the deepest first"
    assert int(row[3]) < int(row[4]) <= int(row[5])
