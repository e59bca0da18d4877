"""The result of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fastrl.ops.intervals import bootstrap_interval
from fastrl.training.infos import means_of, missing, numbers_of


@dataclass(frozen=True, repr=False, eq=False)
class Evaluation:
    """Results of `E` episodes; those of one environment are contiguous.

    Printed, it is a line such as `return 245.3 +- 30.2 over 100 episodes (length 312.4), 95 %
    interval of the mean 239.2 to 251.0`.
    """

    returns: np.ndarray
    """float64 `[E]`: undiscounted returns."""
    lengths: np.ndarray
    """int64 `[E]`: episode lengths in steps."""
    infos: tuple[dict[str, Any], ...] = ()
    """The info that the last step of each episode returned, if they were asked for."""
    info_names: tuple[str, ...] = ()
    """Numbers of the infos whose means are asked for."""
    env_id: str = ""
    """What was played."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the returns (dividing by E, not E - 1)."""
        return float(self.returns.std())

    @property
    def mean_length(self) -> float:
        """Mean episode length."""
        return float(self.lengths.mean())

    @cached_property
    def ci95(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean return (`ops.intervals`); NaN for one episode.

        It is about chance in environments and actions. Other training seeds give other policies,
        whose returns vary by more than this.
        """
        return bootstrap_interval(self.returns)

    def info(self, name: str) -> np.ndarray:
        """Returns a number of each episode's last info, float64 `[E]`; NaN where it is missing.

        Raises:
            ValueError: no info has it, or it is not a number.
        """
        if words := missing(self.infos, [name]):
            raise ValueError(f"{self.env_id}: {words}")
        return numbers_of(self.infos, [name], self.env_id)[:, 0]

    @cached_property
    def info_means(self) -> dict[str, float]:
        """Means of `info_names`, each over the episodes whose last info has it."""
        return means_of(numbers_of(self.infos, self.info_names, self.env_id), self.info_names)

    def __repr__(self) -> str:
        """Returns the main figures, in a line."""
        low, high = self.ci95
        interval = "" if np.isnan(low) else f", 95 % interval of the mean {low:.1f} to {high:.1f}"
        means = "".join(f"; {name} {mean:.3g}" for name, mean in self.info_means.items())
        return (
            f"return {self.mean:.1f} +- {self.std:.1f} over {len(self.returns)} episodes "
            f"(length {self.mean_length:.1f}){interval}{means}"
        )
