"""The loss mask as a widget: pick a training sequence, see which tokens are trained.

Import `LossMask`. Its HTML is made by `eeflib.analysis.views.mask`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ipywidgets as ipw

from eeflib.analysis.markup import clean
from eeflib.analysis.views import mask as view
from eeflib.analysis.views.mask import Masks, MaskState
from eeflib.analysis.widgets.base import Pager, StateView, html, named, put, show
from eeflib.masking import Encoded, EncodedSet
from eeflib.records import Sample

__all__ = ["LossMask"]


class LossMask(StateView):
    """Training sequences token by token."""

    def __init__(
        self,
        samples: Iterable[Sample],
        data: EncodedSet | Sequence[Encoded],
        tokenizer: Any,
        *,
        state: MaskState | None = None,
    ) -> None:
        """Args:
        samples: as for `eeflib.masking.encode_samples`.
        data: what it returned.
        tokenizer: the one it was given.
        state: where to start.
        """
        self.masks = Masks(samples, data, tokenizer)
        self._state = state or MaskState()
        self._totals, self._body = html(""), html("")
        kinds = [("any kind", ""), *((k, k) for k in self.masks.kinds)]
        self._kind = ipw.Dropdown(options=kinds)
        self._alarmed = named(
            ipw.Checkbox(False, description="only alarms", indent=False), "eef-tick"
        )
        self._sample = ipw.Dropdown(options=[])
        self._pages = Pager(self._turn, "tokens")
        bar = [self._kind, self._alarmed, named(self._sample, "eef-wide")]
        back = named(ipw.Button(description="\u2039", tooltip="previous sample"), "eef-small")
        on = named(ipw.Button(description="\u203a", tooltip="next sample"), "eef-small")
        back.on_click(lambda _: self._step(-1))
        on.on_click(lambda _: self._step(1))
        super().__init__(
            [self._totals, named(ipw.HBox([*bar, back, on]), "eef-bar"), self._body, self._pages]
        )
        put(self._totals, view.totals_html(self.masks))
        self._watch(self._kind, self._filtered)
        self._watch(self._alarmed, self._filtered)
        self._watch(self._sample, self._picked)
        self.show()

    def twin(self) -> str:
        return view.render(self.masks, self._state)

    def show(self) -> None:
        """Show the state as it is now."""
        state = self._state
        fitting, item = self.masks.fitting(state), self.masks.current(state)
        with self._quietly():
            self._kind.value = state.kind if state.kind in self.masks.kinds else ""
            self._alarmed.value = state.alarmed
            names = [(clean(view.sample_name(x), 120), x.id) for x in fitting]
            if names != list(self._sample.options):
                self._sample.options = names
            if item is not None:
                self._sample.value = item.id
        put(self._body, view.sample_html(self.masks, state))
        n = item.encoded.length if item and item.encoded else 0
        self._pages.tell(state.first, min(state.first + view.WINDOW, n), n)
        show(self._pages, n > view.WINDOW)

    def _filtered(self) -> None:
        self.state = MaskState(self._kind.value, self._alarmed.value)

    def _picked(self) -> None:
        if self._sample.value is not None:
            self.state = self._state.look_at(self._sample.value)

    def _step(self, by: int) -> None:
        fitting, item = self.masks.fitting(self._state), self.masks.current(self._state)
        if item is not None:
            at = min(max(0, fitting.index(item) + by), len(fitting) - 1)
            self.state = self._state.look_at(fitting[at].id)

    def _turn(self, by: int) -> None:
        self._set(first=max(0, self._state.first + by * view.WINDOW))
