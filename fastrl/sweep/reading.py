"""The folder of a sweep as pages and tables read it, while it runs or afterwards.

    for sweep in list_sweeps("logs"):
        print(sweep.folder, sweep.state, sweep.best)

Imports neither torch nor Optuna. What is damaged is named in `faults`, and raises no error.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastrl.runs.owner import is_owned
from fastrl.runs.plain_files import read_facts
from fastrl.sweep.folder import BEST_NAME, SUMMARY_NAME, read_status, sweeps_folder
from fastrl.sweep.request import SWEEP_NAME, Asked
from fastrl.sweep.trial import Trial, load_trials

_MOST_BYTES = 50_000_000
_FEWEST_FOR_IMPORTANCE = 8  # trials

SweepState = Literal["running", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class Sweep:
    """A sweep as its folder shows it."""

    folder: Path
    asked: Asked
    state: SweepState
    """"stopped": it was ended before its time, by Ctrl-C or killed, and can go on."""
    phase: str
    """What it did last: search, final, confirmation, grid, finished, stopped, failed."""
    seconds: float
    """That it has worked, over all its starts."""
    error: str
    """Why it failed."""
    trials: tuple[Trial, ...]
    confirmation: dict[str, dict[str, Any]]
    """"best" and "preset" or "defaults", once trained with fresh seeds; as in `summary.json`."""
    summary: dict[str, Any]
    """`summary.json`; {} before the end."""
    faults: tuple[str, ...]
    """What could not be read."""

    @property
    def ranked(self) -> list[Trial]:
        """The complete trials, the best first."""
        return self.asked.goal.ranked(self.trials)

    @property
    def best(self) -> Trial | None:
        """The best trial so far: the one that was chosen, once that is known."""
        best = self.summary.get("best")
        chosen = best.get("number") if isinstance(best, dict) else None
        found = [trial for trial in self.trials if trial.number == chosen]
        return next(iter([*found, *self.ranked]), None)

    @property
    def preset_file(self) -> Path | None:
        """The preset file of the best so far; None before there is one."""
        path = self.folder / BEST_NAME
        return path if path.is_file() and not path.is_symlink() else None

    @property
    def progress(self) -> float:
        """The share of its time, or of its trials, that is over; in [0, 1]."""
        if self.state == "finished":
            return 1.0
        over = sum(trial.is_over for trial in self.trials)
        if self.asked.kind == "grid":
            return over / len(self.trials) if self.trials else 0.0
        shares = [0.0]
        if self.asked.minutes:
            shares.append(self.seconds / (60 * self.asked.minutes))
        if self.asked.trials:
            shares.append(over / self.asked.trials)
        return min(1.0, max(shares))


def read_sweep(folder: str | Path) -> Sweep:
    """Reads the folder of a sweep.

    Raises:
        ValueError: it is not the folder of a sweep, or `sweep.yaml` is damaged.
    """
    folder = Path(folder)
    asked = Asked.load(folder)
    status = read_status(folder)
    is_running = bool(is_owned(folder))
    phase = str(status.get("phase", ""))
    state: SweepState = "stopped"
    if is_running:
        state = "running"
    elif phase in ("finished", "failed"):
        state = "finished" if phase == "finished" else "failed"
    trials, faults = load_trials(folder)
    summary: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        summary = read_facts(folder / SUMMARY_NAME, _MOST_BYTES)
    confirmation = summary.get("confirmation")
    seconds = status.get("seconds")
    return Sweep(
        folder=folder,
        asked=asked,
        state=state,
        phase=phase,
        seconds=float(seconds) if isinstance(seconds, int | float) else 0.0,
        error=str(status.get("error", "")),
        trials=tuple(trials),
        confirmation=confirmation if isinstance(confirmation, dict) else {},
        summary=summary,
        faults=tuple(faults),
    )


def list_sweeps(log_dir: str | Path) -> list[Sweep]:
    """Returns the sweeps of a log folder, the newest first; folders that are damaged are left out.

    Args:
        log_dir: as of `--log-dir`.
    """
    found: list[Sweep] = []
    for path in sorted(sweeps_folder(log_dir).glob(f"*/{SWEEP_NAME}"), reverse=True):
        if not path.parent.is_symlink():
            with contextlib.suppress(ValueError, OSError):
                found.append(read_sweep(path.parent))
    return found


def importance(trials: Sequence[Trial]) -> dict[str, float]:
    """Returns how much of the differences between trials each setting explains, the largest first.

    It is the share of the variance of the trials' ranks by value that a parabola over the
    setting's ranks explains; for words and truth values, that between their means. Settings are
    taken one by one, so that shares need not add up to 1, and chance gives some to each.

    Args:
        trials: those without a value are left out, and with fewer than eight there is no answer.
    """
    with_value = [t for t in trials if t.value is not None and t.state != "failed"]
    if len(with_value) < _FEWEST_FOR_IMPORTANCE:
        return {}
    values = _ranks(np.array([t.value for t in with_value], np.float64))
    total = float(((values - values.mean()) ** 2).sum())
    names = set.intersection(*(set(trial.settings) for trial in with_value))
    shares = {}
    for name in sorted(names):
        column = [trial.settings[name] for trial in with_value]
        if len({json.dumps(x) for x in column}) > 1 and total > 0:
            shares[name] = max(0.0, 1 - _unexplained(column, values) / total)
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _unexplained(column: list[Any], values: np.ndarray) -> float:
    """Returns the sum of squares that is left of values, given a setting."""
    is_numeric = all(type(x) in (int, float) for x in column)
    if is_numeric and len(set(column)) > 2:
        along = _ranks(np.array(column, np.float64))
        along = (along - along.mean()) / along.std()
        fit = np.polynomial.polynomial.polyfit(along, values, 2)
        return float(((values - np.polynomial.polynomial.polyval(along, fit)) ** 2).sum())
    words = np.array([json.dumps(x) for x in column])
    left = 0.0
    for word in np.unique(words):
        group = values[words == word]
        left += float(((group - group.mean()) ** 2).sum())
    return left


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns the place of each value in order, `[N]`; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
