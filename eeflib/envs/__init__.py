"""Restorable text environments behind one protocol (`eeflib.envs.base.TextEnv`)."""

from eeflib.envs.base import FREE_TEXT, Observation, Restored, StepResult, TextEnv, replay_restore

__all__ = ["FREE_TEXT", "Observation", "Restored", "StepResult", "TextEnv", "replay_restore"]
