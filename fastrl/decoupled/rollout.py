"""Players and trainers in processes of their own, for the on-policy algorithms: what travels.

A player judges its rollouts by the policy that acted, so rows come with values, log-probabilities,
advantages and returns. Weights come back, and the moments of the normaliser.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.decoupled.processes import Playing, Side, Training
from fastrl.runs.timer import StageTimer


class RolloutSide(Side):
    """What players and trainers of the on-policy algorithms exchange."""

    policy: Any
    optimizer: Any

    def rows(self, buffer: RolloutBuffer, columns: slice) -> list[Tensor]:
        """Returns what is learned of some columns of a rollout: views `[T, n, *]`."""
        return [x[:, columns] for x in (*buffer.sources(), buffer.host_valid[:-1])]

    def weights(self) -> list[Tensor]:
        """Returns what acting takes: all weights as one tensor, and the normaliser's moments."""
        normalizer = self.policy.normalizer
        return [self.optimizer.flat, *([] if normalizer is None else normalizer.buffers())]

    def memory(self) -> list[Tensor]:
        """Returns what the optimiser remembers."""
        state = self.optimizer.state_dict()
        return [state[name] for name in sorted(state)]

    def send_memory(self, process: int) -> None:
        """Sends all that learning goes on from."""
        self.mail.send({}, [*self.weights(), *self.memory()], process)

    def receive_memory(self, process: int) -> None:
        """Takes it in."""
        self.mail.receive([*self.weights(), *self.memory()], process)


class RolloutPlaying(RolloutSide, Playing):
    """Plays and evaluates, in front of an algorithm's own agent."""

    compute_advantages: Any
    engine: Any

    def prepare(self, buffer: RolloutBuffer, timer: StageTimer) -> dict[str, float]:
        """Does the player's part of learning from a rollout; returns what is to be logged."""
        with timer.stage("advantage"), self.engine.learning():
            return {"Info/explained_variance": float(self.compute_advantages(buffer))}


class RolloutTraining(RolloutSide, Training):
    """Learns from rows that come with their advantages, in front of an algorithm's own agent."""

    steps = ("step",)
    rows_are_evaluated = True

    @property
    def has_all_rows(self) -> bool:
        """Whether every trainer gets the rows of all environments."""
        return self.whole.trainers_get_all_rows
