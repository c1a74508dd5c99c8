"""Choosing a reply among admissible actions by likelihood, token by token.

`eeflib.policies.huggingface` imports `Trie`, `Slots`, `Walk` and the drawing of tokens from here:
it feeds `Walk.take()` to a model and hands the logits back.

Ancestral sampling: at each node of the trie only the tokens that lead on to some admissible action
compete; a single one is taken without asking the model. The end of the turn is a token like any
other, so "look" and "look around" compete after "look". An action may hold free text (`<text>`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from eeflib.envs.base import FREE_TEXT
from eeflib.policies.chat import Chat

__all__ = ["Slots", "Trie", "Walk", "draw", "draw_rows"]

SLOT = -1
"""Stands for free text in a token sequence; sorts before every token."""


def draw(scores: np.ndarray, temperature: float, uniform: float | None) -> tuple[int, float]:
    """One of n candidates, and its log-probability at `temperature`.

    Args:
        scores: [n] logits; -inf for what cannot be drawn.
        temperature: above 0.
        uniform: in [0, 1), inverted through the cumulative distribution; None takes the most
            likely (the first of equals).
    """
    x = scores.astype(np.float64) / temperature
    x -= x.max()
    weights = np.exp(x)
    total = np.cumsum(weights)
    if uniform is None:
        at = int(np.argmax(x))
    else:
        at = int(np.searchsorted(total, uniform * total[-1], side="right"))
        at = min(at, int(np.flatnonzero(weights)[-1]))
    return at, float(x[at] - np.log(total[-1]))


def draw_rows(
    logits: torch.Tensor,
    banned: torch.Tensor | None,
    temperature: float,
    uniform: Sequence[float] | None,
) -> tuple[list[int], list[float]]:
    """`draw` for every row of [b, vocabulary] logits, on the logits' device.

    Args:
        banned: [b, vocabulary] bool, tokens that cannot be drawn.
        uniform: b numbers in [0, 1), or None for the most likely.
    """
    if logits.device.type == "mps":  # no float64 there
        logits = logits.cpu()
    x = logits.double() / temperature
    if banned is not None:
        x = x.masked_fill(banned.to(x.device), -torch.inf)
    logprobs = torch.log_softmax(x, dim=-1)
    if uniform is None:
        at = logprobs.argmax(dim=-1)
    else:
        weights = logprobs.exp()
        total = weights.cumsum(dim=-1)
        level = torch.tensor(uniform, dtype=torch.float64, device=x.device) * total[:, -1]
        at = torch.searchsorted(total, level[:, None], right=True)[:, 0]
        last = weights.shape[1] - 1 - weights.flip(1).gt(0).int().argmax(dim=1)
        at = torch.minimum(at, last)
    return at.tolist(), logprobs.gather(1, at[:, None])[:, 0].tolist()


class Trie:
    """The admissible actions of one state as token sequences, each closed by the end of the turn.

    Held as a sorted list: the actions below a node are a range of it. Where an action has free
    text, the free text takes precedence over other actions that continue from the same token. Of
    two actions with the same tokens (an unknown word in both) the first counts.
    """

    def __init__(self, actions: Sequence[str], tokens: Chat) -> None:
        # A blank before free text is left to its first word, as tokenizers write it.
        heads = [a.split(FREE_TEXT)[0].rstrip() if FREE_TEXT in a else a for a in actions]
        tokens.learn(heads)
        self.ends: dict[tuple[int, ...], str] = {}
        """Token sequence -> action; one that ends in `SLOT` goes on with free text."""
        for action, head in zip(actions, heads, strict=True):
            end = (SLOT,) if FREE_TEXT in action else tokens.closing_ids
            self.ends.setdefault((*tokens.continuation(head), *end), action)
        self.paths = sorted(self.ends)


class Slots:
    """Which tokens free text may use, per text that must follow it.

    Everything except special tokens and line breaks (an action is one line); text is not empty.
    """

    def __init__(self, tokens: Chat, limit: int = 16) -> None:
        self.tokens = tokens
        self.limit = limit
        """At most this many tokens; then the text is closed."""
        self._banned: dict[tuple[str, bool, int, torch.device], torch.Tensor] = {}

    @cached_property
    def _never(self) -> np.ndarray:
        return np.array([not t or "\n" in t or "\r" in t for t in self.tokens.vocabulary])

    def banned(self, stop: str, blank: bool, like: torch.Tensor) -> torch.Tensor:
        """[vocabulary] bool for the next token of free text before `stop`, blank so far or not."""
        key = (stop, blank, like.shape[-1], like.device)
        if key not in self._banned:
            size = like.shape[-1]
            out = np.ones(size, bool)  # ids beyond the tokenizer's are padding of the model's
            known = min(size, len(self._never))
            out[:known] = self._never[:known]
            if blank:
                texts = self.tokens.vocabulary[:known]
                out[:known] |= [not t.strip() or t.strip()[:1] == stop.strip()[:1] for t in texts]
            elif not stop:
                out[self.tokens.closing_ids[0]] = False
            self._banned[key] = torch.from_numpy(out).to(like.device)
        return self._banned[key]


class Walk:
    """One reply being chosen.

    `text` is None until it is complete. Until then: feed `take()` to the model, then call
    `branch` (if `in_slot` is false) or `write` with what was drawn from its logits.
    """

    def __init__(self, trie: Trie, slots: Slots) -> None:
        self.text: str | None = None
        self.logprob = 0.0
        """Sum of the log-probabilities of what was drawn; what was forced adds nothing."""
        self.count = 0
        """Tokens of the reply."""
        self._trie, self._slots = trie, slots
        self._low, self._high, self._depth = 0, len(trie.paths), 0  # paths[low:high] go on
        self._candidates: dict[int, int] = {}  # token -> first of its paths
        self._pending: list[int] = []
        self._free: list[int] = []
        self._so_far = ""
        self._rest: tuple[str, ...] = ()
        self._advance()

    @property
    def in_slot(self) -> bool:
        """Is the next token free text?"""
        return bool(self._rest)

    @property
    def candidates(self) -> list[int]:
        """Tokens that compete here, ascending: a draw does not depend on the actions' order."""
        return list(self._candidates)

    def banned(self, like: torch.Tensor) -> torch.Tensor:
        """[vocabulary] bool: tokens that the free text may not go on with."""
        blank = not self._slots.tokens.decode(self._free).strip()
        return self._slots.banned(self._rest[0], blank, like)

    def take(self) -> list[int]:
        """Tokens chosen since the last call; the model has not seen them yet."""
        taken, self._pending = self._pending, []
        return taken

    def branch(self, number: int, logprob: float) -> None:
        """Go to candidate `number`."""
        self.logprob += logprob
        starts = [*self._candidates.values(), self._high]
        self._low, self._high = starts[number], starts[number + 1]
        self._advance()

    def write(self, token: int, logprob: float) -> None:
        """Go on with `token` in the free text; close it if what must follow is there."""
        self.logprob += logprob
        self.count += 1
        self._pending.append(token)
        stop = self._rest[0]
        tokens = self._slots.tokens
        if not stop and token == tokens.closing_ids[0]:
            return self._close(tokens.decode(self._free), written=True)
        self._free.append(token)
        text = tokens.decode(self._free)
        if stop and stop in text:
            return self._close(text[: text.index(stop)], written=True)
        if len(self._free) >= self._slots.limit:
            self._close(text, written=False)

    def _close(self, text: str, *, written: bool) -> None:
        stop, self._rest = self._rest[0], self._rest[1:]
        self._so_far += text.strip() + stop
        self._free = []
        if not self._rest:
            self.text = self._so_far
        elif not written:
            forced = self._slots.tokens.continuation(stop.rstrip())
            self._pending += forced
            self.count += len(forced)

    def _advance(self) -> None:
        """Take tokens as long as there is only one; stop at a branch, free text or the end."""
        paths = self._trie.paths
        first, last = paths[self._low], paths[self._high - 1]
        while self._depth < len(first) and first[self._depth] == last[self._depth]:
            if first[self._depth] == SLOT:
                break
            self._pending.append(first[self._depth])
            self.count += 1
            self._depth += 1
        if self._depth == len(first):
            self.text = self._trie.ends[first]
        elif first[self._depth] == SLOT:
            self._so_far, *rest = self._trie.ends[first].split(FREE_TEXT)
            self._rest = tuple(rest)
        else:
            self._candidates = {}
            for at in range(self._low, self._high):
                self._candidates.setdefault(paths[at][self._depth], at)
