"""The `eef` command: the notebooks' steps for people who script.

Owns arguments, printing and exit codes. Everything it does is a call into the library. A mistake of
the user's ends in one line on stderr and exit code 1 (2 for wrong options), never in a traceback.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from eeflib.config import Config
from eeflib.errors import DataError, EefError

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Explore the states of an expert's failures, and tune a small agent on what it finds.",
)

Env = Annotated[str, typer.Option(help="webshop, scienceworld or textworld")]
PresetName = Annotated[str, typer.Option(help="tiny, laptop, colab or paper")]
Student = Annotated[str, typer.Option(help="tiny, smollm2, or a model's path or hub name")]
Run = Annotated[Path | None, typer.Option(help="run folder; default runs/demo-ENV")]
Json = Annotated[bool, typer.Option("--json", help="last line of stdout is one JSON object")]


@app.callback()
def _main() -> None:
    """Explore the states of an expert's failures, and tune a small agent on what it finds."""


@app.command()
def demo(
    env: Env = "webshop",
    preset: PresetName = "laptop",
    student: Student = "tiny",
    seeds: Annotated[int | None, typer.Option(min=1, help="number of seeds")] = None,
    first_seed: Annotated[
        int | None,
        typer.Option(min=0, help="first seed; 1000 and up report, below 1000 develop"),
    ] = None,
    run: Run = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="delete what the folder holds")] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="worker processes")] = None,
    as_json: Json = False,
) -> None:
    """Run the whole story: teacher, SFT, RFT, RFTxk, EEF; a table and a report.

    Examples:

        eef demo

        eef demo --seeds 8 --run runs/eight

        eef demo --env scienceworld --preset tiny
    """
    from eeflib.analysis.report import write_report
    from eeflib.config import REPORT_SEED, make_config
    from eeflib.demo import run_demo

    config = make_config(preset, env, student)
    count = len(config.seeds) if seeds is None else seeds
    start = REPORT_SEED if first_seed is None else first_seed
    config = config.change(seeds=tuple(start + i for i in range(count)))
    folder = run or Path("runs") / f"demo-{env}{'' if preset == 'laptop' else '-' + preset}"
    _say(_headline(config, folder), as_json)
    result = run_demo(config, folder, fresh=fresh, processes=processes)
    report = write_report(folder)
    _say(_results(result), as_json)
    _say(
        f"\nReport:    {report}\n"
        f"Run:       {folder}\n"
        f"Next:      open the report, then `make lab` and notebooks/00_quickstart.ipynb",
        as_json,
    )
    if as_json:
        typer.echo(json.dumps(result))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    out: Annotated[Path | None, typer.Option(help="default: RUN/report.html")] = None,
) -> None:
    """Write the one-file HTML report of a run, finished or not.

    Examples:

        eef report runs/demo-webshop

        eef report runs/demo-webshop --out mine.html
    """
    from eeflib.analysis.report import write_report

    typer.echo(str(write_report(run, out)))


@app.command()
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
    from eeflib.analysis.page import write_comparison

    found = compare_runs(a, a if b is None else b, method_a=method_a, method_b=method_b)
    _say(str(found), as_json)
    if out is not None:
        _say(f"\nPage: {write_comparison(found, out)}", as_json)
    if as_json:
        typer.echo(json.dumps(found.as_json()))


def _say(text: str, as_json: bool) -> None:
    """For people; with --json stdout belongs to the object."""
    typer.echo(text, err=as_json)


def _headline(config: Config, folder: Path) -> str:
    return (
        f"EEF on {config.env}: student {config.student}, {config.train} training and "
        f"{config.test} unseen test tasks, seeds {[*config.seeds]}\n"
        f"into {folder} (stop it at any time: the same command goes on where it was)\n"
    )


def _results(result: dict) -> str:
    from eeflib.demo import render_table, sentence

    taught = result["teacher_on_training_tasks"]
    lines = [
        f"\nThe teacher solved {taught['solved']} of {taught['n']} training tasks "
        f"({100 * taught['win_rate']:.1f} %). On unseen test tasks:\n",
        render_table(result["methods"]),
        "",
        *(sentence(c) for c in result["paired"].values()),
        "",
        "Win rate over all test tasks of all seeds with its Wilson interval; simulations and "
        "seconds per seed.",
    ]
    if "masking" in result:
        m = result["masking"]
        lines += ["", f"Does masking matter? ({m['note']})", sentence(m)]
    if "better_teacher" in result:
        b = result["better_teacher"]
        t = b["teacher_on_training_tasks"]
        lines += [
            "",
            f"When does RFT catch up? {b['note']} ({100 * t['win_rate']:.1f} % of training tasks):",
            render_table(b["methods"]),
            *(sentence(c) for c in b["paired"].values()),
        ]
    return "\n".join(lines)


# typer brings its own copy of click, whose base class of usage errors has no public name
_UsageError: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)
_INTERRUPTED = 130


def main() -> None:
    """Entry point of the `eef` command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    args = sys.argv[1:] or ["--help"]
    try:
        code = app(args, prog_name="eef", standalone_mode=False)
    except EefError as exc:
        kind = "" if isinstance(exc, DataError) else f"{type(exc).__name__}: "
        _fail(f"{kind}{exc}", 1)
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except _UsageError as exc:
        command = args[0] if args[0] in ("demo", "report", "compare", "shop") else ""
        _fail(f"{exc.format_message()} (see: {' '.join(['eef', command, '--help'])})", 2)  # type: ignore[attr-defined]
    if code == _INTERRUPTED:  # newer typer returns it, older raises Abort
        _fail("interrupted; the same command goes on where it was", code)


def _fail(message: str, code: int) -> NoReturn:
    """One line, whatever the message holds."""
    typer.echo(f"eef: {' '.join(message.split())}", err=True)
    sys.exit(code)
