"""Settings of algorithms of one's own, as `LightningAgentModule(**settings)` takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastrl.config.bounds import Bounds
from fastrl.config.decoupled import DecoupledConfig


@dataclass(frozen=True, kw_only=True)
class ModuleConfig(DecoupledConfig):
    """Settings of all modules: length of a rollout, optimiser, discount."""

    num_envs: int = 8
    """Parallel environments, per rank."""
    num_steps: Annotated[int, Bounds(at_least=2)] = 128
    """Steps of a rollout, per environment."""
    learning_rate: Annotated[float, Bounds(at_least=0)] = 1e-3
    """Learning rate of the optimiser that `configure_optimizers` makes by default, Adam."""
    max_grad_norm: Annotated[float, Bounds(at_least=0)] = 0.5
    """Clip the global norm of the gradient to this; 0: no clipping."""
    gamma: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.99
    """Discount factor per step."""

    # Schedules of a module are those of its `configure_optimizers`.
    lr_schedule: ClassVar[str] = "constant"
    ent_schedule: ClassVar[str] = "constant"
    # Its network is the module's own.
    network: ClassVar[tuple[str, ...]] = ()
    network_kwargs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        if self.decoupled:
            raise ValueError("decoupled is not offered for a LightningAgentModule")
        if self.total_timesteps < self.steps_per_update:
            raise ValueError(
                f"max_steps={self.total_timesteps} is less than one rollout of "
                f"{self.steps_per_update} steps (num_envs x num_steps, over all ranks)"
            )


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(ModuleConfig):
    """Settings of modules that learn from rollouts, whole or in shuffled minibatches."""

    gae_lambda: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.95
    """Lambda of generalised advantage estimation; without a value function advantages are
    discounted sums of rewards, as with 1."""
    normalize_advantages: bool = False
    """Normalise the advantages of each batch to mean 0 and standard deviation 1."""
    reward_scaling: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    update_epochs: Annotated[int, Bounds(at_least=1)] = 1
    """Passes over a rollout."""
    per_rank_batch_size: Annotated[int, Bounds(at_least=0)] = 0
    """Rows of a minibatch, per rank; 0: all rows of the rollout."""

    ent_coef: ClassVar[float] = 0.0  # what a loss weighs its parts with is in the loss
    freeze_normalization: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        if self.per_rank_batch_size > self.num_envs * self.num_steps:
            raise ValueError(
                f"per_rank_batch_size={self.per_rank_batch_size} is larger than a rollout of "
                f"num_envs={self.num_envs} x num_steps={self.num_steps} rows"
            )


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(ModuleConfig):
    """Settings of modules that learn from a replay buffer."""

    num_steps: Annotated[int, Bounds(at_least=1)] = 1
    """Steps between two updates, per environment."""
    max_grad_norm: float = 10.0
    """Clip the global norm of the gradient to this; 0: no clipping."""
    buffer_size: int = 100_000
    """Capacity of the replay buffer in transitions, over all environments of a rank."""
    learning_starts: Annotated[int, Bounds(at_least=0)] = 1_000
    """Environment steps with random actions before the first gradient step."""
    replay_ratio: Annotated[float, Bounds(at_least=1e-6, at_most=1e6)] = 0.125
    """Gradient steps per environment step; 1 / num_envs: one per step of all environments."""
    per_rank_batch_size: Annotated[int, Bounds(at_least=1)] = 128
    """Transitions per minibatch, per rank."""
    num_return_steps: Annotated[int, Bounds(at_least=1)] = 1
    """Rewards in a target before it bootstraps (n-step returns, without off-policy correction)."""
    log_every: Annotated[int, Bounds(at_least=0)] = 1_000
    """Environment steps between rows of metrics; 0: one row per update."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        if self.buffer_size < self.num_envs * (steps := max(self.num_steps, 2)):
            raise ValueError(
                f"buffer_size={self.buffer_size} holds fewer than {steps} steps of "
                f"{self.num_envs} environments"
            )
