"""For all tests."""

from __future__ import annotations

import signal

# In a run that was started in the background Ctrl-C is ignored, which every child process would
# inherit: those that a test interrupts must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)
