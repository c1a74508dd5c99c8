"""Prompt text and reply parsing: the one place where either is written down.

Owns the system/instruction text per environment, the rendering of an episode as chat messages, and
the parser reply -> (thought, action, valid, reason). Knows nothing about environments' internals
nor about tokens. The prompt holds instruction and history only: no reward, no goal, nothing later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from eeflib.errors import DataError
from eeflib.policies.base import Conversation, Message
from eeflib.records import Step, content_hash

__all__ = ["FORMATS", "Parsed", "PromptFormat", "get_format", "parse_reply"]

_TASK_TEXT = {
    "webshop": (
        "You are shopping in a web store. Find the product that the instruction asks for, choose "
        "the options it names, and buy it.\n"
        "Actions: search[keywords] where a search box is shown; click[value] with the text of any "
        "button shown (a product id, an option, Next >, < Prev, Back to Search, Description, "
        "Features, Reviews, Attributes, Buy Now). Buy Now ends the task."
    ),
    "scienceworld": (
        "You carry out a task in a small simulated world of rooms, objects and instruments.\n"
        "Actions are short commands, for example: look around, open door to kitchen, go to "
        "kitchen, pick up OBJ, move OBJ to OBJ, focus on OBJ, use OBJ on OBJ, pour OBJ into OBJ, "
        "mix OBJ, activate OBJ, connect OBJ to OBJ, examine OBJ, inventory, wait1. "
        "Focus only on what the task names: a wrong focus ends it."
    ),
}
_GENERIC_TEXT = "You carry out a task in a text environment, one action at a time."
_REACT_TEXT = (
    "Each reply has two lines:\nThought: why this is the next thing to do\nAction: one action\n"
)
_ACT_TEXT = "Each reply is one action and nothing else.\n"


@dataclass(frozen=True)
class PromptFormat:
    """How an episode becomes messages.

    `react`: system text, observations as shown, replies with Thought and Action.
    `act`: no system text, observations without the repeated instruction, bare actions. It is what
    the tiny student reads: every token costs it.
    """

    name: str
    env: str
    thoughts: bool
    system: bool

    @cached_property
    def system_text(self) -> str:
        if not self.system:
            return ""
        text = _TASK_TEXT.get(self.env, _GENERIC_TEXT)
        return f"{text}\n{_REACT_TEXT if self.thoughts else _ACT_TEXT}".strip()

    @cached_property
    def hash(self) -> str:
        """Identifies text and rules; stored with every trajectory."""
        return content_hash([self.name, self.env, self.system_text, self.thoughts, 1])

    def observation(self, text: str, instruction: str) -> str:
        """An observation as the user turn shows it."""
        if self.name != "act":
            return text
        return text.replace(f"Instruction: [SEP] {instruction} [SEP] ", "")

    def reply(self, step: Step) -> str:
        """The assistant turn of a recorded step."""
        if not self.thoughts:
            return step.action or step.text
        if step.reply:
            return step.reply
        thought = f"Thought: {step.thought}\n" if step.thought else ""
        return f"{thought}Action: {step.action}"

    def messages(
        self, instruction: str, steps: Sequence[Step], observation: str | None = None
    ) -> tuple[Message, ...]:
        """The chat of `steps`, then `observation` as the last user turn (None: end on the reply).

        The assistant turn of step t is message number `reply_index(t)`.
        """
        out = [Message("system", self.system_text)] if self.system else []
        head = f"Instruction: {instruction}\n"
        for step in steps:
            out.append(Message("user", head + self.observation(step.observation, instruction)))
            out.append(Message("assistant", self.reply(step)))
            head = ""
        if observation is not None:
            out.append(Message("user", head + self.observation(observation, instruction)))
        return tuple(out)

    def reply_index(self, t: int) -> int:
        """Position in `messages` of the assistant turn of step t."""
        return 2 * t + 1 + int(self.system)

    def conversation(
        self,
        instruction: str,
        steps: Sequence[Step],
        observation: str,
        *,
        key: str = "",
        admissible: Sequence[str] | None = None,
        task_id: str = "",
    ) -> Conversation:
        """What a policy is asked at `observation` after `steps`."""
        return Conversation(
            self.messages(instruction, steps, observation),
            key,
            None if admissible is None else tuple(admissible),
            observation,
            instruction,
            task_id,
        )


FORMATS = ("react", "act")


def get_format(name: str, env: str) -> PromptFormat:
    """The format `name` ("react" or "act") for environment `env`.

    Raises:
        DataError: unknown format name.
    """
    if name not in FORMATS:
        raise DataError(f"unknown prompt format {name!r}; choose one of {', '.join(FORMATS)}")
    return PromptFormat(name, env, thoughts=name == "react", system=name == "react")


@dataclass(frozen=True)
class Parsed:
    thought: str
    action: str
    valid: bool
    reason: str = ""


_ACTION = re.compile(r"^[ \t*]*action[ \t*]*:[ \t*]*(.*)$", re.IGNORECASE | re.MULTILINE)
_THOUGHT = re.compile(r"^[ \t*]*thought[ \t*]*:", re.IGNORECASE | re.MULTILINE)


def parse_reply(text: str, thoughts: bool = True) -> Parsed:
    """Split a model's reply into thought and action.

    With `thoughts`, the first `Action:` line wins; what stands before it (less the word
    `Thought:`) is the thought. Backticks and quotes around the action are dropped. Without
    `thoughts` the first non-empty line is the action. No action -> `valid=False` and a reason.
    """
    if not text.strip():
        return Parsed("", "", False, "empty reply")
    if not thoughts:
        return Parsed("", text.strip().splitlines()[0].strip(), True)
    match = _ACTION.search(text)
    if match is None:
        thought = _THOUGHT.sub("", text, count=1).strip()
        return Parsed(thought, "", False, "no line starts with 'Action:'")
    thought = _THOUGHT.sub("", text[: match.start()], count=1).strip()
    action = match.group(1).strip()
    if not action:  # the action on the line after "Action:"
        rest = text[match.end() :].strip()
        action = rest.splitlines()[0].strip() if rest else ""
    if len(action) >= 2 and action[0] == action[-1] and action[0] in "`\"'":
        action = action[1:-1].strip()
    if not action:
        return Parsed(thought, "", False, "the 'Action:' line is empty")
    return Parsed(thought, action, True)
