"""One minibatch of PPO and A2C, beside nn.Linear, nn.Conv2d, autograd and torch.optim.Adam."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from benchmarks.plain import PlainActorCritic, plain_a2c_update, plain_update
from fastrl import A2C, PPO
from fastrl.engine.threads import num_threads, update_threads
from fastrl.models.actor_critic import ActorCritic


def fill(batch: Any, agent: Any, obs: Tensor, is_normalized: bool) -> None:
    """Fills a minibatch with observations, what the policy does there, and made-up returns."""
    num_rows = len(obs)
    with torch.no_grad():
        actions = agent.policy(obs)
        log_probs, _, values = agent.policy.evaluate(obs, actions)
    returns = torch.linspace(-1, 1, num_rows)
    advantages = returns - values
    if is_normalized:
        advantages = (advantages - advantages.mean()) / advantages.std(correction=0)
    weights = torch.full((num_rows,), 1 / num_rows)
    fields = obs, actions, log_probs, values, advantages, returns, weights
    for target, source in zip(batch, fields, strict=True):
        target.copy_(source)


def random_rows(num_rows: int) -> Tensor:
    return torch.randn(num_rows, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("num_rows", [64, 2048])
def test_update_of_ppo(compare, num_rows):
    settings = {"num_envs": 32, "num_steps": num_rows // 32, "per_rank_batch_size": num_rows}
    settings |= {"ent_coef": 0.01, "normalize_advantages": True, "accelerator": "cpu"}
    agent = PPO("LunarLander-v2", preset="none", **settings)
    batch = agent.make_buffer().first_minibatch
    fill(batch, agent, random_rows(num_rows), is_normalized=True)
    model = PlainActorCritic(agent.policy, 8, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)

    def plain() -> None:
        with num_threads(update_threads(num_rows, 64)):
            plain_update(model, optimizer, batch)

    with agent.engine.learning():
        agent.step(batch)
        plain()
        now = PlainActorCritic(agent.policy, 8, 4)
        torch.testing.assert_close(now.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-5)
        compare(f"PPO minibatch of {num_rows} rows", lambda: agent.step(batch), plain)


def test_update_of_a2c(compare):
    sizes = {"num_envs": 16, "num_steps": 16, "optimizer": "adam", "learning_rate": 1e-3}
    settings = {"ent_coef": 0.01, "vf_coef": 0.5, "accelerator": "cpu"}
    agent = A2C("LunarLander-v2", preset="none", **sizes, **settings)
    batch = agent.make_buffer().first_minibatch
    fill(batch, agent, random_rows(256), is_normalized=False)
    model = PlainActorCritic(agent.policy, 8, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)

    def ours() -> None:
        agent.step.accumulate(batch)
        agent.step.finish()

    def plain() -> None:
        plain_a2c_update(model, optimizer, batch)

    ours()
    plain()
    now = PlainActorCritic(agent.policy, 8, 4)
    torch.testing.assert_close(now.state_dict(), model.state_dict(), rtol=1e-3, atol=1e-5)
    compare("A2C update on 256 rows", ours, plain)


class PlainNature(nn.Module):
    """The Nature CNN with two heads, with the weights of a fastrl policy."""

    def __init__(self, policy: ActorCritic, num_actions: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(4, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 512),
            nn.ReLU(),
        )
        self.logits, self.value = nn.Linear(512, num_actions), nn.Linear(512, 1)
        with torch.no_grad():
            for mine, theirs in zip(self.parameters(), policy.parameters(), strict=True):
                mine.copy_(theirs)

    def forward(self, obs: Tensor) -> tuple[Categorical, Tensor]:
        """Returns the distributions over actions, and values."""
        features = self.trunk(obs.float() / 255)
        return Categorical(logits=self.logits(features)), self.value(features).squeeze(-1)


def test_update_from_pixels(compare):
    """On a GPU 2048 rows of Pong-v5, as in W6; else 64."""
    has_gpu = torch.cuda.is_available()
    num_rows = 2048 if has_gpu else 64
    settings: dict[str, Any] = {
        "num_envs": 8,
        "num_steps": num_rows // 8,
        "per_rank_batch_size": num_rows,
    }
    settings |= {"hidden_sizes": (512,), "activation_function": "relu", "shared_network": True}
    settings |= {"ent_coef": 0.01, "normalize_advantages": True}
    agent = PPO("Pong-v5", preset="none", **settings)
    batch = agent.make_buffer().first_minibatch
    obs = torch.randint(256, batch.obs.shape, dtype=torch.uint8, device=agent.device)
    fill(batch, agent, obs, is_normalized=True)
    model = PlainNature(agent.policy, 6).to(agent.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    with torch.no_grad():
        distribution, values = model(batch.obs)
    log_probs = distribution.log_prob(batch.actions)
    torch.testing.assert_close(batch.values, values, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(batch.log_probs, log_probs, rtol=1e-3, atol=1e-4)

    def waited(step: Any) -> None:
        step()
        if has_gpu:
            torch.cuda.synchronize()

    with agent.engine.learning():  # with as many threads for both
        compare(
            f"PPO minibatch of {num_rows} rows of pixels",
            lambda: waited(lambda: agent.step(batch)),
            lambda: waited(lambda: plain_update(model, optimizer, batch)),
        )
