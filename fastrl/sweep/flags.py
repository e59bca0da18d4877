"""The flags that a search adds to those of its user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastrl.sweep.pruning import NUM_TESTS
from fastrl.sweep.request import Asked

EPISODES = 50
"""Greedy episodes per test of a trial."""


def with_steps(asked: Asked, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the flags that all runs have in common, with the steps of a run.

    Args:
        asked: what was asked, with its length.
        given: the settings in its flags.
    """
    if "total_timesteps" in given or "total_timesteps" in asked.search:
        return asked.flags
    return (*asked.flags, "--total-timesteps", str(asked.total_timesteps))


def of_trials(asked: Asked, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the flags of trials that say what is tested and written."""
    words: list[str] = []
    every = 0
    if asked.goal.name != "seconds":  # whose tests would take of them
        assert asked.total_timesteps is not None
        every = max(1, asked.total_timesteps // NUM_TESTS)
    words += ["--eval-every", str(every)]
    if "eval_episodes" not in given:
        words += ["--eval-episodes", str(EPISODES)]
    if "logger" not in given:
        words += ["--logger", "csv"]
    return (*words, *_without_checkpoints(given))


def of_confirmation(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the flags of the runs of the confirmation."""
    return ("--eval-every", "0", *_without_checkpoints(given))


def _without_checkpoints(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the flag that saves no periodic checkpoints, unless the user wants some."""
    wants = {"checkpoint_every", "keep_checkpoints"} & {*given}
    return () if wants else ("--checkpoint-every", "0")
