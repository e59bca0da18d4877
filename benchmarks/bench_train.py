"""Whole training with PPO, rollout and update, beside a plain loop on the same environments."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import pytest
import torch

from benchmarks.plain import PlainActorCritic, PlainGaussian
from benchmarks.plain_training import PlainTraining
from fastrl import PPO
from fastrl.processes.machine import available_cores
from fastrl.runs.timer import StageTimer
from fastrl.training.player import Player

N, ROWS = 64, 2048
NUM_WARM_UPS = 6  # in which it is decided where the environments' threads run
W1: dict[str, Any] = {"num_steps": 128, "update_epochs": 4}
W4: dict[str, Any] = {
    "num_steps": 256,
    "update_epochs": 5,
    "hidden_sizes": (128, 64, 32),
    "activation_function": "elu",
    "shared_network": True,
    "observation_normalization": True,
}
WORK = {
    "W1": ("LunarLander-v2", W1, PlainActorCritic, (8, 4)),
    "W2": ("CartPole-v1", W1, PlainActorCritic, (4, 2)),
    "W4": ("HalfCheetah-v4", W4, PlainGaussian, (17, 6)),
}


@pytest.mark.parametrize("work", WORK)
def test_train(compare, work):
    env_id, sizes, make_model, widths = WORK[work]
    num_steps, num_epochs = sizes["num_steps"], sizes["update_epochs"]
    settings: dict[str, Any] = {"num_envs": N, "per_rank_batch_size": ROWS, "accelerator": "cpu"}
    settings |= {"normalize_advantages": True, "ent_coef": 0.01}
    settings |= {"total_timesteps": 100_000_000}  # schedules ask for it; none is used
    agent = PPO(env_id, preset="none", **settings, **sizes)
    buffer, timer = agent.make_buffer(), StageTimer()
    learner: Any = agent
    player = Player(learner, agent.envs, buffer, timer)
    player.reset()
    model = make_model(agent.policy, *widths)
    plain = PlainTraining(
        model, env_id, (num_steps, N), num_epochs, ROWS, num_threads=available_cores()
    )
    with torch.no_grad():
        values = model(buffer.obs[0])[1]
        torch.testing.assert_close(agent.policy.value(buffer.obs[0]), values, rtol=1e-3, atol=1e-4)
    updates, lengths, metrics = count(), [], {}

    def ours() -> None:
        episodes = player.collect()
        metrics.update(agent.update(buffer, next(updates), timer))
        buffer.carry_over()
        lengths.extend(episodes.lengths.tolist())

    for _ in range(NUM_WARM_UPS):
        ours()
    compare(f"{work}: train PPO on {env_id}", ours, plain, "steps", num_steps * N)
    assert metrics and all(math.isfinite(value) for value in metrics.values())
    # All rows but one per ended episode are steps of some episode.
    rows = next(updates) * num_steps * N
    played = sum(lengths) + int(buffer.episode_lengths.sum())
    assert rows - len(lengths) <= played <= rows - len(lengths) + N
    plain.close()
    for env in agent.envs:
        env.close()
