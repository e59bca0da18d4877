"""Algorithms of somebody's own, as small as they get."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from fastrl import LightningAgentModule
from fastrl.ops.exploration import epsilon_greedy


def mlp(num_inputs: int, num_outputs: int, seed: int = 0) -> nn.Sequential:
    """A small network with the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(num_inputs, 16), nn.Tanh(), nn.Linear(16, num_outputs))


class ActorCritic(nn.Module):
    """Logits and a value."""

    def __init__(self, num_inputs: int = 4, num_outputs: int = 2) -> None:
        super().__init__()
        self.actor, self.critic = mlp(num_inputs, num_outputs), mlp(num_inputs, 1, 1)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.actor(obs), self.critic(obs)


class Reinforce(LightningAgentModule):
    """-log pi(a|s) R, over whole rollouts."""

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = network

    def training_step(self, batch: Any) -> torch.Tensor:
        log_probs, entropy, _ = self.evaluate_actions(batch.obs, batch.actions)
        self.log("Info/entropy", (batch.weights * entropy).sum())
        return -(batch.weights * log_probs * batch.returns).sum()


class PPOAgent(LightningAgentModule):
    """The clipped objective, over shuffled minibatches."""

    learns_from = "minibatches"

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = network

    def training_step(self, batch: Any) -> torch.Tensor:
        log_probs, _, values = self.evaluate_actions(batch.obs, batch.actions)
        ratio = (log_probs - batch.log_probs).exp()
        gain = torch.minimum(ratio * batch.advantages, ratio.clamp(0.8, 1.2) * batch.advantages)
        error = (values - batch.returns) ** 2
        self.log("Loss/value_loss", (batch.weights * error).sum())
        return (batch.weights * (0.5 * error - gain)).sum()


class DQN(LightningAgentModule):
    """Q-learning with a target network and epsilon that falls."""

    learns_from = "replay"

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        self.network, self.target = network, deepcopy(network).requires_grad_(False)
        self.register_buffer("epsilon", torch.tensor(1.0))

    def act(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return epsilon_greedy(self.network(obs), noise, self.epsilon)

    def training_step(self, batch: Any) -> torch.Tensor:
        with torch.no_grad():
            best = self.target(batch.next_obs).amax(1)
            targets = batch.rewards + batch.discounts * best
            for theirs, mine in zip(
                self.target.parameters(), self.network.parameters(), strict=True
            ):
                theirs.lerp_(mine, 0.01)
            self.epsilon.sub_(0.01).clamp_(min=0.05)
        values = self.network(batch.obs).gather(1, batch.actions.unsqueeze(1)).squeeze(1)
        self.log("Info/q_value", values.mean())
        return nn.functional.smooth_l1_loss(values, targets)


def make_reinforce() -> Reinforce:
    """What commands load a run of it with."""
    return Reinforce(mlp(4, 2))


def make_wide() -> Reinforce:
    """The same, with other layers."""
    return Reinforce(nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2)))


def make_ppo() -> PPOAgent:
    """What commands load a run of it with."""
    return PPOAgent(ActorCritic())


def make_dqn() -> DQN:
    """What commands load a run of it with."""
    return DQN(mlp(4, 2))
