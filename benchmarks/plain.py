"""Plain twins of PPO and A2C, as most code writes them: distributions, loops, torch.optim.Adam."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from fastrl.buffers.rollout import Minibatch
from fastrl.models.actor_critic import ActorCritic


class PlainActorCritic(nn.Module):
    """Actor and critic of two hidden layers of 64, tanh, with the weights of a fastrl policy."""

    def __init__(self, policy: ActorCritic, num_inputs: int, num_actions: int) -> None:
        super().__init__()
        self.actor, self.critic = _plain_mlp(num_inputs, num_actions), _plain_mlp(num_inputs, 1)
        assert policy.critic is not None
        pairs = (
            (self.actor, (policy.actor, policy.head)),
            (self.critic, (policy.critic, policy.value_head)),
        )
        with torch.no_grad():
            for mine, theirs in pairs:
                sources = [parameter for part in theirs for parameter in part.parameters()]
                for parameter, source in zip(mine.parameters(), sources, strict=True):
                    parameter.copy_(source)

    def forward(self, obs: Tensor) -> tuple[Distribution, Tensor]:
        """Returns the distributions over actions, and values."""
        return Categorical(logits=self.actor(obs)), self.critic(obs).squeeze(-1)


class PlainGaussian(nn.Module):
    """One trunk of 128, 64 and 32 with ELU and two heads, behind a running normaliser.

    With the weights of a fastrl policy. Actions are clipped to [-1, 1] by whoever plays them.
    """

    def __init__(self, policy: ActorCritic, num_inputs: int, num_actions: int) -> None:
        super().__init__()
        layers = [nn.Linear(num_inputs, 128), nn.ELU(), nn.Linear(128, 64), nn.ELU()]
        self.trunk = nn.Sequential(*layers, nn.Linear(64, 32), nn.ELU())
        self.means, self.value = nn.Linear(32, num_actions), nn.Linear(32, 1)
        self.log_std = nn.Parameter(torch.zeros(num_actions))
        self.rows, self.mean, self.variance = 0, torch.zeros(num_inputs), torch.ones(num_inputs)
        theirs = [policy.actor, policy.head.layer, policy.value_head]
        sources = [parameter for part in theirs for parameter in part.parameters()]
        mine = [p for part in (self.trunk, self.means, self.value) for p in part.parameters()]
        with torch.no_grad():
            for parameter, source in zip(mine, sources, strict=True):
                parameter.copy_(source)

    def forward(self, obs: Tensor) -> tuple[Distribution, Tensor]:
        """Returns the distributions over actions, and values."""
        scaled = (obs - self.mean) / (self.variance + 1e-8).sqrt()
        features = self.trunk(scaled.clamp(-10, 10))
        normal = Normal(self.means(features), self.log_std.exp())
        return Independent(normal, 1), self.value(features).squeeze(-1)

    def take_in(self, obs: Tensor) -> None:
        """Brings the normaliser up to date with rows of observations."""
        total = self.rows + len(obs)
        apart = obs.mean(0) - self.mean
        share = len(obs) / total
        variance = (1 - share) * self.variance + share * obs.var(0, correction=0)
        self.variance = variance + share * (1 - share) * apart.square()
        self.mean, self.rows = self.mean + share * apart, total


def plain_advantages(
    rewards: Tensor, values: Tensor, terminated: Tensor, truncated: Tensor
) -> Tensor:
    """Returns generalised advantages `[T, N]` for gamma 0.99 and lambda 0.95, step by step.

    `values` is `[T + 1, N]`, the others `[T, N]`. A reset row follows each episode's end.
    """
    advantages, last = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        goes_on = 1 - terminated[t].float()
        error = rewards[t] + 0.99 * goes_on * values[t + 1] - values[t]
        last = error + 0.99 * 0.95 * (1 - (terminated[t] | truncated[t]).float()) * last
        advantages[t] = last
    return advantages


def plain_update(model: nn.Module, optimizer: torch.optim.Adam, batch: Minibatch) -> None:
    """One minibatch with clip_coef 0.2, vf_coef 1, normalised advantages, gradients cut at 0.5.

    The model returns distributions and values.
    """
    distribution, values = model(batch.obs)
    ratio = (distribution.log_prob(batch.actions) - batch.log_probs).exp()
    advantages = batch.advantages
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    clipped = ratio.clamp(0.8, 1.2)
    policy_loss = -torch.min(ratio * advantages, clipped * advantages).mean()
    value_loss = (values - batch.returns).square().mean()
    loss = policy_loss + value_loss - 0.01 * distribution.entropy().mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()


def plain_a2c_update(
    model: PlainActorCritic, optimizer: torch.optim.Adam, batch: Minibatch
) -> None:
    """One update of A2C with vf_coef 0.5, ent_coef 0.01, gradients cut at 0.5."""
    distribution, values = model(batch.obs)
    policy_loss = -(distribution.log_prob(batch.actions) * batch.advantages).mean()
    value_loss = (values - batch.returns).square().mean()
    loss = policy_loss + 0.5 * value_loss - 0.01 * distribution.entropy().mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()


def _plain_mlp(num_inputs: int, num_outputs: int) -> nn.Sequential:
    layers = [nn.Linear(num_inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(64, num_outputs))
