"""What the notebooks share: tables that survive saving, a game to play, a pretend model provider.

Nothing here is needed to use eeflib from a script. Tables and transcripts are HTML without scripts,
each with a plain-text form; text from environments, models and files is escaped.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

import pandas as pd

from eeflib import data
from eeflib.analysis.collection import Collection, Item
from eeflib.analysis.markup import clean, escape
from eeflib.analysis.segments import Segment
from eeflib.analysis.taxonomy import Case
from eeflib.analysis.viewer import transcript_html
from eeflib.config import DEVELOPMENT_SEED, make_config
from eeflib.envs.base import FREE_TEXT
from eeflib.errors import DataError, EefError, PrerequisiteError
from eeflib.files import ReadReport, append_lines, read_records
from eeflib.masking import Encoded, Reason, describe_tokens
from eeflib.policies.base import Reply
from eeflib.policies.keys import ApiKey, resolve_key
from eeflib.prompts import PromptFormat
from eeflib.records import Task, Trajectory, canonical_json
from eeflib.rollout import Episode, RunningEpisode
from eeflib.states import StateOutcome
from eeflib.world import World

_PACKAGES = ("eeflib", "torch", "transformers", "peft", "pandas", "numpy")


def versions() -> Any:
    """What the notebook runs on: package versions, device, cores."""
    row = {"python": platform.python_version(), **dict.fromkeys(_PACKAGES, "not installed")}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            row[name] = importlib.metadata.version(name)
    row["device"] = "no torch: pip install 'eeflib[train]'"
    with suppress(ImportError):
        import torch

        row["device"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    return table([{**row, "cores": str(os.cpu_count())}])


def seeds(preset: str) -> tuple[int, ...]:
    """Development seeds, as many as the preset has: results are reported on others.

    Raises:
        DataError: no such preset.
    """
    return tuple(range(DEVELOPMENT_SEED, DEVELOPMENT_SEED + len(make_config(preset).seeds)))


def api_key() -> ApiKey | None:
    """The key of a paid model: from Colab's secrets, the environment, or a hidden prompt."""
    return resolve_key(interactive=True)


class Html:
    """A view: HTML for a notebook, text for everything else."""

    def __init__(self, html: str, text: str) -> None:
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def table(frame: pd.DataFrame | Iterable[Mapping[str, Any]], caption: str = "") -> Html:
    """A data frame (or rows) without its index; floats with three digits."""
    if not isinstance(frame, pd.DataFrame):
        frame = pd.DataFrame(list(frame))
    text = frame.map(_cell) if len(frame) else frame
    text.columns = [clean(c, 80) for c in frame.columns]
    below = f'<p style="opacity:.75;margin:.3em 0">{escape(caption)}</p>' if caption else ""
    with pd.option_context("display.max_colwidth", None):
        shown = text.to_html(index=False, border=0)
    return Html(
        shown + below,
        text.to_string(index=False) + (f"\n{clean(caption)}" if caption else ""),
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "\u2013" if math.isnan(value) else f"{value:.3f}".rstrip("0").rstrip(".")
    return "yes" if value is True else "no" if value is False else clean(value, 600)


def transcript(
    trajectory: Trajectory,
    *,
    segments: Sequence[Segment] | None = None,
    states: Sequence[StateOutcome] = (),
) -> Html:
    """A trajectory with collapsible steps; see `eeflib.analysis.viewer.transcript_html`."""
    body = transcript_html(trajectory, segments=segments or (), states=states)
    lines = [f"Task: {clean(trajectory.instruction)}"]
    lines += [f"{t + 1:>3}  {clean(s.action)}" for t, s in enumerate(trajectory.steps)]
    lines.append(f"     reward {trajectory.reward:.2f}, solved: {trajectory.solved}")
    return Html(body, "\n".join(lines))


_TOKENS = {
    Reason.TRAINED_ACTION: ("rgba(0,138,100,.34)", "trained action"),
    Reason.END_OF_ACTION: ("rgba(0,138,100,.60)", "end of turn, trained"),
    Reason.CONTEXT_ACTION: ("rgba(0,96,156,.22)", "action, context only"),
    Reason.HARMFUL_ACTION: ("rgba(196,68,0,.34)", "harmful action, masked"),
    Reason.UNKNOWN_ACTION: ("rgba(128,128,128,.38)", "unknown action, masked"),
}


def tokens(described: Encoded | Sequence[tuple[str, Reason, bool]]) -> Html:
    """A training sequence, or `describe_tokens` of one: the trained tokens are underlined.

    Observations and the chat template stay uncoloured.
    """
    if isinstance(described, Encoded):
        described = describe_tokens(described)
    out = []
    met = dict.fromkeys(reason for _, reason, _ in described if reason in _TOKENS)
    for text, reason, trained in described:
        style = f"background-color:{_TOKENS[reason][0]};" if reason in met else "opacity:.72;"
        style += "text-decoration:underline;font-weight:bold;" if trained else ""
        name = reason.name.lower().replace("_", " ")
        shown = escape(text, 200).replace("\n", "\u21b5<br>") or "&nbsp;"
        out.append(f'<span style="{style}" title="{name}">{shown}</span>')
    legend = " &nbsp; ".join(
        f'<span style="background-color:{colour};">&nbsp;{name}&nbsp;</span>'
        for colour, name in map(_TOKENS.__getitem__, met)
    )
    plain = "".join(f"\u27e8{t}\u27e9" if trained else t for t, _, trained in described)
    return Html(
        f'<p style="margin:.2em 0 .6em">{legend} &nbsp; <u><b>underlined</b></u> = carries loss</p>'
        f'<div style="font-family:monospace;line-height:1.7;white-space:pre-wrap">{"".join(out)}'
        "</div>",
        plain,
    )


_ASIN = re.compile(r"^B[A-Z0-9]{9}$")
_SMALL = frozenset(
    re.findall(
        r"\w+",
        "i am looking for a an the and which must be with to buy find me need want my please that "
        "is of in or it are on some so we shopping described dollars price lower than",
    )
)


def three_rules(messages: Sequence[Mapping[str, str]]) -> str:
    """Search for the instruction's words, open the first product, buy it."""
    seen = messages[-1]["content"].split(" [SEP] ")
    listed = [part.strip() for part in seen if _ASIN.match(part.strip())]
    if any("Buy Now" in part for part in seen):
        return "Thought: This is the first product I found.\nAction: click[Buy Now]"
    if listed:
        return f"Thought: Take the first result.\nAction: click[{listed[0]}]"
    first = next(m["content"] for m in messages if m["role"] == "user")
    wish = first.split("\n")[0].removeprefix("Instruction: ").split(", and price")[0]
    words = [w for w in re.findall(r"[a-z0-9-]+", wish.lower()) if w not in _SMALL]
    return f"Thought: Search for what is asked.\nAction: search[{' '.join(words)}]"


class DemoEndpoint:
    """As a context manager: the server runs inside the block; `url` is its base URL."""

    def __init__(self) -> None:
        self.requests = 0
        """Answered so far."""
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.requests += 1
                answer = json.dumps(_completion(body)).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Requests are counted, not written into the notebook."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _completion(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a provider answers to the request `body`, with `three_rules` as its model."""
    text = three_rules(body["messages"])
    read = sum(len(m["content"]) for m in body["messages"]) // 4
    message = {"role": "assistant", "content": text}
    return {
        "object": "chat.completion",
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": read, "completion_tokens": len(text) // 4},
    }


class Reading(NamedTuple):
    """A failed episode and what a person said it failed by."""

    case: Case
    kinds: tuple[str, ...]
    """Names of `taxonomy.KINDS`, the main one first."""
    note: str
    """Why, where it is not plain to see."""


def foreign_files() -> list[Path]:
    """Two files of episodes in other projects' shapes, see `eeflib/data/foreign/README.md`."""
    names = ("eto_webshop.json", "messages_webshop.jsonl")
    return [data.path("foreign", name) for name in names]


def hand_labelled(part: str = "held_out") -> list[Reading]:
    """The failures that were labelled by hand, see `eeflib/data/failures/README.md`.

    Args:
        part: `held_out`, which nobody saw while the rules were written, or `writing`.

    Raises:
        PrerequisiteError: no such part.
    """
    out = []
    for line in data.path("failures", f"{part}.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        trajectory, task = Trajectory.from_dict(row["trajectory"]), Task.from_dict(row["task"])
        case = Case(0, "teacher", 0, trajectory, task)
        out.append(Reading(case, tuple(row["labels"]), row.get("note", "")))
    return out


class _Unread(Item):
    """An item that keeps to itself why it failed: who reads it is to find out."""

    diagnosis = None


def unread(items: Iterable[Item], source: Collection) -> Collection:
    """Some items of `source`, shown without their diagnosis; notes go to the same run."""
    blind = (_Unread(x.key, x.trajectory, x.task, x.states) for x in items)
    return Collection(blind, run=source.run)


_BUTTONS = 40
"""Actions that have a button each; more of them are a list to search."""
_PLAYED = "human.jsonl"


def play(
    world: World, task: Task | str | int | None = None, run: str | os.PathLike[str] | None = None
) -> Game:
    """Play a task yourself: the observation, the admissible actions as buttons, free text.

    Args:
        world: where to play, such as `eef.webshop()`.
        task: the task, its id, or its number among the world's; None: the first.
        run: a run or folder in which the finished episode is kept, in a file of its own; see
            `played`.

    Raises:
        DataError: the world has no such task.
        PrerequisiteError: ipywidgets is not installed.
    """
    if not isinstance(task, Task):
        wanted = (t for i, t in enumerate(world.tasks) if task in (t.id, i))
        found = next(wanted, None) if task is not None else next(iter(world.tasks), None)
        if found is None:
            n = len(world.tasks)
            raise DataError(f"this world has no task {task!r}; it has {n}, see world.tasks")
        task = found
    return Game(world, task, None if run is None else Path(os.fspath(run)) / _PLAYED)


def played(run: str | os.PathLike[str]) -> list[Trajectory]:
    """The episodes that people played in a run, in the order played."""
    path = Path(os.fspath(run)) / _PLAYED
    return list(read_records(path, Trajectory, ReadReport())) if path.exists() else []


def _lines(observation: str) -> str:
    """A web page's strings as a text of lines: each product of a list begins one."""
    page = observation.split("Instruction: [SEP] ", 1)[-1]
    first, *pieces = (piece.strip() for piece in page.split("[SEP]"))
    for i, piece in enumerate(pieces):
        first += ("\n" if i == 0 or _ASIN.match(piece) else " \u00b7 ") + piece
    return first


class Game:
    """One episode played by a person; `trajectory` is its record so far, at any time.

    Only core widgets, which also work on Colab. An environment's fault ends the episode, as that of
    a policy.
    """

    def __init__(self, world: World, task: Task, path: Path | None) -> None:
        """See `play`."""
        try:
            import ipywidgets as ipw
        except ImportError as exc:
            raise PrerequisiteError(
                "playing needs ipywidgets: pip install 'eeflib[notebooks]'"
            ) from exc
        self._ipw, self._path, self.task = ipw, path, task
        number = len(played(path.parent)) if path else 0
        fmt = PromptFormat("act", task.env)
        self._episode = RunningEpisode(
            Episode(task, "human", number), "human", fmt, "human", world.seed
        )
        self._env = world.make_env()
        self._seen, self._end = ipw.HTML(), ipw.HTML()
        self._buttons = ipw.HBox(layout=ipw.Layout(flex_flow="row wrap"))
        self._text = ipw.Combobox(
            placeholder="an action", ensure_option=False, layout=ipw.Layout(width="28em")
        )
        do = ipw.Button(description="do it", layout=ipw.Layout(width="auto"))
        do.on_click(lambda _: self.act(self._typed()))
        self._line = ipw.HBox([self._text, do])
        goal = ipw.HTML(f'<p dir="auto"><b>Your task</b> {escape(task.instruction)}</p>')
        self.widget = ipw.VBox([goal, self._seen, self._buttons, self._line, self._end])
        self._try(lambda: self._episode.start(self._env))
        self._show()

    @property
    def trajectory(self) -> Trajectory:
        """The episode so far; its actions are a `human`'s."""
        return self._episode.trajectory()

    @property
    def over(self) -> bool:
        return self._episode.over

    @property
    def actions(self) -> tuple[str, ...]:
        """Actions that the environment names as admissible now; empty if it names none."""
        return () if self.over else self._episode.admissible or ()

    def act(self, action: str) -> None:
        """Do something, as its button does; nothing once the episode is over."""
        if self.over or not action.strip():
            return
        self._try(lambda: self._episode.advance(Reply(action)))
        if self.over:
            if self._path is not None:
                append_lines(self._path, [canonical_json(self.trajectory.to_dict())])
            close = getattr(self._env, "close", None)
            if close:
                close()
        self._show()

    def _typed(self) -> str:
        """What is in the field; where the environment asks for any text, that text is enough."""
        text = self._text.value.strip()
        form = next((a for a in self.actions if FREE_TEXT in a), "")
        return form.replace(FREE_TEXT, text) if form and text and "[" not in text else text

    def _try(self, move: Callable[[], None]) -> None:
        try:
            move()
            if not self.over:
                self._episode.look_around()
        except EefError as exc:
            self._episode.fail(exc)

    def _show(self) -> None:
        shown = escape(_lines(self._episode.observation))
        style = "white-space:pre-wrap;overflow-wrap:anywhere;max-height:24em;overflow:auto;"
        self._seen.value = (
            f'<pre dir="auto" style="{style}line-height:1.45;border:1px solid rgba(128,128,128,.4);'
            f'border-radius:6px;padding:.6em .8em">{shown}</pre>'
        )
        asked = next((a for a in self.actions if FREE_TEXT in a), "")
        named = [a for a in self.actions if FREE_TEXT not in a]
        self._buttons.children = tuple(map(self._button, named if len(named) <= _BUTTONS else ()))
        self._text.placeholder = clean(asked, 60) or "an action"
        self._text.options = tuple(clean(a, 300) for a in self.actions if a != asked)
        self._text.value = ""
        self._line.layout.display = "none" if self.over else ""
        t = self.trajectory
        note = f"{t.length} done, {self._episode.left} left."
        if self.over:
            verdict = "a fault ended it" if t.error else "solved" if t.solved else "not solved"
            note = (
                f"<b>{verdict}</b>, reward {t.reward:.2f} after {t.length} "
                f"action{'' if t.length == 1 else 's'}, {t.threshold:.2f} needed. "
                f"{escape(t.error, 300)}"
            )
        if t.steps and not t.steps[-1].valid:
            why = escape(t.steps[-1].reason, 300)
            note = f"Not understood: {why}. The step counts.</p><p>{note}"
        self._end.value = f"<p>{note}</p>"

    def _button(self, action: str) -> Any:
        button = self._ipw.Button(
            description=clean(action, 60), tooltip=clean(action, 300), layout={"width": "auto"}
        )
        button.on_click(lambda _: self.act(action))
        return button

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget; a saved notebook shows the task and how far the episode came."""
        bundle = self.widget._repr_mimebundle_(**options)
        content = bundle[0] if isinstance(bundle, tuple) else bundle
        content["text/html"] = transcript(self.trajectory).html
        content["text/plain"] = repr(self)
        return bundle

    def __repr__(self) -> str:
        t = self.trajectory
        state = (
            f"over, reward {t.reward:.2f}" if self.over else f"{self._episode.left} actions left"
        )
        return f"<Game {self.task.id}: {t.length} actions, {state}>"
