"""Players and trainers in processes of their own, for the on-policy algorithms: what travels.

A player judges its rollouts by the policy that acted, so rows come with values, log-probabilities,
advantages and returns. Weights come back, and the moments of the normaliser.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.buffers.shared import SharedRollout
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
    """Plays and judges, in front of an algorithm's own agent."""

    judge: Any
    learning: Any

    def prepare(self, buffer: RolloutBuffer, timer: StageTimer) -> dict[str, float]:
        """Does the player's part of learning from a rollout; returns what is to be logged."""
        with timer.stage("advantage"), self.learning():
            return {"Info/explained_variance": float(self.judge(buffer))}


class RolloutTraining(RolloutSide, Training):
    """Learns from judged rows, in front of an algorithm's own agent."""

    steps = ("_minibatch_step", "_accumulate")

    def share(self, buffer: RolloutBuffer) -> SharedRollout:
        """All rows are here already."""
        size, ranks = self.whole.per_rank_batch_size, self.devices
        place = ranks.global_rank, ranks.world_size
        return SharedRollout(buffer, size, *place, gather=None)

    def judge(self, buffer: RolloutBuffer) -> Tensor:
        """The players have judged, and say how well the values explain the returns."""
        return torch.full((), torch.nan)

    def take_in_observations(self, buffer: RolloutBuffer) -> None:
        """Updates the normaliser, from each row once."""
        learner: Any = super()
        has_all = self.whole.trainers_get_all_rows
        learner.take_in_observations(buffer, (lambda moments: moments) if has_all else None)
