"""A policy over any transformers causal language model: batched, seeded, cached.

Import `HuggingFacePolicy` from here: a batch of conversations in, one sampled reply each out,
either written freely (`mode="generate"`) or chosen among the admissible actions
(`mode="admissible"`). Models are loaded in `eeflib.policies.loading`.

A choice is ancestral sampling: at each node of the trie of the actions' tokens only those that lead
on to some admissible action compete; a single one is taken without asking the model. The end of the
turn is a token like any other, so "look" and "look around" compete after "look". An action may hold
free text (`<text>`). What was chosen is the action, so history holds its text; of a reply that was
written freely it holds the tokens. In the prompt format `react` the thought before a choice is
written freely, up to `Action:` or to its end, behind which the label is put.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from eeflib.envs.base import FREE_TEXT
from eeflib.errors import DataError
from eeflib.policies.base import Conversation, Reply
from eeflib.policies.chat import Chat
from eeflib.policies.decoding import Decoder
from eeflib.policies.engines import TokenPolicy
from eeflib.prompts import ACTION_LABEL, before_action, split_reasoning
from eeflib.records import Usage

log = logging.getLogger(__name__)

_TRIES = 4096
_SLOT = -1
"""Stands for free text in a token sequence; sorts before every token."""


class HuggingFacePolicy(TokenPolicy):
    """A student: `model` asked through `tokenizer`'s chat template.

    A reply depends on its conversation and its generator, not on the rest of the batch (apart from
    float rounding). Keys and values are kept per `Conversation.key` and used as far as the kept
    tokens are a prefix of the new prompt; call `forget` when an episode ends. Weights updated in
    place are noticed; after swapping `.data`, merging or switching adapters call `clear`.

    Args:
        model: a transformers causal LM, possibly wrapped by peft; it is put into eval mode.
        tokenizer: with a chat template; or its `Chat`.
        name: stored with every trajectory.
        temperature: above 0; logits are divided by it.
        max_new_tokens: limit of a free reply.
        mode: "generate" or "admissible"; the latter needs `Conversation.admissible`.
        max_batch: conversations handled at once.
        greedy: the most likely token instead of a draw. `Reply.logprob` is still the reply's
            log-probability under the distribution at `temperature`.
        thoughts: with "admissible": each reply is a thought, written freely, and `Action:` with a
            choice, as the prompt format `react` asks; else it is the chosen action alone.
        slot_tokens: limit of the text that replaces `<text>` in an admissible action.
        cached: see `eeflib.policies.decoding.Decoder`.
        cache_bytes: memory for keys and values, see there.
        prepare: called before the model is asked, such as to switch its adapter.

    Raises:
        DataError: no chat template, or an impossible setting.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        thoughts: bool = False,
        slot_tokens: int = 16,
        cached: bool = True,
        cache_bytes: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(tokenizer, **settings)
        if slot_tokens < 1:
            raise DataError("slot_tokens must be at least 1")
        self.thinks = thoughts and self.wants_admissible
        self.model = model.eval()
        self.decoder = Decoder(self.model, cached=cached, cache_bytes=cache_bytes)
        self._slots = _Slots(self.tokens, slot_tokens)
        lead = f"{ACTION_LABEL} " if self.thinks else ""
        self._trie = lru_cache(_TRIES)(partial(_Trie, tokens=self.tokens, lead=lead))
        config = model.config.get_text_config()
        self.max_positions = getattr(config, "max_position_embeddings", None) or self.max_positions
        eos = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        more = eos if isinstance(eos, (list, tuple)) else [] if eos is None else [eos]
        self._ends.update(more)

    def act(
        self, conversations: Sequence[Conversation], *, rng: Sequence[np.random.Generator]
    ) -> list[Reply]:
        """See `TokenPolicy.act`."""
        self.model.eval()  # a trainer may share the model
        with torch.inference_mode():
            return super().act(conversations, rng=rng)

    def _rows_for(self, length: int) -> int:
        room = self._room if self.wants_admissible else 0
        written = self.max_new_tokens if self.thinks or not self.wants_admissible else 0
        return self.decoder.rows_for(length + room + written)

    def holds(self) -> int:
        """For how many conversations keys and values fit, if all were as long as the longest."""
        return self._rows_for(0)

    @property
    def _room(self) -> int:
        return 2 * self._slots.limit if self.wants_admissible else 1

    def _generate(
        self,
        part: Sequence[Conversation],
        prompts: list[np.ndarray],
        rng: Sequence[np.random.Generator],
    ) -> list[Reply]:
        keys = [c.key for c in part]
        if not self.wants_admissible:
            with self._asked(keys, prompts):
                return self._write(prompts, rng)
        if not self.thinks:
            with self._asked(keys, prompts):
                return self._choose(part, prompts, rng)
        with self._asked(keys, prompts):
            thoughts = self._think(prompts, rng)
        begun = [f"{t.text}\n{ACTION_LABEL}".lstrip() for t in thoughts]
        longer = [
            np.append(prompt, self.tokens.continuation(text))
            for prompt, text in zip(prompts, begun, strict=True)
        ]
        with self._asked(keys, longer):  # what was written as it is tokenised now is kept
            chosen = self._choose(part, longer, rng)
        return [_joined(*of_one) for of_one in zip(thoughts, begun, chosen, strict=True)]

    @contextmanager
    def _asked(self, keys: Sequence[str], prompts: list[np.ndarray]) -> Iterator[None]:
        self.decoder.begin(keys, prompts)
        try:
            yield
        finally:
            self.decoder.end()

    def _draw(
        self, scores: torch.Tensor, rng: Sequence[np.random.Generator]
    ) -> tuple[list[int], list[float]]:
        """A column of each row, and its log-probability at the temperature.

        Args:
            scores: [b, n] logits; -inf for what cannot be drawn.
            rng: b generators: a number in [0, 1) of each is inverted through the cumulative
                distribution. Greedy takes the most likely, the first of equals.
        """
        if scores.device.type == "mps":  # no float64 there
            scores = scores.cpu()
        logprobs = torch.log_softmax(scores.double() / self.temperature, dim=-1)
        if self.greedy:
            at = logprobs.argmax(dim=-1)
        else:
            weights = logprobs.exp()
            total = weights.cumsum(dim=-1)
            uniform = torch.tensor([g.random() for g in rng], dtype=torch.float64)
            level = uniform.to(total.device) * total[:, -1]
            at = torch.searchsorted(total, level[:, None], right=True)[:, 0]
            last = weights.shape[1] - 1 - weights.flip(1).gt(0).int().argmax(dim=1)
            at = torch.minimum(at, last)
        return at.tolist(), logprobs.gather(1, at[:, None])[:, 0].tolist()

    def _choose(
        self,
        part: Sequence[Conversation],
        prompts: list[np.ndarray],
        rng: Sequence[np.random.Generator],
    ) -> list[Reply]:
        walks = [_Walk(self._trie(tuple(c.admissible or ())), self._slots) for c in part]
        active = [i for i, w in enumerate(walks) if w.text is None]
        while active:
            logits = self.decoder.logits(active, [walks[i].take() for i in active])
            places = list(enumerate(active))
            # apart, for free text competes with a whole vocabulary, actions with each other
            writing = [(j, i) for j, i in places if walks[i].in_slot]
            branching = [(j, i) for j, i in places if not walks[i].in_slot]
            for some in filter(None, (branching, writing)):
                allowed = [walks[i].allowed(logits) for _, i in some]
                ids = pad_sequence(allowed, True, -1).to(logits.device)
                rows = torch.tensor([[j] for j, _ in some], device=logits.device)
                scores = logits[rows, ids.clamp(min=0)].masked_fill(ids < 0, -torch.inf)
                at, logprobs = self._draw(scores, [rng[i] for _, i in some])
                tokens = ids[list(range(len(some))), at].tolist()
                for (_, i), token, logprob in zip(some, tokens, logprobs, strict=True):
                    walks[i].go(token, logprob)
            active = [i for i in active if walks[i].text is None]
        return [
            Reply(w.text or "", Usage(len(p), w.count), w.logprob)
            for w, p in zip(walks, prompts, strict=True)
        ]

    def _write(self, prompts: list[np.ndarray], rng: Sequence[np.random.Generator]) -> list[Reply]:
        def closed(text: str) -> str | None:
            return text.partition(self._stop)[0] if self._stop in text else None

        return self._sample(prompts, rng, closed if self._stop else None)

    def _think(self, prompts: list[np.ndarray], rng: Sequence[np.random.Generator]) -> list[Reply]:
        """The thoughts, up to where an action would follow; empty where one was cut off."""

        def ended(text: str) -> str | None:
            if self._stop and self._stop in text:
                return text.partition(self._stop)[0]
            return before_action(text)

        replies = self._sample(prompts, rng, ended, self._room)
        return [
            replace(r, text=r.text.rstrip() if split_reasoning(r.text)[1] else "") for r in replies
        ]

    def _sample(
        self,
        prompts: list[np.ndarray],
        rng: Sequence[np.random.Generator],
        ended: Callable[[str], str | None] | None,
        room: int = 0,
    ) -> list[Reply]:
        """Write freely.

        Args:
            ended: given what is written so far, the whole of it once it is complete.
            room: positions to leave free.
        """
        written: list[list[int]] = [[] for _ in prompts]
        texts: list[str | None] = [None] * len(prompts)
        total, counts = np.zeros(len(prompts)), [0] * len(prompts)
        active = list(range(len(prompts)))
        while active:
            logits = self.decoder.logits(active, [written[i][-1:] for i in active])
            drawn = self._draw(logits, [rng[i] for i in active])
            for i, token, logprob in zip(active, *drawn, strict=True):
                total[i] += logprob
                counts[i] += 1
                if token in self._ends:
                    texts[i] = self.tokens.decode(written[i])
                    continue
                written[i].append(token)
                full = len(prompts[i]) + len(written[i]) + room >= self.max_positions
                if ended is not None:
                    texts[i] = ended(self.tokens.decode(written[i]))
                if texts[i] is None and (full or counts[i] >= self.max_new_tokens):
                    texts[i] = self.tokens.decode(written[i])
            active = [i for i in active if texts[i] is None]
        return [
            self._reply(text or "", ids, Usage(len(p), n), float(logprob))
            for text, ids, p, n, logprob in zip(texts, written, prompts, counts, total, strict=True)
        ]

    def forget(self, keys: Sequence[str]) -> None:
        """Drop what is cached for episodes `keys`; unknown keys are ignored."""
        self.decoder.forget(keys)

    def clear(self) -> None:
        """Drop everything cached: needed after weights changed other than in place."""
        self.decoder.clear()


def _joined(thought: Reply, begun: str, chosen: Reply) -> Reply:
    """The reply that a thought and the action chosen after it make; `begun` ends in the label."""
    usage = thought.usage or Usage(), chosen.usage or Usage()
    return Reply(
        f"{begun} {chosen.text}",
        Usage(usage[0].prompt_tokens, usage[0].completion_tokens + usage[1].completion_tokens),
        (thought.logprob or 0.0) + (chosen.logprob or 0.0),
    )


class _Trie:
    """The admissible actions of one state as token sequences, each closed by the end of the turn.

    Held as a sorted list: the actions below a node are a range of it. The tokens are those behind
    `lead`, a label with a blank, of which the model has seen all but the blank. Where an action has
    free text, the free text takes precedence over other actions that continue from the same token.
    Of two actions with the same tokens (an unknown word in both) the first counts.
    """

    def __init__(self, actions: Sequence[str], tokens: Chat, lead: str = "") -> None:
        # A blank before free text is left to its first word, as tokenizers write it.
        heads = [a.split(FREE_TEXT)[0].rstrip() if FREE_TEXT in a else a for a in actions]
        tokens.learn([lead + head for head in heads])
        before = tokens.continuation(lead.rstrip()) if lead else ()
        self.ends: dict[tuple[int, ...], str] = {}
        """Token sequence -> action; one that ends in `_SLOT` goes on with free text."""
        for action, head in zip(actions, heads, strict=True):
            end = (_SLOT,) if FREE_TEXT in action else tokens.closing_ids
            ids = tokens.continuation(lead + head)
            if ids[: len(before)] != before:
                raise DataError(
                    f"this tokenizer joins {lead.rstrip()!r} and what follows it into one token: "
                    "set prompt='act', or mode='generate'"
                )
            self.ends.setdefault((*ids[len(before) :], *end), action)
        self.paths = sorted(self.ends)


class _Slots:
    """Which tokens free text may use, per text that must follow it.

    Everything except special tokens and line breaks (an action is one line); text is not empty.
    """

    def __init__(self, tokens: Chat, limit: int = 16) -> None:
        self.tokens = tokens
        self.limit = limit
        """At most this many tokens; then the text is closed."""
        self._allowed: dict[tuple[str, bool, int, torch.device], torch.Tensor] = {}

    @cached_property
    def _never(self) -> np.ndarray:
        return np.array([not t or "\n" in t or "\r" in t for t in self.tokens.vocabulary])

    def allowed(self, stop: str, blank: bool, like: torch.Tensor) -> torch.Tensor:
        """Ids, ascending, for the next token of free text before `stop`, blank so far or not."""
        key = (stop, blank, like.shape[-1], like.device)
        if key not in self._allowed:
            banned = self._never[: like.shape[-1]].copy()  # ids beyond these are padding
            if blank:
                texts = self.tokens.vocabulary[: len(banned)]
                banned |= [not t.strip() or t.strip()[:1] == stop.strip()[:1] for t in texts]
            elif not stop:
                banned[self.tokens.closing_ids[0]] = False
            self._allowed[key] = torch.from_numpy(np.flatnonzero(~banned)).to(like.device)
        return self._allowed[key]


class _Walk:
    """One reply being chosen.

    `text` is None until it is complete. Until then: feed `take()` to the model, then call `go` with
    what was drawn from its logits among `allowed`.
    """

    def __init__(self, trie: _Trie, slots: _Slots) -> None:
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

    def allowed(self, like: torch.Tensor) -> torch.Tensor:
        """Tokens that compete here, ascending: a draw does not depend on the actions' order."""
        if not self.in_slot:
            return torch.tensor(list(self._candidates))
        blank = not self._slots.tokens.decode(self._free).strip()
        return self._slots.allowed(self._rest[0], blank, like)

    def take(self) -> list[int]:
        """Tokens chosen since the last call; the model has not seen them yet."""
        taken, self._pending = self._pending, []
        return taken

    def go(self, token: int, logprob: float) -> None:
        """Go on with `token`; free text is closed if what must follow is there."""
        self.logprob += logprob
        if not self.in_slot:
            number = list(self._candidates).index(token)
            starts = [*self._candidates.values(), self._high]
            self._low, self._high = starts[number], starts[number + 1]
            return self._advance()
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
            if first[self._depth] == _SLOT:
                break
            self._pending.append(first[self._depth])
            self.count += 1
            self._depth += 1
        if self._depth == len(first):
            self.text = self._trie.ends[first]
        elif first[self._depth] == _SLOT:
            self._so_far, *rest = self._trie.ends[first].split(FREE_TEXT)
            self._rest = tuple(rest)
        else:
            self._candidates = {}
            for at in range(self._low, self._high):
                self._candidates.setdefault(paths[at][self._depth], at)
