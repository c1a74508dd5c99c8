"""What a state of the shop looks like: its page, as the text that is observed.

Owns which page shows which products, and the two observation modes. Knows nothing about episodes;
the pages themselves are `pages`'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eeflib.envs.webshop import pages
from eeflib.envs.webshop.catalogue import Catalogue
from eeflib.envs.webshop.moves import Ranker
from eeflib.envs.webshop.state import WebShopState
from eeflib.records import Task

__all__ = ["View"]


@dataclass(frozen=True)
class View:
    """Shows states; arguments as those of `WebShopEnv`."""

    catalogue: Catalogue
    ranker: Ranker
    mode: Literal["text", "text_rich"]
    strict: bool
    show_attributes: bool

    @property
    def name(self) -> str:
        """Equal for views that show the same states in the same way."""
        return f"{self.mode} {self.strict} {self.show_attributes}"

    def nodes(self, task: Task, state: WebShopState) -> list[pages.Node]:
        """The page of `state`."""
        # Officially the goal's own text, blanks around it and all; prompts know the task's.
        instruction = task.goal.get("instruction_text") if self.strict else None
        instruction = instruction or task.instruction
        catalogue = self.catalogue
        if state.page == "index":
            return pages.index_page(instruction)
        if state.page == "results":
            found = self.ranker(catalogue, state)
            size = pages.PAGE_SIZE
            window = found[(state.number - 1) * size : state.number * size]
            products = [catalogue.products[i] for i in window]
            return pages.results_page(instruction, products, state.number, len(found))
        if state.page == "done":
            return pages.done_page(state.asin, dict(state.options), state.score)
        product = catalogue.by_asin[state.asin]
        if state.page == "sub":
            return pages.sub_page(instruction, product, state.sub_page)
        return pages.item_page(instruction, product, self.show_attributes)

    def text(self, nodes: Sequence[pages.Node], state: WebShopState) -> str:
        """The observation."""
        return pages.to_text(nodes) if self.mode == "text" else self.rich(nodes, state)

    def rich(self, nodes: Sequence[pages.Node], state: WebShopState) -> str:
        """The observation in mode `text_rich`."""
        chosen = dict(state.options)
        address = state.address() if self.strict else ""

        def is_chosen(node: pages.Node) -> bool:
            # Officially a value is marked where the address holds it in quotes.
            return (
                f'"{node.text}"' in address if self.strict else chosen.get(node.group) == node.text
            )

        return pages.to_rich(nodes, is_chosen, state.seen.__contains__)
