"""The loss mask of a training sequence, token by token: what is trained, what is not, and why.

Import `Masks`, `MaskState` and the static view `render`. Masks are made by `eeflib.masking`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from eeflib.analysis.markup import escape
from eeflib.analysis.transcripts import sheet
from eeflib.errors import DataError
from eeflib.masking import IGNORE, Dropped, Encoded, EncodedSet, Reason, describe_tokens
from eeflib.records import Sample

__all__ = ["MaskState", "Masks", "render"]

WINDOW = 1500
"""Tokens shown at once."""
_FEW = 0.01
"""A share of trained tokens below this raises an alarm."""

_LOOKS: dict[Reason, tuple[str, str, str]] = {  # css class, name, why
    Reason.TRAINED_ACTION: ("r-trained", "trained", "an action that carries loss"),
    Reason.END_OF_ACTION: ("r-end", "end of turn, trained", "the model must learn to stop here"),
    Reason.CONTEXT_ACTION: ("r-context", "action, context", "read, not learnt: it stands before"),
    Reason.HARMFUL_ACTION: ("r-harmful", "harmful, masked", "led from a won to a lost state"),
    Reason.UNKNOWN_ACTION: ("r-unknown", "unknown, masked", "nothing says that it helped"),
    Reason.OBSERVATION: ("r-text", "task and observations", "the environment's words, no loss"),
    Reason.SYSTEM: ("r-text", "system text", "the prompt, no loss"),
    Reason.TEMPLATE: ("r-template", "template", "markers of the chat template, no loss"),
}


@dataclass(frozen=True)
class MaskState:
    """What is looked at."""

    kind: str = ""
    """Kind of sample (`positive`, `s0`, `recovery`, `all`); empty: any."""
    alarmed: bool = False
    """Only samples with an alarm."""
    sample: str = ""
    """Id of the sample; empty: the first that fits."""
    first: int = 0
    """First token shown of a long one."""

    def look_at(self, sample_id: str) -> MaskState:
        """Look at another sample, from its first token on."""
        return replace(self, sample=sample_id, first=0)


@dataclass(frozen=True, eq=False)
class Masked:
    """A sample with its tokens, or why it is not trained on."""

    id: str
    sample: Sample | None
    encoded: Encoded | None
    dropped: Dropped | None = None

    @property
    def kind(self) -> str:
        return self.sample.kind if self.sample else ""

    @cached_property
    def alarms(self) -> list[str]:
        """What should make a reader look twice; plain text."""
        if self.dropped is not None:
            return [f"not trained on ({self.dropped.reason}): {self.dropped.detail}"]
        out = []
        assert self.encoded is not None
        e = self.encoded
        on = e.labels != IGNORE
        if not e.trained_tokens:
            out.append("0 trained tokens: this sequence teaches nothing")
        elif e.trained_tokens < _FEW * e.length:
            out.append(f"only {e.trained_tokens} of {e.length:,} tokens are trained")
        for reason in (Reason.HARMFUL_ACTION, Reason.UNKNOWN_ACTION):
            n = int((on & (e.reasons == reason.value)).sum())
            if n:
                out.append(f"{n} tokens of {reason.name.lower().replace('_', ' ')}s are trained")
        others = (Reason.OBSERVATION, Reason.SYSTEM, Reason.TEMPLATE, Reason.CONTEXT_ACTION)
        n = int(sum((on & (e.reasons == r.value)).sum() for r in others))
        if n:
            out.append(f"{n} tokens are trained that are no trained action's")
        return out


class Masks:
    """Training sequences and what was encoded of them."""

    def __init__(
        self, samples: Iterable[Sample], data: EncodedSet | Sequence[Encoded], tokenizer: Any
    ) -> None:
        """See `eeflib.masking.encode_samples` for `data`.

        Args:
            samples: where the tokens come from; those that are not in `data` are left out.
            tokenizer: the one that encoded them.
        """
        known = {s.id: s for s in samples}
        self.tokenizer = tokenizer
        self.items = [Masked(e.sample_id, known.get(e.sample_id), e) for e in data]
        gone = data.dropped if isinstance(data, EncodedSet) else ()
        self.items += [Masked(d.sample_id, known.get(d.sample_id), None, d) for d in gone]
        self._by_id = {x.id: x for x in self.items}

    @property
    def kinds(self) -> list[str]:
        """Kinds of sample that occur."""
        return sorted({x.kind for x in self.items} - {""})

    def fitting(self, state: MaskState) -> list[Masked]:
        """Samples that fit the state, in order."""
        return [
            x
            for x in self.items
            if (not state.kind or x.kind == state.kind) and (not state.alarmed or x.alarms)
        ]

    def current(self, state: MaskState) -> Masked | None:
        """The sample that is looked at."""
        fitting = self.fitting(state)
        found = self._by_id.get(state.sample)
        return found if found in fitting else (fitting[0] if fitting else None)

    @cached_property
    def totals(self) -> dict[Reason, int]:
        """Tokens by where they came from, over all samples."""
        found = dict.fromkeys(Reason, 0)
        for x in self.items:
            if x.encoded is not None:
                for name, n in x.encoded.counts.items():
                    found[Reason[name.upper()]] += n
        return found

    @cached_property
    def trained(self) -> int:
        """Tokens that carry loss, over all samples."""
        return sum(x.encoded.trained_tokens for x in self.items if x.encoded)


def totals_html(masks: Masks) -> str:
    """Sums over all samples and what is alarming among them, ready HTML."""
    n = sum(masks.totals.values())
    share = f" ({100 * masks.trained / n:.0f} %)" if n else ""
    alarmed = [x for x in masks.items if x.alarms]
    kept = sum(x.encoded is not None for x in masks.items)
    verdict = (
        f'<p class="alarm">{len(alarmed):,} of {len(masks.items):,} samples have an alarm, '
        f"{len(masks.items) - kept:,} of them are dropped.</p>"
        if alarmed
        else '<p class="fine">No alarm: every sample trains something, nothing is cut, no harmful '
        "or unknown action, observation or marker carries loss.</p>"
    )
    return (
        f'<p class="caption">{kept:,} samples, {n:,} tokens, {masks.trained:,} of them trained'
        f"{share}.</p>{verdict}"
    )


def sample_html(masks: Masks, state: MaskState) -> str:
    """The sample that is looked at: totals, alarms, tokens."""
    item = masks.current(state)
    if item is None:
        text = "No sample fits." if masks.items else "There are no training samples."
        return f'<p class="caption">{text}</p>'
    kind = f" &middot; {escape(item.kind, 20)}" if item.kind else ""
    out = [f'<p class="caption"><code>{escape(item.id, 120)}</code>{kind}</p>']
    out += [f'<p class="alarm">\u26a0 {escape(text, 400)}</p>' for text in item.alarms]
    if item.encoded is not None:
        out += [_counts(item.encoded), _tokens(masks, item.encoded, state.first)]
    return "".join(out)


def render(masks: Masks, state: MaskState | None = None) -> str:
    """The static twin: totals over all samples, then one sample token by token."""
    state = state or MaskState()
    return sheet(totals_html(masks) + sample_html(masks, state))


def sample_name(item: Masked) -> str:
    """A sample in a list of choices; plain text."""
    mark = "\u26a0 " if item.alarms else ""
    if item.encoded is None:
        return f"{mark}{item.id} (dropped)"
    return f"{mark}{item.id} ({item.encoded.trained_tokens} of {item.encoded.length} trained)"


def _counts(e: Encoded) -> str:
    cells = []
    for reason, (css, name, why) in _LOOKS.items():
        n = e.counts[reason.name.lower()]
        if n:
            cells.append(
                f'<span title="{why}"><span class="{css}">{name}</span> <b>{n:,}</b></span>'
            )
    cells.append(f"<span>all <b>{e.length:,}</b>, with loss <b>{e.trained_tokens:,}</b></span>")
    return f'<div class="totals">{"".join(cells)}</div>'


def _tokens(masks: Masks, e: Encoded, first: int) -> str:
    try:
        described = describe_tokens(e, masks.tokenizer)
    except DataError as exc:
        return f'<p class="alarm">{escape(exc, 400)}</p>'
    first = first if 0 <= first < e.length else 0
    stop = min(first + WINDOW, e.length)
    rows = list(zip(described[first:stop], e.steps[first:stop].tolist(), strict=True))
    out: list[str] = []
    for (reason, step, on), group in itertools.groupby(rows, lambda r: (r[0][1], r[1], r[0][2])):
        css, name, why = _LOOKS[reason]
        where = f" of step {step + 1}" if step >= 0 else ""
        loss = "carries loss" if on else "no loss"
        texts = "".join(f"<i>{_visible(token[0])}</i>" for token, _ in group)
        if reason == Reason.TEMPLATE and out:  # a turn begins
            out.append("<br>")
        out.append(f'<span class="{css}" title="{name}{where}: {why}; {loss}">{texts}</span>')
    more = ""
    if first or stop < e.length:
        more = f'<p class="caption">tokens {first + 1:,} to {stop:,} of {e.length:,}</p>'
    return f'{more}<div class="tokens" dir="auto">{"".join(out)}</div>'


def _visible(text: str) -> str:
    return escape(text, 200).replace("\n", "\u21b5\n")
