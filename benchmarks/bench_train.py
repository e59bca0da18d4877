"""Whole training with PPO, rollout and update, beside a plain loop on the same environments."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import pytest

from benchmarks.plain_training import PlainTraining
from fastrl import PPO
from fastrl.processes.machine import available_cores
from fastrl.runs.timer import StageTimer
from fastrl.training.player import Player

T, N, EPOCHS, ROWS = 128, 64, 4, 2048
NUM_WARM_UPS = 6  # in which it is decided where the environments' threads run


@pytest.mark.parametrize(("name", "env_id"), [("W1", "LunarLander-v2"), ("W2", "CartPole-v1")])
def test_train(compare, name, env_id):
    settings: dict[str, Any] = {
        "num_envs": N,
        "num_steps": T,
        "per_rank_batch_size": ROWS,
        "update_epochs": EPOCHS,
    }
    settings |= {"normalize_advantages": True, "ent_coef": 0.01, "accelerator": "cpu"}
    settings |= {"total_timesteps": 100_000_000}  # schedules ask for it; none is used
    agent = PPO(env_id, preset="none", **settings)
    buffer, timer = agent.make_buffer(), StageTimer()
    learner: Any = agent
    player = Player(learner, agent.envs, buffer, timer)
    player.reset()
    plain = PlainTraining(agent.policy, env_id, (T, N), EPOCHS, ROWS, available_cores())
    updates, lengths, metrics = count(), [], {}

    def ours() -> None:
        episodes = player.collect()
        metrics.update(agent.update(buffer, next(updates), timer))
        buffer.carry_over()
        lengths.extend(episodes.lengths.tolist())

    for _ in range(NUM_WARM_UPS):
        ours()
    compare(f"{name}: train PPO on {env_id}", ours, plain, "steps", T * N)
    assert metrics and all(math.isfinite(value) for value in metrics.values())
    # All rows but one per ended episode are steps of some episode.
    rows = next(updates) * T * N
    played = sum(lengths) + int(buffer.episode_lengths.sum())
    assert rows - len(lengths) <= played <= rows - len(lengths) + N
    plain.close()
    for env in agent.envs:
        env.close()
