"""Agents of somebody's own, in a module that a checkpoint names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastrl import PPO, SAC
from fastrl.models.actor_critic import ActorCritic


class Doubled(ActorCritic):
    """A network with the shapes of the stock one, and another function."""

    def outputs(self, observations: torch.Tensor) -> torch.Tensor:
        return -2 * super().outputs(observations)


class DoubledPPO(PPO):
    """PPO with that network."""

    policy_class = Doubled


class OtherPPO(PPO):
    """PPO with the same shapes."""


class GeluPPO(PPO):
    """PPO with other activations, which have no weights."""

    def make_policy(self, **more: Any) -> ActorCritic:
        policy: Any = super().make_policy(**more)
        policy.actor[1] = nn.GELU()
        return policy


class OwnSAC(SAC):
    """SAC of somebody's own."""
