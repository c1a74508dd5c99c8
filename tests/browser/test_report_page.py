"""The report as a file that somebody double-clicks: filter, sort, read, keys; records never run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

sys.path.append(str(Path(__file__).parents[1] / "analysis"))
from sample_run import write_jsonl, write_run

from eeflib.analysis.annotations import Annotations
from eeflib.analysis.collection import Collection
from eeflib.analysis.report import write_report
from eeflib.interop.imported import import_run
from eeflib.records import Branch, Step, Trajectory
from eeflib.run import open_folder

NASTY = (
    "</script><script>window.ran=1</script><img src=x onerror='window.ran=1'>"
    "<!--<script> \u202e \x1b[31mred\x1b[0m \u05e9\u05dc\u05d5\u05dd \U0001fad6 [SEP] a"
)


def nasty(name: str, steps: int, size: int = 1) -> Trajectory:
    text = NASTY + "w" * size
    made = tuple(
        Step(f"{t} {text}", f"click[{text}]", "teacher", text, text, t % 2 == 0, text)
        for t in range(steps)
    )
    return Trajectory(name, f"task {text}", text, text, text, made, text, 0.1, True, False)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run, one trajectory of 5,000 steps, one of megabytes, and text that would like to run."""
    path = write_run(tmp_path_factory.mktemp("report") / "run", seeds=(1, 2), tasks=20)
    here = path / "seed-1"
    steps = tuple(Step(f"room {t}", f"go {t}", "teacher", "", f"hm {t}") for t in range(5000))
    long = Trajectory("long", "l", "toy", "walk far", "gpt", steps, "end", 0.0, False, True)
    for name, more in (
        ("trajectories", [long, nasty("n1", 6, 1_000_000), nasty("n2", 4)]),
        (
            "EEF/iter-1/branches",
            [
                Branch("nb", nasty("n2", 1).task_id, 1, 1, 0, "n2", nasty("r", 3), iteration=1),
                Branch("nc", nasty("n2", 1).task_id, 2, 2, 0, "n2", None, NASTY, iteration=1),
            ],
        ),
    ):
        file = here / f"{name}.jsonl"
        text = file.read_text("utf-8")
        write_jsonl(file, more)
        file.write_text(text + file.read_text("utf-8"), "utf-8")
    note = Annotations(path, NASTY[:60])
    note.add_note(Collection.of(path)[0].key, f"mind this {NASTY}", (0, 1))
    return path


@pytest.fixture(scope="module")
def address(run: Path) -> str:
    return write_report(run).as_uri()


@pytest.fixture(scope="module")
def at(run: Path) -> dict[str, int]:
    """Number of a trajectory by its id."""
    return {x.key.id: i for i, x in enumerate(Collection.of(run))}


def enter(page: Page, address: str) -> Page:
    page.goto(address)
    expect(page.locator("html[data-ready]")).to_be_attached()
    return page


def rows(page: Page):
    return page.locator(".rows tbody tr[data-item]")


def listed(page: Page, n: int) -> None:
    """So many trajectories are in the list, of which those in sight are drawn."""
    expect(page.locator(".count")).to_have_text(re.compile(rf"^{n} "))


def test_trajectories_are_filtered_searched_sorted_and_read(new_page, address, run):
    page = enter(new_page(viewport={"width": 1500, "height": 900}), address)
    everything = Collection.of(run)
    page.get_by_role("link", name="Trajectories", exact=True).click()
    expect(page.get_by_role("heading", name="Exploring Expert Failures")).to_be_hidden()
    solved = [x for x in everything if x.outcome == "solved"]
    page.get_by_label("outcome").select_option("solved")
    listed(page, len(solved))
    page.get_by_role("button", name="reset").click()
    listed(page, 43)
    for _ in range(2):
        page.get_by_role("button", name="steps", exact=True).click()
    expect(rows(page).first).to_contain_text("walk far")
    lengths = [int(x.replace(",", "")) for x in page.locator("tbody .c-length").all_inner_texts()]
    longest = sorted((x.trajectory.length for x in everything), reverse=True)
    assert lengths == longest[: len(lengths)]
    assert len(lengths) > 10
    page.get_by_role("button", name="reset").click()
    page.get_by_role("button", name="regex", exact=True).click()
    for wrong, why in (("(oops", "not a regular expression"), ("(a+)+b", "may never end")):
        page.get_by_label("search").fill(wrong)
        expect(page.get_by_role("alert")).to_contain_text(why)
    page.get_by_label("search").fill("is it EASY.to")
    wandered = [x for x in everything if any("Is it easy" in s.thought for s in x.trajectory.steps)]
    listed(page, len(wandered))
    expect(page.locator(".right mark").first).to_be_hidden()
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    expect(page.locator(".right mark").first).to_have_text("Is it easy to")


def test_the_keyboard_is_enough(new_page, address, run):
    page = enter(new_page(viewport={"width": 1400, "height": 900}), address)
    everything = Collection.of(run)
    page.keyboard.press("2")
    goal = page.locator(".right .goal")
    expect(goal).to_contain_text(everything[0].trajectory.instruction)
    for _ in range(3):
        page.keyboard.press("j")
    page.keyboard.press("ArrowUp")
    expect(goal).to_contain_text(everything[2].trajectory.instruction)
    expect(page.locator("tr.on")).to_have_attribute("data-item", "2")
    assert page.url.endswith("#!t/2")
    page.keyboard.press("o")
    steps = page.locator(".right details.step[data-step]")
    expect(page.locator(".right details.step[data-step][open]")).to_have_count(
        everything[2].trajectory.length
    )
    page.keyboard.press("j")
    expect(goal).to_contain_text(everything[3].trajectory.instruction)
    expect(page.locator(".right details.step[open]")).to_have_count(0)
    page.keyboard.press("k")
    expect(steps.first).to_have_attribute("open", "")  # remembered
    page.keyboard.press("r")
    expect(page.locator(".right pre").first).to_contain_text("[SEP]")
    page.keyboard.press("/")
    expect(page.get_by_label("search")).to_be_focused()
    page.keyboard.type("walk far")
    listed(page, 1)
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="The methods, side by side")).to_be_visible()
    page.go_back()
    listed(page, 1)


def test_a_long_trajectory_and_a_link_to_it(new_page, address, at):
    page = enter(new_page(), f"{address}#!t/{at['long']}")
    expect(page.locator("tr.on")).to_have_attribute("data-item", str(at["long"]))
    steps = page.locator(".right details.step[data-step]")
    expect(steps).to_have_count(250)
    page.get_by_role("button", name="4,750 more steps").click()
    expect(steps).to_have_count(500)
    page.get_by_label("search").fill("go 4900")
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    expect(page.locator("details.step.here")).to_contain_text("room 4900")


def test_keys_at_once_after_a_search(new_page, address, at):
    """What was typed is searched before the next key acts, however fast it comes."""
    page = enter(new_page(), f"{address}#!t/{at['long']}")
    page.get_by_label("search").evaluate(
        """(field) => {
          field.value = "go 4900";
          field.dispatchEvent(new Event("input", { bubbles: true }));
          document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "n", bubbles: true }));
        }"""
    )
    page.wait_for_timeout(200)
    expect(page.locator("details.step.here")).to_contain_text("room 4900")


def test_a_page_of_results_is_a_list(new_page, address, run):
    """Each product begins a line, and the goal that every page repeats is one line."""
    everything = Collection.of(run)
    number, t = next(
        (i, t)
        for i, x in enumerate(everything)
        for t, s in enumerate(x.trajectory.steps)
        if "Total results" in s.observation and s.action[6:-1].upper() in s.observation.split(" ")
    )
    page = enter(new_page(), f"{address}#!t/{number}")
    step = page.locator(".right details.step[data-step]").nth(t)
    step.locator("summary").click()
    lines = step.locator("dd").first.inner_text().split("\n")
    item = everything[number].trajectory
    assert lines[0] == f"Instruction: {item.instruction}"
    assert lines[1].startswith("Back to Search \u00b7 Page ")
    assert [x[:4] for x in lines[2:]] == ["B001"] * 6
    expect(step.locator(".clicked")).to_have_text(item.steps[t].action[6:-1].upper())


def test_two_episodes_compared_and_the_training_data(new_page, address, run):
    failed = next(i for i, x in enumerate(Collection.of(run)) if x.explored and x.failure)
    page = enter(new_page(viewport={"width": 1400, "height": 900}), f"{address}#!t/{failed}")
    expect(page.locator(".right .end")).to_contain_text("not solved")
    page.keyboard.press("c")
    expect(page.locator(".right .diverge")).to_contain_text("Here they part")
    left = page.get_by_label("left")
    expect(left.locator("option").first).to_contain_text("teacher")
    page.get_by_label("right").select_option(index=0)
    expect(page.locator(".right")).to_contain_text("They never part")
    page.keyboard.press("4")
    expect(page.locator(".samples tbody tr").first).to_be_visible()
    page.get_by_label("mask", exact=True).select_option("context")
    page.locator(".samples tbody tr").first.click()
    expect(page.locator(".right .seghead", has_text="no loss: ").first).to_be_visible()
    expect(page.locator(".right .seghead", has_text="trained: ").first).to_be_visible()


def test_a_cell_of_the_recovery_map_leads_to_the_rollouts_behind_it(new_page, address, run):
    everything = Collection.of(run)
    failed = next(x for x in everything if not x.trajectory.solved and any(
        s.k and s.wins for s in x.states))  # fmt: skip
    state = next(s for s in failed.states if s.k and s.wins)
    (branch,) = everything.branches.at(failed, state.k)
    page = enter(new_page(viewport={"width": 1400, "height": 900}), f"{address}#!map")
    line = page.locator(".map tbody tr", has=page.get_by_title(failed.trajectory.instruction))
    cell = line.first.locator("td.c button").nth(state.k)
    expect(cell).to_have_text("1/1")
    hint = cell.get_attribute("title")
    assert f"s{state.k}, after {state.t} action" in hint
    assert "95 % interval 21 to 100 %" in hint
    cell.click()
    right = page.locator(".right")
    expect(right.locator(".caption")).to_contain_text(hint)
    own = right.locator("details.step[data-step]", has_text="student")
    expect(own).to_have_count(branch.rollout.length)
    own.first.locator("summary").click()
    expect(own.first).to_contain_text(branch.rollout.steps[0].action)
    expect(right.locator(".end")).to_contain_text("solved")
    right.get_by_role("link", name="the teacher's trajectory").click()
    expect(right.locator(".end")).to_contain_text("not solved")


def test_text_of_records_never_runs(new_page, address, at):
    page = enter(new_page(), address)
    n1, n2 = at["n1"], at["n2"]
    for place in (f"#!t/{n1}", f"#!t/{n2}/compare", "#!t/0", f"#!map/{n2}/1", f"#!map/{n2}/2"):
        page.goto(address + place)
        expect(page.locator(".right")).to_contain_text("<script>" if place != "#!t/0" else "Task")
        page.keyboard.press("o")
        assert page.evaluate("window.ran") is None, place
        inside = page.locator("#app script, #app img, #app iframe, #app object")
        expect(inside).to_have_count(0)
    page.goto(f"{address}#!t/0")
    page.locator(".right summary").first.click()
    expect(page.locator(".right dd.note").first).to_contain_text("mind this </script><script>")
    page.goto(f"{address}#!t/{n1}")
    expect(page.locator(".right .goal")).to_contain_text("more characters]")
    text = page.locator(".right").inner_text()
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "\u27e8U+202E\u27e9" in text


def test_what_others_try_to_run_is_stopped_by_the_policy(browser, address, run, tmp_path):
    """Somebody edits the file: a handler, a script, an image from elsewhere; none of it works."""
    path = tmp_path / "edited.html"
    html = (run / "report.html").read_text("utf-8")
    path.write_text(
        html.replace(
            "<footer>",
            "<footer><img src='http://127.0.0.1:9/x' onerror='window.ran=1'>"
            "<script>window.ran=1</script>",
        ),
        "utf-8",
    )
    page = browser.new_context().new_page()
    page.goto(path.as_uri())
    expect(page.locator("html[data-ready]")).to_be_attached()
    assert page.evaluate("window.ran") is None
    page.context.close()


def test_without_scripts_the_findings_and_numbers_are_there(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    expect(page.get_by_role("heading", name="The recovery map", exact=True)).to_be_visible()
    expect(page.locator("nav.tabs")).to_be_hidden()
    page.locator("#recovery figure").first.get_by_text("The numbers").click()
    expect(page.locator("#recovery td").first).to_be_visible()
    expect(page.locator("#methods")).to_contain_text("EEF")
    expect(page.locator("#failure details").first).to_be_visible()
    context.close()


LISTED = """async (addresses) => {
  const empty = [];
  for (const address of addresses) {
    location.hash = address.slice(1);
    await new Promise((go) => setTimeout(go, 80));
    if (!document.querySelector(".rows tr[data-item], .samples tbody tr, .right a")) {
      empty.push(address);
    }
  }
  return empty;
}"""
"""Which addresses of the viewer lead to nothing."""


def draw_all(page: Page) -> None:
    """Scroll to every figure; each is drawn then, and none before."""
    places = page.locator("main details:not([open]) .plot")
    hidden = places.count()
    shown = page.locator(".plot").count() - hidden
    assert page.locator(".plot[data-drawn]").count() < shown
    for i in range(page.locator(".plot").count()):
        place = page.locator(".plot").nth(i)
        if place.is_visible():
            place.scroll_into_view_if_needed()
            expect(place).to_have_attribute("data-drawn", re.compile("light|dark"), timeout=20_000)
    assert page.locator(".plot[data-drawn] .main-svg").count() >= shown


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_figures_are_drawn_when_scrolled_to_and_fit_the_page(new_page, address, width, scheme):
    said = []
    page = new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.on("console", lambda message: said.append(message.text))
    enter(page, address)
    draw_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.locator("#recovery .plot rect.bg, #recovery .plot .main-svg").first
    colour = paper.evaluate("e => getComputedStyle(e).backgroundColor")
    assert (colour == "rgb(20, 23, 27)") == (scheme == "dark"), colour
    assert page.locator(".plot a:not(.modebar-btn)").count() == 0, "text of records stays text"
    assert page.evaluate("window.ran") is None
    page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    other = "dark" if scheme == "light" else "light"
    expect(page.locator("#recovery .plot").first).to_have_attribute(
        "data-drawn", other, timeout=20_000
    )
    assert said == []


def test_every_count_leads_to_its_episodes(new_page, tmp_path):
    run = write_run(tmp_path / "run", seeds=(1, 2), tasks=12, episodes=True)
    address = write_report(run).as_uri()
    page = enter(new_page(viewport={"width": 1400, "height": 900}), address)
    links = page.locator("main a[href^='#!']")
    addresses = dict.fromkeys(links.evaluate_all("es => es.map(e => e.getAttribute('href'))"))
    assert len(addresses) > 60
    assert page.evaluate(LISTED, list(addresses)) == []
    here = ("#methods", "#difference", "#iterations", "#teacher", "#kinds", "#gained")
    here += ("#newly-solved",)
    count, wrong = page.evaluate(COUNTED, ", ".join(f"{place} td.num a" for place in here))
    assert count > 60
    assert wrong == []


COUNTED = """async (places) => {
  const wrong = [], seen = new Set();
  const links = [...document.querySelectorAll(places)];
  for (const link of links) {
    const href = link.getAttribute("href");
    const said = link.textContent.replaceAll(",", "");
    if (seen.has(href + " " + said)) continue;
    seen.add(href + " " + said);
    if (!href.startsWith("#!t?") || href.includes("tag=task+solved")) continue;
    if (!/^\\d+( failed episodes?)?$/.test(said)) continue;
    location.hash = href.slice(1);
    await new Promise((go) => setTimeout(go, 60));
    const shown = document.querySelector(".count").textContent.replaceAll(",", "");
    if (parseInt(shown, 10) !== parseInt(said, 10)) wrong.push([href, said, shown]);
  }
  return [seen.size, wrong];
}"""
"""Links under a number of episodes that lead to more of them, or fewer; tasks are no episodes."""


def foreign(name: str, model: str, task: str, actions: int, won: bool, **more) -> dict:
    talk = [
        {
            "role": "user",
            "content": f"You are in the hall of house {task}.\nYour task is to {task}.",
        }
    ]
    for i in range(actions):
        does, seen = f"go to drawer {i}", f"On the drawer {i} of {name} you see a thing."
        if not won and i >= actions // 2:
            does, seen = "open the chest", "Nothing happens."
        talk += [
            {"role": "assistant", "content": f"Thought: I look.\nAction: {does}"},
            {"role": "user", "content": seen},
        ]
    return {"messages": talk, "reward": float(won), "model": model, "env": "house", **more}


def test_numbers_of_imported_models_lead_to_exactly_their_episodes(new_page, tmp_path):
    """The whole page of a run that holds nothing but imports of two models."""
    theirs = [
        foreign(f"a{i}", "model-a", f"find key {i}", 4 + i % 3, i % 2 == 0, id=f"a-{i}")
        for i in range(8)
    ]
    theirs += [
        foreign(
            f"b{i}",
            "model-b",
            f"find key {i}",
            8,
            i in (1, 2),
            reward=[0.0, 1.0, 1.0, 0.35, None][min(i, 4)],
        )
        for i in range(6)
    ]
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in theirs), "utf-8")
    import_run([tmp_path / "theirs.jsonl"], tmp_path / "run")
    address = write_report(tmp_path / "run").as_uri()
    page = enter(new_page(viewport={"width": 1400, "height": 900}), address)
    count, wrong = page.evaluate(COUNTED, "main section:not(#actions) td.num a, #kinds p a")
    assert count > 25
    assert wrong == []
    page.goto(address)
    expect(page.locator("#kinds > p")).to_contain_text("no cause was found")
    expect(page.locator("#teacher")).to_contain_text("Who solved what")
    row = page.locator("#teacher tr", has_text="model-a, model-b").first
    expect(row).to_contain_text("1")  # key 2; key 1 is model-b's alone
    row.locator("a").click()
    listed(page, 2)
    expect(rows(page)).to_contain_text(["find key 2", "find key 2"])
    page.keyboard.press("c")  # side by side, though the files give them different ids
    expect(page.get_by_label("right").locator("option")).to_have_count(2)


def test_a_run_of_one_trajectory_or_without_exploration(new_page, tmp_path):
    one = tmp_path / "one" / "seed-1" / "trajectories.jsonl"
    write_jsonl(one, [nasty("only", 3)])
    bare = write_run(tmp_path / "bare", seeds=(1,), tasks=6)
    for name in ("branches", "samples"):
        for file in bare.rglob(f"{name}.jsonl"):
            file.unlink()
    for folder in (tmp_path / "one", bare):
        page = enter(new_page(), write_report(folder).as_uri())
        expect(page.locator("#map .missing")).to_contain_text("No exploration")
        draw_all(page)
        for key in "234":
            page.keyboard.press(key)
            expect(page.locator("#app")).to_be_visible()
        assert page.evaluate("window.ran") is None


def test_an_empty_run_and_a_phone(new_page, tmp_path):
    open_folder(tmp_path, {}).close()
    page = enter(new_page(viewport={"width": 380, "height": 740}), write_report(tmp_path).as_uri())
    expect(page.get_by_text("No student has been evaluated in this run yet.")).to_be_visible()
    for key in "234":
        page.keyboard.press(key)
        expect(page.locator("#app")).to_be_visible()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 380, f"view {key} is {width} wide"
    page.keyboard.press("2")
    expect(page.locator(".left")).to_contain_text("No trajectory is recorded.")
