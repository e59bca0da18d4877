"""The sums of metrics that a checkpoint holds, until there is a gradient step to go on with them.

A module with a `sample` of its own has one only from its first batch on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastrl.engine.gradient_step import GradientStep
from fastrl.runs.fitting import check_fits


class LoadedSums(NamedTuple):
    """Stands in for a `GradientStep` that is not made yet."""

    names: tuple[str, ...] = ()
    """What the module logs; () where no step was taken, and in older files."""
    sums: Tensor = torch.zeros(0)
    """Sums of these, `[M]`."""
    num_steps: int = 0
    """Gradient steps that they were summed over."""

    @classmethod
    def of(cls, state: dict[str, Any]) -> LoadedSums:
        """Returns those of a module's state."""
        sums = torch.tensor(state["metric_sums"], dtype=torch.float32)  # as steps add them up
        return cls(tuple(state.get("metric_names", ())), sums, state["num_summed"])

    @staticmethod
    def check(state: dict[str, Any]) -> None:
        """Raises ValueError if they are no numbers, or if their names are not as many."""
        sums, names = state.get("metric_sums"), state.get("metric_names")
        size = len(sums) if isinstance(sums, list | tuple) else 0
        check_fits(sums, [0.0] * size, "metric_sums")
        if names is not None:
            check_fits(names, [""] * size, "metric_names")

    def cleared(self) -> LoadedSums:
        """Returns the sums over no steps."""
        return LoadedSums(self.names, torch.zeros_like(self.sums))

    def means(self) -> dict[str, float]:
        """Returns the means by name, as `GradientStep` does."""
        means = (self.sums / self.num_steps).tolist()
        return dict(zip(self.names, means, strict=True)) if self.names else {}

    def hand_to(self, step: GradientStep) -> None:
        """Puts the sums into a step.

        Raises:
            ValueError: they are of other metrics.
        """
        step.clear()
        if not len(self.sums):
            return
        if len(self.sums) != len(step.names) or self.names not in ((), step.names):
            there = ", ".join(self.names) or f"{len(self.sums)} metrics"
            raise ValueError(
                f"the checkpoint does not fit this agent: it has the sums of {there}; here "
                f"training_step logs {', '.join(step.names)}"
            )
        step.sums.copy_(self.sums)
        step.num_steps = self.num_steps
