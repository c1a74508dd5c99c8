"""How a tokenizer writes a conversation: the same tokens when a reply is asked for and trained.

Import `Chat` from here, with `Chat.of(tokenizer)`. The chat template is looked at once, the gate:
which text of its own stands before, between and after the contents? From these pieces a chat is
then put together as a stream that only grows, so that what is asked is a prefix of what is trained
by construction. A template that cannot be written so is refused, with the cause.

Contents never become control tokens: text that looks like one is cut inside before it is tokenised.
A reply has tokens of its own, none is shared with the template before or after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from eeflib.errors import DataError
from eeflib.policies.base import Message
from eeflib.records import content_hash

TODAY = date(2025, 1, 1)
"""What templates that print the date are told: a prompt must be the same tomorrow."""
_PAD = "\t \t"
_OPEN, _CLOSE = "\ue0e0", "\ue0e1"  # private use: no template contains them
_MEMORY = 4_000_000  # characters of pieces kept, about 30 MB with their ids
_SWITCHES = ("enable_thinking", "thinking")  # arguments by which templates switch reasoning off
_NO_CODE = re.compile(r"{#.*?#}|'[^'{}]*'|\"[^\"{}]*\"", re.S)
"""Comments and texts of a template."""
_REASONING = re.compile(r"(<(think|thinking|reasoning)>|\[THINK\])(?!.*(</\2>|\[/THINK\]))", re.S)
_TRIES = (
    ("find a red shirt [SEP] under $30", "click[Next >]", "page 2\n\n- B0001 {a} <b>", "look"),
    ("  a page\twith blanks  ", " reply ", "\n\nÜnïcode 日本 'quotes' \"two\"", "search[x y]\n"),
)


class ChatTokens(NamedTuple):
    """A chat of n tokens, up to the end-of-turn marker of its last reply."""

    text: str
    ids: np.ndarray
    """(n,) int32."""
    ends: np.ndarray
    """(n,) int32: where each token's text ends in `text`."""
    message: np.ndarray
    """(n,) int16: number of the message a token belongs to, -1 for the template's own text."""
    closes: np.ndarray
    """(n,) bool: it belongs to the end-of-turn marker after a reply; `message` is that reply's."""


class _Part(NamedTuple):
    text: str
    message: int = -1
    closes: bool = False
    template: bool = True
    """Control tokens in it are control tokens."""
    alone: bool = False
    """Has tokens of its own: a reply, or what follows one."""
    ids: tuple[int, ...] | None = None
    """A reply's tokens as they were sampled, where tokenising it anew gives others."""


class _Run(NamedTuple):
    """A text that is tokenised apart."""

    text: str
    control: bool = False
    reply: bool = False
    """Stands behind the opening of a reply."""
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class _Skeleton:
    """A template's own text around n contents."""

    pieces: tuple[str, ...]
    """n + 1 strings: before, between and after the contents."""
    trims: tuple[tuple[bool, bool], ...]
    """Per content: does the template trim its left side, its right side?"""


@dataclass(frozen=True)
class _Layout:
    """The pieces of every chat that starts with these roles."""

    start: tuple[str, ...]
    """Before the first content and, if there is a system turn, between it and the first user's."""
    folded: bool
    """The system text is put in front of the first user's: the template knows no such role."""
    opening: str
    """Between a user's content and the reply."""
    closing: str
    """The end-of-turn marker after a reply."""
    between: str
    """From there to the next user's content."""
    last: str
    """The marker after the last reply of a finished chat, where it is another one."""
    trims: Mapping[str, tuple[bool, bool]]
    """Per role."""
    notes: tuple[str, ...]


class Chat:
    """Tokenisation of conversations for `tokenizer`, a fast Hugging Face tokenizer.

    Args:
        template_arguments: passed to the chat template, such as `enable_thinking=True`; reasoning
            is switched off where the template can and nothing else is said.

    Raises:
        DataError: there is no usable chat template, or what it writes when a reply is asked for
            cannot be made the beginning of what it writes in training; says why.
    """

    def __init__(self, tokenizer: Any, **template_arguments: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(
                f"{type(tokenizer).__name__} gives no character offsets; load a fast tokenizer "
                "(AutoTokenizer.from_pretrained(..., use_fast=True))"
            )
        self.tokenizer = tokenizer
        self.arguments = template_arguments
        self._layouts: dict[bool, _Layout] = {}
        added = tokenizer.added_tokens_decoder.items()
        self._added = {t.content: i for i, t in added if t.content}
        marks = [
            ("\\s*" if t.lstrip else "") + re.escape(t.content) + ("\\s*" if t.rstrip else "")
            for _, t in sorted(added, key=lambda x: -len(x[1].content))
            if t.content.strip()  # Gemma and others have tokens of blanks, which are plain text
        ]
        self._control = re.compile("|".join(marks) or "(?!)")
        plain = [t.content for _, t in added if t.special and not (t.lstrip or t.rstrip)]
        self._before = next((t for t in plain if self._ids_of([t])[0] == [self._added[t]]), "")
        self._runs: dict[_Run, tuple[np.ndarray, np.ndarray]] = {}
        self._held = 0
        self._replies: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        layout = self.layout(True)
        self.opening, self.closing = layout.opening, layout.closing
        self._context = self._tail(layout.opening)

    @classmethod
    def of(cls, tokenizer: Any, **template_arguments: Any) -> Chat:
        """The one `Chat` of this tokenizer, template and arguments."""
        # kept with the tokenizer: a table of ours would hold both for ever
        known: dict[str, Chat] = tokenizer.__dict__.setdefault("_eeflib_chats", {})
        what = [repr(tokenizer.chat_template), len(tokenizer), template_arguments]
        key = json.dumps(what, sort_keys=True)
        if key not in known:
            known[key] = cls(tokenizer, **template_arguments)
        return known[key]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is done otherwise than the template does by itself."""
        return self.layout(True).notes

    # ---- the gate -----------------------------------------------------------------------------

    def layout(self, system: bool) -> _Layout:
        """The pieces of a chat with or without a system turn."""
        if system not in self._layouts:
            self._layouts[system] = self._learn(system)
        return self._layouts[system]

    def _learn(self, system: bool) -> _Layout:
        template = self.tokenizer.chat_template
        code = _NO_CODE.sub("", template) if isinstance(template, str) else ""
        arguments = dict(self.arguments)
        for name in _SWITCHES:
            if re.search(rf"(?<![.\w]){name}\b", code):
                arguments.setdefault(name, False)
                break
        why = ""
        for folded in (False, True) if system else (False,):
            try:
                return self._try(system and not folded, folded, arguments)
            except DataError as exc:
                why = str(exc)  # without a system turn: what is wrong even then
        raise DataError(why)

    def _try(self, system: bool, folded: bool, arguments: dict[str, Any]) -> _Layout:
        head = ("system",) if system else ()
        turns = ("user", "assistant")
        roles = (*head, *turns, *turns, "user")
        whole = self._probe(roles, arguments, asking=True)
        first = self._probe((*head, "user"), arguments, asking=True)
        n = len(head)
        before, asked = whole.pieces[: n + 1], whole.pieces[-1]
        (opens, again), (ends, ends_again) = whole.pieces[n + 1 :: 2][:2], whole.pieces[n + 2 :: 2]
        who = _name(self.tokenizer)
        if opens != again or ends != ends_again:
            a, b = (opens, again) if opens != again else (ends, ends_again)
            raise DataError(
                f"the chat template of {who} writes a turn otherwise when more turns follow "
                f"({_show(a)} and {_show(b)}): what is asked would not be what is trained; use a "
                "template that writes every turn alike"
            )
        if first.pieces != (*before, asked):
            raise DataError(
                f"the chat template of {who} writes the first turn otherwise once the chat goes on "
                f"({_show(''.join(first.pieces))} and {_show(''.join((*before, asked)))}): what is "
                "asked would not be what is trained; use a template that writes every turn alike"
            )
        notes = [f"{k}={v}" for k, v in arguments.items() if k not in self.arguments]
        if folded:
            notes.append("system text in the first user turn")
        opening, note = asked, ""
        if opens.startswith(asked):
            opening = opens
            note = f"a reply is asked behind {_show(opens[len(asked) :])}"
        elif asked.startswith(opens):
            note = f"history keeps {_show(asked[len(opens) :])} before a reply"
        else:
            raise DataError(
                f"the chat template of {who} opens a reply with {_show(asked)} when it is asked "
                f"for and with {_show(opens)} in history; use a template that opens both alike"
            )
        thinks = any(self.arguments.get(name) for name in _SWITCHES)
        if (found := _REASONING.search(opening)) and not thinks:
            tag = found[1]
            opening = opening.rstrip() + "\n\n" + tag[0] + "/" + tag[1:] + "\n\n"
            note = f"the reasoning that {tag} opens is closed at once"
        if opening != opens or opening != asked:
            notes.append(note)
        closing, last = self._closing(roles[:-1], arguments, ends)
        if last:
            notes.append(f"a finished chat ends with {last}, a reply in it with {closing}")
        if self._apply(roles[-1:], ["x"], arguments, True, date(2031, 7, 19)) != self._apply(
            roles[-1:], ["x"], arguments, True
        ):
            notes.append(f"the date is {TODAY:%d %b %Y}")
        self._check_contents(head, whole, arguments)
        trims = dict(zip(roles, whole.trims, strict=True))
        if folded:
            trims["system"] = (False, False)
        between = ends[len(closing) :]
        return _Layout(before, folded, opening, closing, between, last, trims, tuple(notes))

    def _closing(
        self, roles: tuple[str, ...], arguments: dict[str, Any], ends: str
    ) -> tuple[str, str]:
        """The end-of-turn marker, and that of a finished chat's last reply if it is another."""
        try:
            finished = self._probe(roles, arguments, asking=False).pieces[-1]
        except DataError:
            finished = ""
        common = _common(ends, finished)
        found, other = self._control.search(ends), self._control.search(finished)
        if found and found.end() <= len(common):
            return common[: found.end()], ""
        if common and not (found and found.start() < len(common)):
            return common, ""
        if found and not ends[: found.start()].strip():
            last = other[0].strip() if other and other[0].strip() != found[0].strip() else ""
            return ends[: found.end()], last
        raise DataError(
            f"the chat template of {_name(self.tokenizer)} writes nothing after a reply that ends "
            f"it (then follows {_show(ends)}): a student could not learn to stop; use a template "
            "that closes the assistant's turn"
        )

    def _check_contents(
        self, head: tuple[str, ...], whole: _Skeleton, arguments: dict[str, Any]
    ) -> None:
        roles = (*head, "user", "assistant", "user", "assistant", "user")
        for words in _TRIES:
            contents = [*("Shop, as asked." for _ in head), *words, words[0]]
            actual = self._apply(roles, contents, arguments, True)
            want = whole.pieces[0]
            for number, (content, piece) in enumerate(zip(contents, whole.pieces[1:], strict=True)):
                want += _trim(content, whole.trims[number]) + piece
            if want != actual:
                at = len(_common(want, actual))
                raise DataError(
                    f"the chat template of {_name(self.tokenizer)} alters a content: expected "
                    f"{want[at : at + 40]!r}, it writes {actual[at : at + 40]!r}; use a template "
                    "that keeps contents as they are"
                )

    def _probe(
        self, roles: tuple[str, ...], arguments: dict[str, Any], *, asking: bool
    ) -> _Skeleton:
        marks = [f"{_OPEN}{i}{_CLOSE}" for i in range(len(roles))]
        text = self._apply(roles, [_PAD + mark + _PAD for mark in marks], arguments, asking)
        pieces, trims = [], []
        for number, mark in enumerate(marks):
            before, found, text = text.partition(mark)
            if not found or mark in text:
                raise DataError(
                    f"the chat template of {_name(self.tokenizer)} does not show message {number} "
                    f"({roles[number]}) exactly once and in order; set tokenizer.chat_template to "
                    "one that does"
                )
            left, right = not before.endswith(_PAD), not text.startswith(_PAD)
            pieces.append(before if left else before[: -len(_PAD)])
            text = text if right else text[len(_PAD) :]
            trims.append((left, right))
        return _Skeleton((*pieces, text), tuple(trims))

    def _apply(
        self,
        roles: Sequence[str],
        contents: Sequence[str],
        arguments: dict[str, Any],
        asking: bool,
        today: date = TODAY,
    ) -> str:
        from jinja2 import TemplateError

        chat = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
        who = _name(self.tokenizer)
        try:
            return self.tokenizer.apply_chat_template(
                chat,
                tokenize=False,
                add_generation_prompt=asking,
                strftime_now=today.strftime,
                **arguments,
            )
        except TemplateError as exc:
            raise DataError(
                f"the chat template of {who} rejects the roles {', '.join(roles)}: {exc}"
            ) from exc
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise DataError(
                f"{who} has no usable chat template: {exc}; use an instruction-tuned model or set "
                "tokenizer.chat_template"
            ) from exc

    # ---- text to tokens -----------------------------------------------------------------------

    def encode(self, messages: Sequence[Message]) -> ChatTokens:
        """A chat that ends with a reply, for training.

        Raises:
            DataError: it is empty, or its roles do not take turns.
        """
        parts = self._parts(messages, asking=False)
        runs = self._cut(parts)
        self._learn_runs([run for run in runs if not run.reply])
        starts = np.cumsum([0, *(len(p.text) for p in parts)])
        ids, ends, at = [], [], 0
        for run in runs:
            found, offsets = self._tokens(run)
            ids.append(found)
            ends.append(offsets + at)
            at += len(run.text)
        last = np.concatenate(ends)
        # a token belongs to the part that has its last character
        of = np.searchsorted(starts, np.maximum(last - 1, 0), "right") - 1
        return ChatTokens(
            "".join(p.text for p in parts),
            np.concatenate(ids).astype(np.int32),
            last.astype(np.int32),
            np.array([p.message for p in parts], np.int16)[of],
            np.array([p.closes for p in parts])[of],
        )

    def prompts(self, chats: Sequence[Sequence[Message]]) -> list[np.ndarray]:
        """Token ids (int64, 1-D) of each chat, ending with the opening of the assistant's turn."""
        cut = [self._cut(self._parts(chat, asking=True)) for chat in chats]
        self._learn_runs([run for runs in cut for run in runs if not run.reply])
        return [np.concatenate([self._tokens(run)[0] for run in runs]) for runs in cut]

    def _parts(self, messages: Sequence[Message], *, asking: bool) -> list[_Part]:
        roles = [m.role for m in messages]
        system = roles[:1] == ["system"]
        turns = roles[1:] if system else roles
        expected = [("user", "assistant")[i % 2] for i in range(len(turns))]
        if not turns or turns != expected or (len(turns) % 2 == 1) != asking:
            end = "user" if asking else "assistant"
            raise DataError(
                f"a chat is user and assistant in turn, after at most one system message, and ends "
                f"with {end}; this one is {', '.join(roles) or 'empty'}"
            )
        layout = self.layout(system)
        sampled = [self._sampled(m) for m in messages]
        texts = [
            m.content if ids else _trim(m.content, layout.trims[m.role])
            for m, ids in zip(messages, sampled, strict=True)
        ]
        out = [_Part(layout.start[0])]
        if system:
            out.append(_Part(texts[0], 0, template=False))
            out.append(_Part("\n\n" if layout.folded else layout.start[1]))
        for i, (role, text) in enumerate(zip(roles, texts, strict=True)):
            if role == "user":
                out += [_Part(text, i, template=False), _Part(layout.opening)]
            elif role == "assistant":
                out.append(_Part(text, i, template=False, alone=True, ids=sampled[i]))
                out.append(_Part(layout.closing, i, closes=True, alone=True))
                if i < len(roles) - 1:
                    out.append(_Part(layout.between))
        return out

    def _cut(self, parts: Sequence[_Part]) -> list[_Run]:
        """What is tokenised apart, in order.

        Cuts lie around the template's control tokens, around replies, and inside what looks like a
        control token and is none.
        """
        runs: list[_Run] = []
        text = ""
        for part in parts:
            if part.alone:
                runs += self._harmless(text)
                text = ""
            at = 0
            for found in self._control.finditer(part.text) if part.template else ():
                runs += self._harmless(text + part.text[at : found.start()])
                runs.append(_Run(found[0], control=True))
                text, at = "", found.end()
            text += part.text[at:]
            if part.ids:
                runs.append(_Run(part.text, reply=True, ids=part.ids))
                text = ""
            elif part.alone:
                runs += self._harmless(text, reply=not part.template)
                text = ""
        return [*runs, *self._harmless(text)]

    def _harmless(self, text: str, reply: bool = False) -> list[_Run]:
        out: list[_Run] = []
        while found := self._control.search(text):
            inside = found.end() - len(found[0].lstrip()) + 1
            out.append(_Run(text[:inside], reply=reply and not out))
            text = text[inside:]
        return [*out, _Run(text, reply=reply and not out)] if text else out

    def _tokens(self, run: _Run) -> tuple[np.ndarray, np.ndarray]:
        """(n,) ids and (n,) ends of a run's tokens."""
        if run.ids:
            return np.array(run.ids), self._ends(run.text, run.ids)
        if run.reply:
            return self._reply(run.text)
        if run not in self._runs:
            self._learn_runs([run])
        return self._runs[run]

    def _learn_runs(self, runs: Sequence[_Run]) -> None:
        """Tokenise many runs in one go."""
        missing = list({run for run in runs if run not in self._runs})
        self._held += sum(len(run.text) for run in missing)
        if self._held > _MEMORY and self._runs:
            self._runs, missing = {}, list(set(runs))
            self._held = sum(len(run.text) for run in missing)
        for run in missing:
            if run.control:
                number = self._added.get(run.text, self._added.get(run.text.strip()))
                self._runs[run] = np.array([number]), np.array([len(run.text)])
        plain = [run for run in missing if not run.control]
        for run, found in zip(plain, self._behind("", [r.text for r in plain]), strict=True):
            self._runs[run] = found

    def _behind(self, context: str, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ids and ends of each text as it stands behind a control token and `context`.

        Some tokenizers write the start of a text otherwise than its middle. Where a merge crosses
        the boundary (not with the usual templates), a text is tokenised by itself.
        """
        if not texts:
            return []
        before = self._before + context
        known = self._ids_of([before])[0] if before else []
        out = self.tokenizer(
            [before + text for text in texts], add_special_tokens=False, return_offsets_mapping=True
        )
        found = []
        for text, ids, offsets in zip(texts, out["input_ids"], out["offset_mapping"], strict=True):
            skip, n = len(before), len(known)
            if ids[:n] != known:
                alone = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
                ids, offsets, skip, n = alone["input_ids"], alone["offset_mapping"], 0, 0
            ends = np.array([b for _, b in offsets[n:]], np.int64) - skip
            found.append((np.array(ids[n:], np.int64), np.maximum.accumulate(ends)))
        return found

    def _reply(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        if text not in self._replies:
            self.learn([text])
        return self._replies[text]

    def learn(self, texts: Sequence[str]) -> None:
        """Tokenise many replies in one go, for `continuation` to find."""
        if len(self._replies) > 200_000:
            self._replies.clear()
        new = [t for t in dict.fromkeys(texts) if t not in self._replies]
        self._replies |= dict(zip(new, self._behind(self._context, new), strict=True))

    def continuation(self, text: str) -> tuple[int, ...]:
        """Ids of a reply `text` as it follows the opening of the assistant's turn."""
        return tuple(self._reply(text)[0].tolist())

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the vocabulary: equal ones mean the same by an id."""
        return content_hash(self.tokenizer.get_vocab())

    def sampled(self, text: str, ids: Sequence[int]) -> tuple[int, ...] | None:
        """`ids` of a reply, if history must hold them: tokenising its `text` gives others.

        None where they do not spell the text, or where a control token is among them: history is
        then the text, in which none can be.
        """
        trims = self.layout(True).trims["assistant"]
        if not ids or tuple(ids) == self.continuation(_trim(text, trims)):
            return None
        control = {i for token, i in self._added.items() if token.strip()}
        if not control.isdisjoint(ids) or min(ids) < 0 or max(ids) >= len(self.tokenizer):
            return None
        return tuple(ids) if self.decode(ids) == text else None

    def _sampled(self, message: Message) -> tuple[int, ...] | None:
        if message.ids is None or message.tokenizer != self.fingerprint:
            return None
        return self.sampled(message.content, message.ids)

    def _ends(self, text: str, ids: tuple[int, ...]) -> np.ndarray:
        """(n,) where the text of each token ends; the first has a character, the last the rest."""
        starts = self.tokenizer.batch_decode(
            [ids[:n] for n in range(1, len(ids) + 1)], clean_up_tokenization_spaces=False
        )
        ends = np.clip([len(start) for start in starts], 1, len(text))
        ends[-1] = len(text)
        return np.maximum.accumulate(ends)

    @cached_property
    def closing_ids(self) -> tuple[int, ...]:
        """Ids that end the assistant's turn."""
        return tuple(
            int(i)
            for run in self._cut([_Part(self.closing, alone=True)])
            for i in self._tokens(run)[0]
        )

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Single tokens that end a reply: the marker, the end of text, the end of a chat."""
        out = set(self.closing_ids) if len(self.closing_ids) == 1 else set()
        if self.tokenizer.eos_token_id is not None:
            out.add(int(self.tokenizer.eos_token_id))
        last = self._added.get(self.layout(True).last)
        return frozenset(out if last is None else {*out, last})

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

    def _tail(self, text: str) -> str:
        """What follows the last control token of `text`."""
        found = [m.end() for m in self._control.finditer(text)]
        return text[found[-1] :] if found else text

    def _ids_of(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def as_chat(tokenizer: Any) -> Chat:
    """The `Chat` of a tokenizer; a `Chat` is one already."""
    return tokenizer if isinstance(tokenizer, Chat) else Chat.of(tokenizer)


def _trim(text: str, sides: tuple[bool, bool]) -> str:
    text = text.lstrip() if sides[0] else text
    return text.rstrip() if sides[1] else text


def _common(a: str, b: str) -> str:
    """The longest common prefix."""
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    return a[: min(len(a), len(b)) if at is None else at]


def _show(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}")


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
