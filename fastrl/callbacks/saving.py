"""Callbacks that save the agent."""

from __future__ import annotations

import math
from typing import Any

from fastrl.callbacks.base import Callback
from fastrl.callbacks.stopping import Judge, check_judge, check_tests
from fastrl.callbacks.trainer import Trainer, is_settled


class SaveBest(Callback):
    """Saves the agent whenever its mean return is better than ever before.

    A run keeps `checkpoints/best.pt` by itself, judged by its greedy tests if it has any.

    Args:
        file: where, in the run folder; `load` of the agent reads it.
        by: "training" takes the mean of the last 100 training episodes, "evaluation" that of a
            greedy test.
        least_steps: environment steps between two files, while training returns keep rising.
    """

    def __init__(
        self,
        file: str = "checkpoints/best_by_training.pt",
        by: Judge = "training",
        least_steps: int = 10_000,
    ) -> None:
        self.file, self.by, self.least_steps = file, check_judge(by), least_steps
        self.best_return = -math.inf
        self.saved_at: int | None = None
        """Environment steps of the latest file; None before the first."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """Raises ValueError if there are no tests to judge by."""
        check_tests(self, self.by, trainer)

    def on_update_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Looks at the training episodes."""
        is_soon = self.saved_at is not None and (
            trainer.env_steps - self.saved_at < self.least_steps
        )
        if self.by == "training" and not is_soon and is_settled(trainer, 0):
            self._save_if_best(trainer, trainer.mean_return)

    def on_evaluation_end(self, trainer: Trainer, result: Any) -> None:
        """Looks at the test."""
        if self.by == "evaluation":
            self._save_if_best(trainer, result.mean)

    def _save_if_best(self, trainer: Trainer, mean_return: float) -> None:
        if mean_return > self.best_return:
            self.best_return, self.saved_at = mean_return, trainer.env_steps
            trainer.save(self.file)

    def state_dict(self) -> dict[str, Any]:
        """Returns the best return so far, and when it was."""
        return {"best_return": self.best_return, "saved_at": self.saved_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.best_return, self.saved_at = state["best_return"], state["saved_at"]
