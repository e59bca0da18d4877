"""A run, as its folder has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastrl.runs.owner import Process

State = Literal["running", "finished", "stopped", "failed", "damaged"]


@dataclass(frozen=True)
class SavedFile:
    """A checkpoint or video of a run."""

    path: Path
    env_steps: int | None
    """Of the name; None for `last.pt`, `best.pt` and other names."""
    size: int
    """Bytes."""
    written: float
    """Seconds since 1970."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run, as its folder has it. Numbers are None where the folder does not say them."""

    path: Path
    state: State
    """running: a process writes it. finished: it came to its end, or to its target return.
    stopped: by a signal, after saving. failed: it ended without a summary: by an error, or
    killed. damaged: its settings, summary or metrics cannot be read."""
    detail: str
    """A few words on the state, such as why it is damaged; may be empty."""
    problems: tuple[str, ...] = ()
    """What cannot be read, a line each, whatever the state."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of config.yaml, without its labels."""
    labels: dict[str, Any] = field(default_factory=dict)
    """What config.yaml says besides: `algo`, `agent`, `handed_over`, `signature`."""
    summary: dict[str, Any] | None = None
    process: Process | None = None
    """The process that writes the run, if it says so."""
    started: float | None = None
    """Seconds since 1970; of the first start, if the run was resumed."""
    ended: float | None = None
    """Seconds since 1970; None while it runs."""
    updated: float | None = None
    """When the last metrics were written, in seconds since 1970."""
    env_steps: int = 0
    total_env_steps: int | None = None
    """Environment steps at which it ends, in whole rollouts."""
    steps_per_second: float | None = None
    """Of the training loop so far."""
    seconds_left: float | None = None
    """Of a running one, by its latest rows, at the time `updated`."""
    wall_seconds: float | None = None
    """Seconds up to the last row or, where there is a summary, of the run."""
    train_return: float | None = None
    """Mean return of the last 100 training episodes."""
    test_return: float | None = None
    """Mean return of the latest greedy test."""
    best_return: float | None = None
    """The best mean return of a greedy test; without tests, of 100 training episodes."""
    checkpoints: tuple[SavedFile, ...] = ()
    """In the order of their names."""
    videos: tuple[SavedFile, ...] = ()

    @property
    def algo(self) -> str:
        """Name of the algorithm; "?" if the run does not say it."""
        return str(self.labels.get("algo") or (self.summary or {}).get("algo") or "?")

    @property
    def env_id(self) -> str:
        """The task; "?" if the run does not say it."""
        return str(self.settings.get("env_id") or (self.summary or {}).get("env_id") or "?")

    @property
    def exp_name(self) -> str:
        """Label of the run."""
        return str(self.settings.get("exp_name") or "")

    @property
    def seed(self) -> int | None:
        """Its seed."""
        seed = self.settings.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def progress(self) -> float:
        """The share of its steps that are done, in [0, 1]."""
        if self.state == "finished":
            return 1.0
        return min(1.0, self.env_steps / self.total_env_steps) if self.total_env_steps else 0.0
