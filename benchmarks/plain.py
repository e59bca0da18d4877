"""Plain twins of PPO and A2C, as most code writes them: distributions, loops, torch.optim.Adam."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits and values."""
        return self.actor(obs), self.critic(obs).squeeze(-1)

    def act(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws actions; returns them, their log-probabilities and the values."""
        distribution = torch.distributions.Categorical(logits=self.actor(obs))
        actions = distribution.sample()
        return actions, distribution.log_prob(actions), self.critic(obs).squeeze(-1)


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

    The model returns logits and values.
    """
    logits, values = model(batch.obs)
    distribution = torch.distributions.Categorical(logits=logits)
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
    logits, values = model(batch.obs)
    distribution = torch.distributions.Categorical(logits=logits)
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
