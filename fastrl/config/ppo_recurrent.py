"""What recurrent PPO is told beyond what PPO is: the memory, and how long sequences are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config.ppo import PPOConfig
from fastrl.config.run import at_least, one_of


@dataclass(frozen=True, kw_only=True)
class PPORecurrentConfig(PPOConfig):
    """Settings of PPO with a memory, trained on whole sequences."""

    num_envs: int = 8
    """Environments stepped side by side, per rank."""
    per_rank_batch_size: int = 256
    """Rows of a minibatch, per rank: sequences times their length, padding included."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the layers; the last is the memory's."""
    shared_network: bool = True
    """One memory with two heads, in place of one for the actor and one for the critic."""

    rnn: Literal["lstm", "gru"] = "lstm"
    """Kind of the memory. A GRU has a gate less to work out."""
    sequence_length: int = 32
    """Most steps of a sequence that learning looks back over; it ends earlier with its episode."""
    previous_action: bool = False
    """The memory sees the action of the step before, too."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        one_of(self, "rnn", "lstm", "gru")
        at_least(self, 1, "sequence_length")
        if self.sequence_length > self.num_steps:
            raise ValueError(
                f"sequence_length={self.sequence_length} is longer than a rollout of "
                f"num_steps={self.num_steps}"
            )
        if self.per_rank_batch_size % self.sequence_length:
            raise ValueError(
                f"per_rank_batch_size={self.per_rank_batch_size} must be a multiple of "
                f"sequence_length={self.sequence_length}: a minibatch is whole sequences"
            )
        if self.share_data:
            raise ValueError(
                "share_data is not offered with a memory: sequences stay where they were played; "
                "ranks share gradients"
            )
        if self.decoupled:
            raise ValueError("decoupled is not offered with a memory: states stay with the player")
        if self.recompute_advantages:
            raise ValueError(
                "recompute_advantages is not offered with a memory, whose states are those of the "
                "policy that acted"
            )
