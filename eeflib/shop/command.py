"""`eef shop`: the embedded WebShop for people, or the official one, until Ctrl-C.

Owns which tasks are offered, the browser that is opened, and the wait. Knows nothing about HTTP.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from eeflib.envs.webshop import WebShopEnv, embedded_shop
from eeflib.envs.webshop.tasks import LEVELS, MIX
from eeflib.errors import DataError
from eeflib.records import Task
from eeflib.shop.server import serve

__all__ = ["choose", "run_shop"]


def run_shop(
    *,
    seed: int | None = None,
    split: str | None = None,
    levels: Sequence[str] = (),
    data: Path | None = None,
    size: str | None = None,
    run: Path | None = None,
    port: int = 0,
    open_browser: bool = True,
    say: Callable[[str], None],
    stop: threading.Event | None = None,
) -> int:
    """Serve a WebShop until Ctrl-C (or a termination signal).

    Without `data` it is the embedded one, and the tasks are those of `eef demo` with the preset
    `laptop` and the same seed, unless a level is named that the demo does not have: then they are
    drawn from all levels.

    Args:
        seed: of store and tasks (default 7; from 1000 on they are the ones that results are
            reported on), or of the prices of official data (default 0).
        split: `train` or `test` (default); of official data see `official_shop`.
        levels: only tasks of these levels (`eeflib.envs.webshop.tasks.LEVELS`); empty: all.
        data: a folder of official files, or a catalogue on disk.
        size: which set of official files, `small` or `full`.
        run: run folder; default `runs/shop-SEED`, or `runs/shop-SEED-all` for other levels, or
            `runs/shop-CATALOGUE-SPLIT` for official data.
        port: 0 for a free one.
        open_browser: open a browser window, where there is a display.
        say: gets what the user should read, line by line.
        stop: ends the wait as well.

    Returns:
        How many trajectories were recorded.

    Raises:
        DataError: no such split or level, an unusable run folder, or see `official_shop`.
        PrerequisiteError: the port is taken, files are missing.
    """
    if data is None:
        if size is not None:
            raise DataError("--set belongs to official data: name their folder with --data")
        offer = _embedded(7 if seed is None else seed, split or "test", levels)
    else:
        if levels:
            raise DataError("levels belong to the embedded store; with --data choose a --split")
        offer = _official(data, size, split, seed, say)
    shop = serve(
        offer.tasks,
        offer.make_env,
        out=run or Path("runs") / offer.name,
        config={"command": "shop", "env": "webshop", **offer.config},
        seeds=[offer.seed],
        port=port,
    )
    stop = threading.Event() if stop is None else stop
    try:
        with _signals_stop(stop), suppress(KeyboardInterrupt):
            n = len(offer.tasks)
            say(f"The shop is open at {shop.url} with {n:,} task{'s' if n != 1 else ''}.")
            say(f"Recording to {shop.file}. Ctrl-C closes the shop.")
            if open_browser and _has_display():
                webbrowser.open(shop.url)
            while not stop.wait(0.5):  # a wait without end would not let Ctrl-C in on Windows
                pass
    finally:
        shop.close()
    n = shop.recorded
    say(f"Closed. {n} trajector{'y' if n == 1 else 'ies'} recorded.")
    if n:
        say(f"Next: eef report {shop.file.parent}")
    return n


class _Offer(NamedTuple):
    """What is played, and what decides that."""

    tasks: Sequence[Task]
    make_env: Callable[[], WebShopEnv]
    name: str
    config: dict[str, Any]
    seed: int


def _embedded(seed: int, split: str, levels: Sequence[str]) -> _Offer:
    from eeflib.presets import get_preset

    counts = get_preset("laptop").counts
    extra = any(level in LEVELS and level not in MIX for level in levels)
    embedded = embedded_shop(seed, counts, mix="all" if extra else MIX)
    return _Offer(
        choose(embedded.tasks, split, levels),
        embedded.make_env,
        f"shop-{seed}{'-all' if extra else ''}",
        {"counts": dict(counts), "levels": "all" if extra else "demo"},
        seed,
    )


def _official(
    data: Path, size: str | None, split: str | None, seed: int | None, say: Callable[[str], None]
) -> _Offer:
    from eeflib.shop.official import official_shop

    found = official_shop(data, size=size, split=split, seed=seed)
    say(f"{found.about}; split {found.split}")
    name = f"shop-{found.catalogue.id}-{found.split}"
    config = {"catalogue": found.catalogue.id, "split": found.split}
    return _Offer(found.tasks, found.make_env, name, config, found.catalogue.seed)


def choose(tasks: Sequence[Task], split: str, levels: Sequence[str]) -> list[Task]:
    """The tasks of a split and, where any are named, of some levels.

    Raises:
        DataError: there is no such split or level; names those there are.
    """
    splits = list(dict.fromkeys(task.split for task in tasks))
    if split not in splits:
        raise DataError(f"unknown split {split!r}; choose one of {', '.join(splits)}")
    of_split = [task for task in tasks if task.split == split]
    known = sorted({str(task.extra.get("level", "")) for task in of_split})
    for level in levels:
        if level not in known:
            raise DataError(f"unknown level {level!r}; choose one of {', '.join(known)}")
    return [task for task in of_split if not levels or task.extra.get("level") in levels]


@contextmanager
def _signals_stop(stop: threading.Event) -> Iterator[None]:
    """Inside, a termination signal or a closed terminal sets `stop`, as Ctrl-C does by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _has_display() -> bool:
    """Without one, `webbrowser` would start a text browser in the terminal."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
