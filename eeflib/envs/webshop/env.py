"""WebShop as a text environment: many of them over one shared catalogue.

Import `WebShopEnv` from here. The pages and the rules of the shop are in `pages`, the reward in
`reward`, the catalogue in `catalogue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from eeflib.envs.base import FREE_TEXT, Observation, Restored, StepResult, replay_restore
from eeflib.envs.webshop import pages
from eeflib.envs.webshop.catalogue import Catalogue
from eeflib.envs.webshop.pages import (
    Move,
    Ranker,
    View,
    WebShopState,
    click,
    hits,
    parse_action,
    search,
)
from eeflib.envs.webshop.reward import (
    Nouns,
    Reward,
    best_nouns,
    nouns_name,
    purchase_reward,
    word_nouns,
)
from eeflib.errors import DataError, EnvironmentFault
from eeflib.records import Step, Task, solved

__all__ = ["WebShopEnv"]

GOAL_FIELDS = ("asin", "query", "product_category", "name", "attributes", "price_upper",
               "goal_options")  # fmt: skip
"""What `Task.goal` must hold."""
REMEMBERED = 100_000
LONGEST_QUERY = 1_000
"""Characters."""


class WebShopEnv:
    """One shopper. Making one costs microseconds; the catalogue holds all that is large.

    Args:
        catalogue: the products, shared.
        observation_mode: `text` (strings joined by ` [SEP] `) or `text_rich` (marked buttons).
        strict: keep every quirk of the official environment; see the package's table.
        max_steps: actions before the episode is cut; a task's `settings["max_steps"]` comes first.
        show_attributes: offer the Attributes sub page (officially off).
        nouns: nouns for the title score; None: spaCy if installed in strict, words otherwise.
        ranker: replaces the search; for tests against recorded rankings.
    """

    name = "webshop"

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        observation_mode: Literal["text", "text_rich"] = "text",
        strict: bool = False,
        max_steps: int = 15,
        show_attributes: bool = False,
        nouns: Nouns | None = None,
        ranker: Ranker | None = None,
    ) -> None:
        if observation_mode not in ("text", "text_rich"):
            raise DataError(
                f"observation_mode must be 'text' or 'text_rich', not {observation_mode!r}"
            )
        self.catalogue = catalogue
        self.observation_mode = observation_mode
        self.strict = strict
        self.max_steps = max_steps
        self.show_attributes = show_attributes
        self._nouns = nouns
        self._ranker: Ranker = ranker or partial(hits, strict=strict)
        self._task: Task | None = None
        self._salt = ""
        self._limit = max_steps
        self._state = WebShopState()
        self._text = ""
        self._key = ""
        self._view = View(catalogue, self._ranker, observation_mode, strict, show_attributes)
        self._view_name = self._view.name
        self._nodes: list[pages.Node] = []

    @property
    def nouns(self) -> Nouns:
        """Where the title score takes its nouns from."""
        if self._nouns is None:
            self._nouns = best_nouns() if self.strict else word_nouns
        return self._nouns

    @property
    def state(self) -> WebShopState:
        """Where the episode stands: a value that `set_state` brings back exactly."""
        return self._state

    def set_state(self, state: WebShopState) -> str:
        """Stand at `state` of the current task; gives its observation."""
        task = self._require_task()
        self._state = state
        self._nodes = self._view.nodes(task, state)
        self._text = self._view.text(self._nodes, state)
        self._key = state.key(self._salt)
        self._remember()
        return self._text

    @property
    def text(self) -> str:
        """The current observation."""
        return self._text

    @property
    def state_key(self) -> str:
        """Fingerprint of task and state, without the number of steps."""
        return self._key

    def reset(self, task: Task) -> Observation:
        """Start `task` at the search page.

        Raises:
            DataError: a task of another environment or catalogue, or with an unusable goal.
        """
        self._check(task)
        self._task = task
        self._salt = task.content_hash
        self._limit = int(task.settings.get("max_steps", self.max_steps))
        text = self.set_state(WebShopState())
        return Observation(text, {"state_key": self.state_key})

    def step(self, action: str) -> StepResult:
        """Act; whatever is no action or no button here leaves the page as it is.

        The `info` of a purchase holds what it was (`bought`), the parts of its reward
        (`reward_info`, official names) and where the title score took its nouns from (`nouns`).

        Raises:
            EnvironmentFault: `reset` was never called.
        """
        self._require_task()
        before = self._state
        over = self._over(before)
        if over:
            return self._result(before, Move(before, False, over), None)
        move = self._move(replace(before, steps=before.steps + 1), action)
        judged = None
        state = move.state
        if state.done and move.valid:
            judged = self._judge(state)
            state = replace(state, score=judged.value)
        if move.valid:
            self.set_state(state)
        else:
            if state.session != before.session:
                self._key = state.key(self._salt)
            self._state = state
        return self._result(before, move._replace(state=state), judged)

    def valid_actions(self) -> list[str]:
        """`search[<text>]` where a search box is shown, else a click for each button."""
        self._require_task()
        if self._over(self._state):
            return []
        if self._state.page == "index":
            return [f"search[{FREE_TEXT}]"]
        names = pages.clickables(self._nodes)
        return [f"click[{n}]" for n in names if parse_action(f"click[{n}]")[1] == n != "search"]

    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        """Stand at the state after `prefix`, every recorded observation compared.

        A prefix whose state keys were met before in this process is not replayed: the state before
        its last action is copied, after the observations were compared with those remembered.
        """
        jumped = self._jump(task, prefix, expected)
        return jumped or replay_restore(self, task, prefix, expected)

    def close(self) -> None:
        """End the episode; a later `reset` starts another. The catalogue stays."""
        self._task = None

    def clickables(self) -> list[str]:
        """What can be clicked now, in the official order (the search button included)."""
        return list(pages.clickables(self._nodes))

    def rich(self, nodes: Sequence[pages.Node] | None = None) -> str:
        """The current page (or `nodes`) in mode `text_rich`."""
        return self._view.rich(self._nodes if nodes is None else nodes, self._state)

    def hits(self) -> tuple[int, ...]:
        """Product numbers of the current search, best first; empty before a search."""
        return self._ranker(self.catalogue, self._state) if self._state.query else ()

    # -- one step ---------------------------------------------------------------------------------

    def _require_task(self) -> Task:
        if self._task is None:
            raise EnvironmentFault("no episode is running: call reset(task) first")
        return self._task

    def _over(self, state: WebShopState) -> str:
        """Why nothing can happen any more; the official environment goes on after the end."""
        if self.strict:
            return ""
        if state.done:
            return "the episode is over: the purchase is made"
        return "the episode is over: no steps left" if state.steps >= self._limit else ""

    def _move(self, state: WebShopState, action: str) -> Move:
        if not isinstance(action, str):
            return Move(state, False, f"an action is a text, not {type(action).__name__}")
        verb, argument = parse_action(action)
        argument = argument and argument.lower()
        if verb == "search" and argument:
            return search(self.catalogue, state, argument, 1, self._ranker, self.strict)
        if verb != "click" or not argument:
            return Move(state, False, "not an action: write search[keywords] or click[value]")
        targets = pages.clickables(self._nodes)
        if argument not in targets or argument == "search":
            return Move(state, False, f"nothing here is called {argument[:60]!r}")
        return click(self.catalogue, state, argument, targets, self._ranker, self.strict)

    def _judge(self, state: WebShopState) -> Reward:
        catalogue, goal = self.catalogue, self._require_task().goal
        product, price = catalogue.by_asin[state.asin], catalogue.prices[state.asin]
        return purchase_reward(product, goal, price, dict(state.options), self.nouns)

    def _result(self, before: WebShopState, move: Move, judged: Reward | None) -> StepResult:
        state, task = move.state, self._require_task()
        info: dict[str, Any] = {
            "score": state.score,
            "won": state.done and solved(state.score, task.threshold),
            "valid": move.valid,
            "state_key": self.state_key,
        }
        if move.reason:
            info["reason"] = move.reason
        if judged is not None:
            info["reward_info"] = judged.info
            info["nouns"] = nouns_name(self.nouns)
            info["bought"] = {
                "asin": state.asin,
                "options": dict(state.options),
                "price": self.catalogue.prices[state.asin],
            }
        ended = judged is not None or (state.done and not self.strict)
        return StepResult(
            self._text,
            judged.value if judged is not None else 0.0,
            ended,
            not ended and state.steps >= self._limit,
            info,
        )

    # -- tasks and restoring ----------------------------------------------------------------------

    def _check(self, task: Task) -> None:
        if task.env != self.name:
            raise DataError(
                f"task {task.id!r} is for environment {task.env!r}, not {self.name!r}; "
                "reset the environment that its field env names"
            )
        wanted = task.settings.get("catalogue")
        if wanted is not None and wanted != self.catalogue.id:
            raise DataError(
                f"task {task.id!r} was made for catalogue {wanted!r}, this one is "
                f"{self.catalogue.id!r}; load that catalogue or make the tasks again"
            )
        missing = [name for name in GOAL_FIELDS if name not in task.goal]
        if missing:
            raise DataError(
                f"task {task.id!r}: its goal lacks {', '.join(missing)}; see task_from_goal"
            )
        if task.goal["asin"] not in self.catalogue.by_asin:
            raise DataError(
                f"task {task.id!r}: product {task.goal['asin']!r} is not in {self.catalogue!r}; "
                "load the catalogue that the task was made from"
            )

    def _remember(self) -> None:
        """Keep the state in the catalogue's table of the newest `REMEMBERED` states: (view,
        fingerprint) -> (state, hash of its observation). Very long searches are not kept."""
        memo, name = self.catalogue.memo, (self._view_name, self._key)
        if len(self._state.query) > LONGEST_QUERY or name in memo:
            return
        if len(memo) >= REMEMBERED:
            memo.pop(next(iter(memo)), None)
        memo[name] = self._state, hash(self._text)

    def _jump(self, task: Task, prefix: Sequence[Step], expected: str | None) -> Restored | None:
        """Restore from remembered states; None where any is unknown, or something differs."""
        limit = int(task.settings.get("max_steps", self.max_steps))
        if not prefix or len(prefix) >= limit:
            return None
        self._check(task)
        for step in prefix:
            known = self.catalogue.memo.get((self._view_name, step.state_key))
            if known is None or known[1] != hash(step.observation) or known[0].done:
                return None
        assert known is not None
        state: WebShopState = known[0]
        self._task, self._limit, self._salt = task, limit, task.content_hash
        text = self.set_state(replace(state, steps=len(prefix) - 1))
        if self._key != prefix[-1].state_key or text != prefix[-1].observation:
            return None  # the steps belong to another task
        result = self.step(prefix[-1].action)
        if result.terminated or (expected is not None and result.text != expected):
            return None
        return Restored(True, result.text)
