"""The parity checks that play episodes: recorded rollouts and wrapper cases.

Owns the comparison step by step. Knows nothing about the other files of a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eeflib.envs.base import StepResult
from eeflib.envs.webshop.catalogue import Catalogue
from eeflib.envs.webshop.env import WebShopEnv
from eeflib.envs.webshop.goals import task_from_goal
from eeflib.envs.webshop.moves import hits
from eeflib.envs.webshop.state import WebShopState
from eeflib.envs.webshop.wrappers import EtoEpisode, joined_history, parse_agentgym, parse_eto

__all__ = ["check_rollouts", "check_wrappers"]

_NO_LIMIT = 1_000_000
_HOST = "http://127.0.0.1:3000"


def _address(env: WebShopEnv, session: str) -> str:
    """The recorded address: `/session` is blanked out where it occurs first, be it in the host."""
    address = _HOST + env.state.address().replace("{session}", session)
    return address.replace(f"/{session}", "/{session}", 1)


def _page_differs(env: WebShopEnv, text: str, want: dict[str, Any], session: str) -> list[str]:
    pairs = {
        "text": (text, want["obs_text"]),
        "rich": (env.rich(), want["obs_rich"]),
        "clickables": (env.clickables(), want["clickables"]),
        "search bar": (env.state.page == "index", want["has_search_bar"]),
        "address": (_address(env, session), want["url"]),
    }
    return [name for name, (have, wish) in pairs.items() if have != wish]


def _step_differs(env: WebShopEnv, result: StepResult, want: dict[str, Any]) -> list[str]:
    """What of a step's outcome is not as recorded."""
    out = []
    if "error" in want:
        return [] if result.info.get("reason") == want["error"] else ["error"]
    if (result.reward, result.terminated) != (want["reward"], want["done"]):
        out.append("reward or done")
    if "search" in want:
        found = [env.catalogue.products[i].asin for i in env.hits()]
        keywords = list(env.state.keywords)
        if (keywords, found) != (want["search"]["keywords"], want["search"]["asins"]):
            out.append("search")
    if "reward_info" in want and result.info.get("reward_info") != want["reward_info"]:
        out.append("reward_info")
    if "bought" in want and result.info.get("bought") != want["bought"]:
        out.append("bought")
    return out


def check_rollouts(v: Any) -> Iterator[tuple[str, bool]]:
    """Every reset and every step of every episode; see `Vectors` for `v`."""
    number_of = {p.asin: i for i, p in enumerate(v.catalogue.products)}
    for episode in v.load("rollouts")["episodes"]:
        drawn: list[str] = []

        def ranker(
            catalogue: Catalogue, state: WebShopState, drawn: list[str] = drawn
        ) -> tuple[int, ...]:
            # The only random search: take the recorded draw.
            if drawn and state.query.startswith("<r>"):
                return tuple(number_of[asin] for asin in drawn)
            return hits(catalogue, state, strict=True)

        env = WebShopEnv(
            v.catalogue,
            strict=True,
            show_attributes=episode["show_attrs"],
            nouns=v.nouns,
            ranker=ranker,
        )
        goal = v.goals[episode["goal_set"]][episode["goal_idx"]]
        session, want = str(episode["goal_idx"]), episode["reset"]
        text = env.reset(task_from_goal(goal, v.catalogue, max_steps=_NO_LIMIT)).text
        differs = _page_differs(env, text, want, session)
        if want["instruction_text"] != f"Instruction: {goal['instruction_text']}":
            differs.append("instruction")
        yield f"{episode['id']} reset: {', '.join(differs)}", not differs
        observations, actions = [text], []
        for t, want in enumerate(episode["steps"]):
            drawn[:] = want.get("search", {}).get("asins", ())
            result = env.step(want["action"])
            differs = _page_differs(env, result.text, want, session)
            differs += _step_differs(env, result, want)
            if "error" not in want:  # a step that raised left no trace in the history
                observations.append(result.text)
                actions.append(want["action"])
            told = joined_history(
                observations, actions, episode["num_prev_obs"], episode["num_prev_actions"]
            )
            if "error" not in want and told != want.get("state_returned", want["obs_text"]):
                differs.append("returned text")
            yield f"{episode['id']} step {t}: {', '.join(differs)}", not differs


def check_wrappers(v: Any) -> Iterator[tuple[str, bool]]:
    """ETO's wrapper step by step, AgentGym's parser text by text."""
    cases = v.load("wrapper_cases")
    for number, case in enumerate(cases["eto"]):
        env = WebShopEnv(v.catalogue, strict=True, nouns=v.nouns)
        goal = v.goals["human"][case["goal_idx"]]
        task = task_from_goal(goal, v.catalogue, max_steps=_NO_LIMIT)
        episode = EtoEpisode(env, task, case["max_steps"])
        yield f"eto {number} start", episode.first_message == case["first_user_message"]
        for t, want in enumerate(case["steps"]):
            text = episode.step(want["llm_output"])
            state = episode.state
            have = {
                "parsed_action": parse_eto(want["llm_output"]),
                "observation": text,
                "steps": state.steps,
                "finished": state.finished,
                "success": state.success,
                "reward": state.reward,
                "terminate_reason": state.terminate_reason,
            }
            yield f"eto {number} step {t}", all(want[key] == have[key] for key in have)
    for case in cases["agentgym_parse_react"]:
        same = parse_agentgym(case["text"]) == (case["thought"], case["action"])
        yield f"agentgym {case['text'][:40]!r}", same
