"""Runs a command as long as its standard input stays open: `python -I keeper.py COMMAND...`.

`eeflib.policies.server` starts a server through it. When the process that holds the other end of
the pipe ends, in whatever way, the command is ended with all that it started.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

PATIENCE = 10.0
"""Seconds between being asked to end and being ended."""


def keep(command: list[str]) -> int:
    """The command's exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def ended() -> None:
        status = child.wait()
        end(child.pid, signal.SIGKILL)  # what it has left behind
        os._exit(status & 255)

    threading.Thread(target=ended, daemon=True).start()
    sys.stdin.buffer.read()
    end(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(PATIENCE)
    end(child.pid, signal.SIGKILL)
    return child.wait()


def end(group: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, how)


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]) & 255)
