"""`Viewer`: the viewer in a notebook, on anywidget. What it shows is `eeflib.analysis.viewer`'s.

The data goes to the browser when the browser asks for it, and no copy of it is kept in the saved
notebook, which shows a small static summary instead. What a person writes there is kept by
`eeflib.analysis.annotations`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from typing import Any, Self
from urllib.parse import urlencode

import pandas as pd

from eeflib.analysis.annotations import Annotations, Key
from eeflib.analysis.collection import Collection, Item
from eeflib.analysis.markup import clean, escape
from eeflib.analysis.run import TEACHER, Run
from eeflib.analysis.viewer import people_said, script, sheet, transcript_html, viewer_data
from eeflib.errors import DataError, EefError, PrerequisiteError
from eeflib.masking import IGNORE, Dropped, Encoded, EncodedSet, Reason, describe_tokens
from eeflib.records import Sample, Trajectory

try:
    import anywidget
except ImportError as exc:
    raise PrerequisiteError(
        "the viewer needs anywidget: pip install 'eeflib[notebooks]'; without it "
        "eeflib.write_report(run) writes the same view as a file for a browser"
    ) from exc

BUDGET = 20_000_000
"""Bytes of the compressed data at most: it comes from the machine the kernel runs on."""

_FEW = 0.01
"""A share of trained tokens below this raises an alarm."""


class Viewer(anywidget.AnyWidget):
    """Trajectories to filter, read, compare and annotate, the recovery map, and the loss mask.

    Keys work while the viewer has the focus; `?` lists them.
    """

    _esm = script()
    _css = sheet()

    def __init__(
        self,
        what: Any,
        *,
        run: Any = None,
        samples: Iterable[Sample] = (),
        author: str | None = None,
    ) -> None:
        """Args:
        what: a run or its folder; a `Collection`; a trajectory or a list of them; a data frame of
            trajectories as `frames.load(run).trajectories`, filtered and sorted as you like; or an
            `EncodedSet`, whose loss mask is shown.
        run: where a data frame's trajectories are kept (its `attrs["run"]` by default), and where
            annotations of loose trajectories go.
        samples: of an `EncodedSet`: what it was encoded from, for the kinds of samples.
        author: who annotates; None: `EEFLIB_AUTHOR`, else the name of the user.

        Raises:
            DataError: there is no such run folder, or `what` is nothing that can be shown.
        """
        self.masks: Masks | None = None
        if isinstance(what, EncodedSet):
            self.masks = Masks(what, samples)
            self.collection = Collection([])
        else:
            self.collection = _collection(what, run)
        self._author = author
        self._address = "#!mask" if self.masks else "#!t"
        if "google.colab" in sys.modules:  # which shows no widget from elsewhere unless told to
            importlib.import_module("google.colab.output").enable_custom_widget_manager()
        super().__init__()
        self.on_msg(self._hear)

    @property
    def address(self) -> str:
        """What is shown, as in the address of a report: `#!t/12`."""
        return self._address

    @property
    def item(self) -> Item | None:
        """The trajectory that is shown; None if it is none."""
        kind, *rest = self._address.removeprefix("#!").split("/")
        at = int(rest[0]) if kind in ("t", "map") and rest and rest[0].isdecimal() else -1
        return self.collection[at] if 0 <= at < len(self.collection) else None

    def show(self, name: Key | str | int, step: int | None = None) -> Self:
        """Show a trajectory, by key, id, task or position; `step` (from 1) unfolds that step.

        Raises:
            DataError: there is no such trajectory.
        """
        return self._go(f"#!t/{self._at(name)}" + (f"/{step}" if step else ""))

    def filter(self, **wanted: Any) -> Self:
        """List some trajectories: `outcome`, `failure`, `method`, `iteration`, `model`, `split`,
        `level`, `tag`, `seed`, `task` as the list shows them, `text` for a search."""
        return self._go(f"#!t?{urlencode({k: v for k, v in wanted.items() if v is not None})}")

    def map(self, name: Key | str | int | None = None, k: int = 0) -> Self:
        """Show the recovery map, or the student's rollouts from state `k` of a trajectory."""
        return self._go("#!map" + ("" if name is None else f"/{self._at(name)}/{k}"))

    def compare(self, a: Key | str | int, b: Key | str | int | None = None) -> Self:
        """Show two trajectories side by side; without `b` the one that tells most."""
        pair = "" if b is None else f"/t{self._at(a)}/t{self._at(b)}"
        return self._go(f"#!t/{self._at(a)}/compare{pair}")

    def _at(self, name: Key | str | int) -> int:
        return self.collection.items.index(self.collection.find(name))

    def _go(self, address: str) -> Self:
        self._address = address
        self.send({"kind": "go", "address": address})
        return self

    def _annotations(self, author: str | None = None) -> Annotations | None:
        run = self.collection.run
        return Annotations(run.path, author or self._author) if run else None

    def _hear(self, _: Any, message: dict[str, Any], __: Any) -> None:
        kind = message.get("kind")
        if kind == "ready":
            self._send_data()
        elif kind == "at":
            self._address = str(message["address"])[:400]
        elif kind in ("notes", "annotate", "retract", "tokens"):
            try:
                said = self._tokens(message) if kind == "tokens" else self._write(kind, message)
            except EefError as exc:
                said = {"error": clean(exc, 400)}
            known = {"request": message["request"], "view": message["view"]}
            self.send({"kind": "answer", **known, **said})

    def _send_data(self) -> None:
        notes = self._annotations()
        more: dict[str, Any] = {"masks": self.masks.overview()} if self.masks else {}
        if notes:
            more |= {"labels": [clean(x, 80) for x in notes.labels()], "author": notes.author}
        known = {"kind": "data", "address": self._address, "live": notes is not None}
        self.send(known, [viewer_data(self.collection, budget=BUDGET, more=more)])

    def _write(self, kind: str, message: dict[str, Any]) -> dict[str, Any]:
        """Keep what a person wrote about an item, or take it back; then all that is said of it."""
        item = self.collection[int(message["item"])]
        notes = self._annotations(str(message.get("author") or "").strip() or None)
        if notes is None:
            raise DataError("these trajectories are in no run folder; pass run= to annotate them")
        done = []
        if kind == "retract":
            for said in notes.of(item.key):
                if said.id == message["id"]:
                    notes.retract(said)
        elif kind == "annotate":
            span = tuple(message["span"]) if message.get("span") else None
            if message["segment"] and span is None:
                raise DataError("say which steps the segment has")
            ways: dict[str, Any] = {"label": notes.add_label, "note": notes.add_note}
            for what, keep in (ways | {"segment": notes.correct}).items():
                if message[what].strip():
                    keep(item.key, message[what], span)
                    done.append(f"the {what}")
            if not done:
                raise DataError("write a label or a note first")
        told = people_said(item, notes.of(item.key), lambda text: clean(text))
        return told | {"message": f"Saved {', '.join(done)}."}

    def _tokens(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"runs": self.masks.runs(int(message["sample"])) if self.masks else []}

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The live viewer, and for a saved notebook what it is about."""
        bundle = super()._repr_mimebundle_(**options)
        if bundle is not None:
            bundle[0]["text/html"] = self.summary()
            bundle[0]["text/plain"] = self.caption
        return bundle

    @property
    def caption(self) -> str:
        """What is shown, in a sentence."""
        if self.masks:
            return self.masks.caption
        n = Counter(x.outcome for x in self.collection)
        counts = ", ".join(f"{count:,} {name}" for name, count in n.most_common())
        return f"Viewer of {len(self.collection):,} trajectories{f': {counts}' if counts else ''}"

    def summary(self) -> str:
        """A static summary, ready HTML: what a saved notebook shows."""
        shown, body = self.item, ""
        if shown and shown.trajectory.length <= 40:
            body = transcript_html(
                shown.trajectory,
                segments=shown.segments,
                states=shown.states,
                diagnosis=shown.diagnosis,
                limit=1500,
            )
        return (
            f"<p><b>{escape(self.caption, 300)}.</b> Run the notebook to browse "
            f"{'them' if not self.masks else 'it token by token'}.</p>{body}"
        )

    def __repr__(self) -> str:
        return f"<{self.caption}>"


def _collection(what: Any, run: Any) -> Collection:
    """Whatever can be shown, as a collection."""
    if isinstance(what, Collection):
        return what
    if isinstance(what, pd.DataFrame):
        return _framed(what, run)
    if isinstance(what, (str, Run, os.PathLike)):
        return Collection.of(what, who="all")
    if isinstance(what, Trajectory):
        what = [what]
    found = list(what) if isinstance(what, Iterable) else [what]
    wrong = sorted({type(x).__name__ for x in found if not isinstance(x, Trajectory)})
    if wrong:
        raise DataError(
            "a Viewer shows a run, trajectories, a data frame of them or an EncodedSet; this holds "
            + ", ".join(wrong)
        )
    loose = Collection.loose(found)
    loose.run = Run.of(run) if run is not None else None
    return loose


def _framed(frame: pd.DataFrame, run: Any) -> Collection:
    """The trajectories of a data frame's rows, in their order, with all the run knows of them."""
    run = frame.attrs.get("run") if run is None else run
    if run is None or not {"seed", "trajectory_id"} <= set(frame.columns):
        raise DataError(
            "a data frame needs the columns seed and trajectory_id, as frames.load(run)."
            "trajectories has them, and the run they are kept in: Viewer(frame, run=run)"
        )
    known = Collection.of(run, who="all")
    rows = frame.assign(method=frame.get("method", TEACHER), iteration=frame.get("iteration", 0))[
        ["seed", "method", "iteration", "trajectory_id"]
    ]
    keys = [Key(int(s), m, int(i), name) for s, m, i, name in rows.itertuples(index=False)]
    items = [known[at] for key in keys if (at := known.position(key)) is not None]
    if keys and not items:
        raise DataError("none of the data frame's trajectories is in this run; pass another run=")
    return Collection(items, run=known.run, states=known.states)


class Masks:
    """Encoded training sequences, and what should make a reader look twice."""

    def __init__(self, data: EncodedSet, samples: Iterable[Sample]) -> None:
        self.known = {s.id: s for s in samples}
        self.items: list[Encoded | Dropped] = [*data, *data.dropped]
        self.data = data

    @property
    def caption(self) -> str:
        counts = self.data.counts
        n = counts["tokens"]
        share = f" ({100 * counts['trained_tokens'] / n:.0f} %)" if n else ""
        gone = f", {len(self.data.dropped):,} samples dropped" if self.data.dropped else ""
        return (
            f"Loss mask of {len(self.data):,} samples: {counts['trained_tokens']:,} of {n:,} "
            f"tokens are trained{share}{gone}"
        )

    def overview(self) -> dict[str, Any]:
        """Totals, and per sample its counts and alarms; no tokens."""
        rows: list[dict[str, Any]] = []
        for number, x in enumerate(self.items):
            sample = self.known.get(x.sample_id)
            kind = clean(sample.kind, 20) if sample else ""
            row = {"number": number, "id": clean(x.sample_id, 200), "kind": kind}
            if isinstance(x, Encoded):
                row |= {"length": x.length, "trained": x.trained_tokens, "counts": x.counts}
            rows.append(row | {"dropped": isinstance(x, Dropped), "alarms": alarms(x)})
        counts = {r.name.lower(): self.data.counts[r.name.lower()] for r in Reason}
        return {"all": rows, "counts": counts}

    def runs(self, number: int) -> list[list[Any]]:
        """The tokens of a sample: [reason, step, trained, texts] for each stretch of one kind."""
        x = self.items[number]
        if not isinstance(x, Encoded):
            return []
        described = describe_tokens(x)
        rows = zip(described, x.steps.tolist(), strict=True)
        return [
            [reason.name.lower(), step, int(on), [clean(token[0], 200) for token, _ in group]]
            for (reason, step, on), group in groupby(rows, lambda r: (r[0][1], r[1], r[0][2]))
        ]


def alarms(x: Encoded | Dropped) -> list[str]:
    """What should make a reader of this sample look twice; plain text."""
    if isinstance(x, Dropped):
        return [clean(f"not trained on ({x.reason}): {x.detail}", 400)]
    out = []
    if not x.trained_tokens:
        out.append("0 trained tokens: this sequence teaches nothing")
    elif x.trained_tokens < _FEW * x.length:
        out.append(f"only {x.trained_tokens} of {x.length:,} tokens are trained")
    trained = Counter(Reason(int(r)) for r in x.reasons[x.labels != IGNORE])
    for reason in (Reason.HARMFUL_ACTION, Reason.UNKNOWN_ACTION):
        if n := trained.pop(reason, 0):
            out.append(f"{n} tokens of {reason.name.lower().replace('_', ' ')}s are trained")
    if n := sum(trained.values()) - trained[Reason.TRAINED_ACTION] - trained[Reason.END_OF_ACTION]:
        out.append(f"{n} tokens are trained that are no trained action's")
    return out
