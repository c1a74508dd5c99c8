"""Figures: what they show and say, what they do with nothing and with hostile records."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys

import pandas as pd
import plotly.graph_objects as go
import pytest
from labelled import labelled
from playwright.sync_api import Browser, Page, sync_playwright
from plotly.offline import get_plotlyjs
from sample_run import write_hostile, write_jsonl, write_run

from eeflib.analysis import budget, figures, frames, labels, segments, style, tables, taxonomy
from eeflib.analysis.compare import compare_runs
from eeflib.analysis.findings import Findings
from eeflib.analysis.markup import plain
from eeflib.analysis.run import Run
from eeflib.records import Branch, Evaluation, Step, Task, Trajectory
from eeflib.states import StateOutcome
from eeflib.stats import wilson, win_rate

NAMED = "<b>share</b>"
NO_FIGURES = {"CONFIG", "bare", "dark"}
OF_A_RUN = (
    "recovery_map", "recovery_curve", "first_solved", "simplicity_bias", "newly_solved",
    "discovered", "budget", "other_m", "outcome_by_type", "lengths", "rewards",
    "steps_to_failure", "win_rates", "failure_kinds",
)  # fmt: skip
"""Figures that take a run for the table they draw."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return Findings(Run(write_run(tmp_path_factory.mktemp("run"), seeds=(1, 2), tasks=20)))


@pytest.fixture(scope="module")
def every(found):
    return drawn(found)


def doses(skill: str) -> pd.DataFrame:
    rows = [(skill, 0, 1, 10, 8, 1), (skill, 0, 2, 10, 6, 1), (skill, 16, 1, 10, 5, 6)]
    return pd.DataFrame(rows, columns=["skill", "dose", "seed", "tasks", "EEF", "RFTxk"])


def drawn(found: Findings) -> dict[str, go.Figure]:
    """Every figure of a run."""
    f, best = found, found.annotated[0] if found.annotated else None
    task = found.run.task(best.key.seed, best.trajectory.task_id) if best else None
    out = {name: getattr(figures, name)(found) for name in OF_A_RUN} | {
        "paired": figures.paired(found.paired),
        "rates": figures.rates(
            [
                {"method": m, "win_rate": w.rate, "interval": [w.low, w.high]}
                for m, w in ((m, win_rate(o)) for m, o in found.outcomes.items())
            ]
        ),
        "losses": figures.losses({m: [2.0, 1.5, 1.1] for m in found.outcomes}),
        "shares": figures.shares(
            pd.DataFrame({"x": [0, 1], "y": [0.1, 0.9]}), "x", "y", NAMED, NAMED
        )
        if found.outcomes
        else figures.shares(pd.DataFrame(), "x", "y", NAMED, NAMED),
        "failure_agreement": figures.failure_agreement(labels.agreement(f.failures, f.failures)),
        "dose_response": figures.dose_response(doses(NAMED) if found.outcomes else doses("")[:0]),
        "budget_plans": figures.budget_plans(budget.plan_run(found.run, [50, 100, 200], orders=3)),
    }
    if best:
        diagnosis = taxonomy.diagnose(best.trajectory, task)
        out["segment_ribbon"] = figures.segment_ribbon(
            best.trajectory, best.segments, best.states, diagnosis
        )
        out["trajectory_curve"] = figures.trajectory_curve(
            f.states, best.trajectory.id, best.key.seed
        )
    if f.rescues:
        out["rescue"] = figures.rescue(f.rescues[0])
    if found.focus and found.baseline:
        c = compare_runs(found.run, found.run, method_a=found.baseline, method_b=found.focus)
        out |= {
            "compared": figures.compared(c),
            "gained_lost": figures.gained_lost(c),
            "action_mix": figures.action_mix(c),
            "error_kinds": figures.error_kinds(c),
        }
    return out


def strings(value) -> list[str]:
    """Every text in a figure but its plain title and note."""
    if isinstance(value, dict):
        ours = ("meta", "template", "texttemplate")
        return [s for k, v in value.items() if k not in ours for s in strings(v)]
    if isinstance(value, list):
        return [s for v in value for s in strings(v)]
    return [value] if isinstance(value, str) else []


def words(figure: go.Figure) -> str:
    return "\n".join(strings(json.loads(figure.to_json())))


def test_every_figure_is_listed_titled_and_explained(every):
    assert set(every) == set(figures.__all__) - NO_FIGURES
    for name, figure in every.items():
        assert isinstance(figure, go.Figure)
        meta = figure.layout.meta
        assert meta["title"].endswith("?"), name
        assert len(figure.to_json()) < 60_000, name
        assert "http" not in figure.to_json(), name
        assert not re.search(r"\b[Nn]a[Nn]\b", words(figure)), name
        if name in ("action_mix", "error_kinds"):  # the sample has no episodes of students
            assert "only results are on record" in meta["nothing"]
            continue
        assert len(figure.data), name
        note = figure.layout.title.subtitle.text
        assert note.replace("<br>", " ").split()[:5] == plain(meta["note"]).split()[:5], name
    known = [n for n, f in every.items() if "95 % interval" in words(f)]
    assert {"recovery_map", "recovery_curve", "win_rates", "outcome_by_type"} <= set(known)


def test_figures_of_nothing_say_what_is_missing(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    for name, figure in drawn(Findings(Run(tmp_path))).items():
        assert len(figure.layout.meta["nothing"]) > 12, name
        assert not figure.data, name
        assert plain(figure.layout.meta["nothing"], 1200, 58) in words(figure)


def test_a_run_or_its_folder_or_the_table_will_do(found, every):
    assert figures.lengths(found.run) == figures.lengths(str(found.run.path)) == every["lengths"]
    assert figures.recovery_map(found.states) == every["recovery_map"]


def test_in_a_notebook_every_renderer_goes_without_the_logo():
    code = (
        "import IPython, eeflib.analysis.figures, plotly.io as pio; "
        "assert pio.renderers['plotly_mimetype'].config['displaylogo'] is False; "
        "assert pio.renderers['notebook'].config['displaylogo'] is False"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# -- hostile records ------------------------------------------------------------------------------

LINK = '<a href="javascript:alert(1)">x</a>'
HOSTILE = (
    LINK,
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<b>bold</b><br>%{meta.title}$x^2$&amp;",
    "\u202e\x1b[31mrtl\x00 \U0001fad6 " + "w" * 5000,
)
TAG = re.compile(r"</?(?:b|sub|br)>")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_inert_in_every_figure(tmp_path, text):
    write_hostile(tmp_path, text)
    every = drawn(Findings(Run(tmp_path)))
    assert "rescue" in every
    for name, figure in every.items():
        assert len(figure.to_json()) < 100_000
        for shown in strings(json.loads(figure.to_json())):
            assert "<" not in TAG.sub("", shown), (name, shown)
            assert "\u202e" not in shown, name
            assert "%{" not in shown, name
            assert "$" not in shown, name


@pytest.fixture(scope="module")
def browser():
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[*flags, "--disable-background-networking"],
        )
        yield chromium
        chromium.close()


def show(browser: Browser, shown: dict[str, go.Figure], width: int = 1000) -> Page:
    """A page with the figures, drawn; `page.said` is what its console said."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.said = []
    page.on("console", lambda m: page.said.append(m.text))
    page.on("dialog", lambda d: (page.said.append(d.message), d.dismiss()))
    page.set_content('<body style="margin:0">')
    page.add_script_tag(content=get_plotlyjs())
    for name, figure in shown.items():
        data = {**json.loads(figure.to_json()), "config": figures.CONFIG, "name": name}
        page.evaluate(
            "d => { const e = document.createElement('div'); e.id = d.name;"
            " document.body.append(e); return Plotly.newPlot(e, d.data, d.layout, d.config); }",
            data,
        )
    return page


PLACE = """([name, x, y]) => {
  const gd = document.getElementById(name), {xaxis, yaxis} = gd._fullLayout;
  gd.scrollIntoView();
  const {left, top} = gd.getBoundingClientRect();
  return [left + xaxis._offset + xaxis.d2p(x), top + yaxis._offset + yaxis.d2p(y)]; }"""


def hover(page: Page, name: str, x: object, y: object) -> str:
    """What a figure says when the mouse is at a place given in its first axes."""
    left, top = page.evaluate(PLACE, [name, x, y])
    page.mouse.move(left - 3, top)
    page.mouse.move(left, top)
    page.wait_for_selector(f"#{name} .hovertext", timeout=5000)
    return page.evaluate(f"document.querySelector('#{name} .hoverlayer').textContent")


def test_record_text_shows_as_written_in_a_browser(browser, tmp_path):
    text = "<b>bold</b> $5, &lt; " + LINK
    write_hostile(tmp_path, text)
    found = Findings(Run(tmp_path))
    every = drawn(found)
    page = show(browser, every)
    active = "document.querySelectorAll('svg a, img, iframe, foreignObject').length"
    assert page.evaluate(active) == 0
    assert not page.said
    shown = page.evaluate("document.body.textContent")
    for as_written in ("<b>bold</b> $5, &lt;", "<b>share</b>"):
        assert as_written in shown
    bold = "[...document.querySelectorAll('tspan[style*=bold]')].map(e => e.textContent)"
    assert not [b for b in page.evaluate(bold) if b.strip() in ("share", "bold")]
    label = every["outcome_by_type"].data[0].y[0]
    cell, method = every["recovery_map"].data[0], every["newly_solved"].data[0].y[0]
    for name, x, y in (
        ("outcome_by_type", every["outcome_by_type"].data[1].x[0], label),
        ("recovery_map", cell.x[1], cell.y[0]),
        ("newly_solved", 0.5, method),
        ("win_rates", 1, 1),
    ):
        assert "<b>bold</b> $5, &lt;" in hover(page, name, x, y), name
    assert page.evaluate(active) == 0
    assert not page.said
    page.close()


# -- as people see them ---------------------------------------------------------------------------


def contrast(a: list[float], b: list[float]) -> float:
    """WCAG 2 contrast ratio of two sRGB colours."""

    def light(rgb: list[float]) -> float:
        c = [x / 255 for x in rgb[:3]]
        c = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in c]
        return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


RENDER = """() => [...document.querySelectorAll('svg text')]
 .filter(e => e.textContent.trim()).map(e => {
  const box = e.getBoundingClientRect(), s = getComputedStyle(e);
  const svg = e.closest('.js-plotly-plot').getBoundingClientRect();
  return {text: e.textContent, ink: s.fill.match(/[0-9.]+/g).map(Number), right: box.right,
          left: box.left, top: box.top - svg.top,
          paper: getComputedStyle(e.closest('.js-plotly-plot').querySelector('.main-svg'))
            .backgroundColor.match(/[0-9.]+/g).map(Number)}; })"""


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("light", 390), ("dark", 390)])
def test_figures_are_legible_in_light_and_dark_and_on_a_phone(browser, every, scheme, width):
    shown = {k: figures.dark(v) if scheme == "dark" else v for k, v in every.items()}
    page = show(browser, shown, width)
    texts = page.evaluate(RENDER)
    assert len(texts) > 400
    assert (sum(texts[0]["paper"][:3]) < 200) == (scheme == "dark")
    dim = [t for t in texts if contrast(t["ink"], t["paper"]) < 4.3]
    assert not dim, dim[:5]
    cut = [t for t in texts if t["right"] > width + 1 or t["left"] < -1 or t["top"] < 0]
    assert not cut, cut[:5]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not page.said
    page.close()


def test_the_dark_twin_has_no_colour_of_the_light_one_and_changes_no_text(every):
    light = set(style.twins()) - set(style.twins().values())
    for name, figure in every.items():
        drawn = [c[:7] for c in re.findall(r"#[0-9a-f]{6,8}\b", figures.dark(figure).to_json())]
        assert not light.intersection(drawn), name
    named = figures.rates([{"method": "#d55e00", "win_rate": 0.5, "interval": [0.4, 0.6]}])
    assert "#d55e00" in words(figures.dark(named)), "a name that looks like a colour"


# -- what single figures say ---------------------------------------------------------------------


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
    assert "no return after action 6" in words(figure)
    assert figure.layout.shapes[0].x0 == 6
    assert "from there to action 8 lost it" in figure.layout.meta["note"]
    assert figure.data[-1].x == (0, 3, 6, 8)
    lost = figures.trajectory_curve(table, "b", 1)
    assert "No state of this failure was won" in lost.layout.meta["note"]
    assert "was tried" in figures.trajectory_curve(table, "zzz", 1).layout.meta["nothing"]


def test_the_map_shows_counts_interval_and_order():
    table = state_rows(
        ("a", 0, 0, 8, 8), ("a", 1, 3, 8, 0), ("a", 2, 6, 0, 0),
        ("b", 0, 0, 8, 0), ("b", 1, 3, 8, 3), ("b", 2, 5, 8, 0),
        ("c", 0, 0, 8, 0), ("c", 1, 3, 8, 0),
    )  # fmt: skip
    table.loc[(table["trajectory_id"] == "a") & (table["k"] == 1), "status"] = "untried"
    table.loc[(table["trajectory_id"] == "a") & (table["k"] == 1), "n"] = 0
    (cells,) = figures.recovery_map(table).data
    assert cells.y == ("u-b", "u-a", "u-c"), "the deepest state that was won comes first"
    assert [list(row) for row in cells.text] == [
        ["0/8", "3/8", "0/8"], ["8/8", "–", "!"], ["0/8", "0/8", ""]
    ]  # fmt: skip
    assert list(cells.z[0]) == [0, 3 / 8, 0]
    assert "won 3 of 8 (38 %, 95 % interval 14 % to 69 %)" in cells.hovertext[0][1]
    assert "task u-b" in cells.hovertext[0][1]
    assert "the teacher failed after 10 actions" in cells.hovertext[0][1]
    assert "unrestorable" in cells.hovertext[1][2]
    assert "1 of 3 were won from no state" in figures.recovery_map(table).layout.meta["note"]
    first = figures.recovery_map(table, rows=1)
    assert first.data[0].y == ("u-b",)
    assert "The first 1 of 3 are shown" in first.layout.meta["note"]


def test_the_story_shows_the_whole_and_steps_through_it(found):
    item, state, branch = found.rescues[0]
    assert item.outcome == "failed"
    assert state.won
    later = [s for s in item.states if s.t > state.t and s.tried]
    assert later
    assert not any(s.won for s in later)
    figure = figures.rescue(found.rescues[0])
    teacher, student, said, _ = figure.data
    assert len(teacher.x) == item.trajectory.length + 1
    assert len(student.x) == branch.rollout.length + 2
    assert student.y[0] == student.y[1] == state.t, "it starts where the teacher was"
    assert "Solved." in said.text[0]
    names = [frame.name for frame in figure.frames]
    assert [step.args[0][0] for step in figure.layout.sliders[0].steps] == names
    shown = [[len(part.x) for part in frame.data[:2]] for frame in figure.frames]
    assert shown[0] == [1, 0]
    assert shown[item.trajectory.length] == [len(teacher.x), 0], "the student comes afterwards"
    assert shown[-1] == [len(teacher.x), len(student.x)]
    words_of = [frame.data[2].text[0].replace("<br>", " ") for frame in figure.frames]
    assert f"put into {state.name}" in words_of[item.trajectory.length + 1]
    assert [("Harmful" in text) for text in words_of].count(True) == sum(
        s.length for s in item.segments if s.label == "harmful"
    )


# -- the tables ---------------------------------------------------------------------------------


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
    table = tables.other_m(frames.load(run).branches, frames.load(run).trajectories)
    got = {(m, a): (n, s, f) for m, a, n, s, f in table[["M", "attempts", "rollouts", "steps", "found"]].itertuples(index=False)}  # fmt: skip  # noqa: E501
    assert got[0, 2] == (4, 8.0, 0.0)
    assert got[1, 2] == (8, 16.0, 1.0)  # the middle state
    assert got[1, 1] == (4, 8.0, 1.0)
    assert got[3, 1] == (8, 16.0, 1.5)  # one of two rollouts from v's last state won
    assert got[3, 2] == (16, 32.0, 2.0)
    assert table.loc[table["recorded"], ["M", "attempts"]].to_numpy().tolist() == [[3, 2]]
    assert table["cost_usd"].isna().all()
    found = tables.discoveries(frames.load(run).branches, frames.load(run).trajectories)
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
    figure = figures.newly_solved(got)
    at = {trace.name: trace.x[trace.y.index("EEF")] for trace in figure.data if trace.type == "bar"}
    assert at == {"solved by both": 1, "▲ gained": 1, "▼ lost": 1, "solved by neither": 1}
    assert "net +0" in words(figure)
    assert "EEF: 1 of 4 ▲ gained" in words(figure)


def test_a_dose_has_a_mark_for_each_seed_and_their_mean():
    line, dots = figures.dose_response(doses("paging")).data
    assert (list(line.x), line.name) == (["0", "16"], "paging")
    assert line.y == pytest.approx([60, -10])
    assert list(dots.x) == ["0", "0", "16"]
    assert dots.y == pytest.approx([70, 50, -10])
    assert "EEF 80 %, RFTxk 10 %: +70 points" in dots.hovertext[0]


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
    for method, wins in (("RFT", (1.0, 0.0)), ("EEF", (1.0, 1.0))):
        rows, episodes = [], []
        for t, reward, last in zip(tasks, wins, ("click[buy now]", "click[next >]"), strict=True):
            steps = (Step("o", "search[x]", "student"), Step("o", last, "student"))
            rows.append(Evaluation(method, 1, 1, t.id, t.content_hash, "test", "", reward))
            facts = (f"{t.id}#{method}", t.id, "webshop", "x", "s", steps)
            episodes.append(Trajectory(*facts, "", reward, True, False))
        write_jsonl(here / method / "evaluations.jsonl", rows)
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
    odd = pd.DataFrame({"reward": [0.0, 0.05, 0.1, 0.95, 1.0, 1.0, -1.0], "solved": [False] * 4 + [True] * 2 + [False], "error": [""] * 7})  # fmt: skip  # noqa: E501
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
    figure = figures.failure_kinds(table, by="env")
    early = table[(table["kind"] == "stopped_early") & table["primary"]]
    bars = {trace.name: trace for trace in figure.data if trace.type == "bar"}
    assert list(bars) == ["scienceworld", "textworld", "webshop"]
    row = next(y for y in bars["webshop"].y if "Stopped early" in y)
    assert {env: b.x[b.y.index(row)] or 0 for env, b in bars.items()} == {
        env: (early["env"] == env).sum() for env in bars
    }
    assert "79 failed episodes" in figure.layout.meta["note"]
    assert f"main kind of {len(early)} of 79 (" in words(figure)


def test_ribbon_holds_segments_states_and_what_it_failed_by():
    (row,) = [r for r in labelled("writing") if r.labels[:1] == ("wrong_option",)][:1]
    trajectory = row.case.trajectory
    outcomes = [StateOutcome(0, 0, 1, 1), StateOutcome(1, 2, 2, 0)]
    parts = segments.segments(trajectory, outcomes)
    figure = figures.segment_ribbon(
        trajectory, parts, outcomes, taxonomy.diagnose(trajectory, row.case.task)
    )
    shown = words(figure)
    assert "harmful, actions 1 to 2" in shown
    assert "s1, after 2 actions" in shown
    assert "0/2" in shown
    assert "Wrong option" in shown
    (band,) = [b for b in figure.data if b.name == "▼ harmful"]
    assert (band.base, band.x) == ((0,), (2,))
    assert "Not explored" in figures.segment_ribbon(trajectory, []).layout.meta["note"]


def test_lines_differ_in_more_than_their_colour(found):
    lines = [t for t in figures.win_rates(found.evaluations).data if "markers" in t.mode]
    assert {t.name for t in lines} == set(tables.win_rates(found.evaluations)["method"])
    assert len({(t.line.dash, t.marker.symbol) for t in lines}) == len(lines) >= 4


def test_groups_that_look_like_numbers_or_dates_stay_names_and_equal_ones_apart():
    rows = pd.DataFrame({
        "level": ["1", "2020-01-01", f"{'x' * 50}1", f"{'x' * 50}2"], "solved": True,
        "reward": 1.0, "length": 3, "invalid": 0, "error": "",
    })  # fmt: skip
    figure = figures.outcome_by_type(rows)
    assert figure.layout.yaxis.type == "category"
    assert figure.data[0].y[:2] == ("1", "2020-01-01")
    assert len(set(figure.data[0].y)) == 4
