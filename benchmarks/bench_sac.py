"""SAC on 256 rows: a gradient step, beside torch.optim.Adam; a draw, beside plain indexing."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

from benchmarks.plain_sac import PlainSAC
from fastrl import SAC
from fastrl.buffers.replay import ReplayBuffer, StepsBuffer, Transitions
from fastrl.engine.threads import num_threads, update_threads

ROWS = 256


def test_gradient_step(compare):
    """With the sizes of W5."""
    agent = SAC("LunarLanderContinuous-v2", preset="none", num_envs=4, accelerator="cpu")
    agent.make_buffer()
    assert agent.replay is not None
    generator = torch.Generator().manual_seed(1)
    batch = agent.replay.minibatch
    for field in batch[:4]:
        field.normal_(generator=generator)
    batch.actions.tanh_()
    batch.discounts.fill_(0.99)
    noise = [torch.randn(ROWS, 2, generator=generator) for _ in range(2)]
    twin = PlainSAC(agent)

    def plain() -> None:
        with num_threads(update_threads(ROWS * len(agent.critics.weights), ROWS)):
            twin.step(batch, *noise)

    with agent.engine.learning():
        agent._take_full_step(*batch, *noise)
        plain()
        mine, theirs = agent.policy.head.weight, twin.actor[-1].weight
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
        ours = lambda: agent._take_full_step(*batch, *noise)  # noqa: E731
        compare(f"SAC gradient step on {ROWS} rows", ours, plain)


def test_draw(compare):
    num_steps, num_envs, num_obs, num_actions = 25_000, 4, 8, 2
    space = gymnasium.spaces.Box(-np.inf, np.inf, (num_obs,), np.float32)
    device, generator = torch.device("cpu"), torch.Generator().manual_seed(1)
    sizes = num_steps, num_envs, space, (num_actions,), torch.float32, 1, ROWS
    steps = StepsBuffer(*sizes, device)
    for field in (steps.obs, steps.actions, steps.host_rewards):
        field.normal_(generator=generator)
    replay = ReplayBuffer(num_steps * num_envs, num_envs, space, num_actions, ROWS, 0.99, 1, device)
    replay.append(steps)
    flat = [x.flatten(0, 1) for x in (steps.obs, steps.actions, steps.host_rewards)]
    terminated = steps.host_terminated.flatten()

    def plainly(rows: torch.Tensor) -> Transitions:
        obs, actions, rewards = (x[rows] for x in flat)
        discounts = 0.99 * ~terminated[rows]
        return Transitions(obs, actions, flat[0][rows + num_envs], rewards, discounts)

    def ours() -> Transitions:
        (rows,) = replay.draw(1, ROWS, generator)
        return replay.gather(rows)

    def plain() -> Transitions:
        return plainly(torch.randint(len(terminated), (ROWS,), generator=generator))

    (rows,) = replay.draw(1, ROWS, generator)
    for mine, wanted in zip(replay.gather(rows), plainly(rows), strict=True):
        assert torch.equal(mine, wanted)
    compare(f"draw {ROWS} transitions", ours, plain, "rows", ROWS)
