"""Callbacks that end a run early."""

from __future__ import annotations

import math
from typing import Any, Literal

from fastrl.callbacks.base import Callback
from fastrl.callbacks.trainer import Trainer, is_settled
from fastrl.config.values import as_kind

Judge = Literal["training", "evaluation"]


class StopAtReturn(Callback):
    """Stops once a mean return is reached.

    Args:
        mean_return: the return to reach.
        by: "training" takes the mean of the last 100 training episodes, as `target_return` does;
            "evaluation" that of a greedy test.
    """

    def __init__(self, mean_return: float, by: Judge = "training") -> None:
        self.mean_return, self.by = check_number("mean_return", mean_return), check_judge(by)

    def on_fit_start(self, trainer: Trainer) -> None:
        """Raises ValueError if there are no tests to judge by."""
        check_tests(self, self.by, trainer)

    def on_update_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Looks at the training episodes."""
        if self.by == "training" and is_settled(trainer, 0):
            self._stop_if_reached(trainer, trainer.mean_return)

    def on_evaluation_end(self, trainer: Trainer, result: Any) -> None:
        """Looks at the test."""
        if self.by == "evaluation":
            self._stop_if_reached(trainer, result.mean)

    def _stop_if_reached(self, trainer: Trainer, reached: float) -> None:
        if reached >= self.mean_return:
            trainer.stop(f"{self.by} return {reached:.1f} reached {self.mean_return:g}")


class StopAfter(Callback):
    """Stops after a time by the clock.

    Args:
        seconds: since `fit` began; add up `minutes` and `hours` to it. A resumed run has the whole
            time again, as a job of a cluster has.
        minutes: of 60 seconds.
        hours: of 60 minutes.
    """

    def __init__(self, seconds: float = 0, *, minutes: float = 0, hours: float = 0) -> None:
        times = {"seconds": seconds, "minutes": minutes, "hours": hours}
        seconds, minutes, hours = (check_number(*item) for item in times.items())
        self.seconds = seconds + 60 * minutes + 3600 * hours
        if not self.seconds > 0:
            raise ValueError(f"StopAfter must be given a positive time, not {self.seconds} s")

    def on_update_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Looks at the clock."""
        if trainer.seconds >= self.seconds:
            trainer.stop(f"{self.seconds:g} seconds have passed")


def check_number(name: str, value: Any) -> float:
    """Returns a number as a float; ValueError if it is none."""
    try:
        number = as_kind(float, value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    if math.isnan(number):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return number


def check_judge(by: str) -> str:
    """Returns `by`, or raises ValueError if it is neither "training" nor "evaluation"."""
    if by not in ("training", "evaluation"):
        raise ValueError(f"by must be training or evaluation, not {by!r}")
    return by


def check_tests(callback: Callback, by: str, trainer: Trainer) -> None:
    """Raises ValueError if a callback waits for evaluations, and the run has none on its way."""
    config = trainer.config
    if by == "evaluation" and not (config.eval_every and config.eval_episodes):
        raise ValueError(
            f"{type(callback).__name__} judges by evaluations, but eval_every={config.eval_every} "
            f"and eval_episodes={config.eval_episodes}: there are none during the training"
        )
