"""Engines: prompts as token ids in, sampled token ids and log-probabilities out.

Import `Engine`, `Generated`, `EnginePolicy` and `BatchEngine` from here; `TokenPolicy` is what
every policy that samples a student has in common. Which engines there are:

- `eeflib.policies.huggingface`: transformers with a cache per episode and a random stream per
  reply. The default: exact, and the only one that chooses among admissible actions token by token
  with any tokenizer.
- `BatchEngine`: transformers' own continuous batching, for free replies.
- `eeflib.policies.server`: vLLM in a process of its own, or any server that takes token ids.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from eeflib.envs.base import FREE_TEXT
from eeflib.errors import DataError, PrerequisiteError
from eeflib.policies.base import Conversation, Reply
from eeflib.policies.chat import as_chat
from eeflib.policies.hardware import lengths_vary
from eeflib.records import Usage

Mode = Literal["generate", "admissible"]
Choices = Sequence[Sequence[str]]
"""The admissible actions of each prompt; may hold `<text>`."""

_UNBOUNDED = 1_000_000
_FREE_CHARACTERS = 80
_BLOCK = 32


@dataclass(frozen=True)
class Generated:
    """What was sampled after one prompt."""

    ids: tuple[int, ...] = ()
    """Without the token that ended it."""
    logprob: float | None = None
    """Sum over the tokens, the last one included, under the sampling distribution; None: unknown.
    """
    finished: bool = False
    """It ended by itself; else it reached the limit."""
    error: str = ""
    """Why there is nothing, for this prompt only."""


class Engine(Protocol):
    """Samples after many prompts at once."""

    max_positions: int
    """Tokens that prompt and reply may have together."""

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        *,
        max_new: int,
        temperature: float,
        greedy: bool,
        seeds: Sequence[int],
        stop_ids: Sequence[int],
        choices: Choices | None = None,
    ) -> list[Generated]:
        """One for each prompt, in their order.

        Args:
            prompts: B arrays of int64, 1-D.
            max_new: most tokens of a reply.
            temperature: above 0; not used with `greedy`.
            seeds: B numbers below 2**31.
            stop_ids: tokens that end a reply.
            choices: what the replies are restricted to.
        """
        ...


class TokenPolicy:
    """What the policies that sample a student have in common: chat, limits, refusals, ids.

    A subclass says in `_generate` how replies to prompts are made.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        name: str,
        temperature: float = 1.0,
        max_new_tokens: int = 128,
        mode: Mode = "generate",
        max_batch: int = 256,
        greedy: bool = False,
        prepare: Callable[[], Any] | None = None,
    ) -> None:
        if not temperature > 0:
            raise DataError(f"temperature is {temperature}; give one above 0, or greedy=True")
        if mode not in ("generate", "admissible"):
            raise DataError(f"unknown mode {mode!r}; choose generate or admissible")
        if min(max_new_tokens, max_batch) < 1:
            raise DataError("max_new_tokens and max_batch must be at least 1")
        self.name = name
        self.wants_admissible = mode == "admissible"
        self.mode, self.temperature, self.greedy = mode, temperature, greedy
        self.max_new_tokens, self.max_batch = max_new_tokens, max_batch
        self.tokens, self._prepare = as_chat(tokenizer), prepare
        self.max_positions = _UNBOUNDED
        self._ends = set(self.tokens.stop_ids)
        # a marker in ordinary tokens is a text to stop at
        self._stop = self.tokens.closing if len(self.tokens.closing_ids) > 1 else ""

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
        if self._prepare is not None:
            self._prepare()
        replies: list[Reply] = []
        while (at := len(replies)) < len(conversations):
            part = conversations[at : at + self.max_batch]
            prompts = self.tokens.prompts([c.messages for c in part])
            fits = self._rows_for(max(map(len, prompts)))
            part, prompts = part[:fits], prompts[:fits]
            replies += self._part(part, prompts, rng[at : at + len(part)])
        return replies

    def _rows_for(self, length: int) -> int:
        """How many prompts of `length` tokens are handled at once."""
        return self.max_batch

    @property
    def _room(self) -> int:
        """Tokens that a reply needs at least."""
        return 1

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
            done = self._generate([part[i] for i in able], mine, [rng[i] for i in able])
            for i, reply in zip(able, done, strict=True):
                replies[i] = reply
        seconds = (time.perf_counter() - started) / len(part)
        return [
            replace(r, usage=replace(r.usage or Usage(len(p)), seconds=seconds))
            for r, p in zip(replies, prompts, strict=True)
        ]

    def _refusal(self, conversation: Conversation, prompt: np.ndarray) -> str:
        if len(prompt) + self._room > self.max_positions:
            return (
                f"the prompt has {len(prompt)} tokens and the reply needs up to {self._room}; the "
                f"model reads {self.max_positions}"
            )
        if self.wants_admissible and not conversation.admissible:
            return "no action is admissible"
        return ""

    def _generate(
        self,
        part: Sequence[Conversation],
        prompts: list[np.ndarray],
        rng: Sequence[np.random.Generator],
    ) -> list[Reply]:
        raise NotImplementedError

    def _reply(self, text: str, ids: Sequence[int], usage: Usage, logprob: float | None) -> Reply:
        kept = self.tokens.sampled(text, ids)
        whose = self.tokens.fingerprint if kept else ""
        return Reply(text, usage, logprob, ids=kept, tokenizer=whose)

    def forget(self, keys: Sequence[str]) -> None:
        """Episodes `keys` are over."""


class EnginePolicy(TokenPolicy):
    """A student asked through `engine`.

    A reply's seed is drawn from its conversation's generator. Whether equal seeds give equal
    replies is for the engine to say; rounding differs with what else it works on.

    Args:
        engine: see `Engine`.
        tokenizer: the student's, with a chat template; or its `Chat`.
        settings: as of `eeflib.policies.huggingface.HuggingFacePolicy`.

    Raises:
        DataError: no chat template, or an impossible setting.
    """

    independent = refills = True  # no reply of an engine is repeated to the last bit anyway

    def __init__(self, engine: Engine, tokenizer: Any, **settings: Any) -> None:
        super().__init__(tokenizer, **settings)
        self.engine = engine
        self.max_positions = engine.max_positions

    def _generate(
        self,
        part: Sequence[Conversation],
        prompts: list[np.ndarray],
        rng: Sequence[np.random.Generator],
    ) -> list[Reply]:
        choices = [c.admissible or () for c in part] if self.wants_admissible else None
        done = self.engine.generate(
            prompts,
            max_new=self.max_new_tokens,
            temperature=self.temperature,
            greedy=self.greedy,
            seeds=[int(g.integers(2**31)) for g in rng],
            stop_ids=sorted(self._ends),
            choices=choices,
        )
        out = []
        for i, (prompt, found) in enumerate(zip(prompts, done, strict=True)):
            usage = Usage(len(prompt), len(found.ids) + found.finished)
            text = self.tokens.decode(found.ids)
            if self._stop:
                text = text.partition(self._stop)[0]
            error = found.error
            if choices and not error and not re.fullmatch(choice_pattern(choices[i]), text):
                error = f"the engine wrote {text[:80]!r}, which is none of the admissible actions"
            if error:
                out.append(Reply("", usage, error=error))
            else:
                out.append(self._reply(text, found.ids, usage, found.logprob))
        return out


class BatchEngine:
    """transformers' `generate_batch`: paged keys and values, continuous batching; free replies.

    Every call encodes its prompts anew (starts that prompts have in common once), so that long
    histories are cheaper with the default engine. Seeded as a whole: a reply depends on the batch
    it is in.

    Args:
        model: a transformers causal LM, possibly wrapped by peft.

    Raises:
        DataError: from `generate`, if it is to choose among admissible actions.
        PrerequisiteError: from `generate`, if it failed (out of memory).
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self._on_cpu = next(model.parameters()).device.type == "cpu"
        config = model.config.get_text_config()
        self.max_positions: int = getattr(config, "max_position_embeddings", None) or _UNBOUNDED

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        *,
        max_new: int,
        temperature: float,
        greedy: bool,
        seeds: Sequence[int],
        stop_ids: Sequence[int],
        choices: Choices | None = None,
    ) -> list[Generated]:
        """See `Engine.generate`."""
        import torch
        from transformers import ContinuousBatchingConfig, GenerationConfig

        if choices is not None:
            raise DataError(
                "generate_batch does not choose among admissible actions: use the engine "
                'transformers, or mode="generate"'
            )
        tight = [len(p) + max_new > self.max_positions for p in prompts]
        if any(tight) and not all(tight):  # those must not cut the others short
            kinds = {}
            for kind in (False, True):
                mine = [i for i, t in enumerate(tight) if t == kind]
                kinds[kind] = iter(
                    self.generate(
                        [prompts[i] for i in mine],
                        max_new=max_new,
                        temperature=temperature,
                        greedy=greedy,
                        seeds=[seeds[i] for i in mine],
                        stop_ids=stop_ids,
                    )
                )
            return [next(kinds[kind]) for kind in tight]
        self.model.eval()
        max_new = min(max_new, self.max_positions - max(map(len, prompts)))
        needed = sum(-(-(len(p) + max_new) // _BLOCK) + 1 for p in prompts)
        how: dict[str, Any] = {"do_sample": False}
        if not greedy:
            how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        before = self.model.config._attn_implementation
        try:
            with torch.inference_mode(), lengths_vary():
                found = self.model.generate_batch(
                    [p.tolist() for p in prompts],
                    GenerationConfig(
                        max_new_tokens=max_new,
                        eos_token_id=list(stop_ids),
                        pad_token_id=min(stop_ids, default=0),
                        **how,
                    ),
                    ContinuousBatchingConfig(
                        # on a CPU the limits are ours: the library's own take 22 GB for a toy
                        block_size=_BLOCK if self._on_cpu else 256,
                        num_blocks=max(16, needed) if self._on_cpu else None,
                        max_batch_tokens=512 if self._on_cpu else None,
                        return_logprobs=True,
                        seed=int(np.random.SeedSequence(list(seeds)).generate_state(1)[0]) >> 1,
                    ),
                    warmup=False,
                )
        finally:
            self.model.set_attn_implementation(before)
        if len(found) < len(prompts):  # its thread ended; what happened is in its log
            raise PrerequisiteError(
                f"generate_batch answered {len(found)} of {len(prompts)} prompts: use a smaller "
                "lockstep, or the engine transformers"
            )
        out = []
        for one in found.values():
            ids = list(one.generated_tokens)
            ended = bool(ids) and ids[-1] in stop_ids
            logprob = float(sum(one.logprobs)) if len(one.logprobs) == len(ids) else None
            out.append(Generated(tuple(ids[: len(ids) - ended]), logprob, ended, one.error or ""))
        return out


def choice_pattern(actions: Sequence[str]) -> str:
    """A regular expression for `actions`, in the part of the language that servers understand."""
    return "|".join(map(_pattern, actions))


def _pattern(action: str) -> str:
    head, *rest = action.split(FREE_TEXT)
    out = _escaped(head)
    for after in rest:
        stop = "\\" + after[0] if after[:1] in ("]", "\\", "^", "-") else after[:1]
        out += f"[^ \\t\\n\\r{stop}][^\\n\\r{stop}]{{0,{_FREE_CHARACTERS - 1}}}{_escaped(after)}"
    return out


def _escaped(text: str) -> str:
    return re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", text)


def longest_choice(actions: Sequence[str]) -> int:
    """Tokens that are enough for any of `actions`, however it is cut, and its end."""
    free = 4 * _FREE_CHARACTERS
    return max(len(a.encode()) + free * a.count(FREE_TEXT) for a in actions) + 1
