"""The baseline twin of SAC: modules of their own for every network, and torch.optim.Adam."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fastrl.buffers.replay import Transitions
from fastrl.sac import SAC


class PlainSAC:
    """The networks of a fastrl agent with two hidden layers, its optimisers and temperature."""

    def __init__(self, agent: SAC) -> None:
        config, actor = agent.config, agent.policy
        self.gamma, self.tau, self.num_actions = config.gamma, config.tau, actor.num_actions
        self.actor = nn.Sequential(*(copy.deepcopy(layer) for layer in actor.trunk), _copy(actor))
        self.critics = [_critic(agent, index) for index in range(config.num_critics)]
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = torch.tensor(config.alpha).log().requires_grad_()
        adam = {"eps": config.adam_eps}
        weights = [weight for critic in self.critics for weight in critic.parameters()]
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), config.policy_lr, **adam)
        self.critic_adam = torch.optim.Adam(weights, config.q_lr, **adam)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], config.alpha_lr, **adam)

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws actions and their log-density, by the change of variables through tanh."""
        mean, log_std = self.actor(obs).chunk(2, 1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
        u = mean + normal.scale * noise
        actions = torch.tanh(u)
        slope = torch.log(1 - actions.double() ** 2 + 1e-12).float()
        return actions, (normal.log_prob(u) - slope).sum(1)

    def step(self, batch: Transitions, critic_noise: Tensor, actor_noise: Tensor) -> None:
        """One gradient step of everything."""
        obs, actions, next_obs, rewards, discounts = batch
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            next_actions, next_log_probs = self.sample(next_obs, critic_noise)
            rows = torch.cat([next_obs, next_actions], 1)
            least = torch.stack([target(rows).squeeze(1) for target in self.targets]).min(0).values
            wanted = rewards + discounts * (least - alpha * next_log_probs)
        rows = torch.cat([obs, actions], 1)
        losses = [
            nn.functional.mse_loss(critic(rows).squeeze(1), wanted) for critic in self.critics
        ]
        _step(self.critic_adam, sum(losses, torch.zeros(())))

        new_actions, log_probs = self.sample(obs, actor_noise)
        rows = torch.cat([obs, new_actions], 1)
        values = torch.stack([critic(rows).squeeze(1) for critic in self.critics]).min(0).values
        _step(self.actor_adam, (alpha * log_probs - values).mean())
        _step(self.alpha_adam, -self.log_alpha * (log_probs.detach() - self.num_actions).mean())

        with torch.no_grad():
            for critic, target in zip(self.critics, self.targets, strict=True):
                for new, old in zip(critic.parameters(), target.parameters(), strict=True):
                    old.mul_(1 - self.tau).add_(self.tau * new)


def _step(optimizer: torch.optim.Adam, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _copy(actor: nn.Module) -> nn.Module:
    return copy.deepcopy(actor.head)


def _critic(agent: SAC, index: int) -> nn.Sequential:
    """One of the critics as plain linear layers."""
    layers: list[nn.Module] = []
    for weight, bias in zip(agent.critics.weights, agent.critics.biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[2])
        with torch.no_grad():
            layer.weight.copy_(weight[index].t())
            layer.bias.copy_(bias[index, 0])
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
