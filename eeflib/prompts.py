"""Prompt text and reply parsing; both are written down in this module only.

Import `get_format` from here: the system and instruction text of an environment, the rendering of
an episode as chat messages, and the parser reply -> (thought, action, valid, reason). The prompt
holds instruction and history only: no reward, no goal, nothing later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from eeflib.errors import DataError
from eeflib.policies.base import Conversation, Message
from eeflib.records import Step, content_hash

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
    "textworld": (
        "You carry out a task in a small text game of rooms and things.\n"
        "Actions are short commands, for example: look around, inventory, move north, open door to "
        "north, open OBJ, examine OBJ, read OBJ, take OBJ, put OBJ in OBJ, and in a kitchen: chop "
        "OBJ, slice OBJ, dice OBJ, cook OBJ in OBJ, prepare meal, eat meal. Names are written as "
        "the game writes them. What is cut, cooked or eaten stays so: a wrong preparation ends the "
        "task."
    ),
}
_GENERIC_TEXT = "You carry out a task in a text environment, one action at a time."
_REACT_TEXT = (
    "Each reply has two lines:\nThought: why this is the next thing to do\nAction: one action\n"
)


FORMATS = ("react", "act")
ACTION_LABEL = "Action:"
HINTS = {True: " (a good try)", False: " (a bad try)"}
"""What a training sample may say after the instruction: whether the trajectory solved its task. A
student that was trained so is played with the first (`Method.hints`)."""


@dataclass(frozen=True)
class PromptFormat:
    """How an episode becomes messages.

    `react`: system text, observations as shown, replies with Thought and Action.
    `act`: no system text, observations without the repeated instruction, bare actions. It is what
    the tiny student reads: every token costs it.
    """

    name: str
    env: str
    hint: str = ""
    """Said after the instruction; one of `HINTS`, for a student that was trained with them."""

    def __post_init__(self) -> None:
        if self.name not in FORMATS:
            raise DataError(
                f"unknown prompt format {self.name!r}; choose one of {', '.join(FORMATS)}"
            )

    @property
    def thoughts(self) -> bool:
        """Replies are Thought and Action, after a system text that says so."""
        return self.name == "react"

    @cached_property
    def system_text(self) -> str:
        text = f"{_TASK_TEXT.get(self.env, _GENERIC_TEXT)}\n{_REACT_TEXT}"
        return text.strip() if self.thoughts else ""

    @cached_property
    def hash(self) -> str:
        """Identifies text and rendering; stored with every trajectory.

        Taken over an episode as rendered, so that any change of wording or layout changes it.
        """
        step = Step("Instruction: [SEP] I [SEP] O", "A", "teacher", thought="T")
        turns = [[m.role, m.content] for m in self.messages("I", (step,), "O")]
        return content_hash([self.name, self.env, self.thoughts, turns])

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
        # On one line: a line of the thought must not pass for the action line.
        thought = " ".join(step.thought.split())
        return (f"Thought: {thought}\n" if thought else "") + f"Action: {step.action}"

    def messages(
        self,
        instruction: str,
        steps: Sequence[Step],
        observation: str | None = None,
        hint: str | None = None,
    ) -> tuple[Message, ...]:
        """The chat of `steps`, then `observation` as the last user turn (None: end on the reply).

        The assistant turn of step t is message number `reply_index(t)`.

        Args:
            hint: said after the instruction; None: the format's own.
        """
        out = [Message("system", self.system_text)] if self.thoughts else []
        head = f"Instruction: {instruction}{self.hint if hint is None else hint}\n"
        for step in steps:
            out.append(Message("user", head + self.observation(step.observation, instruction)))
            out.append(_turn(self.reply(step), step))
            head = ""
        if observation is not None:
            out.append(Message("user", head + self.observation(observation, instruction)))
        return tuple(out)

    def reply_index(self, t: int) -> int:
        """Position in `messages` of the assistant turn of step t."""
        return 2 * t + 1 + int(self.thoughts)

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
        """The conversation for a policy at `observation` after `steps`."""
        messages = self.messages(instruction, steps, observation)
        allowed = None if admissible is None else tuple(admissible)
        return Conversation(messages, key, allowed, observation, instruction, task_id)


def _turn(text: str, step: Step) -> Message:
    """The assistant turn of a step, with the token ids on record for this very text."""
    ids, whose = step.extra.get("ids"), step.extra.get("tokenizer")
    if not isinstance(ids, list) or not isinstance(whose, str) or text != step.text:
        return Message("assistant", text)
    usable = all(type(i) is int for i in ids)
    return Message("assistant", text, tuple(ids) if usable else None, whose)


def task_text(env: str) -> str:
    """What the task is, in a sentence or two that say nothing of how actions are written."""
    return _TASK_TEXT.get(env, "You carry out a task in a text environment.").splitlines()[0]


def get_format(name: str, env: str, hint: str = "") -> PromptFormat:
    """The format `name` ("react" or "act") for environment `env`.

    Raises:
        DataError: unknown format name.
    """
    return PromptFormat(name, env, hint)


class Parsed(NamedTuple):
    thought: str
    action: str
    valid: bool
    reason: str = ""


# What models put around labels: Markdown, bullets, invisible blanks. Possessive, so linear in time.
_AROUND = "[ \t\u00a0\u200b\ufeff*_#>`-]*+"
_LABEL = rf"^{_AROUND}%s{_AROUND}(?:\d++{_AROUND})?[:：][ \t\u00a0\u200b\ufeff*_]*+"
_ACTION = re.compile(_LABEL % "action" + "(.*)$", re.IGNORECASE | re.MULTILINE)
_INLINE = re.compile(r"(?<=[^\S\n])Action:[^\S\n]*+(?=\S)(.*)$", re.MULTILINE)
_THOUGHT = re.compile(_LABEL % "thought", re.IGNORECASE | re.MULTILINE)
_NEXT_TURN = re.compile(_LABEL % "(?:thought|observation)", re.IGNORECASE)
_FENCE = re.compile(r"^[^\S\n]*+(?:`{3,}+|~{3,}+)\w*+[^\S\n]*+$", re.MULTILINE)
_QUOTES = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’"}
_MARKER = re.compile(
    r"</?s>|<\|[^<>|\n]{1,40}\|>|<｜[^<>｜\n]{1,40}｜>|<(?:start|end)_of_turn>|<[be]os>|"
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS)\]|</?\|(?:im_end|im_start|endoftext)\|?>"
)
_HIDDEN = r"think|thinking|thought|reasoning|seed:think"
_OPENS = re.compile(rf"<(?:{_HIDDEN})>|\[THINK\]", re.IGNORECASE)
_CLOSES = re.compile(rf"</(?:{_HIDDEN})>|\[/THINK\]", re.IGNORECASE)


def split_reasoning(text: str) -> tuple[str, str]:
    """(the hidden reasoning in front of a reply, the reply itself); linear in the text's length.

    Reasoning models write it in `<think>`, `<thinking>`, `<reasoning>`, `<seed:think>` or
    `[THINK]`; often the chat template has opened it already, so that only its end is seen. All up
    to the last end is reasoning; one that was cut off leaves no reply.
    """
    ends = list(_CLOSES.finditer(text)) if "/" in text else []
    if ends:
        return _OPENS.sub("", text[: ends[-1].start()]).strip(), text[ends[-1].end() :]
    begun = _OPENS.match(text.lstrip())
    return ("", text) if begun is None else (text.lstrip()[begun.end() :].strip(), "")


def without_markers(text: str) -> str:
    """A reply up to the first control token that a server left in it as text.

    Some servers return `</s>`, `<|im_end|>` or `[/INST]` and what a model wrote behind it, which
    is the other side's turn, made up. Markers in front of the reply are dropped.
    """
    start = 0
    for found in _MARKER.finditer(text):
        if before := text[start : found.start()].strip():
            return before
        start = found.end()
    return text[start:].lstrip() if start else text


def parse_reply(text: str, thoughts: bool = True) -> Parsed:
    """Split a model's reply into thought and action. Never raises; linear in the reply's length.

    With `thoughts`, the first line that starts with `Action:` wins; what stands before it (less the
    word `Thought:`) is the thought. Where no line starts so, `Action:` within a line counts. An
    action may stand on the next line or in a code fence; Markdown and quotes around it are dropped.
    Without `thoughts` the first line that is neither empty nor a fence is the action. Hidden
    reasoning (`split_reasoning`) never holds the action. No action -> `valid=False` and
    a reason; whether the environment understands the action is for the environment to say.

    Where published parsers differ: ETO's wants the exact `Action: ` and takes everything after it,
    invented observations and further actions included; AgentGym's takes several lines, and the
    whole reply where there is no `Action:`. Here a reply yields at most one action of one line, and
    none without `Action:`.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        return Parsed("", "", False, "empty reply")
    musing, text = split_reasoning(text)
    text = without_markers(text)
    if musing and not text.strip():
        return Parsed(musing, "", False, "the reasoning was cut off before the action")
    if not thoughts:
        action = _first_line(text)
        return Parsed(musing, action, bool(action), "" if action else "empty reply")
    match = _ACTION.search(text) or _INLINE.search(text)
    thought = _FENCE.sub("", text[: match.start()] if match else text)
    thought = _THOUGHT.sub("", thought, count=1).strip() or musing
    if match is None:
        return Parsed(thought, "", False, "no line starts with 'Action:'")
    action = _undressed(_first_line(text[match.start(1) :]))
    if not action or _NEXT_TURN.match(action):
        return Parsed(thought, "", False, "the 'Action:' line is empty")
    return Parsed(thought, action, True)


def before_action(text: str) -> str | None:
    """What stands before the line with the action, as `parse_reply` finds it; None: there is none.

    `text` may still be being written, so an `Action:` within a line does not count.
    """
    rest = split_reasoning(text)[1]
    match = _ACTION.search(rest)
    return text[: len(text) - len(rest) + match.start()] if match else None


def _first_line(text: str) -> str:
    """The first line that is neither empty nor a code fence, stripped."""
    lines = (line.strip() for line in text.split("\n"))
    return next((line for line in lines if line and not _FENCE.match(line)), "")


def _undressed(action: str) -> str:
    """Without the Markdown and the one pair of quotes that wrap it."""
    action = action.strip(" \t\u00a0\u200b\ufeff*")
    if action.startswith("```"):
        action = action.strip("`")
    closing = _QUOTES.get(action[:1])
    if closing and len(action) > 1 and action.endswith(closing) and closing not in action[1:-1]:
        action = action[1:-1]
    return action.strip()
