"""The `eef` command: the notebooks' steps for people who script.

Each command reads its arguments, calls the library and prints the result. A mistake of the user's
ends in one line on stderr and exit code 1 (2 for wrong options), never in a traceback.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from eeflib.commands import COMMANDS, Iteration, Json, MethodName, RunFolder, Seed
from eeflib.commands import given as _given
from eeflib.commands import opened as _opened
from eeflib.commands import say as _say
from eeflib.errors import DataError, EefError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Explore the states of an expert's failures, and tune a small agent on the solutions.",
)


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    asked: Annotated[bool, typer.Option("--version", help="the version of eeflib")] = False,
) -> None:
    if asked:
        from eeflib import __version__

        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


Env = Annotated[str, typer.Option(help="webshop, scienceworld or textworld")]
PresetName = Annotated[str, typer.Option(help="tiny, laptop, colab or paper")]
Student = Annotated[
    str | None,
    typer.Option(help="tiny, smollm2, or a model's path or hub name; default: the preset's"),
]
Engine = Annotated[
    str | None, typer.Option(help="what samples: transformers, batch, vllm, or a server's address")
]
Backend = Annotated[str | None, typer.Option(help="peft or unsloth: what trains")]
FourBit = Annotated[
    bool | None, typer.Option(help="load the base in 4 bit; default: where a GPU needs it")
]
Run = Annotated[Path | None, typer.Option(help="run folder; default runs/demo-ENV")]


@app.command()
def demo(
    env: Env = "webshop",
    preset: PresetName = "laptop",
    student: Student = None,
    backend: Backend = None,
    load_in_4bit: FourBit = None,
    engine: Engine = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="number of seeds")] = None,
    first_seed: Annotated[
        int | None,
        typer.Option(min=0, help="first seed; 2010 and up report, below 1000 develop"),
    ] = None,
    run: Run = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="delete what the folder holds")] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="worker processes")] = None,
    out: Annotated[
        Path | None, typer.Option(help="also keep the result in this file; never overwritten")
    ] = None,
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
    from eeflib.demo import describe, forecast, run_demo

    if out is not None and out.exists():
        raise DataError(f"{out} exists: a reported result is not overwritten; name a new file")
    given = _given(backend=backend, load_in_4bit=load_in_4bit, engine=engine)
    config = make_config(preset, env, student, **given)
    count = len(config.seeds) if seeds is None else seeds
    start = REPORT_SEED if first_seed is None else first_seed
    config = config.change(seeds=tuple(start + i for i in range(count)))
    folder = run or Path("runs") / f"demo-{env}{'' if preset == 'laptop' else '-' + preset}"
    _say(
        f"EEF on {config.env}: student {config.student}, {config.train} training and "
        f"{config.test} unseen test tasks, seeds {[*config.seeds]}\n"
        f"into {folder} (stop it at any time: the same command goes on where it was)\n",
        as_json,
    )
    if config.student != "tiny":
        _say(forecast(config) + "\n", as_json)
    result = run_demo(config, folder, fresh=fresh, processes=processes)
    if out is not None:
        with out.open("x", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    report = write_report(folder)
    text = (
        f"{describe(result)}\n\n"
        f"Report:    {report}\nRun:       {folder}\n"
        f"Next:      open the report, then `make lab` and notebooks/00_quickstart.ipynb"
    )
    _say(text, as_json, result)


@app.command()
def collect(
    run: RunFolder,
    model: Annotated[str | None, typer.Option(help="default: the scripted teacher, free")] = None,
    base_url: Annotated[str | None, typer.Option(help="any OpenAI-compatible endpoint")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="cap in dollars")] = None,
    max_total_tokens: Annotated[int | None, typer.Option(help="cap in tokens")] = None,
    max_requests: Annotated[int | None, typer.Option(help="cap in requests")] = None,
    price: Annotated[
        str | None, typer.Option(help="dollars per million tokens read,written; e.g. 2.5,10")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="most requests at once")] = 8,
    temperature: Annotated[float | None, typer.Option(help="not sent if negative")] = 0.0,
    first: Annotated[int, typer.Option(min=0, help="episodes played before it asks you")] = 3,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    seed: Seed = None,
    env: Env = "webshop",
    preset: PresetName = "laptop",
    as_json: Json = False,
) -> None:
    """Let a teacher play the training tasks; a second model adds to the first.

    Stopped, killed or capped, the same command goes on, and pays for no reply twice.

    Examples:

        eef collect runs/first --preset tiny

        eef collect runs/gpt --model gpt-4o-mini --max-cost-usd 2

        eef collect runs/gpt --model qwen2.5:7b --base-url http://localhost:11434/v1
    """
    import eeflib as eef
    from eeflib.analysis import tables
    from eeflib.policies.pricing import Price, expected_usage

    opened = _opened(run, seed, env, preset)
    world, teacher = opened.world(), None
    wanted = len(world.split("train"))
    if model is not None:
        teacher = eef.ChatModel(
            model,
            base_url=base_url,
            max_cost_usd=max_cost_usd,
            max_total_tokens=max_total_tokens,
            max_requests=max_requests,
            price=Price.of(price) if price else None,
            concurrency=concurrency,
            temperature=temperature if temperature is None or temperature >= 0 else None,
        )
        if 0 < first < wanted:
            tried = eef.collect(world, teacher, run=opened, limit=first)
            usage = expected_usage(tried, wanted)
            tokens = f"{usage.prompt_tokens + usage.completion_tokens:,} tokens"
            dollars = "" if usage.cost_usd is None else f", ${usage.cost_usd:.2f}"
            _say(f"all {wanted} episodes: about {tokens}{dollars} (by the first {first})", as_json)
            if not yes and not as_json and sys.stdin.isatty():
                typer.confirm("Go on?", default=True, abort=True)
    tries = eef.collect(world, teacher, run=opened)
    found = tables.teachers(eef.frames.load(run).trajectories)
    faults = sum(bool(t.error) for t in tries)
    shown = ["policy", "n", "wins", "newly solved", "both", "dollars", "dollars a newly solved"]
    text = (
        f"{sum(t.solved for t in tries)} of {len(tries)} solved, {faults} faults\n"
        f"{found[shown].to_string(index=False, na_rep='-')}\n{opened.folder.file('trajectories')}"
    )
    _say(text, as_json, {"teachers": json.loads(found.to_json(orient="records"))})


@app.command()
def explore(
    run: RunFolder,
    method: MethodName = "EEF",
    iteration: Iteration = 1,
    seed: Seed = None,
    states: Annotated[
        int | None, typer.Option("--states", "-M", min=0, help="expert states a trajectory")
    ] = None,
    env: Env = "webshop",
    preset: PresetName = "laptop",
    student: Student = None,
    backend: Backend = None,
    load_in_4bit: FourBit = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Collect what is missing, clone the teacher, and let the student explore.

    A new run takes --env, --preset and --student; one that is there keeps its own.

    Examples:

        eef explore runs/first --preset tiny

        eef explore runs/first --states 3
    """
    import eeflib as eef
    from eeflib.pipeline import CLONING

    given = _given(backend=backend, load_in_4bit=load_in_4bit, engine=engine)
    opened = _opened(run, seed, env, preset, student, **given)
    world = opened.world()
    tries = eef.collect(world, run=opened)
    if iteration == 1:  # the clone is trained if it is not there yet
        eef.run_method(opened, CLONING, world=world)
    before = _before(opened, method, iteration)
    which = {"method": method, "iteration": iteration, **_given(M=states)}
    found = eef.explore(world, tries, before, run=opened, **which)
    report = found.report
    text = (
        f"{report.wins} of {report.simulations} rollouts won; {report.verified} of "
        f"{report.restorations} restorations verified\n"
        f"{opened.folder.sub(found.origin).file('branches')}"
    )
    _say(text, as_json, {"origin": found.origin, **report.to_dict()})


def _before(run: Any, method: str, iteration: int) -> Any:
    """The student of the iteration before; before the first one the clone."""
    from eeflib.pipeline import CLONING

    return run.student(method, iteration - 1) if iteration > 1 else run.student(CLONING)


@app.command()
def train(
    run: RunFolder,
    method: MethodName = "EEF",
    iteration: Iteration = 1,
    seed: Seed = None,
    steps: Annotated[int | None, typer.Option(min=1, help="optimiser steps")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    backend: Backend = None,
    as_json: Json = False,
) -> None:
    """Select the samples of an explored iteration and tune the student on them.

    Examples:

        eef train runs/first

        eef train runs/first --method SFT --iteration 0 --steps 60
    """
    import eeflib as eef

    opened = _opened(run, seed)
    tries = opened.trajectories()
    found = [opened.exploration(method, i) for i in range(1, iteration + 1)]
    base = opened.student()
    samples = eef.select(tries, found, method, iteration=iteration, run=opened)
    data = eef.encode(samples, base)
    settings = _given(backend=backend, steps=steps, learning_rate=learning_rate)
    on = iteration > 0 and opened.method(method).start_from == "previous"
    start = _before(opened, method, iteration) if on else base
    tuned = eef.train(start, data, run=opened, **settings)
    result = tuned.result
    text = (
        f"{len(data)} samples, {result.steps} steps, loss {result.losses[0]:.3f} -> "
        f"{result.losses[-1]:.3f}\n{tuned.folder}"
    )
    last = {"steps": result.steps, "last_loss": result.losses[-1], "model": str(tuned.folder)}
    _say(text, as_json, {**data.counts, **last})


@app.command()
def evaluate(
    run: RunFolder,
    method: MethodName = "EEF",
    iteration: Iteration = 1,
    seed: Seed = None,
    split: Annotated[str, typer.Option(help="test, validation or train")] = "test",
    as_json: Json = False,
) -> None:
    """Play every task of a split with a tuned student and count what it solves.

    Examples:

        eef evaluate runs/first

        eef evaluate runs/first --method SFT --iteration 0
    """
    import eeflib as eef

    opened = _opened(run, seed)
    tuned = opened.student(method, iteration)
    rate = eef.win_rate(eef.evaluate(opened.world(), tuned, split=split, run=opened))
    text = (
        f"{method} iteration {iteration} solves {rate.wins} of {rate.n} {split} tasks: "
        f"{100 * rate.rate:.1f} %, 95 % interval {100 * rate.low:.1f} - {100 * rate.high:.1f} "
        "(Wilson, over the tasks; other training seeds may differ more)"
    )
    _say(text, as_json, {"method": method, "iteration": iteration, **asdict(rate)})


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


@app.command()
def study(
    parts: Annotated[
        str, typer.Option(help="beginnings of names, such as methods,dose-paging-8,teachers-2021")
    ] = "",
    seeds: Annotated[str, typer.Option(help="such as 100,101; default: the reporting seeds")] = "",
    preset: PresetName = "laptop",
    plan: Annotated[bool, typer.Option("--plan", help="say what would be run, and stop")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="write the page from the finished parts, and stop")
    ] = False,
    out: Annotated[Path, typer.Option(help="the page")] = Path("docs/study.md"),
    work: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/study"),
    results: Annotated[
        Path | None,
        typer.Option(help="folder of the finished parts; default: the repository's, or in --work"),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="parts side by side, a core each")] = 2,
) -> None:
    """What each part of the method does, and what the effect depends on, over seeds.

    Examples:

        eef study --plan

        eef study --parts dose-paging --seeds 100,101 --results runs/tried

        eef study --report
    """
    from eeflib.config import make_config
    from eeflib.study import forecast, named_parts, run_study, write_study

    config, chosen = make_config(preset), named_parts(parts, seeds)
    kept = Path("benchmarks/results")
    files = results or (kept if kept.is_dir() else work) / "study"
    if not report:
        typer.echo(forecast(chosen, config))
        if plan:
            return
        run_study(config, chosen, work, files, processes=processes)
    typer.echo(write_study(chosen, files, out if report else files / "study.md"))


@app.command()
def check_model(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="tiny, smollm2, or a model's path or hub name")
    ] = "",
    all_known: Annotated[
        bool, typer.Option("--all-known", help="the chat templates of well-known families")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say whether a model's chat template lets it be trained exactly as it is asked.

    Examples:

        eef check-model smollm2

        eef check-model --all-known
    """
    from eeflib.policies.families import check_known, check_template, verdicts
    from eeflib.policies.loading import load_tokenizer

    if bool(name) == all_known:
        raise DataError("give a model's name, or --all-known")
    found = check_known() if all_known else [check_template(load_tokenizer(name), name)]
    _say(verdicts(found), as_json, {"models": found})
    if any(row["verdict"] == "refused" for row in found):
        raise typer.Exit(1)


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
        where = getattr(getattr(exc, "ctx", None), "command_path", "eef")
        _fail(f"{exc.format_message()} (see: {where} --help)", 2)  # type: ignore[attr-defined]
    if code == _INTERRUPTED:  # newer typer returns it, older raises Abort
        _fail("interrupted; the same command goes on where it was", code)
    if code:
        sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    """One line, whatever the message holds."""
    typer.echo(f"eef: {' '.join(message.split())}", err=True)
    sys.exit(code)
