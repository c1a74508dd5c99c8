"""The errors eeflib raises, one class per boundary; every message names the place and the remedy.

A failed rollout is not an exception: it is recorded in the trajectory (`Trajectory.error`), and the
run goes on.
"""

from __future__ import annotations


class EefError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one line."""


class ProviderError(EefError):
    """A model endpoint failed for good (after retries), or replied with something unusable."""


class ActionError(EefError):
    """A reply held no action that the environment understands."""


class EnvironmentFault(EefError):
    """The simulator itself broke (a dead JVM, an internal exception): the episode can be redone."""


class RestoreMismatch(EefError):
    """A replayed state differs from the recorded one: the state must not be explored from."""


class PrerequisiteError(EefError):
    """Something must be installed, configured or provided first (Java, a key, a model)."""


class DataError(EefError):
    """A file or record is unusable; the message names file, line and field."""
