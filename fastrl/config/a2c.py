"""Settings of A2C: those of all on-policy algorithms, and the optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from fastrl.config.bounds import Bounds
from fastrl.config.on_policy import OnPolicyConfig
from fastrl.config.search import Choices, LogRange, PowersOfTwo


@dataclass(frozen=True, kw_only=True)
class A2CConfig(OnPolicyConfig):
    """Settings of synchronous advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783)."""

    num_envs: Annotated[int, PowersOfTwo(4, 64)] = 8
    """Parallel environments, per rank."""
    num_steps: Annotated[int, Choices((5, 8, 16, 32, 64, 128, 256))] = 5
    """Steps of a rollout, per environment."""
    per_rank_batch_size: Annotated[int, Bounds(at_least=0)] = 0
    """Rows whose gradient is computed at once, per rank; 0: the whole rollout. Gradients accumulate
    to one step per rollout in any case: a smaller value saves memory and gives the same result."""
    learning_rate: Annotated[float, LogRange(1e-4, 1e-2)] = 7e-4
    """Learning rate of the optimiser."""
    gae_lambda: Annotated[float, Choices((1.0, 0.98, 0.95, 0.9))] = 1.0
    """Lambda of generalised advantage estimation. 1: n-step returns; 0: one-step advantages."""
    normalize_advantages: Annotated[bool, Choices((False, True))] = False
    """Normalise the advantages of each rollout to mean 0 and standard deviation 1."""
    vf_coef: Annotated[float, LogRange(0.1, 2.0)] = 0.5
    """Weight of the value loss, a mean squared error without a factor of 1/2."""

    optimizer: Annotated[Literal["rmsprop", "adam"], Choices(("rmsprop", "adam"))] = "rmsprop"
    """rmsprop: as in TensorFlow, epsilon inside the root and the mean square starting at 1."""
    optimizer_eps: Annotated[float, Bounds(above=0)] = 1e-5
    """Epsilon of the optimiser."""
    rmsprop_decay: Annotated[float, Bounds(at_least=0, at_most=1)] = 0.99
    """Decay rate of RMSprop's running mean square, per step."""
    adam_beta1: Annotated[float, Bounds(at_least=0, below=1)] = 0.9
    """Decay rate of Adam's running mean of the gradient, per step."""
    adam_beta2: Annotated[float, Bounds(at_least=0, below=1)] = 0.999
    """Decay rate of Adam's running mean of the gradient's square, per step."""
    weight_decay: Annotated[float, Bounds(at_least=0)] = 0.0
    """Shrink all weights by the share learning_rate x weight_decay at each step, apart from the
    gradient."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes."""
        super().__post_init__()
        of_others = {"rmsprop": ("adam_beta1", "adam_beta2"), "adam": ("rmsprop_decay",)}
        for name in of_others[self.optimizer]:
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name} has no effect with optimizer={self.optimizer}")
