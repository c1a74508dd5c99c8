"""The published packages' own environments, in a JVM of ours, to be timed side by side."""

from __future__ import annotations

import importlib
from typing import Any
from unittest import mock

from eeflib.envs.simulated import SimulatedEnv


def stock(env: SimulatedEnv, module: str, name: str) -> Any:
    """Class `name` of `module`, in the JVM of `env`; an episode under way ends."""
    package = importlib.import_module(module)
    jvm = env.borrow()
    launched = jvm.gateway.gateway_parameters.port, jvm.process
    kind = type("Stock", (getattr(package, name),), {"__del__": lambda self: None})
    with mock.patch.object(package, "launch_gateway", return_value=launched):
        return kind(envStepLimit=10**9)
