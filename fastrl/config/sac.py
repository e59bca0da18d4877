"""What SAC is told: sizes of replay and minibatch, step sizes, temperature, networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config.decoupled import DecoupledConfig
from fastrl.config.run import at_least, in_range, one_of


@dataclass(frozen=True, kw_only=True)
class SACConfig(DecoupledConfig):
    """Settings of the soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905)."""

    env_id: str = "LunarLanderContinuous-v2"
    """Task: an EnvPool or gymnasium id, or module:callable that returns a gymnasium.Env."""
    buffer_size: int = 1_000_000
    """Transitions that the replay buffer holds, over all environments of a rank; of all players, if
    decoupled."""
    learning_starts: int = 5_000
    """Environment steps with random actions before the first gradient step."""
    replay_ratio: float = 1.0
    """Gradient steps per environment step; 1 / num_envs is one per step of all environments."""
    per_rank_batch_size: int = 256
    """Transitions of a minibatch, per rank."""

    policy_lr: float = 3e-4
    """Step size of the actor's Adam."""
    q_lr: float = 3e-4
    """Step size of the critics' Adam."""
    alpha_lr: float = 3e-4
    """Step size of the temperature's Adam."""
    adam_eps: float = 1e-8
    """Adam's epsilon."""
    max_grad_norm: float = 0.0
    """Clip the norms of the actor's and of the critics' gradients to this; 0 leaves them alone."""

    gamma: float = 0.99
    """Discount per step."""
    num_return_steps: int = 1
    """Rewards that a target sums before it bootstraps (n-step returns, without correction)."""
    alpha: float = 1.0
    """Temperature, the weight of the entropy; the initial one where it is tuned."""
    tune_alpha: bool = True
    """Tune the temperature so that the policy keeps its target entropy."""
    target_entropy: float | None = None
    """Entropy to keep, in nats, of actions scaled to [-1, 1]; by default minus their dimensions."""
    tau: float = 0.005
    """Share of the critics that goes into the target critics at each of their updates."""
    policy_frequency: int = 1
    """Gradient steps of the critics per step of actor and temperature."""
    target_network_frequency: int = 1
    """Gradient steps of the critics per update of the target critics."""

    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Precision of the update's float32 products, as torch names it; medium multiplies in bfloat16
    and sums in float32, several times faster where the processor has units for it."""
    num_critics: int = 2
    """Critics; targets take the least of their estimates."""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""

    log_every: int = 1_000
    """Steps between rows of metrics; 0: after every update."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        at_least(self, 1, "num_steps", "per_rank_batch_size", "num_return_steps", "num_critics")
        at_least(self, 1, "policy_frequency", "target_network_frequency")
        at_least(self, 0, "learning_starts", "policy_lr", "q_lr", "alpha_lr", "max_grad_norm")
        at_least(self, 0, "alpha", "log_every")
        in_range(self, 0, 1, "gamma", "tau")
        one_of(self, "matmul_precision", "highest", "high", "medium")
        if not self.adam_eps > 0:
            raise ValueError(f"adam_eps must be above 0, not {self.adam_eps}")
        if not 1e-6 <= self.replay_ratio <= 1e6:
            raise ValueError(
                f"replay_ratio must be above 0, from 1e-6 to 1e6, not {self.replay_ratio}"
            )
        if self.tune_alpha and not self.alpha > 0:
            raise ValueError(f"alpha must be above 0 to be tuned, not {self.alpha}")
        if self.target_entropy is not None and not self.tune_alpha:
            raise ValueError("target_entropy has no effect with tune_alpha=false")
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ValueError(
                "hidden_sizes must hold at least one width, each at least 1, "
                f"not {list(self.hidden_sizes)}"
            )
        players = self.num_players if self.decoupled else 1
        num_envs, steps = players * self.num_envs, max(self.num_steps, 2)
        if self.buffer_size < num_envs * steps:
            raise ValueError(
                f"buffer_size={self.buffer_size} holds less than {steps} steps of "
                f"{num_envs} environments"
            )
        if self.total_timesteps <= self.learning_starts:
            raise ValueError(
                f"total_timesteps={self.total_timesteps} ends before anything is learned: "
                f"learning_starts={self.learning_starts}"
            )
        if self.total_timesteps < self.steps_per_update:
            raise ValueError(
                f"total_timesteps={self.total_timesteps} is less than the {self.steps_per_update} "
                "steps between two updates"
            )

    @property
    def trainers_get_all_rows(self) -> bool:
        """Decoupled: each trainer keeps a replay buffer of all players' rows."""
        return True
