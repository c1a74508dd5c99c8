"""A policy over any transformers causal language model: batched, seeded, cached.

Import `HuggingFacePolicy` from here: a batch of conversations in, one sampled reply each out,
either written freely (`mode="generate"`) or chosen among the admissible actions
(`mode="admissible"`). Models are loaded in `eeflib.policies.loading`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from eeflib.errors import DataError
from eeflib.policies.base import Conversation, Reply
from eeflib.policies.chat import as_chat
from eeflib.policies.constrained import Slots, Trie, Walk, draw, draw_rows
from eeflib.policies.decoding import Decoder
from eeflib.records import Usage

__all__ = ["HuggingFacePolicy"]

log = logging.getLogger(__name__)

Mode = Literal["generate", "admissible"]
_TRIES = 4096


class HuggingFacePolicy:
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
        device: where to move the model first; None leaves it where it is.
        stop: texts that end a free reply; the reply is cut before them.
        slot_tokens: limit of the text that replaces `<text>` in an admissible action.
        cached: see `eeflib.policies.decoding.Decoder`.
        cache_bytes: memory for keys and values, see there.

    Raises:
        DataError: no chat template, or an impossible setting.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        temperature: float = 1.0,
        max_new_tokens: int = 128,
        mode: Mode = "generate",
        max_batch: int = 256,
        greedy: bool = False,
        device: str | torch.device | None = None,
        stop: Sequence[str] = (),
        slot_tokens: int = 16,
        cached: bool | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        if not temperature > 0:
            raise DataError(f"temperature is {temperature}; give one above 0, or greedy=True")
        if mode not in ("generate", "admissible"):
            raise DataError(f"unknown mode {mode!r}; choose generate or admissible")
        if min(max_new_tokens, max_batch, slot_tokens) < 1:
            raise DataError("max_new_tokens, max_batch and slot_tokens must be at least 1")
        self.name = name
        self.wants_admissible = mode == "admissible"
        self.mode, self.temperature, self.greedy = mode, temperature, greedy
        self.max_new_tokens, self.max_batch = max_new_tokens, max_batch
        self.stop = tuple(stop)
        self.model = (model if device is None else model.to(device)).eval()
        self.tokens = as_chat(tokenizer)
        self.decoder = Decoder(self.model, cached=cached, cache_bytes=cache_bytes)
        self._slots = Slots(self.tokens, slot_tokens)
        self._tries: dict[tuple[str, ...], Trie] = {}
        config = model.config.get_text_config()
        self.max_positions: int = getattr(config, "max_position_embeddings", None) or 1_000_000
        self._ends = self._end_tokens()

    def _end_tokens(self) -> frozenset[int]:
        if len(self.tokens.closing_ids) > 1:  # a marker in ordinary tokens is a text to stop at
            self.stop = (*self.stop, self.tokens.closing)
        settings = getattr(self.model, "generation_config", None)
        eos = getattr(settings, "eos_token_id", None)
        more = eos if isinstance(eos, (list, tuple)) else [] if eos is None else [eos]
        return self.tokens.stop_ids.union(more)

    def act(
        self, conversations: Sequence[Conversation], *, rng: Sequence[np.random.Generator]
    ) -> list[Reply]:
        """One reply per conversation; see `eeflib.policies.base.Policy`.

        A prompt that the model has no positions for gives a `Reply` with an error.

        Raises:
            DataError: `mode="admissible"` and a conversation without `admissible`; a number of
                generators other than that of conversations.
        """
        if len(rng) != len(conversations):
            raise DataError(f"{len(conversations)} conversations but {len(rng)} generators")
        for c in conversations if self.wants_admissible else ():
            if c.admissible is None:
                raise DataError(
                    f"conversation {c.key!r} lists no admissible actions; the environment must "
                    'give them, or use mode="generate"'
                )
        replies: list[Reply] = []
        self.model.eval()  # a trainer may share the model
        with torch.inference_mode():
            at = 0
            while at < len(conversations):
                part = conversations[at : at + self.max_batch]
                prompts = self.tokens.prompts([c.messages for c in part])
                fits = self.decoder.rows_for(max(map(len, prompts)) + self._room)
                part, prompts = part[:fits], prompts[:fits]
                replies += self._part(part, prompts, rng[at : at + len(part)])
                at += len(part)
        return replies

    @property
    def _room(self) -> int:
        return 2 * self._slots.limit if self.wants_admissible else self.max_new_tokens

    def _part(
        self,
        part: Sequence[Conversation],
        prompts: list[np.ndarray],
        rng: Sequence[np.random.Generator],
    ) -> list[Reply]:
        started = time.perf_counter()
        replies = [Reply("", error=self._refusal(c, p)) for c, p in zip(part, prompts, strict=True)]
        able = [i for i, r in enumerate(replies) if not r.error]
        if able:
            mine = [prompts[i] for i in able]
            self.decoder.begin([part[i].key for i in able], mine)
            try:
                answer = self._choose if self.wants_admissible else self._write
                done = answer([part[i] for i in able], mine, [rng[i] for i in able])
            finally:
                self.decoder.end()
            for i, reply in zip(able, done, strict=True):
                replies[i] = reply
        seconds = (time.perf_counter() - started) / len(part)
        return [
            replace(r, usage=replace(r.usage or Usage(len(p)), seconds=seconds))
            for r, p in zip(replies, prompts, strict=True)
        ]

    def _refusal(self, conversation: Conversation, prompt: np.ndarray) -> str:
        room = self._room if self.wants_admissible else 1
        if len(prompt) + room > self.max_positions:
            return (
                f"the prompt has {len(prompt)} tokens and the reply needs up to {room}; the model "
                f"reads {self.max_positions}"
            )
        if self.wants_admissible and not conversation.admissible:
            return "no action is admissible"
        return ""

    def _trie(self, actions: tuple[str, ...]) -> Trie:
        trie = self._tries.get(actions)
        if trie is None:
            if len(self._tries) >= _TRIES:
                self._tries.clear()
            trie = self._tries[actions] = Trie(actions, self.tokens)
        return trie

    def _uniform(self, rng: Sequence[np.random.Generator]) -> list[float] | None:
        return None if self.greedy else [g.random() for g in rng]

    def _choose(
        self,
        part: Sequence[Conversation],
        prompts: list[np.ndarray],
        rng: Sequence[np.random.Generator],
    ) -> list[Reply]:
        walks = [Walk(self._trie(tuple(c.admissible or ())), self._slots) for c in part]
        active = [i for i, w in enumerate(walks) if w.text is None]
        while active:
            logits = self.decoder.logits(active, [walks[i].take() for i in active])
            branching = [(j, i) for j, i in enumerate(active) if not walks[i].in_slot]
            writing = [(j, i) for j, i in enumerate(active) if walks[i].in_slot]
            if branching:
                self._branch([(j, walks[i], rng[i]) for j, i in branching], logits)
            if writing:
                rows = logits[[j for j, _ in writing]]
                banned = torch.stack([walks[i].banned(logits) for _, i in writing])
                uniform = self._uniform([rng[i] for _, i in writing])
                tokens, logprobs = draw_rows(rows, banned, self.temperature, uniform)
                for (_, i), token, logprob in zip(writing, tokens, logprobs, strict=True):
                    walks[i].write(token, logprob)
            active = [i for i in active if walks[i].text is None]
        return [
            Reply(w.text or "", Usage(len(p), w.count), w.logprob)
            for w, p in zip(walks, prompts, strict=True)
        ]

    def _branch(
        self, walks: list[tuple[int, Walk, np.random.Generator]], logits: torch.Tensor
    ) -> None:
        """One draw per walk among its few candidates: only their logits leave the device."""
        candidates = [w.candidates for _, w, _ in walks]
        sizes = [len(c) for c in candidates]
        rows = np.repeat([j for j, _, _ in walks], sizes)
        columns = np.concatenate(candidates)
        index = [torch.from_numpy(x).to(logits.device) for x in (rows, columns)]
        scores = np.split(logits[index[0], index[1]].cpu().numpy(), np.cumsum(sizes)[:-1])
        for (_, walk, generator), mine in zip(walks, scores, strict=True):
            uniform = None if self.greedy else generator.random()
            walk.branch(*draw(mine, self.temperature, uniform))

    def _write(
        self,
        part: Sequence[Conversation],
        prompts: list[np.ndarray],
        rng: Sequence[np.random.Generator],
    ) -> list[Reply]:
        written: list[list[int]] = [[] for _ in part]
        texts: list[str | None] = [None] * len(part)
        total, counts = np.zeros(len(part)), [0] * len(part)
        active = list(range(len(part)))
        while active:
            logits = self.decoder.logits(active, [written[i][-1:] for i in active])
            uniform = self._uniform([rng[i] for i in active])
            tokens, logprobs = draw_rows(logits, None, self.temperature, uniform)
            for i, token, logprob in zip(active, tokens, logprobs, strict=True):
                total[i] += logprob
                counts[i] += 1
                if token in self._ends:
                    texts[i] = self.tokens.decode(written[i])
                    continue
                written[i].append(token)
                full = len(prompts[i]) + len(written[i]) >= self.max_positions
                if self.stop:
                    texts[i] = self._stopped(self.tokens.decode(written[i]))
                if texts[i] is None and (full or counts[i] >= self.max_new_tokens):
                    texts[i] = self.tokens.decode(written[i])
            active = [i for i in active if texts[i] is None]
        return [
            Reply(text or "", Usage(len(p), n), float(logprob))
            for text, p, n, logprob in zip(texts, prompts, counts, total, strict=True)
        ]

    def _stopped(self, text: str) -> str | None:
        found = [text.index(s) for s in self.stop if s in text]
        return text[: min(found)] if found else None

    def forget(self, keys: Sequence[str]) -> None:
        """Drop what is cached for episodes `keys`; unknown keys are ignored."""
        self.decoder.forget(keys)

    def clear(self) -> None:
        """Drop everything cached: needed after weights changed other than in place."""
        self.decoder.clear()
