"""`eef shop`: the embedded WebShop for people, until Ctrl-C.

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

from eeflib.envs.webshop import embedded_shop
from eeflib.envs.webshop.tasks import LEVELS, MIX
from eeflib.errors import DataError
from eeflib.records import Task
from eeflib.shop.server import serve

__all__ = ["choose", "run_shop"]


def run_shop(
    *,
    seed: int = 7,
    split: str = "test",
    levels: Sequence[str] = (),
    run: Path | None = None,
    port: int = 0,
    open_browser: bool = True,
    say: Callable[[str], None],
    stop: threading.Event | None = None,
) -> int:
    """Serve the embedded WebShop of `seed` until Ctrl-C (or a termination signal).

    The tasks are those of `eef demo` with the preset `laptop` and the same seed, unless a level is
    named that the demo does not have: then they are drawn from all levels.

    Args:
        seed: seed of store and tasks; from 1000 on they are the ones that results are reported on.
        split: `train` or `test`.
        levels: only tasks of these levels (`eeflib.envs.webshop.tasks.LEVELS`); empty: all.
        run: run folder; default `runs/shop-SEED`, or `runs/shop-SEED-all` for other levels.
        port: 0 for a free one.
        open_browser: open a browser window, where there is a display.
        say: gets what the user should read, line by line.
        stop: ends the wait as well.

    Returns:
        How many trajectories were recorded.

    Raises:
        DataError: no such split or level, an unusable run folder.
        PrerequisiteError: the port is taken.
    """
    from eeflib.presets import get_preset

    counts = get_preset("laptop").counts
    extra = any(level in LEVELS and level not in MIX for level in levels)
    embedded = embedded_shop(seed, counts, mix="all" if extra else MIX)
    tasks = choose(embedded.tasks, split, levels)
    shop = serve(
        tasks,
        embedded.make_env,
        out=run or Path("runs") / f"shop-{seed}{'-all' if extra else ''}",
        config={
            **{"command": "shop", "env": "webshop", "counts": dict(counts)},
            "levels": "all" if extra else "demo",
        },
        seeds=[seed],
        port=port,
    )
    stop = threading.Event() if stop is None else stop
    try:
        with _signals_stop(stop), suppress(KeyboardInterrupt):
            say(f"The shop is open at {shop.url} with {len(tasks)} tasks.")
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
