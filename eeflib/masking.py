"""Sample -> input_ids, labels and a reason per token; the invariants of the loss mask.

Import `encode_samples` and `EncodedSet` from here. A sample that cannot be trained on is dropped
and counted; one that breaks a rule is refused.

Method: `eeflib.policies.chat` writes a chat as tokens and says which message each belongs to; a
reply has tokens of its own, shared with no text around it. Labels are never made by comparing ids
(with SmolLM2 the padding token *is* the end-of-turn token). Three facts are kept apart: where a
token came from (`reasons`, `steps`), that it is in the context (it is in `input_ids`), and whether
it is trained (`labels`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from eeflib.errors import DataError, PrerequisiteError
from eeflib.policies.chat import Chat, as_chat
from eeflib.prompts import HINTS, PromptFormat
from eeflib.records import Sample

IGNORE = -100
"""Label of a token without loss."""


class Reason(IntEnum):
    """Where a token came from."""

    TEMPLATE = 0
    SYSTEM = 1
    OBSERVATION = 2
    """A user turn: the instruction and what the environment showed."""
    CONTEXT_ACTION = 3
    """A reply that is only context."""
    TRAINED_ACTION = 4
    """A reply that carries loss: beneficial, or the student's own."""
    END_OF_ACTION = 5
    """The end-of-turn marker after a trained reply: the policy must emit it."""
    HARMFUL_ACTION = 6
    UNKNOWN_ACTION = 7


@dataclass(frozen=True, eq=False)
class Encoded:
    """One training sequence of n tokens; it ends with the last trained token."""

    sample_id: str
    text: str
    """The rendered chat the tokens were read from."""
    input_ids: np.ndarray
    """(n,) int32."""
    labels: np.ndarray
    """(n,) int32: the token's own id where it is trained, else -100. Not shifted."""
    reasons: np.ndarray
    """(n,) uint8, values of `Reason`."""
    steps: np.ndarray
    """(n,) int16: step of the sample the token belongs to, -1 for system text and template."""
    ends: np.ndarray
    """(n,) int32: where the token's text ends in `text`."""

    @property
    def length(self) -> int:
        return len(self.input_ids)

    @property
    def trained_tokens(self) -> int:
        """Tokens that carry loss (the first token has nothing to be predicted from)."""
        return int((self.labels[1:] != IGNORE).sum())

    @property
    def counts(self) -> dict[str, int]:
        """Tokens per reason, by its lower-case name."""
        found = Counter(self.reasons.tolist())
        return {reason.name.lower(): found[reason.value] for reason in Reason}


@dataclass(frozen=True)
class Dropped:
    """A sample that is not trained on."""

    sample_id: str
    reason: str
    """`too long` or `nothing trained`."""
    length: int
    """Tokens up to its last trained one."""
    detail: str


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """What a training reads."""

    items: tuple[Encoded, ...]
    dropped: tuple[Dropped, ...] = ()
    origin: str = ""
    """METHOD/iter-I that the samples are for."""
    notes: dict[str, int] = field(default_factory=dict)
    """Numbers of the selection they come from."""
    paired: bool = False
    """Items 2i and 2i + 1 are the better and the worse way on from one state: the training prefers
    the one to the other (DPO)."""
    hint: str = ""
    """What the student is to be told after the instruction once it is trained on this."""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Encoded]:
        return iter(self.items)

    @cached_property
    def counts(self) -> dict[str, int]:
        """`samples`, `tokens`, `trained_tokens`, tokens per reason, `dropped: REASON`."""
        out = {
            "samples": len(self.items),
            "tokens": sum(e.length for e in self.items),
            "trained_tokens": sum(e.trained_tokens for e in self.items),
        }
        each = [item.counts for item in self.items]
        out.update({r.name.lower(): sum(x[r.name.lower()] for x in each) for r in Reason})
        out.update({f"dropped: {k}": n for k, n in Counter(d.reason for d in self.dropped).items()})
        return out

    @property
    def hash(self) -> str:
        """First 16 hex digits of a SHA-256 over ids and labels in order: all that training sees."""
        out = hashlib.sha256()
        for item in self.items:
            out.update(np.int64(item.length).tobytes())
            out.update(np.ascontiguousarray(item.input_ids, np.int32).tobytes())
            out.update(np.ascontiguousarray(item.labels, np.int32).tobytes())
        return out.hexdigest()[:16]

    def to_dataset(self) -> Any:
        """A `datasets.Dataset`, a row per sample: `input_ids`, `labels`, `attention_mask` (lists of
        its length), `sample_id`.

        `trl.SFTTrainer` trains on it as it is, with `SFTConfig(dataset_kwargs={
        "skip_prepare_dataset": True})`: its preparation would cut samples at 1,024 tokens.

        Raises:
            PrerequisiteError: the package `datasets` is not installed.
            DataError: the samples are pairs: what a trainer of single samples would imitate.
        """
        if self.paired:
            raise DataError(
                "pairs are no data set of samples to imitate: train on them with eef.train"
            )
        try:
            from datasets import Dataset
        except ImportError as exc:
            raise PrerequisiteError(
                f"to_dataset needs the package datasets ({exc}): pip install datasets"
            ) from exc
        columns: dict[str, list[Any]] = {
            "input_ids": [e.input_ids for e in self.items],
            "labels": [e.labels for e in self.items],
            "attention_mask": [np.ones(e.length, np.int8) for e in self.items],
            "sample_id": [e.sample_id for e in self.items],
        }
        return Dataset.from_dict(columns)


class Unusable(DataError):
    """This sample cannot be trained on (too long, nothing to train); others may be."""

    def __init__(self, dropped: Dropped) -> None:
        super().__init__(dropped.detail)
        self.dropped = dropped


def trained_steps(sample: Sample, fmt: PromptFormat, *, allow_harmful: bool = False) -> list[int]:
    """The steps of `sample` whose replies carry loss; one without a reply carries none.

    Raises:
        Unusable: there are none.
        DataError: it trains a harmful or unknown action, and may not.
    """
    _check(sample, allow_harmful)
    out = [t for t, on in enumerate(sample.trained) if on and fmt.reply(sample.steps[t]).strip()]
    if not out:
        why = f"sample {sample.id!r} trains no token: no trained step has a reply; leave it out"
        raise Unusable(Dropped(sample.id, "nothing trained", 0, why))
    return out


def encode_sample(
    sample: Sample,
    fmt: PromptFormat,
    tokenizer: Chat | Any,
    *,
    max_length: int | None = None,
    allow_harmful: bool = False,
) -> Encoded:
    """Tokens of `sample` with loss on the replies of its trained steps only.

    With a `thoughts` format the whole reply (thought and action) of a trained step carries loss.
    A blank reply carries none: an empty reply is nothing to learn. Steps after the last trained
    one are left out, so no trained token is ever cut.

    Args:
        sample: N steps with N trained flags and labels.
        tokenizer: a fast Hugging Face tokenizer with a chat template, or its `Chat`.
        max_length: most tokens allowed; None for no limit.
        allow_harmful: accept trained steps labelled harmful or unknown. For the ablations that
            are about just that (SFT on everything, EEF without masking).

    Raises:
        Unusable: longer than `max_length`, or no token would be trained.
        DataError: the sample breaks a rule (METHOD, invariants), or template and tokenizer do not
            allow telling trained and untrained text apart.
    """
    trained = trained_steps(sample, fmt, allow_harmful=allow_harmful)
    where = f"sample {sample.id!r}"
    steps = sample.steps[: trained[-1] + 1]
    written = as_chat(tokenizer).encode(fmt.messages(sample.instruction, steps, hint=sample.hint))
    step_of = {fmt.reply_index(t): t for t in range(len(steps))}
    reasons, steps_of, on = [], [], []  # per message, the template's own text last
    for number in range(fmt.reply_index(len(steps) - 1) + 1):
        t = step_of.get(number, step_of.get(number + 1, -1))
        reply = number in step_of
        on.append(reply and t in trained)
        plain = Reason.TRAINED_ACTION if on[-1] else Reason.CONTEXT_ACTION
        other = Reason.OBSERVATION if t >= 0 else Reason.SYSTEM
        reasons.append(_REPLY.get(sample.labels[t], plain) if reply else other)
        steps_of.append(t)
    reasons, steps_of, on = [*reasons, Reason.TEMPLATE], [*steps_of, -1], [*on, False]

    owner = written.message
    carries = np.array(on)[owner]
    reason = np.array(reasons, np.uint8)[owner]
    reason[written.closes] = np.where(
        carries[written.closes], Reason.END_OF_ACTION, Reason.TEMPLATE
    )
    step = np.where(written.closes & ~carries, -1, np.array(steps_of)[owner]).astype(np.int16)
    kept = int(np.flatnonzero(carries)[-1]) + 1 if carries.any() else 0
    ids, on_tokens = written.ids[:kept], carries[:kept]
    encoded = Encoded(
        sample.id,
        written.text,
        ids,
        np.where(on_tokens, ids, IGNORE).astype(np.int32),
        reason[:kept],
        step[:kept],
        written.ends[:kept],
    )
    missing = set(trained) - set(encoded.steps[1:][on_tokens[1:]].tolist())
    if missing:
        raise DataError(
            f"{where}: the reply of trained step {min(missing)} has no token of its own in the "
            "rendered chat; use another chat template"
        )
    if max_length is not None and kept > max_length:
        why = (
            f"{where} has {kept} tokens up to its last trained action, more than max_length = "
            f"{max_length}; raise max_length or drop the sample (a trained action is never cut)"
        )
        raise Unusable(Dropped(sample.id, "too long", kept, why))
    return encoded


def encode_samples(
    samples: Iterable[Sample],
    fmt: PromptFormat,
    tokenizer: Chat | Any,
    *,
    max_length: int | None = None,
    allow_harmful: bool = False,
    progress: bool = False,
) -> EncodedSet:
    """`encode_sample` for all; an unusable sample is dropped, and listed with its reason. What is
    the pair of one (`Sample.kind`) goes with it.

    Raises:
        DataError: as `encode_sample`, for anything but an unusable sample; a chosen or a rejected
            sample without the other.
    """
    options: dict[str, Any] = {"max_length": max_length, "allow_harmful": allow_harmful}
    items: list[Encoded] = []
    dropped: list[Dropped] = []
    chosen: Sample | None = None
    paired, hinted = False, False
    for sample in tqdm(samples, desc="encode", unit="sample", disable=not progress):
        paired, hinted = paired or sample.kind == "rejected", hinted or bool(sample.hint)
        if (chosen is not None) != (sample.kind == "rejected"):
            raise _alone(sample if chosen is None else chosen)
        if sample.kind == "chosen":
            chosen = sample
            continue
        together = [sample] if chosen is None else [chosen, sample]
        chosen = None
        try:
            items += [encode_sample(s, fmt, tokenizer, **options) for s in together]
        except Unusable as exc:
            dropped.append(exc.dropped)
    if chosen is not None:
        raise _alone(chosen)
    hint = HINTS[True] if hinted else ""
    return EncodedSet(tuple(items), tuple(dropped), paired=paired, hint=hint)


def _alone(sample: Sample) -> DataError:
    return DataError(
        f"sample {sample.id!r} is {sample.kind} and stands alone: a chosen sample and its rejected "
        "one follow each other; keep or leave out both"
    )


def describe_tokens(encoded: Encoded) -> list[tuple[str, Reason, bool]]:
    """Per token its text, where it came from and whether it is trained, for the loss-mask view.

    The texts join to the rendered chat up to its last trained token: blanks that a tokenizer skips
    belong to the token after them, the later bytes of one character are empty.
    """
    starts = np.concatenate([[0], encoded.ends[:-1]])
    return [
        (encoded.text[a:b], Reason(int(reason)), bool(label != IGNORE))
        for a, b, reason, label in zip(
            starts, encoded.ends, encoded.reasons, encoded.labels, strict=True
        )
    ]


def _check(sample: Sample, allow_harmful: bool) -> None:
    for t, (on, label) in enumerate(zip(sample.trained, sample.labels, strict=True)):
        if on and label in ("harmful", "unknown") and not allow_harmful:
            raise DataError(
                f"sample {sample.id!r} trains step {t}, whose action is labelled {label}; only an "
                "ablation may: clear its trained flag or pass allow_harmful=True"
            )


_REPLY = {"harmful": Reason.HARMFUL_ACTION, "unknown": Reason.UNKNOWN_ACTION}
