"""People in the shop: they see and click what a browser shows; the record is what agents leave."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from eeflib.envs.webshop import Catalogue, WebShopEnv, build_goals, task_from_goal
from eeflib.records import Task, Trajectory
from eeflib.run import RunFolder
from eeflib.shop import Shop, serve
from eeflib.world import World, webshop_world

PARITY = Path(__file__).parents[1] / "data/webshop_parity"


@pytest.fixture(scope="module")
def world() -> World:
    return webshop_world(7, {"train": 1, "test": 40})


@pytest.fixture
def shop(world: World, tmp_path: Path) -> Iterator[Shop]:
    """The first task is on page 2, the second wants two options."""
    tasks = world.split("test")
    first, second = (next(t for t in tasks if t.extra["level"] == x) for x in ("page2", "options"))
    rest = [t for t in tasks if t not in (first, second)]
    with serve([first, second, *rest], world.make_env, out=tmp_path / "run", seeds=[7]) as opened:
        yield opened


def recorded(shop: Shop) -> list[Trajectory]:
    return list(RunFolder(shop.file.parent).read("trajectories", Trajectory))


def tasks_of(shop: Shop) -> list[Task]:
    return list(RunFolder(shop.file.parent).read("tasks", Task))


def enter(page: Page, shop: Shop) -> None:
    page.goto(shop.url)
    page.get_by_role("button", name="Start shopping").click()


def words_for(task: Task) -> str:
    return " ".join([*task.goal["attributes"], task.goal["query"]])


def look_for(page: Page, task: Task) -> None:
    page.get_by_label("What do you search for?").fill(words_for(task))
    page.get_by_role("button", name="Search").click()
    for number in range(1, 6):
        expect(page.get_by_text(f"Page {number}", exact=True)).to_be_visible()
        if page.get_by_text(task.goal["asin"], exact=True).count():
            return
        page.get_by_role("button", name="Next").click()
    raise AssertionError("the product is on no page")


def buy(page: Page, task: Task) -> None:
    """From the results on."""
    page.locator(".card", has_text=task.goal["asin"]).get_by_role("button").click()
    for value in task.goal["goal_options"]:
        page.get_by_role("button", name=value, exact=True).click()
        chosen = page.get_by_role("button", name=value, exact=True)
        expect(chosen).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Buy Now").click()


def replay(world: World, task: Task, trajectory: Trajectory) -> None:
    """An agent that does the same reads the same and gets the same reward."""
    env = world.make_env()
    text, reward = env.reset(task).text, 0.0
    for step in trajectory.steps:
        assert step.observation == text
        result = env.step(step.action)
        text, reward = result.text, result.reward
    assert (text, reward) == (trajectory.final_observation, trajectory.reward)


def test_a_task_is_played_to_reward_1_and_recorded(new_page, shop, world):
    page, task = new_page(), tasks_of(shop)[0]
    enter(page, shop)
    expect(page.get_by_label("What is wanted")).to_contain_text(task.instruction)
    look_for(page, task)
    expect(page.get_by_text("Page 2", exact=True)).to_be_visible()
    assert not shop.file.exists()
    buy(page, task)
    expect(page.get_by_role("heading", name="Solved")).to_be_visible()
    expect(page.locator(".score")).to_contain_text("1.00")
    (trajectory,) = recorded(shop)
    assert trajectory.solved
    assert trajectory.terminated
    assert trajectory.policy == "human"
    assert {s.actor for s in trajectory.steps} == {"human"}
    assert trajectory.actions[0].startswith("search[")
    assert trajectory.actions[-1] == "click[buy now]"
    replay(world, task, trajectory)
    page.get_by_role("button", name="Next task").click()
    expect(page.locator(".goal")).to_contain_text(tasks_of(shop)[1].instruction)
    expect(page.get_by_text("1 solved")).to_be_visible()


def test_the_keyboard_is_enough(new_page, shop, world):
    page, task = new_page(), tasks_of(shop)[1]

    def press_on(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = page.evaluate("document.activeElement.innerText || ''")
            if focused.strip().casefold() == name.casefold():
                break
        else:
            raise AssertionError(f"no Tab leads to {name!r}")
        enter_key()

    def enter_key() -> None:
        with page.expect_navigation():
            page.keyboard.press("Enter")

    page.goto(shop.url)
    expect(page.get_by_role("button", name="Start shopping")).to_be_focused()
    enter_key()
    press_on("All tasks")
    page.get_by_role("button", name="Play: task 2", exact=True).focus()
    enter_key()
    expect(page.get_by_label("What do you search for?")).to_be_focused()
    page.keyboard.type(words_for(task))
    enter_key()
    product = world.make_env().catalogue.by_asin[task.goal["asin"]]
    press_on(product.title)
    for value in task.goal["goal_options"]:
        press_on(value)
    press_on("Buy Now")
    expect(page.get_by_role("heading", name="Solved")).to_be_visible()
    replay(world, task, recorded(shop)[-1])


def test_a_purchase_that_misses_is_explained(new_page, shop):
    page, task = new_page(), tasks_of(shop)[1]
    enter(page, shop)
    page.get_by_role("link", name="All tasks").click()
    page.get_by_role("button", name="Play: task 2", exact=True).click()
    look_for(page, task)
    page.locator(".card", has_text=task.goal["asin"]).get_by_role("button").click()
    page.get_by_role("button", name="Buy Now").click()  # without its two options
    wishes = len(task.goal["attributes"]) + len(task.goal["goal_options"]) + 1
    reward = (wishes - 2) / wishes
    expect(page.locator(".score")).to_contain_text(f"{reward:.2f}")
    expect(page.get_by_role("row").filter(has_text="missed")).to_have_count(2)
    for value in task.goal["goal_options"]:
        row = page.get_by_role("row").filter(has_text=value)
        expect(row).to_contain_text("nothing chosen")
    assert recorded(shop)[-1].reward == pytest.approx(reward)


def test_two_browsers_are_two_shoppers(new_page, shop):
    one, two, task = new_page(), new_page(), tasks_of(shop)[0]
    for page in (one, two):
        enter(page, shop)
    look_for(one, task)
    two.reload()
    expect(two.get_by_label("What do you search for?")).to_be_visible()
    two.get_by_role("button", name="Give up this task").click()
    expect(two.get_by_role("heading", name="You gave this task up")).to_be_visible()
    buy(one, task)
    expect(one.get_by_role("heading", name="Solved")).to_be_visible()
    assert [t.solved for t in recorded(shop)] == [True]  # who did nothing leaves no record


def test_going_back_in_the_browser_and_pressing_an_old_button_does_nothing(new_page, shop):
    page, task = new_page(), tasks_of(shop)[0]
    enter(page, shop)
    look_for(page, task)
    steps = page.get_by_text("of 14").inner_text()
    page.go_back()
    expect(page.get_by_role("status")).to_contain_text("Back button does not undo a step")
    expect(page.get_by_text(task.goal["asin"], exact=True)).to_be_visible()
    assert page.get_by_text("of 14").inner_text() == steps
    page.evaluate("document.querySelector('main form input[name=turn]').value = '1'")
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("status")).to_contain_text("a button of an earlier page")
    assert page.get_by_text("of 14").inner_text() == steps


def test_what_an_agent_reads_is_on_the_page(new_page, shop, world):
    page, task = new_page(), tasks_of(shop)[0]
    enter(page, shop)
    env = world.make_env()
    env.reset(task)
    text = env.step("search[red sofa]").text
    page.get_by_label("What do you search for?").fill("red sofa")
    page.keyboard.press("Enter")
    page.get_by_text("What an agent reads on this page").click()
    assert page.locator("pre").inner_text() == text


def test_markup_in_products_is_text_and_nothing_runs(new_page, tmp_path):
    data = json.loads(gzip.decompress((PARITY / "catalogue.json.gz").read_bytes()))
    nasty = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202etfel"
    for row in data["products"]:
        row["name"] = f"{nasty} {row['name']}"
        row["full_description"] = f"</div>{nasty}{row['full_description']}"
    catalogue = Catalogue.from_rows(
        data["products"], data["attributes"], data["human_instructions"], seed=1
    )
    goal = build_goals(catalogue, "human")[0]
    goal["instruction_text"] = f"{nasty} {goal['instruction_text']}"
    task = replace(task_from_goal(goal, catalogue), instruction=goal["instruction_text"])
    with serve([task], lambda: WebShopEnv(catalogue), out=tmp_path / "run") as shop:
        page = new_page()
        enter(page, shop)
        expect(page.locator(".goal")).to_contain_text("<script>alert(1)</script>")
        page.get_by_label("What do you search for?").fill("sandals")
        page.keyboard.press("Enter")
        card = page.locator(".card").first
        expect(card).to_contain_text("<img src=x onerror=alert(2)>")
        card.get_by_role("button").click()
        page.get_by_role("button", name="Description").click()
        expect(page.locator(".text")).to_contain_text("</div><script>")
        assert "\u202e" not in page.locator("body").inner_text()
        assert page.locator("script, img").count() == 0


def test_a_phone_shows_every_page_without_scrolling_sideways(new_page, shop):
    page, task = new_page(viewport={"width": 360, "height": 740}), tasks_of(shop)[0]

    def fits(shown: str) -> None:
        expect(page.get_by_text(shown, exact=True).first).to_be_visible()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{page.url} is {width} wide"

    page.goto(shop.url)
    fits("Shop as an agent does")
    page.get_by_role("button", name="Start shopping").click()
    fits("Search the store")
    look_for(page, task)
    fits("Page 2")
    page.locator(".card").first.get_by_role("button").click()
    fits("About this product")
    page.get_by_role("button", name="Features").click()
    fits("Features")
    page.get_by_role("button", name="Prev").click()
    page.get_by_role("button", name="Buy Now").click()
    fits("Kind of product")
    page.get_by_role("link", name="All tasks").click()
    fits("What is wanted")


def test_the_page_leaves_room_below_the_task(new_page, shop):
    page = new_page()
    enter(page, shop)
    expect(page.get_by_role("heading", name="Search the store")).to_be_visible()
    goal, heading = page.locator(".goal").bounding_box(), page.locator("h1").bounding_box()
    assert heading["y"] - (goal["y"] + goal["height"]) > 15
