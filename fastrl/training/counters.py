"""Progress of a run, and what the ranks tell one another about it after each iteration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

from fastrl.buffers.rollout import MEAN_EPISODES, Episodes

ROW_OF_TRAINING = "Info/valid_env_steps"
"""A metric that every row of training has, and no row of a test or of a callback."""


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
    """The last of these episodes, at most MEAN_EPISODES of each rank, oldest first."""
    info_counts: np.ndarray = np.empty(0)
    """`[M]`: episodes whose last info had the number, for each of M info metrics."""
    info_sums: np.ndarray = np.empty(0)
    """`[M]`: sums of these numbers."""

    @classmethod
    def of_rank(cls, signal: int, must_save: bool, num_valid: int, episodes: Episodes) -> Self:
        """Counts what happened on this rank."""
        returns, lengths, infos = episodes
        latest = Episodes(*(x[-MEAN_EPISODES:] for x in episodes))
        numbers = num_valid, len(returns), returns.sum(), lengths.sum()
        infos = (~np.isnan(infos)).sum(0), np.nansum(infos, 0)
        return cls(signal, must_save, *numbers, latest, *infos)

    def pack(self) -> np.ndarray:
        """Returns float64 `[6 + 2 * M + (2 + M) * MEAN_EPISODES]`.

        These are six numbers, counts and sums of the info metrics, returns, lengths, and the info
        metrics. The last three stand at the end of their places; the places before are 0.
        """
        num_infos = len(self.info_counts)
        latest = np.zeros((2 + num_infos, MEAN_EPISODES))
        returns, lengths, infos = self.latest
        first = MEAN_EPISODES - len(returns)
        latest[0, first:], latest[1, first:] = returns, lengths
        if num_infos:
            latest[2:, first:] = infos.T
        return np.concatenate([self[:6], self.info_counts, self.info_sums, latest.ravel()])

    @classmethod
    def unpack(cls, ranks: np.ndarray) -> Self:
        """Returns the counts of all ranks together.

        Args:
            ranks: `[R, 6 + 2 * M + (2 + M) * MEAN_EPISODES]`, what each rank packed.
        """
        num_infos = (ranks.shape[1] - 6 - 2 * MEAN_EPISODES) // (2 + MEAN_EPISODES)
        signals, saves, num_valid, num_episodes, sums_of_returns, sums_of_lengths = ranks[:, :6].T
        info_counts, info_sums = ranks[:, 6 : 6 + 2 * num_infos].sum(0).reshape(2, num_infos)
        places = ranks[:, 6 + 2 * num_infos :].reshape(len(ranks), -1, MEAN_EPISODES)
        is_filled = np.arange(MEAN_EPISODES) >= MEAN_EPISODES - num_episodes[:, None]
        # Transposed, episodes of all ranks take turns: the latest of every rank come last.
        returns, lengths, *infos = places.transpose(1, 2, 0)[:, is_filled.T]
        latest = Episodes(returns, lengths, np.array(infos).reshape(num_infos, len(returns)).T)
        return cls(
            int(signals.max()),
            bool(saves.any()),
            int(num_valid.sum()),
            int(num_episodes.sum()),
            float(sums_of_returns.sum()),
            float(sums_of_lengths.sum()),
            latest,
            info_counts,
            info_sums,
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
    unlogged_infos: dict[str, list[float]] = field(default_factory=dict)
    """Of the same episodes, for each info metric: how many had it, and its sum."""
    recent_infos: dict[str, list[float]] = field(default_factory=dict)
    """Each info metric's numbers in the latest episodes that had it."""
    unlogged_updates: int = 0
    """Updates since the last row that was due; the extra row at the end of a run does not count."""
    unlogged_seconds: dict[str, float] = field(default_factory=dict)
    """Of the stages of the loop, since that row."""

    def add(self, counts: IterationCounts, info_metrics: Sequence[str] = ()) -> None:
        """Adds an iteration of all ranks, with the names of its info metrics."""
        self.unlogged_updates += 1
        self.valid_env_steps += counts.num_valid
        self.episodes += counts.num_episodes
        returns, lengths, infos = counts.latest
        self.recent_returns = [*self.recent_returns, *returns.tolist()][-MEAN_EPISODES:]
        self.recent_lengths = [*self.recent_lengths, *map(int, lengths)][-MEAN_EPISODES:]
        num_episodes, sum_of_returns, sum_of_lengths = self.unlogged
        self.unlogged = [
            num_episodes + counts.num_episodes,
            sum_of_returns + counts.sum_of_returns,
            sum_of_lengths + counts.sum_of_lengths,
        ]
        for column, name in enumerate(info_metrics):
            count, total = self.unlogged_infos.get(name, (0.0, 0.0))
            happened = float(counts.info_counts[column]), float(counts.info_sums[column])
            self.unlogged_infos[name] = [count + happened[0], total + happened[1]]
            recent = infos[:, column][~np.isnan(infos[:, column])].tolist()
            recent = [*self.recent_infos.get(name, []), *recent]
            self.recent_infos[name] = recent[-MEAN_EPISODES:]

    def add_seconds(self, stages: Mapping[str, float]) -> None:
        """Adds seconds of the stages of the loop."""
        for total in self.stage_seconds, self.unlogged_seconds:
            for stage, seconds in stages.items():
                total[stage] = total.get(stage, 0.0) + seconds

    def take_unlogged(self) -> dict[str, float]:
        """Returns the metrics of what happened since the last call."""
        metrics = self.unlogged_metrics()
        self.unlogged, self.unlogged_infos, self.unlogged_updates = [0.0, 0.0, 0.0], {}, 0
        self.unlogged_seconds = {}
        return metrics

    def unlogged_metrics(self) -> dict[str, float]:
        """Returns what `take_unlogged` would, and leaves it there."""
        count, returns, lengths = self.unlogged
        metrics = {ROW_OF_TRAINING: float(self.valid_env_steps)}
        if count:
            metrics["Rewards/rew_avg"] = returns / count
            metrics["Game/ep_len_avg"] = lengths / count
        if self.recent_returns:
            metrics["Rewards/rew_avg_100"] = self.mean_return
        for name, (count, total) in self.unlogged_infos.items():
            if count:
                metrics[f"Episode/{name}"] = total / count
        for stage, seconds in self.unlogged_seconds.items():
            metrics[f"Time/{stage}_seconds"] = seconds
        return metrics

    @property
    def info_means(self) -> dict[str, float | None]:
        """Means of the info metrics over the latest training episodes; None where none had it."""
        recent = self.recent_infos.items()
        return {name: sum(x) / len(x) if x else None for name, x in recent}

    def has_reached(self, target: float) -> bool:
        """Returns whether the mean return of the latest training episodes is at least `target`."""
        return len(self.recent_returns) >= MEAN_EPISODES and self.mean_return >= target

    def keep_infos(self, names: Sequence[str]) -> None:
        """Forgets the info metrics that a resumed run no longer asks for."""
        for kept in (self.unlogged_infos, self.recent_infos):
            for name in kept.keys() - {*names}:
                del kept[name]

    @property
    def mean_return(self) -> float:
        """Mean return of the latest training episodes; NaN before the first has ended."""
        returns = self.recent_returns
        return sum(returns) / len(returns) if returns else math.nan

    @property
    def steps_per_second(self) -> float:
        """Environment steps over seconds of the training loop, across all restarts of the run."""
        return self.env_steps / max(self.loop_seconds, 1e-9)
