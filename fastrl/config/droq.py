"""Settings of DroQ: those of SAC, dropout, and many gradient steps per environment step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastrl.config.bounds import Bounds
from fastrl.config.sac import SACConfig
from fastrl.config.search import Choices, LogRange


@dataclass(frozen=True, kw_only=True)
class DroQConfig(SACConfig):
    """Settings of DroQ (Hiraoka et al. 2021, arXiv 2110.02034)."""

    env_id: str = "Hopper-v4"
    """Task: an EnvPool or gymnasium id, or module:callable that returns a gymnasium.Env."""
    num_envs: int = 1
    """Parallel environments, per rank."""
    replay_ratio: Annotated[float, Choices((20.0, 5.0, 10.0))] = 20.0
    """Critic gradient steps per environment step."""
    policy_frequency: int = 20
    """Critic gradient steps per gradient step of actor and temperature."""
    dropout_rate: Annotated[float, Bounds(at_least=0, below=1), LogRange(1e-3, 0.1)] = 0.01
    """Dropout rate of the critics' hidden layers."""
    layer_norm: bool = True
    """Apply layer normalisation in the critics' hidden layers."""
