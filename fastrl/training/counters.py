"""Progress of a run, and what the ranks tell one another about it after each iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

from fastrl.buffers.rollout import Episodes

TARGET_EPISODES = 100  # training episodes that the mean return is taken over


class IterationCounts(NamedTuple):
    """What happened in one iteration: on one rank, or summed over all.

    It travels as one vector, so that an iteration needs one collective:
    `pack`, gather over the R ranks, `unpack`.
    """

    signal: int
    """Number of the signal that asks the run to stop; 0 if none came."""
    must_save: bool
    """Whether a checkpoint is due by the clock of rank 0."""
    num_valid: int
    """Rows of the rollout that are no reset rows."""
    num_episodes: int
    """Episodes that ended."""
    sum_of_returns: float
    sum_of_lengths: float
    latest: Episodes
    """The last of these episodes, at most TARGET_EPISODES of each rank, oldest first."""

    @classmethod
    def of_rank(cls, signal: int, must_save: bool, num_valid: int, episodes: Episodes) -> Self:
        """Counts what happened on this rank."""
        returns, lengths = episodes
        latest = Episodes(returns[-TARGET_EPISODES:], lengths[-TARGET_EPISODES:])
        numbers = num_valid, len(returns), returns.sum(), lengths.sum()
        return cls(signal, must_save, *numbers, latest)

    def pack(self) -> np.ndarray:
        """Returns float64 `[6 + 2 * TARGET_EPISODES]`: six numbers, returns, lengths.

        Returns and lengths stand at the end of their places; the places before are 0.
        """
        packed = np.zeros(6 + 2 * TARGET_EPISODES)
        packed[:6] = self[:6]
        returns, lengths = packed[6:].reshape(2, TARGET_EPISODES)
        first = TARGET_EPISODES - len(self.latest.returns)
        returns[first:], lengths[first:] = self.latest
        return packed

    @classmethod
    def unpack(cls, ranks: np.ndarray) -> Self:
        """Returns the counts of all ranks together.

        Args:
            ranks: `[R, 6 + 2 * TARGET_EPISODES]`, what each rank packed.
        """
        signals, saves, num_valid, num_episodes, sums_of_returns, sums_of_lengths = ranks[:, :6].T
        returns, lengths = ranks[:, 6:-TARGET_EPISODES], ranks[:, -TARGET_EPISODES:]
        is_filled = np.arange(TARGET_EPISODES) >= TARGET_EPISODES - num_episodes[:, None]
        # Transposed, episodes of all ranks take turns: the latest of every rank come last.
        latest = Episodes(returns.T[is_filled.T], lengths.T[is_filled.T])
        return cls(
            int(signals.max()),
            bool(saves.any()),
            int(num_valid.sum()),
            int(num_episodes.sum()),
            float(sums_of_returns.sum()),
            float(sums_of_lengths.sum()),
            latest,
        )


@dataclass
class Counters:
    """How far a run is; saved and restored as a whole."""

    updates: int = 0
    env_steps: int = 0
    valid_env_steps: int = 0
    episodes: int = 0
    restarts: int = 0
    loop_seconds: float = 0.0
    wall_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    best_return: float = -math.inf
    last_eval: int = 0
    last_checkpoint: int = 0
    recent_returns: list[float] = field(default_factory=list)
    recent_lengths: list[int] = field(default_factory=list)
    unlogged: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Of the episodes since the last row of metrics: number, sum of returns, sum of lengths."""

    def add(self, counts: IterationCounts) -> None:
        """Adds an iteration of all ranks."""
        self.valid_env_steps += counts.num_valid
        self.episodes += counts.num_episodes
        returns, lengths = counts.latest
        self.recent_returns = [*self.recent_returns, *returns.tolist()][-TARGET_EPISODES:]
        self.recent_lengths = [*self.recent_lengths, *map(int, lengths)][-TARGET_EPISODES:]
        num_episodes, sum_of_returns, sum_of_lengths = self.unlogged
        self.unlogged = [
            num_episodes + counts.num_episodes,
            sum_of_returns + counts.sum_of_returns,
            sum_of_lengths + counts.sum_of_lengths,
        ]

    def take_unlogged(self) -> dict[str, float]:
        """Returns the metrics of the episodes since the last call."""
        (count, returns, lengths), self.unlogged = self.unlogged, [0.0, 0.0, 0.0]
        metrics = {}
        if count:
            metrics["Rewards/rew_avg"] = returns / count
            metrics["Game/ep_len_avg"] = lengths / count
        if self.recent_returns:
            metrics["Rewards/rew_avg_100"] = self.mean_return
        return metrics

    @property
    def mean_return(self) -> float:
        """Mean return of the latest training episodes; NaN before the first has ended."""
        returns = self.recent_returns
        return sum(returns) / len(returns) if returns else math.nan

    @property
    def steps_per_second(self) -> float:
        """Environment steps over seconds of the training loop, across all restarts of the run."""
        return self.env_steps / max(self.loop_seconds, 1e-9)
