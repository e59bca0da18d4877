"""Settings of recurrent PPO: those of PPO, the recurrent layer, and the sequence length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastrl.config.bounds import Bounds
from fastrl.config.ppo import PPOConfig
from fastrl.config.search import Choices, PowersOfTwo


@dataclass(frozen=True, kw_only=True)
class PPORecurrentConfig(PPOConfig):
    """Settings of PPO with a recurrent network, trained on whole sequences."""

    num_envs: Annotated[int, PowersOfTwo(4, 64)] = 8
    """Parallel environments, per rank."""
    per_rank_batch_size: Annotated[int, PowersOfTwo(128, 2048)] = 256
    """Rows of a minibatch, per rank: sequences times their length, padding included."""
    hidden_sizes: Annotated[tuple[int, ...], Choices(((64, 64), (32, 32), (128, 128)))] = (64, 64)
    """Widths of the hidden layers; the last is that of the recurrent layer."""
    shared_network: bool = True
    """Use one recurrent network with two heads instead of separate ones for actor and critic."""

    rnn: Annotated[Literal["lstm", "gru"], Choices(("lstm", "gru"))] = "lstm"
    """Type of the recurrent layer. A GRU has one gate less to compute."""
    sequence_length: Annotated[int, Bounds(at_least=1), PowersOfTwo(8, 64)] = 32
    """Maximum length of a training sequence (truncated backpropagation through time); a sequence
    ends early where its episode does."""
    previous_action: bool = False
    """Also feed the previous action to the recurrent layer."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
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
        if self.critic_hidden_sizes:
            raise ValueError(
                "critic_hidden_sizes is not offered with a recurrent network: actor and critic "
                "have memories of one size"
            )
        if self.share_data:
            raise ValueError(
                "share_data is not offered with a recurrent network: sequences stay on the rank "
                "that played them, and ranks share gradients"
            )
        if self.decoupled:
            raise ValueError(
                "decoupled is not offered with a recurrent network: its states stay with the player"
            )
        if self.recompute_advantages:
            raise ValueError(
                "recompute_advantages is not offered with a recurrent network, whose states are "
                "those of the policy that acted"
            )
