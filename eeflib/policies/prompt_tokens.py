"""Conversations -> prompt tokens, and text -> the tokens that continue a prompt; both remembered.

Import `PromptTokens` from here, one for each tokenizer. A prompt is cut before every special token
and the pieces are tokenised separately, once each: tokenizers never merge across a special token,
and many episodes read the same page.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from eeflib.errors import DataError
from eeflib.policies.base import Message
from eeflib.policies.chat import render_chat

__all__ = ["PromptTokens"]

log = logging.getLogger(__name__)

_MEMORY = 4_000_000  # characters of pieces kept, about 30 MB with their ids


class PromptTokens:
    """Tokenisation for `tokenizer`, a Hugging Face tokenizer with a chat template.

    Raises:
        DataError: the tokenizer has no usable chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        asked = render_chat(tokenizer, [Message("user", "x")], add_generation_prompt=True)
        self.opening: str = asked.text[asked.ends[0] :]
        """What opens the assistant's turn."""
        replied = render_chat(tokenizer, [Message("user", "x"), Message("assistant", "y")])
        self.closing: str = replied.text[replied.spans[1][1] : replied.ends[1]]
        """What ends the assistant's turn; may be empty."""
        self._pieces: dict[str, np.ndarray] = {}
        self._held = 0
        self._continuations: dict[str, tuple[int, ...]] = {}
        self._cut = self._special_pattern()
        if self._cut is not None and not self._cut_is_exact():
            log.debug("pieces do not tokenise like the whole: tokenising every prompt whole")
            self._cut = None
        self._opening_ids = self._encode([self.opening])[0]

    def _special_pattern(self) -> re.Pattern[str] | None:
        if not getattr(self.tokenizer, "is_fast", False):
            return None
        plain = [
            t.content
            for t in self.tokenizer.added_tokens_decoder.values()
            if t.special and t.content and not (t.lstrip or t.rstrip or t.single_word)
        ]
        longest_first = sorted(plain, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if plain else None

    def _cut_is_exact(self) -> bool:
        chat = [
            Message("user", " a page, <tag> 12\n\nline"),
            Message("assistant", "click[b 1]"),
            Message("user", "Ünïcode  next >"),
        ]
        text = render_chat(self.tokenizer, chat, add_generation_prompt=True).text
        pieces = [i for ids in self._encode(self._split(text)) for i in ids]
        return pieces == self._encode([text])[0]

    def _split(self, text: str) -> list[str]:
        if self._cut is None:
            return [text]
        starts = [m.start() for m in self._cut.finditer(text)]
        edges = sorted({0, *starts, len(text)})
        return [text[a:b] for a, b in pairwise(edges)]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def prompts(self, chats: Sequence[Sequence[Message]]) -> list[np.ndarray]:
        """Token ids (int64, 1-D) of each chat, ending with the opening of the assistant's turn."""
        cut = [
            self._split(render_chat(self.tokenizer, chat, add_generation_prompt=True).text)
            for chat in chats
        ]
        missing = list({piece for pieces in cut for piece in pieces if piece not in self._pieces})
        size = sum(map(len, missing))
        if self._held + size > _MEMORY and self._pieces:
            self._pieces, self._held = {}, 0
            missing = list({piece for pieces in cut for piece in pieces})
            size = sum(map(len, missing))
        for piece, ids in zip(missing, self._encode(missing), strict=True):
            self._pieces[piece] = np.array(ids, np.int64)
        self._held += size
        return [np.concatenate([self._pieces[p] for p in pieces]) for pieces in cut]

    def continuation(self, text: str) -> tuple[int, ...]:
        """Ids of `text` as they follow the opening of the assistant's turn.

        A tokenizer may write a word differently at the start of a text and after the opening: the
        ids are those of opening + text, less the opening's. Where a merge crosses the boundary
        (not with the usual templates) the text is tokenised by itself.
        """
        found = self._continuations.get(text)
        if found is None:
            self.learn([text])
            found = self._continuations[text]
        return found

    def learn(self, texts: Sequence[str]) -> None:
        """Tokenise many continuations in one go, for `continuation` to find."""
        if len(self._continuations) > 200_000:
            self._continuations.clear()
        new = [t for t in dict.fromkeys(texts) if t not in self._continuations]
        size = len(self._opening_ids)
        for text, ids in zip(new, self._encode([self.opening + t for t in new]), strict=True):
            if ids[:size] != self._opening_ids:
                ids = [*self._opening_ids, *self._encode([text])[0]]
            self._continuations[text] = tuple(ids[size:])

    @cached_property
    def closing_ids(self) -> tuple[int, ...]:
        """Ids that end the assistant's turn: its marker, else the end of the text."""
        if self.closing:
            return tuple(self._encode([self.closing])[0])
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise DataError(
                "neither the chat template nor the tokenizer says how a reply ends; set "
                "tokenizer.eos_token"
            )
        return (int(eos),)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens."""
        return self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Text of every token id; empty for special tokens and ids without a token."""
        special = set(self.tokenizer.all_special_ids) | {
            i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special
        }
        texts = self.tokenizer.batch_decode(
            [[i] for i in range(len(self.tokenizer))], clean_up_tokenization_spaces=False
        )
        return tuple("" if i in special else text for i, text in enumerate(texts))
