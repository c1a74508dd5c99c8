"""Episodes: pages, purchases, limits, restoring, bad actions, and where strict differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eeflib.envs.base import FREE_TEXT, TextEnv, replay_restore
from eeflib.envs.webshop import Catalogue, Product, WebShopEnv, WebShopState, task_from_goal
from eeflib.errors import DataError, EnvironmentFault
from eeflib.records import Step, Task
from tests.parity import Vectors

VECTORS = Vectors(Path(__file__).parents[1] / "data" / "webshop_parity")


def product(number: int, **changes: object) -> Product:
    fields: dict[str, object] = {
        "asin": f"B{number:09d}",
        "title": f"Acme Soft Sofa Number {number}",
        "description": "A sofa for sitting.",
        "bullets": ("Washable cover", "Vegan glue"),
        "price_text": "$25.0",
        "prices": (25.0,),
        "price": 25.0,
        "category": "garden",
        "query": "sofas",
        "product_category": "Home › Sofas",
        "attributes": ("vegan glue",),
        "options": {"color": ("navy", 'grün "x"'), "size": ("s", "l")},
        **changes,
    }
    return Product(**fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    shop = [product(i) for i in range(24)]
    odd = product(99, title="<script>alert(1)</script> & Sofa\x07", options={"fit": ("buy now",)})
    return Catalogue([*shop, odd])


@pytest.fixture
def task(catalogue: Catalogue) -> Task:
    goal = {
        "asin": "B000000003", "query": "sofas", "product_category": "Home › Sofas",
        "name": "Acme Soft Sofa Number 3", "category": "garden", "attributes": ["vegan glue"],
        "price_upper": 30.0, "goal_options": ["navy"],
        "instruction_text": "i want a sofa in navy, and price lower than 30.00 dollars",
    }  # fmt: skip
    return task_from_goal(goal, catalogue, split="test", id="t", max_steps=15)


def play(env: WebShopEnv, task: Task, actions: list[str]) -> list[Step]:
    text, key = env.reset(task).text, env.state_key
    steps = []
    for action in actions:
        result = env.step(action)
        steps.append(Step(text, action, "teacher", state_key=key, reward=result.reward))
        text, key = result.text, result.info["state_key"]
    return steps


def test_an_episode_from_search_to_purchase(catalogue: Catalogue, task: Task) -> None:
    env = WebShopEnv(catalogue)
    assert isinstance(env, TextEnv)
    assert (
        env.reset(task).text == f"WebShop [SEP] Instruction: [SEP] {task.instruction} [SEP] Search"
    )
    assert env.valid_actions() == [f"search[{FREE_TEXT}]"]
    page = env.step("search[Sofa]")
    assert "Page 1 (Total results: 25)" in page.text
    second = env.step("click[Next >]")
    assert "Page 2" in second.text
    assert "click[< prev]" in (env.valid_actions() or [])
    assert env.step("click[< Prev]").text == page.text
    env.step("click[B000000003]")
    for action in ("click[navy]", "click[Description]"):
        result = env.step(action)
        assert result.info["valid"]
    assert result.text.endswith("< Prev [SEP] A sofa for sitting.")
    assert env.valid_actions() == ["click[back to search]", "click[< prev]"]
    env.step("click[< Prev]")
    assert env.state.options == (("color", "navy"),)
    done = env.step("click[Buy Now]")
    assert (done.reward, done.terminated, done.truncated) == (1.0, True, False)
    assert done.info["won"]
    assert done.info["score"] == 1.0
    assert done.info["bought"] == {
        "asin": "B000000003", "options": {"color": "navy"}, "price": 25.0,
    }  # fmt: skip
    assert env.valid_actions() == []


def test_leaving_a_product_forgets_its_options(catalogue: Catalogue, task: Task) -> None:
    env = WebShopEnv(catalogue)
    play(env, task, ["search[sofa]", "click[b000000003]", "click[navy]", "click[< prev]"])
    assert env.state.options == ()
    env.step("click[b000000003]")
    env.step("click[navy]")
    env.step("click[s]")
    env.step("click[l]")
    assert env.state.options == (("color", "navy"), ("size", "l"))
    env.step("click[back to search]")
    assert env.state == WebShopState(steps=9)


@pytest.mark.parametrize(
    "action",
    ["", " ", "buy now", "click[]", "search[]", "Click[Buy Now]", " click[buy now]", "think[x]",
     "click[search]", "click[nothing]", "click[ü\ud800]", "[x]", "]", "[", "click[\n]",
     "click[buy now", "search", "\x00", "click[b000000003]"],
)  # fmt: skip
def test_what_is_no_action_changes_nothing(catalogue: Catalogue, task: Task, action: str) -> None:
    for strict in (False, True):
        env = WebShopEnv(catalogue, strict=strict)
        first = env.reset(task)
        result = env.step(action)
        assert result.text == first.text
        assert (result.reward, result.terminated, result.info["valid"]) == (0.0, False, False)
        assert result.info["reason"]
        assert env.state == WebShopState(steps=1)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "query",
    ["x" * 10**6, "_" * 10**6, "[" * 10**6, "sofa\x00\x1b[31m\r\n", "<b>sofa</b>", "🎁\u200d" * 9,
     "ソファ", "\ud800", "a b " * 10**5, "<", "<r", "<r> x", "<c>", "<a> x", "<q>", "] sofa["],
)  # fmt: skip
def test_any_search_text_is_survived(
    catalogue: Catalogue, task: Task, query: str, strict: bool
) -> None:
    env = WebShopEnv(catalogue, strict=strict)
    env.reset(task)
    for action in (f"search[{query}]", "click[Next >]", "click[< Prev]", "click[back to search]"):
        result = env.step(action)
        assert not result.terminated
        assert result.text.startswith(("Instruction", "WebShop"))
    env.state.key()


def test_markup_and_control_characters_are_shown_as_they_are(
    catalogue: Catalogue, task: Task
) -> None:
    env = WebShopEnv(catalogue)
    env.reset(task)
    assert "[SEP] <script>alert(1)</script> & Sofa\x07 [SEP]" in env.step("search[script]").text


def test_the_step_limit_truncates(catalogue: Catalogue, task: Task) -> None:
    env = WebShopEnv(catalogue, max_steps=2)
    env.reset(replace(task, settings={}))
    assert not env.step("search[sofa]").truncated
    last = env.step("nonsense")
    assert (last.truncated, last.terminated) == (True, False)
    after = env.step("click[next >]")
    assert (after.truncated, after.info["valid"], after.text) == (True, False, last.text)
    assert "no steps left" in after.info["reason"]
    env.reset(replace(task, settings={"max_steps": 1}))
    assert env.step("search[sofa]").truncated


def test_an_ended_episode_stays_ended_unless_strict(catalogue: Catalogue, task: Task) -> None:
    actions = ["search[sofa]", "click[b000000003]", "click[buy now]", "search[sofa]"]
    env = WebShopEnv(catalogue)
    play(env, task, actions)
    assert env.state.done
    assert env.step("search[sofa]").terminated
    strict = WebShopEnv(catalogue, strict=True)
    play(strict, task, actions)
    assert strict.state.page == "results"


def test_copying_a_state_restores_it(catalogue: Catalogue, task: Task) -> None:
    for mode in ("text", "text_rich"):
        env = WebShopEnv(catalogue, observation_mode=mode)  # type: ignore[arg-type]
        play(env, task, ["search[sofa]", "click[next >]", "click[b000000013]", "click[l]"])
        state, text, actions = env.state, env.text, env.valid_actions()
        env.step("click[buy now]")
        other = WebShopEnv(catalogue, observation_mode=mode)  # type: ignore[arg-type]
        other.reset(task)
        assert other.set_state(state) == text
        assert (other.state, other.valid_actions()) == (state, actions)
        assert hash(state) == hash(replace(state))


def recorded_episodes() -> list[tuple[Task, list[str], bool]]:
    """The recorded official episodes, as tasks and actions (without the random searches)."""
    out = []
    for episode in VECTORS.load("rollouts")["episodes"][::2]:
        goal = VECTORS.goals[episode["goal_set"]][episode["goal_idx"]]
        actions = [s["action"] for s in episode["steps"]]
        task = task_from_goal(goal, VECTORS.catalogue, max_steps=1000)
        out.append((task, actions, episode["show_attrs"]))
    return out


@pytest.mark.parametrize("strict", [False, True])
def test_recorded_states_are_restored(strict: bool) -> None:
    restored = 0
    for task, actions, show in recorded_episodes():
        env = WebShopEnv(VECTORS.catalogue, strict=strict, show_attributes=show)
        steps = play(env, task, actions)
        for t in range(len(steps)):
            if env.restore(task, steps[:t], steps[t].observation).ok:
                assert (env.text, env.state_key) == (steps[t].observation, steps[t].state_key)
                restored += 1
    assert restored > 450


def test_a_restored_state_is_verified(catalogue: Catalogue, task: Task) -> None:
    env = WebShopEnv(catalogue)
    steps = play(env, task, ["search[sofa]", "click[next >]", "click[b000000013]", "click[l]"])
    good = env.text
    assert env.restore(task, steps, good).ok
    changed = [*steps[:2], replace(steps[2], observation="another page"), steps[3]]
    outcome = env.restore(task, changed, good)
    assert (outcome.ok, outcome.first_mismatch) == (False, 2)
    outcome = env.restore(task, steps, "another page")
    assert (outcome.ok, outcome.first_mismatch) == (False, 4)
    other = replace(task, instruction="something else", goal={**task.goal, "price_upper": 40.0})
    assert env.restore(other, steps, good).first_mismatch == 0
    assert env.restore(task, [], env.reset(task).text).ok
    bought = play(env, task, ["search[sofa]", "click[b000000003]", "click[buy now]"])
    for prefix in (bought, [replace(s, state_key="") for s in bought]):
        assert not env.restore(task, prefix).ok
    short = replace(task, settings={**task.settings, "max_steps": 3})
    steps = play(env, short, ["search[sofa]", "click[next >]", "click[next >]"])
    assert env.restore(short, steps[:2]).ok
    assert env.restore(short, steps) == replay_restore(env, short, steps)


def test_the_key_names_task_and_state_but_not_the_way(catalogue: Catalogue, task: Task) -> None:
    env = WebShopEnv(catalogue)
    play(env, task, ["search[sofa]"])
    key = env.state_key
    play(env, task, ["nonsense", "search[bed]", "search[sofa]"])
    assert env.state_key == key
    env.step("click[next >]")
    assert env.state_key != key
    play(env, replace(task, instruction="other"), ["search[sofa]"])
    assert env.state_key != key


def test_tasks_that_do_not_belong_here(catalogue: Catalogue, task: Task) -> None:
    env = WebShopEnv(catalogue)
    with pytest.raises(EnvironmentFault, match="reset"):
        env.step("search[x]")
    with pytest.raises(DataError, match="scienceworld"):
        env.reset(replace(task, env="scienceworld"))
    with pytest.raises(DataError, match="made for catalogue"):
        env.reset(replace(task, settings={"catalogue": "0" * 16}))
    with pytest.raises(DataError, match="'B9' is not in"):
        env.reset(replace(task, goal={**task.goal, "asin": "B9"}))
    with pytest.raises(DataError, match="lacks asin, query"):
        env.reset(replace(task, goal={}))
    with pytest.raises(DataError, match="text_rich"):
        WebShopEnv(catalogue, observation_mode="html")  # type: ignore[arg-type]


def rich_after(catalogue: Catalogue, task: Task, actions: list[str], strict: bool) -> str:
    env = WebShopEnv(catalogue, observation_mode="text_rich", strict=strict, max_steps=99)
    play(env, task, actions)
    return env.text


def test_a_chosen_option_is_marked_whatever_its_letters(catalogue: Catalogue, task: Task) -> None:
    actions = ["search[sofa]", "click[b000000003]", 'click[grün "x"]']
    mark = '[clicked button] grün "x" [clicked button_]'
    assert mark in rich_after(catalogue, task, actions, strict=False)
    assert mark not in rich_after(catalogue, task, actions, strict=True)
    quoted = ['search["navy" sofa]', "click[b000000003]"]
    assert "You have clicked navy." not in rich_after(catalogue, task, quoted, strict=False)
    assert "You have clicked navy." in rich_after(catalogue, task, quoted, strict=True)


def test_the_page_type_does_not_depend_on_the_query(catalogue: Catalogue, task: Task) -> None:
    actions = ["search[sofa search_results]", "click[b000000003]", "click[< prev]"]
    assert "Page 1 " in rich_after(catalogue, task, actions, strict=False)
    assert "Page 0 " in rich_after(catalogue, task, actions, strict=True)


def test_back_doors_open_only_in_strict(catalogue: Catalogue, task: Task) -> None:
    for query, found in (("<c> garden", 25), ("<q> sofas", 25)):
        official = rich_after(catalogue, task, [f"search[{query}]"], strict=True)
        assert f"Total results: {found}" in official
    assert "Total results: 0" in rich_after(catalogue, task, ["search[<c> garden]"], strict=False)


def test_a_strict_crash_is_an_invalid_action(catalogue: Catalogue, task: Task) -> None:
    env = WebShopEnv(catalogue, strict=True)
    play(env, task, ["search[sofa]", "click[b000000003]"])
    before = env.text
    result = env.step("search[<a> x]")
    assert (result.text, result.info["valid"], result.info["reason"]) == (
        before,
        False,
        "TypeError",
    )
    assert env.step("click[buy now]").info["reason"] == "KeyError"
    assert env.step("click[back to search]").info["valid"]


def test_an_option_named_like_a_button_acts_as_the_button(catalogue: Catalogue, task: Task) -> None:
    env = WebShopEnv(catalogue)
    play(env, task, ["search[script]", "click[b000000099]"])
    assert env.step("click[buy now]").terminated


def test_spelling_of_products_in_clicks(task: Task) -> None:
    shop = Catalogue([product(3), product(4, asin="b00lower44")])
    env = WebShopEnv(shop)
    env.reset(replace(task, settings={}))
    env.step("search[sofa]")
    assert env.step("click[B00LOWER44]").info["valid"]
    assert env.state.asin == "b00lower44"
