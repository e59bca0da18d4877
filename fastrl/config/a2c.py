"""What A2C is told beyond what all on-policy algorithms are: its optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config.on_policy import OnPolicyConfig
from fastrl.config.run import in_range, one_of


@dataclass(frozen=True, kw_only=True)
class A2CConfig(OnPolicyConfig):
    """Settings of advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783, synchronous)."""

    num_envs: int = 8
    """Environments stepped side by side, per rank."""
    num_steps: int = 5
    """Steps of one rollout, per environment."""
    per_rank_batch_size: int = 0
    """Rows whose gradient is computed at once, per rank; 0: the whole rollout. Gradients add up to
    one step for the rollout whatever this is: less memory, the same result."""
    learning_rate: float = 7e-4
    """Step size of the optimiser."""
    gae_lambda: float = 1.0
    """1: n-step returns. Below: generalised advantages, down to one-step ones at 0."""
    normalize_advantages: bool = False
    """Give the advantages of each rollout mean 0 and standard deviation 1."""
    vf_coef: float = 0.5
    """Weight of the value loss, a mean squared error without the factor 1/2."""

    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """rmsprop: as TensorFlow writes it, epsilon inside the root and the square starting at one."""
    optimizer_eps: float = 1e-5
    """The optimiser's epsilon."""
    rmsprop_decay: float = 0.99
    """Share of RMSprop's running square that a step leaves."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        one_of(self, "optimizer", "rmsprop", "adam")
        in_range(self, 0, 1, "rmsprop_decay")
        if not self.optimizer_eps > 0:
            raise ValueError(f"optimizer_eps must be above 0, not {self.optimizer_eps}")
        if self.optimizer == "adam" and self.rmsprop_decay != type(self).rmsprop_decay:
            raise ValueError("rmsprop_decay has no effect with optimizer=adam")
