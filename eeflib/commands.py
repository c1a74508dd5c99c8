"""Commands on what is there already (others' trajectories, a finished run), and what all share.

`eeflib.cli` registers `COMMANDS` and imports the options and helpers above them from here; it
adds the commands that make a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eeflib.errors import DataError

if TYPE_CHECKING:
    from eeflib.run import Run

Json = Annotated[bool, typer.Option("--json", help="last line of stdout is one JSON object")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]
MethodName = Annotated[str, typer.Option(help="SFT, RFT, RFTxk, EEF, ...")]
Iteration = Annotated[int, typer.Option(min=0, help="0 is cloning (SFT), 1 the first exploration")]
Seed = Annotated[int | None, typer.Option(min=0, help="one of the run's seeds; default the first")]


def given(**settings: Any) -> dict[str, Any]:
    """The settings that were given."""
    return {name: value for name, value in settings.items() if value is not None}


def opened(
    path: Path,
    seed: int | None,
    env: str = "",
    preset: str = "",
    student: str | None = None,
    **more: Any,
) -> Run:
    """The run in `path`; a new one with the settings given, if any are."""
    from eeflib.config import DEVELOPMENT_SEED
    from eeflib.run import open_run

    new = preset and not (path / "manifest.json").exists()
    seeds = (DEVELOPMENT_SEED if seed is None else seed,)
    settings: dict[str, Any] = {"env": env, "student": student, "seeds": seeds, **more}
    run = open_run(path, preset=preset, **settings) if new else open_run(path)
    known = {**run.config.training.to_dict(), **run.config.to_dict()}
    for name, value in {"student": student, **more}.items():
        if value is not None and value != known[name]:
            raise DataError(
                f"{path} was begun with {name} = {known[name]!r} and keeps it: leave out "
                f"--{name.replace('_', '-')}, or name a new folder"
            )
    return run if seed is None else run.at(seed)


def say(text: str, as_json: bool, result: dict[str, Any] | None = None) -> None:
    """`text` for people; with --json stdout belongs to `result`, which is one line."""
    typer.echo(text, err=as_json)
    if as_json and result is not None:
        typer.echo(json.dumps(result))


def import_(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="files, or folders with what is in them")
    ],
    run: Annotated[Path, typer.Option(help="run folder to write")],
    verify: Annotated[
        bool, typer.Option("--verify", help="play again what an environment at hand has a task for")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="delete what the folder holds")] = False,
    as_json: Json = False,
) -> None:
    """Make a run of trajectories that others recorded, and say what was read.

    Reads ETO, AgentTraj, OpenAI and ShareGPT messages, the paper's data, WebShop page logs, rows of
    the hub (json, jsonl, parquet), verifiers, Inspect, ATIF, eeflib; gzipped or not.

    Examples:

        eef import eto-sft-trajectory.json --run runs/eto

        eef import outputs/ more.jsonl.gz --run runs/theirs --verify
    """
    from eeflib.files import RunFolder
    from eeflib.interop.imported import import_run, replay
    from eeflib.records import Trajectory

    found = import_run(files, run, fresh=fresh)
    text, last = str(found), found.to_dict()
    if verify:
        replays = replay(RunFolder(run).read("trajectories", Trajectory), files)
        text, last = f"{text}\n{replays}", {**last, "replays": replays.to_dict()}
    say(f"{text}\nRun: {run}   Next: eef view {run}", as_json, last)


def view(run: RunFolder) -> None:
    """Write the report of a run and open it in the browser.

    Examples:

        eef view runs/demo-webshop
    """
    import webbrowser

    from eeflib.analysis.report import write_report

    page = write_report(run)
    webbrowser.open(page.resolve().as_uri())
    typer.echo(str(page))


def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="default: RUN/report.html")] = None,
) -> None:
    """Write the one-file HTML report of a run, finished or not.

    Examples:

        eef report runs/demo-webshop

        eef report runs/demo-webshop --out mine.html
    """
    from eeflib.analysis.report import write_report

    typer.echo(str(write_report(run, out)))


def export(
    run: RunFolder,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="jsonl, trl, openai, axolotl, tinker, slime, verl, llamafactory, "
            "llamafactory-v1, agentgym, inspect or trackio",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="default: RUN/seed-S/export/...")] = None,
    method: MethodName = "EEF",
    iteration: Annotated[int | None, typer.Option(min=0, help="default: the last")] = None,
    seed: Seed = None,
    student: Annotated[
        str | None, typer.Option(help="who is asked: prompt format, tokens; default: the run's")
    ] = None,
    allow_harmful: Annotated[
        bool | None, typer.Option("--allow-harmful", help="harmful actions may be trained")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what a method trains on, with its trained flags, for another trainer or viewer.

    Examples:

        eef export runs/first --to trl

        eef export runs/first --to axolotl --out eef.jsonl

        eef export runs/first --to verl --method RFTxk --student smollm2
    """
    from eeflib.interop.write import export as write

    options: dict[str, Any] = {"method": method, "iteration": iteration, "student": student}
    made = write(opened(run, seed), to, out, allow_harmful=allow_harmful, **options)
    say(str(made), as_json, made.to_dict())


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="a run folder")],
    b: Annotated[Path | None, typer.Argument(metavar="[B]", help="another; default: A")] = None,
    method_a: Annotated[
        str | None, typer.Option(help="teacher or a method; default: EEF, where there is one")
    ] = None,
    method_b: Annotated[str | None, typer.Option(help="as --method-a, of B")] = None,
    out: Annotated[Path | None, typer.Option(help="also write it as one HTML file")] = None,
    as_json: Json = False,
) -> None:
    """Compare two runs, or two methods of one: gained, lost, what changed in behaviour.

    Examples:

        eef compare runs/rft runs/eef

        eef compare runs/demo-webshop --method-a RFTx6 --method-b EEF --out changed.html
    """
    from eeflib.analysis.compare import compare_runs
    from eeflib.analysis.report import write_comparison

    found = compare_runs(a, a if b is None else b, method_a=method_a, method_b=method_b)
    text = str(found)
    if out is not None:
        text += f"\n\nPage: {write_comparison(found, out)}"
    say(text, as_json, found.as_json())


def splits(
    scheme: Annotated[str, typer.Option(help="verl-agent, baseline, eto or eeflib")] = "verl-agent",
    workers: Annotated[int, typer.Option(min=1, help="verl-agent: training tasks a step")] = 16,
    validation: Annotated[int, typer.Option(min=1, help="verl-agent: validation tasks")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="verl-agent: training steps")] = 150,
    seed: Annotated[int, typer.Option(min=0, help="of the training run; of eeflib's tasks")] = 0,
    goals: Annotated[
        int | None, typer.Option(min=1, help="verl-agent: number of goals; default 6910")
    ] = None,
    test: Annotated[int, typer.Option(min=1, help="test positions; test goals of --data")] = 500,
    data: Annotated[
        Path | None, typer.Option(help="folder with the official files: texts, products compared")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="--data holds the full set")] = False,
    human: Annotated[
        bool, typer.Option("--human", help="goals of --data that people wrote")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say how many test goals of a WebShop split are trained on.

    Examples:

        eef splits --scheme verl-agent --workers 16 --seed 0

        eef splits --scheme eto --json

        eef splits --scheme eeflib --data data/webshop
    """
    from eeflib.envs.webshop.official import load_official
    from eeflib.envs.webshop.splits import GOALS, check_split

    loaded = None
    if data is not None:
        if goals is not None:
            raise DataError("--goals is a number without --data; leave one of them out")
        size: Any = "full" if full else "small"
        loaded = load_official(data, size=size, human=human, progress=not as_json).goals
    elif human or full:
        raise DataError("--human and --full say which goals of --data; name its folder")
    numbers = {"workers": workers, "validation": validation, "steps": steps, "test": test}
    found = check_split(scheme, loaded, n=goals or GOALS, seed=seed, **numbers)
    say(str(found), as_json, found.to_dict())


def serve(
    env: Annotated[str, typer.Option(help="webshop, scienceworld or textworld")] = "webshop",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0: a free one; it is printed")
    ] = 8000,
    host: Annotated[str, typer.Option(help="whoever reaches it can play")] = "127.0.0.1",
    seed: Annotated[int, typer.Option(min=0, help="of the world's tasks")] = 7,
    train: Annotated[int, typer.Option(min=1, help="training tasks")] = 120,
    test: Annotated[int, typer.Option(min=1, help="test tasks")] = 150,
    sessions: Annotated[
        int | None, typer.Option(min=1, help="at once; default 128, or 4 where each starts Java")
    ] = None,
    idle: Annotated[
        float, typer.Option(min=1, help="seconds after which a session is freed")
    ] = 600,
    max_bytes: Annotated[int, typer.Option(min=1000, help="of a message")] = 4_000_000,
) -> None:
    """Serve an environment to OpenEnv clients, with a verified restore, until Ctrl-C.

    Examples:

        eef serve --env webshop --port 8000
    """
    from eeflib.interop.openenv import serve as run_server

    limits: dict[str, Any] = {"sessions": sessions, "idle_s": idle, "max_bytes": max_bytes}
    run_server(env, port, host, **limits, seed=seed, train=train, test=test)


COMMANDS: dict[str, Callable[..., None]] = {
    "import": import_,
    "view": view,
    "report": report,
    "export": export,
    "compare": compare,
    "splits": splits,
    "serve": serve,
}
"""In the order of `eef --help`."""
