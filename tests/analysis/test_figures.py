"""Figures: the tables they draw, what they say when there is nothing, and that they are inert."""

from __future__ import annotations

import math
import shutil

import pandas as pd
import pytest
from labelled import labelled
from pages import Page, assert_inert
from playwright.sync_api import sync_playwright
from sample_run import write_jsonl, write_run

from eeflib.analysis import (
    figures,
    frames,
    labels,
    segments,
    tables,
    taxonomy,
)
from eeflib.analysis.compare import compare_runs
from eeflib.analysis.findings import Findings
from eeflib.analysis.run import Run
from eeflib.records import Branch, Evaluation, Step, Task, Trajectory
from eeflib.states import StateOutcome
from eeflib.stats import wilson


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return Findings(Run(write_run(tmp_path_factory.mktemp("run"), seeds=(1, 2), tasks=20)))


def drawn(found: Findings) -> dict[str, figures.Figure]:
    """Every figure of a run."""
    f = found.frames
    best = found.annotated[0] if found.annotated else None
    task = found.run.task(best.seed, best.trajectory.task_id) if best else None
    out = {
        "recovery_map": figures.recovery_map(f.states),
        "recovery_curve": figures.recovery_curve(f.states),
        "first_solved": figures.first_solved(f.states),
        "simplicity_bias": figures.simplicity_bias(found.actions, found.focus),
        "newly_solved": figures.newly_solved(found.changes),
        "discovered": figures.discovered(found.discoveries),
        "budget": figures.budget(found.costs, found.baseline),
        "other_m": figures.other_m(found.other_m),
        "outcome_by_type": figures.outcome_by_type(f.trajectories),
        "lengths": figures.lengths(f.trajectories),
        "rewards": figures.rewards(f.trajectories),
        "steps_to_failure": figures.steps_to_failure(f.failures),
        "win_rates": figures.win_rates(f.evaluations),
        "failure_kinds": figures.failure_kinds(f.failures),
        "failure_agreement": figures.failure_agreement(labels.agreement(f.failures, f.failures)),
    }
    if best:
        diagnosis = taxonomy.diagnose(best.trajectory, task)
        out["segment_ribbon"] = figures.segment_ribbon(
            best.trajectory, best.segments, best.states, diagnosis
        )
        out["trajectory_curve"] = figures.trajectory_curve(f.states, best.trajectory.id, best.seed)
    if found.focus and found.baseline:
        c = compare_runs(found.run, found.run, method_a=found.baseline, method_b=found.focus)
        out |= {
            "compared": figures.compared(c),
            "gained_lost": figures.gained_lost(c),
            "action_mix": figures.action_mix(c),
            "error_kinds": figures.error_kinds(c),
        }
    return out


def test_every_figure_is_listed_drawn_and_self_contained(found):
    every = drawn(found)
    functions = set(figures.__all__) - {"STYLE", "Anchor", "Figure"}
    assert set(every) == functions
    for name, figure in every.items():
        page = Page(figure.html)
        assert_inert(page)
        assert page.text, name
        assert "http" not in figure.html.replace("http://www.w3.org", ""), name
        assert len(figure.html) < 60_000, name
        assert "nan" not in page.text.split(), name
        for t, n, v in page.attributes:
            assert "nan" not in v.split(" "), (name, t, n, v)
        assert figure.page().startswith("<!doctype html>")
        assert figure.title in str(figure)
    assert all(len(f.table) for n, f in every.items() if n not in ("action_mix", "error_kinds"))


def test_figures_of_nothing_say_what_is_missing(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    for name, figure in drawn(Findings(Run(tmp_path))).items():
        assert 'class="none"' in figure.body, name
        assert len(Page(figure.body).text) > 20


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><svg onload=alert(1)>",
    "\u202e\x1b[31mrtl\x00 \U0001fad6 " + "w" * 5000,
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_inert_in_every_figure(tmp_path, text):
    write_hostile(tmp_path / "bad", text)
    write_hostile(tmp_path / "good", "plain")
    bad, good = (drawn(Findings(Run(tmp_path / x))) for x in ("bad", "good"))
    assert bad.keys() == good.keys()
    for name, figure in bad.items():
        page = Page(figure.html)
        assert_inert(page)
        assert page.tags == Page(good[name].html).tags, name
        assert len(figure.html) < 100_000
        assert "\u202e" not in figure.html


def write_hostile(root, text: str) -> None:
    def episode(name: str, reward: float, n: int) -> Trajectory:
        steps = tuple(
            Step(text, f"click[{text}]", "teacher", text, text, i != 1, text) for i in range(n)
        )
        return Trajectory(name, text, text, text, text, steps, text, reward, True, False)

    here = root / "seed-1"
    task = Task(
        text, text, text, {"a": text}, split="test", extra={"level": text, "task_type": text}
    )
    write_jsonl(here / "tasks.jsonl", [task])
    write_jsonl(here / "trajectories.jsonl", [episode(text, 0.2, 6)])
    branches = [
        Branch("b0", text, 0, 0, 0, None, episode("r", 0.0, 1), iteration=1),
        Branch(text, text, 1, 2, 0, text, episode("r", 1.0, 1), iteration=1),
        Branch("b2", text, 2, 4, 0, text, episode("r", 0.0, 1), iteration=1),
        Branch("b3", text, 3, 5, 0, text, None, text, iteration=1),
    ]
    write_jsonl(here / "m" / "iter-1" / "branches.jsonl", branches)
    for folder, method in (("m", text), ("RFT", "RFT")):
        outcome = Evaluation(
            method, 1, 1, text, task.content_hash, "test", text, float(folder == "m")
        )
        write_jsonl(here / folder / "evaluations.jsonl", [outcome])
        rollout = episode(f"{text}{folder}", float(folder == "m"), 2)
        write_jsonl(here / folder / "iter-1" / "test_rollouts.jsonl", [rollout])


# -- the tables ---------------------------------------------------------------------------------


def state_rows(*rows) -> pd.DataFrame:
    """(trajectory, k, t, n, wins) -> a frame of states, all failed, length 10."""
    out = [
        {
            "seed": 1, "method": "EEF", "iteration": 1, "trajectory_id": e, "task_id": f"u-{e}",
            "level": "", "teacher_solved": False, "length": 10, "k": k, "t": t, "n": n, "wins": w,
            "p": w / n if n else math.nan, "low": wilson(w, n)[0], "high": wilson(w, n)[1],
            "status": "tried" if n else "unrestorable",
        }
        for e, k, t, n, w in rows
    ]  # fmt: skip
    return pd.DataFrame(out)


def test_the_point_of_no_return_is_after_the_last_state_that_was_won():
    table = state_rows(
        ("a", 0, 0, 4, 3), ("a", 1, 3, 4, 0), ("a", 2, 6, 4, 1), ("a", 3, 8, 4, 0),
        ("b", 0, 0, 4, 0), ("b", 1, 3, 4, 0),
        ("c", 0, 0, 4, 1), ("c", 1, 3, 0, 0),
    )  # fmt: skip
    figure = figures.trajectory_curve(table, "a", 1)
    assert "no return after action 6" in Page(figure.html).text
    assert "from there to action 8 lost it" in Page(figure.html).text
    assert list(figure.table["t"]) == [0, 3, 6, 8]
    assert "No state of this failure was won" in figures.trajectory_curve(table, "b", 1).note
    assert "was tried" in figures.trajectory_curve(table, "zzz", 1).content


def test_the_map_shows_counts_interval_and_order(found):
    figure = figures.recovery_map(found.states, rows=5)
    page = Page(figure.body)
    assert len([r for r in page.rows if len(r) > 4]) == 1 + 5
    last = figure.table["last"].to_list()
    assert last == sorted(last, reverse=True)
    first = figure.table.iloc[0]
    cells = [c.replace("\u25b2", "").strip() for c in page.rows[1][4:]]
    glyphs = {"unrestorable": "!", "faulted": "!", "untried": "\u2013"}
    assert cells == [glyphs.get(first[f"s{k}"], first[f"s{k}"]) for k in range(len(cells))]
    notes = [v for t, n, v in page.attributes if n == "title" and "95 % interval" in v]
    assert any("won 1 of 1, 95 % interval 21" in v for v in notes)


def branch(k: int, t: int, attempt: int, won: bool, length: int = 2, task: str = "u") -> Branch:
    steps = tuple(Step("o", "a", "student") for _ in range(length))
    rollout = Trajectory("r", task, "webshop", "", "s", steps, "", float(won), True, False)
    teacher = None if k == 0 else f"e-{task}"
    return Branch(f"{task}{k}{attempt}", task, k, t, attempt, teacher, rollout, iteration=1)


def test_another_m_is_computed_from_the_recorded_branches(tmp_path):
    """One task is won from the middle state only, another from the last one in 1 of 2 rollouts."""
    steps = tuple(Step("o", "a", "teacher") for _ in range(12))
    teachers = [
        Trajectory(f"e-{u}", u, "webshop", "", "t", steps, "", 0.0, True, False) for u in "uv"
    ]
    write_jsonl(tmp_path / "trajectories.jsonl", teachers)
    rows = [
        branch(k, t, a, won=(task, k) == ("u", 2) or ((task, k, a) == ("v", 3, 0)), task=task)
        for task in "uv"
        for k, t in ((0, 0), (1, 3), (2, 6), (3, 9))
        for a in (0, 1)
    ]
    write_jsonl(tmp_path / "EEF" / "iter-1" / "branches.jsonl", rows)
    run = Run(tmp_path)
    table = tables.other_m(frames.branches(run), frames.trajectories(run))
    got = {(m, a): (n, s, f) for m, a, n, s, f in table[["M", "attempts", "rollouts", "steps", "found"]].itertuples(index=False)}  # fmt: skip  # noqa: E501
    assert got[0, 2] == (4, 8.0, 0.0)
    assert got[1, 2] == (8, 16.0, 1.0)  # the middle state
    assert got[1, 1] == (4, 8.0, 1.0)
    assert got[3, 1] == (8, 16.0, 1.5)  # one of two rollouts from v's last state won
    assert got[3, 2] == (16, 32.0, 2.0)
    assert table.loc[table["recorded"], ["M", "attempts"]].to_numpy().tolist() == [[3, 2]]
    assert table["cost_usd"].isna().all()
    found = tables.discoveries(frames.branches(run), frames.trajectories(run))
    assert found[["task_id", "found", "k", "t", "branch_id"]].to_numpy().tolist() == [
        ["u", "state", 2, 6, "u20"], ["v", "state", 3, 9, "v30"]
    ]  # fmt: skip


def test_newly_solved_pairs_by_content_at_the_last_common_iteration():
    def rows(method: str, wins: dict[int, str]) -> list[Evaluation]:
        return [
            Evaluation(method, 1, i, f"t{j}", f"h{j}", "test", "", float(w == "1"))
            for i, ws in wins.items()
            for j, w in enumerate(ws)
        ]

    table = frames.evaluations(
        [
            *rows("RFT", {1: "0011", 2: "1111"}),
            *rows("EEF", {1: "0110"}),
            *rows("SFT", {0: "00"}),
        ]
    )
    got = tables.newly_solved(table, "RFT")
    eef = got[got["method"] == "EEF"].set_index("task_id")["change"].to_dict()
    assert eef == {"t0": "never", "t1": "gained", "t2": "both", "t3": "lost"}  # iteration 1
    sft = got[got["method"] == "SFT"]["change"].to_list()
    assert sft == ["lost", "lost"]  # SFT does not iterate: RFT's last counts
    text = Page(figures.newly_solved(got).body)
    assert [c.strip() for c in text.row("EEF")[1:6]] == ["1", "1", "1", "1", "+0"]


def test_budget_counts_rollouts_steps_and_what_they_found(found):
    costs = found.costs.set_index("method")
    own = found.branches[(found.branches["method"] == "EEF") & found.branches["restored"]]
    assert costs.loc["EEF", "rollouts"] == len(own)
    assert costs.loc["EEF", "steps"] == own["length"].sum()
    taught = set(map(tuple, found.trajectories.query("solved")[["seed", "task_id"]].to_numpy()))
    won = set(map(tuple, own[own["won"]][["seed", "task_id"]].to_numpy()))
    assert costs.loc["EEF", "found"] == len(won - taught)
    assert costs.loc["EEF", "steps_per_found"] == own["length"].sum() / len(won - taught)
    assert costs.loc["teacher", "found"] == len(taught)
    changes = found.changes[found.changes["method"] == "EEF"]["change"]
    assert costs.loc["EEF", "gained"] == (changes == "gained").sum()
    assert costs.loc["EEF", "seconds"] == 94.5  # from summary.json


def test_simplicity_bias_also_shows_tasks_newly_solved(tmp_path):
    here = tmp_path / "seed-1"
    tasks = [Task(f"u{i}", "webshop", "x", {"i": i}, split="test") for i in range(2)]
    write_jsonl(here / "tasks.jsonl", tasks)

    def rollout(method: str, i: int, won: bool, action: str) -> Trajectory:
        steps = (Step("o", "search[x]", "student"), Step("o", action, "student"))
        name = f"{tasks[i].id}#{method}"
        return Trajectory(
            name, tasks[i].id, "webshop", "x", "s", steps, "", float(won), True, False
        )

    for method, wins in (("RFT", (True, False)), ("EEF", (True, True))):
        rows = [
            Evaluation(method, 1, 1, t.id, t.content_hash, "test", "", float(w))
            for t, w in zip(tasks, wins, strict=True)
        ]
        write_jsonl(here / method / "evaluations.jsonl", rows)
        episodes = [
            rollout(method, i, w, "click[next >]" if i else "click[buy now]")
            for i, w in enumerate(wins)
        ]
        write_jsonl(here / method / "iter-1" / "test_rollouts.jsonl", episodes)
    shares = Findings(Run(tmp_path)).actions.set_index(["source", "kind"])["share"]
    assert shares["EEF, tasks gained", "next page"] == 0.5
    assert shares["EEF, tasks RFT solves too", "next page"] == 0
    assert shares["EEF, tasks RFT solves too", "buy"] == 0.5


def test_bins_hold_every_trajectory(found):
    frame = found.trajectories
    lengths = tables.length_bins(frame)
    assert lengths[["solved", "failed"]].to_numpy().sum() == len(frame)
    assert tables.length_bins(frame.assign(length=range(0, 40 * 7, 7)))["high"].max() >= 39 * 7
    odd = pd.DataFrame({"reward": [0.0, 0.05, 0.1, 0.95, 1.0, 1.0, -1.0], "solved": [False] * 4 + [True] * 2 + [False]})  # fmt: skip  # noqa: E501
    bins = tables.reward_bins(odd)
    assert bins["failed"].to_list() == [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert bins["solved"].to_list() == [0] * 11 + [2]


def test_steps_to_failure_reach_all_failures(found):
    table = tables.steps_to_failure(found.failures)
    ends = table.groupby("kind")["share"].last()
    assert (ends == 1).all()
    assert (
        table.loc[table["kind"] == "all", "total"].iloc[0] == (~found.trajectories["solved"]).sum()
    )


def test_failure_kinds_show_share_coverage_and_groups():
    table = taxonomy.failures(r.case for r in labelled("held_out"))
    page = Page(figures.failure_kinds(table, by="env").body)
    n = int(((table["kind"] == "stopped_early") & table["primary"]).sum())
    row = page.row("Stopped early")
    assert row[1] == str(n)
    assert page.rows[0][5:] == ["scienceworld", "textworld", "webshop"]
    assert sum(int(c) for c in row[5:] if c != "\u00b7") == n
    assert "79 failed episodes" in page.text


def test_ribbon_holds_segments_states_and_what_it_failed_by():
    (row,) = [r for r in labelled("writing") if r.labels[:1] == ("wrong_option",)][:1]
    trajectory = row.case.trajectory
    outcomes = [StateOutcome(0, 0, 1, 1), StateOutcome(1, 2, 2, 0)]
    parts = segments.segments(trajectory, outcomes)
    figure = figures.segment_ribbon(
        trajectory, parts, outcomes, taxonomy.diagnose(trajectory, row.case.task)
    )
    text = Page(figure.body).text
    assert "harmful (2)" in text
    assert "s1 0/2" in text
    assert "Wrong option" in text
    assert "not explored" in Page(figures.segment_ribbon(trajectory, []).body).text


def test_level_names_of_any_kind_have_different_looks(found):
    curve = figures.win_rates(found.evaluations)
    assert set(curve.table["method"]) == set(tables.win_rates(found.evaluations)["method"])
    dashes = Page(curve.html).attributes
    assert len({v for t, n, v in dashes if n == "stroke-dasharray"}) >= 4


# -- as people see it ---------------------------------------------------------------------------


def contrast(a: list[float], b: list[float]) -> float:
    """WCAG 2 contrast ratio of two sRGB colours."""

    def light(rgb: list[float]) -> float:
        c = [x / 255 for x in rgb[:3]]
        c = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in c]
        return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


RENDER = """() => {
  const x = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const known = new Map();
  const solid = c => { if (!known.has(c)) { x.clearRect(0, 0, 1, 1); x.fillStyle = c;
    x.fillRect(0, 0, 1, 1); known.set(c, [...x.getImageData(0, 0, 1, 1).data]); }
    return known.get(c); };
  const ground = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; const d = solid(c);
    if (d[3] === 255) return d; } return [255, 255, 255, 255]; };
  const out = [];
  for (const e of document.querySelectorAll('.eef-fig *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || e.closest('title') || e.tagName === 'STYLE') continue;
    const s = getComputedStyle(e);
    out.push({text: e.textContent.slice(0, 40), ink: solid(e.ownerSVGElement ? s.fill : s.color),
              ground: ground(e.ownerSVGElement ? e.ownerSVGElement : e)});
  }
  return {texts: out, wide: document.documentElement.scrollWidth,
          marks: [...document.querySelectorAll('.dot,.bar-part,.line')].map(e => {
            const s = getComputedStyle(e);
            return {ink: solid(e.classList.contains('line') ? s.stroke : s.fill),
                    ground: ground(e.ownerSVGElement)}; })};
}"""


def test_figures_are_legible_in_light_and_dark(found, tmp_path):
    body = "".join(f.body for f in drawn(found).values())
    page_file = tmp_path / "all.html"
    page_file.write_text(
        f'<!doctype html><meta charset="utf-8"><style>{figures.STYLE}</style>{body}', "utf-8"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[*flags, "--disable-background-networking"],
        )
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1000, "height": 800}, color_scheme=scheme)
            page.goto(page_file.as_uri())
            seen = page.evaluate(RENDER)
            assert len(seen["texts"]) > 300
            dim = [t for t in seen["texts"] if contrast(t["ink"], t["ground"]) < 4.3]
            assert not dim, (scheme, dim[:5])
            faint = [m for m in seen["marks"] if contrast(m["ink"], m["ground"]) < 2.4]
            assert not faint, (scheme, faint[:5])
            dark = sum(seen["texts"][0]["ground"][:3]) < 200
            assert dark == (scheme == "dark")
            assert seen["wide"] <= 1000
        page = browser.new_page(viewport={"width": 1000, "height": 800}, color_scheme="dark")
        page.goto(page_file.as_uri())
        page.evaluate(
            "document.body.dataset.jpThemeLight = 'true'"
        )  # a light notebook, dark system
        assert sum(page.evaluate(RENDER)["texts"][0]["ground"][:3]) == 765
        browser.close()
