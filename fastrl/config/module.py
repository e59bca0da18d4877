"""Settings of algorithms of one's own, as `LightningAgentModule(**settings)` takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastrl.config.checks import at_least, in_range
from fastrl.config.decoupled import DecoupledConfig


@dataclass(frozen=True, kw_only=True)
class ModuleConfig(DecoupledConfig):
    """Settings of all modules: length of a rollout, optimiser, discount."""

    num_envs: int = 8
    """Parallel environments, per rank."""
    num_steps: int = 128
    """Steps of a rollout, per environment."""
    learning_rate: float = 1e-3
    """Learning rate of the optimiser that `configure_optimizers` makes by default, Adam."""
    max_grad_norm: float = 0.5
    """Clip the global norm of the gradient to this; 0: no clipping."""
    gamma: float = 0.99
    """Discount factor per step."""

    # Schedules of a module are those of its `configure_optimizers`.
    lr_schedule: ClassVar[str] = "constant"
    ent_schedule: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        if self.decoupled:
            raise ValueError("decoupled is not offered for a LightningAgentModule")
        at_least(self, 0, "learning_rate", "max_grad_norm")
        in_range(self, 0, 1, "gamma")
        if self.total_timesteps < self.steps_per_update:
            raise ValueError(
                f"max_steps={self.total_timesteps} is less than one rollout of "
                f"{self.steps_per_update} steps (num_envs x num_steps, over all ranks)"
            )


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(ModuleConfig):
    """Settings of modules that learn from rollouts, whole or in shuffled minibatches."""

    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation; without a value function advantages are
    discounted sums of rewards, as with 1."""
    normalize_advantages: bool = False
    """Normalise the advantages of each batch to mean 0 and standard deviation 1."""
    reward_scaling: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    update_epochs: int = 1
    """Passes over a rollout."""
    per_rank_batch_size: int = 0
    """Rows of a minibatch, per rank; 0: all rows of the rollout."""

    ent_coef: ClassVar[float] = 0.0  # what a loss weighs its parts with is in the loss

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        at_least(self, 2, "num_steps")  # with one step, every row may be a reset row
        at_least(self, 1, "update_epochs")
        at_least(self, 0, "per_rank_batch_size")
        in_range(self, 0, 1, "gae_lambda")
        if self.per_rank_batch_size > self.num_envs * self.num_steps:
            raise ValueError(
                f"per_rank_batch_size={self.per_rank_batch_size} is larger than a rollout of "
                f"num_envs={self.num_envs} x num_steps={self.num_steps} rows"
            )


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(ModuleConfig):
    """Settings of modules that learn from a replay buffer."""

    num_steps: int = 1
    """Steps between two updates, per environment."""
    max_grad_norm: float = 10.0
    """Clip the global norm of the gradient to this; 0: no clipping."""
    buffer_size: int = 100_000
    """Capacity of the replay buffer in transitions, over all environments of a rank."""
    learning_starts: int = 1_000
    """Environment steps with random actions before the first gradient step."""
    replay_ratio: float = 0.125
    """Gradient steps per environment step; 1 / num_envs: one per step of all environments."""
    per_rank_batch_size: int = 128
    """Transitions per minibatch, per rank."""
    num_return_steps: int = 1
    """Rewards in a target before it bootstraps (n-step returns, without off-policy correction)."""
    log_every: int = 1_000
    """Environment steps between rows of metrics; 0: one row per update."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        at_least(self, 1, "num_steps", "per_rank_batch_size", "num_return_steps")
        at_least(self, 0, "learning_starts", "log_every")
        if not 1e-6 <= self.replay_ratio <= 1e6:
            raise ValueError(
                f"replay_ratio must be above 0, from 1e-6 to 1e6, not {self.replay_ratio}"
            )
        if self.buffer_size < self.num_envs * (steps := max(self.num_steps, 2)):
            raise ValueError(
                f"buffer_size={self.buffer_size} holds fewer than {steps} steps of "
                f"{self.num_envs} environments"
            )
        if self.total_timesteps <= self.learning_starts:
            raise ValueError(
                f"max_steps={self.total_timesteps} ends before the first gradient step: "
                f"learning_starts={self.learning_starts}"
            )
