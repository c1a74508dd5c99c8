"""Annotations of trajectories by people: labels, notes, corrected labels of segments.

Import `Annotations` to read and write those of a run. They are kept in
`RUN/annotations/log.ndjson`, where nothing is ever changed or deleted: every annotation is a line
with its author and time, and taking one back is another line. So kernels that write at the same
time lose nothing. A correction changes what the views show, not what was trained. The file has a
lock of its own: a run may be annotated while it is still being written.
"""

from __future__ import annotations

import getpass
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import pandas as pd
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from eeflib.analysis.segments import Segment
from eeflib.errors import DataError
from eeflib.files import ReadReport, RunLock, append_lines, read_objects
from eeflib.records import Label, Record, canonical_json

SEGMENT_LABELS: tuple[Label, ...] = ("beneficial", "harmful", "unknown")
"""Labels a person may give to a segment."""

LONGEST = 20_000
"""Characters of a note at most."""

_PATIENCE = 15.0
"""Seconds to wait for another kernel that is writing."""


class Key(NamedTuple):
    """Names a trajectory within a run: ids alone repeat from seed to seed."""

    seed: int
    method: str
    """`teacher`, or the student's method."""
    iteration: int
    id: str


@dataclass(frozen=True)
class Annotation(Record):
    """What one person wrote about a trajectory or some of its actions."""

    id: str
    seed: int
    method: str
    iteration: int
    trajectory_id: str
    kind: Literal["label", "note", "segment", "retract"]
    author: str
    time: str
    """UTC, ISO 8601."""
    text: str = ""
    """The label or the note; of a segment its new label; of a retraction nothing."""
    start: int | None = None
    """First action it is about, from 0; None: the whole trajectory."""
    stop: int | None = None
    """After the last action it is about."""
    of: str = ""
    """Id of what is taken back."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of other versions."""

    @property
    def key(self) -> Key:
        """The trajectory it is about."""
        return Key(self.seed, self.method, self.iteration, self.trajectory_id)

    @property
    def day(self) -> str:
        """`2026-11-22 14:03`, UTC."""
        return self.time[:16].replace("T", " ")


class Annotations:
    """The annotations of a run: read as they are now, also what other kernels wrote meanwhile."""

    def __init__(self, folder: str | Path, author: str | None = None) -> None:
        """Touches no file yet.

        Args:
            folder: the run folder.
            author: who annotates; None: `EEFLIB_AUTHOR`, else the name of the user.
        """
        self.path = Path(folder) / "annotations" / "log.ndjson"
        self.author = author or os.environ.get("EEFLIB_AUTHOR") or _user()
        self.problems: list[str] = []
        """Lines of the file that could not be read when it was last looked at."""

    def all(self) -> list[Annotation]:
        """The annotations of all trajectories, in the order written, without retracted ones."""
        report, lines = ReadReport(), []
        for number, data in read_objects(self.path, report) if self.path.is_file() else ():
            try:
                lines.append(Annotation.from_dict(data))
            except DataError as exc:
                report.skip(self.path, number, str(exc))
        self.problems = [str(s) for s in report.skipped]
        gone = {a.of for a in lines if a.kind == "retract"}
        return [a for a in lines if a.kind != "retract" and a.id not in gone]

    def of(self, key: Key) -> list[Annotation]:
        """The annotations of one trajectory, in the order written."""
        return [a for a in self.all() if a.key == key]

    def by_key(self) -> dict[Key, list[Annotation]]:
        """The annotations by trajectory."""
        out: dict[Key, list[Annotation]] = {}
        for a in self.all():
            out.setdefault(a.key, []).append(a)
        return out

    def labels(self) -> list[str]:
        """Labels in use, the most frequent first."""
        used = Counter(sorted(a.text for a in self.all() if a.kind == "label"))
        return [text for text, _ in used.most_common()]

    def frame(self) -> pd.DataFrame:
        """One row per annotation that is not retracted."""
        names = ["seed", "method", "iteration", "trajectory_id", "kind", "text", "start", "stop"]
        rows = [[getattr(a, n) for n in (*names, "author", "time", "id")] for a in self.all()]
        return pd.DataFrame(rows, columns=[*names, "author", "time", "annotation_id"])

    def add_label(self, key: Key, text: str, span: tuple[int, int] | None = None) -> Annotation:
        """Put a label, such as `misread the goal`, on a trajectory or on actions start..stop-1.

        Raises:
            DataError: no text, or the file cannot be written.
        """
        return self._add(key, "label", text, span)

    def add_note(self, key: Key, text: str, span: tuple[int, int] | None = None) -> Annotation:
        """Put a note; otherwise as `add_label`."""
        return self._add(key, "note", text, span)

    def correct(self, key: Key, label: str, span: tuple[int, int]) -> Annotation:
        """Say that actions start..stop-1 are `label`, whatever exploration found.

        Raises:
            DataError: no label of segments, no action in the span, or the file cannot be written.
        """
        if label not in SEGMENT_LABELS:
            raise DataError(
                f"{label!r} is no label of a segment; choose {', '.join(SEGMENT_LABELS)}"
            )
        return self._add(key, "segment", label, span)

    def retract(self, annotation: Annotation) -> None:
        """Take an annotation back; it stays in the file."""
        self._add(annotation.key, "retract", "", None, of=annotation.id)

    def _add(
        self,
        key: Key,
        kind: Literal["label", "note", "segment", "retract"],
        text: str,
        span: tuple[int, int] | None,
        of: str = "",
    ) -> Annotation:
        text = text.strip()
        if not text and kind != "retract":
            raise DataError(f"an empty {kind} says nothing: write something first")
        if len(text) > LONGEST:
            raise DataError(f"a {kind} may have {LONGEST:,} characters, this has {len(text):,}")
        if span is not None and not 0 <= span[0] < span[1]:
            raise DataError(f"actions {span[0]} to {span[1]} are none: start before stop, from 0")
        start, stop = span or (None, None)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        made = Annotation(
            uuid.uuid4().hex, *key[:3], key.id, kind, self.author, now, text, start, stop, of
        )
        append(self.path, [canonical_json(made.to_dict())])
        return made


def corrected(
    parts: Sequence[Segment], annotations: Iterable[Annotation], length: int
) -> list[Segment]:
    """Segments with people's corrections in them; of two about one action the later counts.

    Args:
        parts: segments of the trajectory; none where it was not explored.
        annotations: of that trajectory, in the order written.
        length: actions of the trajectory.
    """
    said: list[Annotation | None] = [None] * length
    for a in annotations:
        if a.kind == "segment" and a.text in SEGMENT_LABELS and a.start is not None and a.stop:
            span = range(length)[a.start : a.stop]
            said[span.start : span.stop] = [a] * len(span)
    if not any(said):
        return list(parts)
    out: list[Segment] = []
    for part in parts or [Segment(0, length, "unknown")]:
        was = f"{part.label} ({part.evidence})" if part.evidence else part.label
        for a, run in groupby(range(part.start, part.stop), lambda t: said[t]):
            steps, label, why = list(run), part.label, part.evidence
            if a is not None:
                label = cast(Label, a.text)
                why = f"{a.author}, {a.day}; exploration: {was}"
            out.append(Segment(steps[0], steps[-1] + 1, label, why))
    return out


def _held(exc: BaseException) -> bool:
    """Another kernel writes just now; a folder that cannot be written has a cause."""
    return isinstance(exc, DataError) and exc.__cause__ is None


@retry(
    retry=retry_if_exception(_held),
    wait=wait_random(0.01, 0.1),
    stop=stop_after_delay(_PATIENCE),
    reraise=True,
)
def append(path: Path, lines: Sequence[str]) -> None:
    """Add lines to a file in which other kernels write, too.

    Raises:
        DataError: the folder cannot be written, or somebody else writes in it for long.
    """
    lock = RunLock(path.parent)
    lock.acquire()
    try:
        append_lines(path, lines)
    finally:
        lock.release()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a user database
        return "somebody"
