"""What makes a trial good: its return, its seconds to a return, or both; pure rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.sweep.trial import Trial

NAMES = ("return", "seconds", "return-and-seconds")
TOLERANCE = 0.05
"""For both: the fastest trial is best among those that lack at most this share of the best return,
measured from the return of the first trial, the defaults."""
_MISSED = 1e9  # seconds that a run counts for which never reaches its target: no run takes as long


@dataclass(frozen=True)
class Objective:
    """What is optimised."""

    name: str
    target_return: float | None = None

    @property
    def directions(self) -> list[str]:
        """The directions of the values, as Optuna names them."""
        return {
            "return": ["maximize"],
            "seconds": ["minimize"],
            "return-and-seconds": ["maximize", "minimize"],
        }[self.name]

    @property
    def counts_seconds(self) -> bool:
        """Whether seconds count, so that runs should have the machine to themselves."""
        return self.name != "return"

    def values_of(self, trial: Trial) -> list[float]:
        """Returns the values of a complete trial, one per direction."""
        value, seconds = trial.value, trial.seconds
        assert value is not None and seconds is not None
        if self.name == "seconds":
            return [seconds if not self.misses(trial) else self._missed(value)]
        return [value] if self.name == "return" else [value, seconds]

    def misses(self, trial: Trial) -> bool:
        """Returns whether a run of a trial did not reach the target return."""
        return self.target_return is not None and any(
            run.seconds_to_target is None
            for run in trial.runs
            if run.state in ("complete", "pruned")
        )

    def _missed(self, value: float) -> float:
        assert self.target_return is not None
        return _MISSED + max(0.0, self.target_return - value)

    def ranked(self, trials: Sequence[Trial], first: Trial | None = None) -> list[Trial]:
        """Returns the complete trials, the best first.

        Args:
            trials: of a sweep.
            first: the sweep's first trial, where `trials` are only some.
        """
        complete = [trial for trial in trials if trial.state == "complete"]
        complete = [trial for trial in complete if None not in (trial.value, trial.seconds)]
        if self.name != "return-and-seconds" or not complete:
            return sorted(complete, key=self._key)
        least = _least_return(complete, first or min(complete, key=lambda trial: trial.number))
        return sorted(complete, key=lambda trial: self._key_of_both(trial, least))

    def _key(self, trial: Trial) -> Any:
        """Returns what trials are sorted by: the better, the smaller."""
        values = self.values_of(trial)
        sign = 1 if self.name == "seconds" else -1
        return sign * values[0], trial.seconds, trial.number

    def _key_of_both(self, trial: Trial, least: float) -> Any:
        value, seconds = self.values_of(trial)
        is_good = value >= least
        return (0, seconds, trial.number) if is_good else (1, -value, trial.number)


def _least_return(complete: Sequence[Trial], first: Trial) -> float:
    """Returns the return from which seconds decide."""
    values = [trial.value for trial in complete if trial.value is not None]
    best = max(values)
    assert first.value is not None
    return best - TOLERANCE * abs(best - first.value)
