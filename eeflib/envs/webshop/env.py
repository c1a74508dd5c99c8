"""WebShop as a text environment: many of them over one shared catalogue.

Import `WebShopEnv` from here. Both rule sets are here: the official one (`strict`) and the repaired
one. What pages look like is in `pages`, the reward in `reward`, the products in `catalogue`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from eeflib.envs.base import FREE_TEXT, Observation, Restored, StepResult, replay_restore
from eeflib.envs.webshop import pages
from eeflib.envs.webshop.catalogue import Catalogue
from eeflib.envs.webshop.pages import Node, Session, Target, WebShopState, parse_action
from eeflib.envs.webshop.reward import (
    Nouns,
    Reward,
    best_nouns,
    nouns_name,
    purchase_reward,
    word_nouns,
)
from eeflib.envs.webshop.search import TOP_K
from eeflib.errors import DataError, EnvironmentFault
from eeflib.records import Step, Task, solved

GOAL_FIELDS = ("asin", "query", "product_category", "name", "attributes", "price_upper",
               "goal_options")  # fmt: skip
"""What `Task.goal` must hold."""
_OFFICIAL_ORDER = ("search_results", "item_page", "item_sub_page", "done")


class _Move(NamedTuple):
    """Outcome of an action, before the reward."""

    state: WebShopState
    valid: bool = True
    reason: str = ""
    """Why nothing happened; in strict, the exception that the official environment raises."""


class WebShopEnv:
    """One shopper. Making one costs microseconds; the catalogue holds all that is large.

    Args:
        catalogue: the products, shared.
        observation_mode: `text` (strings joined by ` [SEP] `) or `text_rich` (marked buttons).
        strict: keep every quirk of the official environment; see the package's table.
        max_steps: actions before the episode is cut; a task's `settings["max_steps"]` comes first.
        show_attributes: offer the Attributes sub page (officially off).
        nouns: nouns for the title score; None: spaCy if installed in strict, words otherwise.
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
        self._task: Task | None = None
        self._salt = ""
        self._limit = max_steps
        self.state = WebShopState()
        """Where the episode stands: a value that `set_state` brings back exactly."""
        self.text = ""
        """The current observation."""
        self.state_key = ""
        """Fingerprint of task and state, without the number of steps."""
        self._nodes: list[Node] = []

    @property
    def nouns(self) -> Nouns:
        """Where the title score takes its nouns from."""
        if self._nouns is None:
            self._nouns = best_nouns() if self.strict else word_nouns
        return self._nouns

    def set_state(self, state: WebShopState) -> str:
        """Stand at `state` of the current task; gives its observation."""
        self._nodes = self._page(state)
        self.state = state
        rich = self.observation_mode == "text_rich"
        self.text = self.rich() if rich else pages.to_text(self._nodes)
        self.state_key = state.key(self._salt)
        return self.text

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
        before = self.state
        over = self._over(before)
        if over:
            return self._result(_Move(before, False, over), None)
        move = self._move(replace(before, steps=before.steps + 1), action)
        judged = None
        state = move.state
        if not move.valid:
            if state.session != before.session:
                self.state_key = state.key(self._salt)
            self.state = state
        else:
            if state.done:
                judged = self._judge(state)
                state = replace(state, score=judged.value)
            self.set_state(state)
        return self._result(move._replace(state=state), judged)

    def valid_actions(self) -> list[str]:
        """`search[<text>]` where a search box is shown, else a click for each button."""
        self._require_task()
        if self._over(self.state):
            return []
        if self.state.page == "index":
            return [f"search[{FREE_TEXT}]"]
        names = pages.clickables(self._nodes)
        return [f"click[{n}]" for n in names if parse_action(f"click[{n}]")[1] == n != "search"]

    def restore(self, task: Task, prefix: Sequence[Step], expected: str | None = None) -> Restored:
        """Replay `prefix` (under 0.1 ms a step), every recorded observation compared."""
        return replay_restore(self, task, prefix, expected)

    def close(self) -> None:
        """End the episode; a later `reset` starts another. The catalogue stays."""
        self._task = None

    def clickables(self) -> list[str]:
        """What can be clicked now, in the official order (the search button included)."""
        return list(pages.clickables(self._nodes))

    def rich(self) -> str:
        """The current page in mode `text_rich`."""
        chosen = dict(self.state.options)
        address = self.state.address() if self.strict else ""

        def is_chosen(node: Node) -> bool:
            # Officially a value is marked where the address holds it in quotes.
            return (
                f'"{node.text}"' in address if self.strict else chosen.get(node.group) == node.text
            )

        return pages.to_rich(self._nodes, is_chosen, self.state.seen.__contains__)

    def ranking(self, state: WebShopState) -> tuple[int, ...]:
        """Product numbers of the state's search, best first; empty before a search.

        In strict, the back-door queries work: `<c> category`, `<q> query`, and `<r>`, 50 random
        products (here drawn from the query and the page number, so that a state fixes its page).

        Raises:
            LookupError, TypeError, ValueError: strict only, where the official environment does.
        """
        query = state.query
        first, *rest = query.split(" ")
        if self.strict and first == "<r>":
            rng = random.Random(f"{query} {state.number}")
            return tuple(rng.sample(range(len(self.catalogue)), TOP_K))
        if self.strict and first == "<a>":
            raise TypeError("'NoneType' object is not subscriptable")
        if self.strict and first == "<c>":
            return self.catalogue.numbers_with("category", rest[0].strip())
        if self.strict and first == "<q>":
            return self.catalogue.numbers_with("query", " ".join(rest).strip())
        return self.catalogue.index.search(query) if query else ()

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

    def _page(self, state: WebShopState) -> list[Node]:
        """What `state` shows."""
        task, catalogue = self._require_task(), self.catalogue
        # Officially the goal's own text, blanks around it and all; prompts know the task's.
        instruction = task.goal.get("instruction_text") if self.strict else None
        instruction = instruction or task.instruction
        if state.page == "index":
            return pages.index_page(instruction)
        if state.page == "results":
            found, size = self.ranking(state), pages.PAGE_SIZE
            window = found[(state.number - 1) * size : state.number * size]
            products = [catalogue[i] for i in window]
            return pages.results_page(instruction, products, state.number, len(found))
        if state.page == "done":
            return pages.done_page(state.asin, dict(state.options), state.score)
        product = catalogue.find(state.asin)
        assert product is not None, "only products of the catalogue are opened"
        if state.page == "sub":
            return pages.sub_page(instruction, product, state.sub_page)
        return pages.item_page(instruction, product, self.show_attributes)

    def _move(self, state: WebShopState, action: str) -> _Move:
        if not isinstance(action, str):
            return _Move(state, False, f"an action is a text, not {type(action).__name__}")
        verb, argument = parse_action(action)
        argument = argument and argument.lower()
        if verb == "search" and argument:
            return self._search(state, argument, 1)
        if verb != "click" or not argument:
            return _Move(state, False, "not an action: write search[keywords] or click[value]")
        targets = pages.clickables(self._nodes)
        if argument not in targets or argument == "search":
            return _Move(state, False, f"nothing here is called {argument[:60]!r}")
        return self._click(state, argument, targets)

    def _search(self, state: WebShopState, query: str, number: int) -> _Move:
        """Results of `query` from any page; forgets the product and its options."""
        shown = WebShopState(
            "results", query, number, seen=state.seen, steps=state.steps, score=state.score
        )
        if self.strict:
            try:
                self.ranking(shown)
            except (LookupError, TypeError, ValueError) as exc:
                session = Session(query, number, "", ())
                return _Move(replace(state, session=session), False, type(exc).__name__)
        return _Move(shown)

    def _click(self, state: WebShopState, name: str, targets: Mapping[str, Target]) -> _Move:
        """Click `name` (lower case), which is one of `targets`. Buy Now leads to the done page."""
        live, target = state.live, targets[name]
        if name == "buy now":
            if self.catalogue.find(live.asin) is None:
                return _Move(state, False, "KeyError")
            return _Move(WebShopState("done", *live, seen=state.seen, steps=state.steps))
        if name == "back to search":
            return _Move(WebShopState(steps=state.steps, score=state.score))
        page = self._page_name(state)
        if name in ("next >", "< prev") and page == "search_results":
            return self._search(state, live.query, live.number + (1 if name == "next >" else -1))
        if name == "< prev" and page == "item_page":
            return self._search(state, live.query, live.number)
        if name in pages.SUB_PAGES:
            return self._open(state, live, pages.SUB_PAGES[name])
        if target.kind == "link":
            asin = name.upper() if self.strict else target.group
            state = replace(state, seen=tuple(sorted({*state.seen, asin})))
            live = live._replace(asin=asin)
        elif target.kind == "option":
            options = {**dict(live.options), target.group: name}
            live = live._replace(options=tuple(options.items()))
        return self._open(state, live, "")

    def _page_name(self, state: WebShopState) -> str:
        """The page's official name; in strict guessed from the address, which holds the query."""
        if not self.strict:
            return pages.PAGE_NAMES[state.page]
        address = state.address()
        return next((name for name in _OFFICIAL_ORDER if name in address), "")

    def _open(self, state: WebShopState, live: Session, sub_page: str) -> _Move:
        """Show the product of `live`, or one of its sub pages."""
        if self.catalogue.find(live.asin) is None:
            return _Move(replace(state, session=live), False, "KeyError")
        page: pages.Page = "sub" if sub_page else "item"
        return _Move(WebShopState(page, *live, sub_page, state.seen, state.steps, state.score))

    def _judge(self, state: WebShopState) -> Reward:
        product = self.catalogue.find(state.asin)
        assert product is not None, "only products of the catalogue are bought"
        goal, options = self._require_task().goal, dict(state.options)
        return purchase_reward(product, goal, product.price, options, self.nouns)

    def _result(self, move: _Move, judged: Reward | None) -> StepResult:
        state, task = move.state, self._require_task()
        info: dict[str, Any] = {
            "score": state.score,
            "won": state.done and solved(state.score, task.threshold),
            "valid": move.valid,
            "state_key": self.state_key,
        }
        if move.reason:
            info["reason"] = move.reason
        product = self.catalogue.find(state.asin) if judged else None
        if judged is not None and product is not None:
            info["reward_info"] = judged.info
            info["nouns"] = nouns_name(self.nouns)
            options = dict(state.options)
            info["bought"] = {"asin": state.asin, "options": options, "price": product.price}
        ended = judged is not None or (state.done and not self.strict)
        truncated = not ended and state.steps >= self._limit
        return StepResult(self.text, judged.value if judged else 0.0, ended, truncated, info)

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
        if self.catalogue.find(task.goal["asin"]) is None:
            raise DataError(
                f"task {task.id!r}: product {task.goal['asin']!r} is not in {self.catalogue!r}; "
                "load the catalogue that the task was made from"
            )
