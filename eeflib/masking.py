"""Sample -> input_ids, labels and a reason per token; the invariants of the loss mask.

Owns which token carries loss, and refuses a sample where that cannot be done right. Knows nothing
about where samples come from, nor about models.

Method: the chat is rendered as text, each message's place in it is known (`eeflib.policies.chat`),
and a token belongs to the message its characters lie in. Labels are never made by comparing ids
(with SmolLM2 the padding token *is* the end-of-turn token). Three facts are kept apart: where a
token came from (`reasons`, `steps`), that it is in the context (it is in `input_ids`), and whether
it is trained (`labels`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from eeflib.encoded import IGNORE, Dropped, Encoded, EncodedSet, Reason
from eeflib.errors import DataError
from eeflib.policies.chat import RenderedChat, render_chat
from eeflib.prompts import PromptFormat
from eeflib.records import Sample

__all__ = [
    "IGNORE",
    "Dropped",
    "Encoded",
    "EncodedSet",
    "Reason",
    "Unusable",
    "describe_tokens",
    "encode_sample",
    "encode_samples",
]


class Unusable(DataError):
    """This sample cannot be trained on (too long, nothing to train); others may be."""

    def __init__(self, message: str, reason: str, length: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.length = length


def encode_sample(
    sample: Sample,
    fmt: PromptFormat,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    train_end: bool = True,
    allow_harmful: bool = False,
) -> Encoded:
    """Tokens of `sample` with loss on the replies of its trained steps only.

    With a `thoughts` format the whole reply (thought and action) of a trained step carries loss.
    A blank reply carries none: nobody should learn to say nothing. Steps after the last trained
    one are left out, so no trained token is ever cut.

    Args:
        sample: N steps with N trained flags and labels.
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        max_length: most tokens allowed; None for no limit.
        train_end: train the end-of-turn marker after each trained reply.
        allow_harmful: accept trained steps labelled harmful or unknown. For the ablations that
            are about just that (SFT on everything, EEF without masking).

    Raises:
        Unusable: longer than `max_length`, or no token would be trained.
        DataError: the sample breaks a rule (METHOD, invariants), or template and tokenizer do not
            allow telling trained and untrained text apart.
    """
    _check(sample, allow_harmful)
    where = f"sample {sample.id!r}"
    trained = [
        t for t, on in enumerate(sample.trained) if on and fmt.reply(sample.steps[t]).strip()
    ]
    if not trained:
        raise Unusable(
            f"{where} trains no token: no trained step has a reply; leave it out",
            "nothing trained",
            0,
        )
    steps = sample.steps[: trained[-1] + 1]
    messages = fmt.messages(sample.instruction, steps)
    chat = render_chat(tokenizer, messages)
    segments = _segments(sample, fmt, chat, [m.role for m in messages], set(trained), train_end)
    ids, offsets = _tokenize(tokenizer, chat.text)
    owner = _owners(offsets, segments, chat.text, where)

    on = np.array([s.trained for s in segments])[owner]
    kept = int(np.flatnonzero(on)[-1]) + 1 if on.any() else 0
    ids, owner, on = ids[:kept], owner[:kept], on[:kept]
    encoded = Encoded(
        sample.id,
        chat.text,
        ids,
        np.where(on, ids, IGNORE).astype(np.int32),
        np.array([s.reason for s in segments], np.uint8)[owner],
        np.array([s.step for s in segments], np.int16)[owner],
    )
    missing = set(trained) - set(encoded.steps[1:][on[1:]].tolist())
    if missing:
        raise DataError(
            f"{where}: the reply of trained step {min(missing)} has no token of its own in the "
            "rendered chat; use another chat template"
        )
    if max_length is not None and kept > max_length:
        raise Unusable(
            f"{where} has {kept} tokens up to its last trained action, more than max_length = "
            f"{max_length}; raise max_length or drop the sample (a trained action is never cut)",
            "too long",
            kept,
        )
    return encoded


def encode_samples(
    samples: Iterable[Sample],
    fmt: PromptFormat,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    train_end: bool = True,
    allow_harmful: bool = False,
    progress: bool = False,
) -> EncodedSet:
    """`encode_sample` for all; an unusable sample is dropped, and listed with its reason.

    Raises:
        DataError: as `encode_sample`, for anything but an unusable sample.
    """
    items: list[Encoded] = []
    dropped: list[Dropped] = []
    for sample in tqdm(samples, desc="encode", unit="sample", disable=not progress):
        try:
            items.append(
                encode_sample(
                    sample,
                    fmt,
                    tokenizer,
                    max_length=max_length,
                    train_end=train_end,
                    allow_harmful=allow_harmful,
                )
            )
        except Unusable as exc:
            dropped.append(Dropped(sample.id, exc.reason, exc.length, str(exc)))
    return EncodedSet(tuple(items), tuple(dropped))


def describe_tokens(encoded: Encoded, tokenizer: Any) -> list[tuple[str, Reason, bool]]:
    """Per token its text, where it came from and whether it is trained, for the loss-mask view.

    The texts join to the rendered chat up to its last trained token: blanks that a tokenizer skips
    stand with the token after them, the later bytes of one character are empty.

    Raises:
        DataError: `tokenizer` is not the one that encoded the sample.
    """
    ids, offsets = _tokenize(tokenizer, encoded.text)
    n = encoded.length
    if not np.array_equal(ids[:n], encoded.input_ids):
        raise DataError(
            f"sample {encoded.sample_id!r} was encoded with another tokenizer; pass that one"
        )
    ends = np.maximum.accumulate(offsets[:n, 1])
    starts = np.concatenate([[0], ends[:-1]])
    return [
        (encoded.text[a:b], Reason(int(reason)), bool(label != IGNORE))
        for a, b, reason, label in zip(starts, ends, encoded.reasons, encoded.labels, strict=True)
    ]


@dataclass(frozen=True)
class _Segment:
    """A stretch of the rendered chat that has one origin; it reaches to the next one's start."""

    start: int
    reason: Reason
    step: int = -1
    trained: bool = False


def _check(sample: Sample, allow_harmful: bool) -> None:
    for t, (on, label) in enumerate(zip(sample.trained, sample.labels, strict=True)):
        if on and label in ("harmful", "unknown") and not allow_harmful:
            raise DataError(
                f"sample {sample.id!r} trains step {t}, whose action is labelled {label}; only an "
                "ablation may: clear its trained flag or pass allow_harmful=True"
            )


def _segments(
    sample: Sample,
    fmt: PromptFormat,
    chat: RenderedChat,
    roles: Sequence[str],
    trained: set[int],
    train_end: bool,
) -> list[_Segment]:
    """The rendered chat cut into stretches, in order, from character 0 on."""
    step_of = {fmt.reply_index(t): t for t in range(len(sample.steps))}
    out = [_Segment(0, Reason.TEMPLATE)]
    for number, (role, (start, end), marker_end) in enumerate(
        zip(roles, chat.spans, chat.ends, strict=True)
    ):
        t = step_of.get(number, step_of.get(number + 1, -1))
        on = role == "assistant" and t in trained
        if role == "system":
            out.append(_Segment(start, Reason.SYSTEM))
        elif role == "user":
            out.append(_Segment(start, Reason.OBSERVATION, t))
        else:
            out.append(_Segment(start, _action_reason(sample.labels[t], on), t, on))
        if on and train_end:
            out.append(_Segment(end, Reason.END_OF_ACTION, t, True))
            out.append(_Segment(marker_end, Reason.TEMPLATE))
        else:
            out.append(_Segment(end, Reason.TEMPLATE))
    kept = [a for a, b in itertools.pairwise(out) if a.start < b.start]
    return [*kept, out[-1]]


def _action_reason(label: str, trained: bool) -> Reason:
    if label == "harmful":
        return Reason.HARMFUL_ACTION
    if label == "unknown":
        return Reason.UNKNOWN_ACTION
    return Reason.TRAINED_ACTION if trained else Reason.CONTEXT_ACTION


def _tokenize(tokenizer: Any, text: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,) int32 ids and (n, 2) character ranges; the template already holds special tokens."""
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"{type(tokenizer).__name__} gives no character offsets; load a fast tokenizer "
            "(AutoTokenizer.from_pretrained(..., use_fast=True))"
        )
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.array(out["input_ids"], np.int32)
    return ids, np.array(out["offset_mapping"], np.int64).reshape(-1, 2)


def _owners(offsets: np.ndarray, segments: Sequence[_Segment], text: str, where: str) -> np.ndarray:
    """(n,) index of the segment each token belongs to."""
    starts = np.array([s.start for s in segments])
    first = np.searchsorted(starts, offsets[:, 0], "right") - 1
    last = np.searchsorted(starts, np.maximum(offsets[:, 1] - 1, offsets[:, 0]), "right") - 1
    for i in np.flatnonzero(offsets[:, 0] == offsets[:, 1]):
        if starts[first[i]] == offsets[i, 0] > 0:  # a skipped blank before it: not its own text
            first[i] -= 1
    for i in np.flatnonzero((first != last) & (offsets[:, 0] < offsets[:, 1])):
        first[i] = _owner_of_straddler(offsets[i], segments, text, where)
    return first


def _owner_of_straddler(
    offset: np.ndarray, segments: Sequence[_Segment], text: str, where: str
) -> int:
    """A token over several segments belongs to the one that has its visible characters."""
    a, b = int(offset[0]), int(offset[1])
    bounds = [*(s.start for s in segments), len(text)]
    touched = [i for i in range(len(segments)) if bounds[i] < b and bounds[i + 1] > a]
    visible = [i for i in touched if text[max(a, bounds[i]) : min(b, bounds[i + 1])].strip()]
    visible = visible or sorted(touched, key=lambda i: segments[i].trained)[:1]
    if len({segments[i].trained for i in visible}) > 1:
        raise DataError(
            f"{where}: the token {text[a:b]!r} holds text of a trained action and text that must "
            "not be trained; use a chat template that separates them by a special token or a blank"
        )
    return visible[0]
