"""One gradient step of SAC on 256 rows: recorded, eager, and as torch.optim.Adam does it."""

from __future__ import annotations

import pytest
import torch
from plain_sac import PlainSAC

from fastrl import SAC
from fastrl.buffers.replay import Transitions
from fastrl.engine.threads import num_threads, update_threads

ENGINES = ["recorded", "eager"]  # "native" too, once there are kernels for SAC's networks


@pytest.fixture
def make_agent():
    """Returns a function that makes an agent of W5's sizes, a minibatch and noise."""

    def make(engine: str) -> tuple[SAC, Transitions, list[torch.Tensor]]:
        settings = {"num_envs": 4, "engine": engine, "accelerator": "cpu"}
        agent = SAC("LunarLanderContinuous-v2", preset="none", **settings)
        agent.make_buffer()
        assert agent.replay is not None
        generator = torch.Generator().manual_seed(1)
        batch = agent.replay.minibatch
        for field in batch[:4]:
            field.normal_(generator=generator)
        batch.actions.tanh_()
        batch.discounts.fill_(0.99)
        noise = [torch.randn(256, 2, generator=generator) for _ in range(2)]
        return agent, batch, noise

    return make


@pytest.mark.benchmark(group="gradient step of SAC on 256 rows")
@pytest.mark.parametrize("engine", ENGINES)
def test_sac_step(benchmark, make_agent, engine):
    agent, batch, noise = make_agent(engine)
    twin = PlainSAC(agent)
    with agent.engine.learning():
        agent._full_step(*batch, *noise)
        twin.step(batch, *noise)
        mine = agent.policy.head.weight
        torch.testing.assert_close(mine, twin.actor[-1].weight, rtol=1e-3, atol=1e-5)
        benchmark.pedantic(agent._full_step, (*batch, *noise), rounds=100, warmup_rounds=10)


@pytest.mark.benchmark(group="gradient step of SAC on 256 rows")
def test_sac_step_with_modules_and_adam(benchmark, make_agent):
    agent, batch, noise = make_agent("eager")
    batch.discounts.zero_()  # then the targets are the rewards
    twin = PlainSAC(agent)
    before = twin.critics[0](torch.cat(batch[:2], 1)).squeeze(1)
    with num_threads(update_threads(256 * len(agent.critics.weights), 256)):
        benchmark.pedantic(twin.step, (batch, *noise), rounds=100, warmup_rounds=10)
    after = twin.critics[0](torch.cat(batch[:2], 1)).squeeze(1)
    wanted = batch.rewards
    assert (after - wanted).square().mean() < (before - wanted).square().mean()


@pytest.mark.benchmark(group="draw and gather of 256 transitions")
@pytest.mark.parametrize("gather", ["ring", "plain indexing"])
def test_replay_draw(benchmark, make_agent, gather):
    agent, _, _ = make_agent("eager")
    replay = agent.replay
    assert replay is not None
    replay.reserve(200_000 * replay.num_envs)
    for field in (replay.obs, replay.actions, replay.rewards):
        field.normal_()
    replay.terminated.fill_(False)
    replay.valid.fill_(True)
    replay.head = replay.size = 100_000
    generator = torch.Generator().manual_seed(1)

    def plain(rows: torch.Tensor) -> Transitions:
        flat = [x.flatten(0, 1) for x in (replay.obs, replay.actions, replay.rewards)]
        obs, actions, rewards = (x[rows] for x in flat)
        discounts = 0.99 * ~replay.terminated.flatten()[rows]
        return Transitions(obs, actions, flat[0][rows + replay.num_envs], rewards, discounts)

    (rows,) = replay.draw(1, 256, generator)
    for mine, wanted in zip(replay.gather(rows), plain(rows), strict=True):
        assert torch.equal(mine, wanted)
    fetch = replay.gather if gather == "ring" else plain

    def draw() -> Transitions:
        (rows,) = replay.draw(1, 256, generator)
        return fetch(rows)

    benchmark.pedantic(draw, rounds=200, warmup_rounds=10)
