"""Chat rendering with positions: where in the rendered text is each message?

Import `render_chat` from here. It renders messages with the tokenizer's own chat template and gives
the character range of every message. Token ids are made in `prompt_tokens` and `eeflib.masking`.

Method: the template is rendered once with a unique marker in place of every content; what stands
between the markers is the template's own text. The real rendering must then equal that text with
the contents filled in, character by character, so repeated contents cannot be confused and a
template that alters contents is noticed.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eeflib.errors import DataError
from eeflib.policies.base import Message

__all__ = ["RenderedChat", "render_chat"]

_PAD = "\t \t"
_OPEN, _CLOSE = "\ue0e0", "\ue0e1"  # private use: no template contains them


@dataclass(frozen=True)
class RenderedChat:
    text: str
    """The whole chat as the model reads it; tokenize with `add_special_tokens=False`."""
    spans: tuple[tuple[int, int], ...]
    """Per message, [start, end) of its content in `text` (without what the template trims)."""
    ends: tuple[int, ...]
    """Per message, end of the end-of-turn marker after it; `spans[i][1]` if there is none."""


@dataclass(frozen=True)
class _Skeleton:
    """A template's own text around n contents."""

    pieces: tuple[str, ...]
    """n + 1 strings: before, between and after the contents."""
    trims: tuple[tuple[bool, bool], ...]
    """Per content: does the template trim its left side, its right side?"""

    def fill(self, contents: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
        out, spans, at = [self.pieces[0]], [], len(self.pieces[0])
        for content, (left, right), piece in zip(
            contents, self.trims, self.pieces[1:], strict=True
        ):
            content = content.lstrip() if left else content
            content = content.rstrip() if right else content
            spans.append((at, at + len(content)))
            out += (content, piece)
            at += len(content) + len(piece)
        return "".join(out), tuple(spans)


_Key = tuple[Any, tuple[str, ...], bool]
_SKELETONS: weakref.WeakKeyDictionary[Any, dict[_Key, _Skeleton]] = weakref.WeakKeyDictionary()
_END_LENGTHS: weakref.WeakKeyDictionary[Any, dict[_Key, tuple[int, ...]]] = (
    weakref.WeakKeyDictionary()
)


def render_chat(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> RenderedChat:
    """Render `messages` with the tokenizer's chat template and locate every content.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        messages: at least one message.
        add_generation_prompt: end with the opening of an assistant turn, as for generation.

    Raises:
        DataError: there is no template, it rejects the roles, or it does not reproduce a content
            (apart from trimming white space at its ends).
    """
    if not messages:
        raise DataError("cannot render an empty chat; give at least one message")
    contents = [m.content for m in messages]
    roles = tuple(m.role for m in messages)
    actual = _apply(tokenizer, roles, contents, add_generation_prompt)
    skeleton = _skeleton(tokenizer, roles, add_generation_prompt)
    text, spans = skeleton.fill(contents)
    if text != actual:  # a template that prints the date may have passed midnight: look again
        skeleton = _skeleton(tokenizer, roles, add_generation_prompt, fresh=True)
        text, spans = skeleton.fill(contents)
    if text != actual:
        at = len(_common(text, actual))
        number = next((i for i, (_, end) in enumerate(spans) if at <= end), len(spans) - 1)
        raise DataError(
            f"the chat template of {_name(tokenizer)} alters the content of message {number} "
            f"({roles[number]}): expected {text[at : at + 40]!r}, it renders "
            f"{actual[at : at + 40]!r}; use a template that keeps contents as they are"
        )
    lengths = _end_lengths(tokenizer, roles, add_generation_prompt, skeleton)
    ends = tuple(end + n for (_, end), n in zip(spans, lengths, strict=True))
    return RenderedChat(text, spans, ends)


def _end_lengths(
    tokenizer: Any, roles: tuple[str, ...], generation: bool, skeleton: _Skeleton
) -> tuple[int, ...]:
    """Characters of the end-of-turn marker after each message, cached with the skeleton."""
    cache = _END_LENGTHS.setdefault(tokenizer, {})
    key = (skeleton, roles, generation)
    if key not in cache:
        cache[key] = tuple(
            len(_end_marker(tokenizer, roles[: i + 1], skeleton.pieces[i + 1]))
            for i in range(len(roles))
        )
    return cache[key]


def _end_marker(tokenizer: Any, roles: tuple[str, ...], following: str) -> str:
    """What ends the last turn of `roles`: `following` as far as it also ends a whole chat.

    A special token ends it earlier: in "<|im_end|>\\n" the line feed is template, not marker.
    """
    try:
        common = _common(following, _skeleton(tokenizer, roles, False).pieces[-1])
        closed = True
    except DataError:  # no chat may end here (a system turn alone, say): only a token marks the end
        common, closed = following, False
    found = [common.index(token) + len(token) for token in _specials(tokenizer) if token in common]
    if found:
        return common[: min(found)]
    return common if closed else ""


def _skeleton(
    tokenizer: Any, roles: tuple[str, ...], generation: bool, *, fresh: bool = False
) -> _Skeleton:
    """The template's own text for these roles, cached per tokenizer and template."""
    cache = _SKELETONS.setdefault(tokenizer, {})
    template = getattr(tokenizer, "chat_template", None)
    key = (template if isinstance(template, str) else repr(template), roles, generation)
    if fresh or key not in cache:
        cache[key] = _probe(tokenizer, roles, generation)
    return cache[key]


def _probe(tokenizer: Any, roles: tuple[str, ...], generation: bool) -> _Skeleton:
    marks = [f"{_OPEN}{i}{_CLOSE}" for i in range(len(roles))]
    text = _apply(tokenizer, roles, [_PAD + mark + _PAD for mark in marks], generation)
    pieces, trims = [], []
    for number, mark in enumerate(marks):
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise DataError(
                f"the chat template of {_name(tokenizer)} does not show message {number} "
                f"({roles[number]}) exactly once and in order; set tokenizer.chat_template to "
                "one that does"
            )
        left, right = not before.endswith(_PAD), not text.startswith(_PAD)
        pieces.append(before if left else before[: -len(_PAD)])
        text = text if right else text[len(_PAD) :]
        trims.append((left, right))
    return _Skeleton((*pieces, text), tuple(trims))


def _apply(tokenizer: Any, roles: Sequence[str], contents: Sequence[str], generation: bool) -> str:
    from jinja2 import TemplateError

    chat = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation)
    except TemplateError as exc:
        raise DataError(
            f"the chat template of {_name(tokenizer)} rejects the roles {', '.join(roles)}: {exc}"
        ) from exc
    except ValueError as exc:
        raise DataError(
            f"{_name(tokenizer)} has no usable chat template: {exc}; use an instruction-tuned "
            "model or set tokenizer.chat_template"
        ) from exc


def _common(a: str, b: str) -> str:
    """The longest common prefix."""
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    return a[: min(len(a), len(b)) if at is None else at]


def _specials(tokenizer: Any) -> list[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    named = [str(t) for t in tokenizer.all_special_tokens]
    return named + [t.content for t in added.values() if t.special and t.content]


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
