"""The policy protocol: a batch of conversations in, one reply each out.

Import `Policy`, `Conversation`, `Message` and `Reply` from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from eeflib.records import Usage

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    role: Role
    content: str
    ids: tuple[int, ...] | None = None
    """Of a reply: the token ids that were sampled, where tokenising `content` gives others."""
    tokenizer: str = ""
    """With `ids`: `Chat.fingerprint` of the tokenizer they belong to; others ignore them."""


@dataclass(frozen=True)
class Conversation:
    """What a policy sees: instruction and history only, ending in a user message."""

    messages: tuple[Message, ...]
    key: str = ""
    """Stable id of the episode: a model policy may keep a cache per key between calls. A cache is
    used only where what it holds is a prefix of the new messages."""
    admissible: tuple[str, ...] | None = None
    """Valid actions, if the caller wants the reply restricted to them (may hold `<text>`)."""
    observation: str = ""
    """The current observation, unformatted (scripted policies read it)."""
    instruction: str = ""
    """The task's instruction, unformatted."""
    task_id: str = ""
    """For scripted teachers that hold a script per task."""


@dataclass(frozen=True)
class Reply:
    text: str
    """The raw reply; `eeflib.prompts` turns it into thought and action."""
    usage: Usage | None = None
    logprob: float | None = None
    """Natural log of the probability of `text` under the sampling distribution, if known."""
    ids: tuple[int, ...] | None = None
    """The token ids that were sampled, if tokenising `text` anew would give others."""
    tokenizer: str = ""
    """With `ids`: whose they are, see `Message.tokenizer`."""
    reasoning: str = ""
    """Hidden reasoning that the provider gave beside `text`: recorded, never asked with."""
    error: str = ""
    """Why there is no usable reply (provider failed after retries); the rollout is then recorded
    as failed, never lost."""
    fatal: bool = False
    """With `error`: no later request can succeed either (key refused, cost cap), so that the run
    ends when this round is on record."""
    stop: bool = False
    """The policy gives up after this action: the rollout then ends, as truncated, unless the
    environment ended it."""


@runtime_checkable
class Policy(Protocol):
    """Answers batches of conversations.

    A policy may have an attribute `independent = True`: no reply depends, not even in its last bit,
    on what else is in the batch. Then an interrupted batch of episodes is not run again whole. With
    `refills = True` as well, an episode that ends makes room for the next one at once. With
    `alone = True` each conversation is asked from a thread of its own; `interrupt()` then ends its
    pauses, and where it `remembers` what it answered, episodes that lost a reply are played again.
    `holds()` is for how many conversations, of the length of the present ones, it keeps what it has
    read: no more than these are asked in turn, for the rest would be read anew for every reply.
    One that has `elsewhere(chunks, actor, seed, size)` plays chunks of episodes itself, of which
    `size` at once, and gives for each the trajectories, what `EnvPool.restores` and `redone` count.
    """

    name: str
    wants_admissible: bool
    """Whether `Conversation.admissible` must be filled."""

    def act(
        self, conversations: Sequence[Conversation], *, rng: Sequence[np.random.Generator]
    ) -> list[Reply]:
        """One reply per conversation.

        Args:
            conversations: B conversations.
            rng: B generators, one per conversation, so that an episode's random choices do not
                depend on which other episodes share its batch.
        """
        ...

    def forget(self, keys: Sequence[str]) -> None:
        """Episodes `keys` are over: drop what is cached for them."""
        ...
