"""Pong-v5 from pixels (W6): a rollout, and a minibatch through the Nature CNN beside a plain twin.

On a GPU the sizes are W6's own, 64 environments x 128 steps and minibatches of 2048. Without one
they are small, enough to compare.
"""

from __future__ import annotations

import pytest
import torch
from plain import plain_update
from torch import Tensor, nn

from fastrl import PPO
from fastrl.models.actor_critic import ActorCritic
from fastrl.runs.timer import StageTimer
from fastrl.training.player import Player

HAS_GPU = torch.cuda.is_available()
NUM_ENVS, NUM_STEPS, NUM_ROWS = (64, 128, 2048) if HAS_GPU else (8, 16, 64)
SIZES = f"{NUM_ENVS} environments x {NUM_STEPS} steps, minibatch {NUM_ROWS}"


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

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits and values."""
        features = self.trunk(obs.float() / 255)
        return self.logits(features), self.value(features).squeeze(-1)


@pytest.fixture
def make_agent():
    """Returns a function that makes an agent, its player, and its buffer with one rollout."""

    def make(engine):
        settings = {"num_envs": NUM_ENVS, "num_steps": NUM_STEPS, "per_rank_batch_size": NUM_ROWS}
        settings |= {"hidden_sizes": (512,), "activation_function": "relu", "shared_network": True}
        settings |= {"ent_coef": 0.01, "normalize_advantages": True}
        agent = PPO("Pong-v5", preset="none", engine=engine, **settings)
        buffer = agent.make_buffer()
        player = Player(agent, agent.envs, buffer, StageTimer())
        player.reset()
        player.collect()
        return agent, buffer, player

    return make


def test_rollout(benchmark, make_agent):
    benchmark.group = f"rollout of Pong-v5, {SIZES}"
    _, buffer, player = make_agent("auto")

    def collect():
        buffer.carry_over()
        player.collect()

    benchmark.pedantic(collect, rounds=3)
    assert len(buffer.obs[0].unique(dim=0)) > 1 and not buffer.obs[0].equal(buffer.obs[-1])


@pytest.mark.parametrize("engine", ["recorded", "eager"])
def test_update(benchmark, make_agent, engine):
    benchmark.group = f"update of the Nature CNN, {SIZES}"
    agent, buffer, _ = make_agent(engine)
    agent.compute_advantages(buffer)
    batch = buffer.minibatches(0)[0]
    twin = PlainNature(agent.policy, 6).to(agent.device)
    with torch.no_grad():
        expected_logits, expected_values = twin(batch.obs)
        logits = agent.policy.head(agent.policy.actor(batch.obs))
    torch.testing.assert_close(logits, expected_logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(agent.policy.value(batch.obs), expected_values, rtol=1e-3, atol=1e-4)

    def step():
        agent.step(batch)
        if HAS_GPU:
            torch.cuda.synchronize()

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)


def test_update_with_adam_and_conv2d(benchmark, make_agent):
    benchmark.group = f"update of the Nature CNN, {SIZES}"
    agent, buffer, _ = make_agent("eager")
    agent.compute_advantages(buffer)
    batch = buffer.minibatches(0)[0]
    model = PlainNature(agent.policy, 6).to(agent.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def step():
        plain_update(model, optimizer, batch)
        if HAS_GPU:
            torch.cuda.synchronize()

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
    assert not any(x.equal(y) for x, y in zip(before, model.parameters(), strict=True))
