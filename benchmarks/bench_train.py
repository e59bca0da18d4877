"""Whole training: rollouts and updates of the standard work W1 and W2, per rollout."""

from __future__ import annotations

import math

import pytest

from fastrl import PPO
from fastrl.player import Player
from fastrl.run.timer import StageTimer

NUM_ENVS, NUM_STEPS, ROUNDS = 64, 128, 5
WORK = {"W1": "LunarLander-v2", "W2": "CartPole-v1"}
SETTINGS = {
    "num_envs": NUM_ENVS,
    "num_steps": NUM_STEPS,
    "per_rank_batch_size": 2048,
    "update_epochs": 4,
    "hidden_sizes": (64, 64),
    "normalize_advantages": True,
    "accelerator": "cpu",
}
FORMS = {"fastrl": {}, "plain eager loop": {"compile": "off", "num_pools": 1}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("work", WORK)
def test_train(benchmark, work, form):
    benchmark.group = f"train {work} ({WORK[work]}), {NUM_ENVS} x {NUM_STEPS} steps"
    steps_per_update = NUM_ENVS * NUM_STEPS
    settings = {**SETTINGS, **FORMS[form], "total_timesteps": 20 * steps_per_update}
    agent = PPO(WORK[work], preset="none", **settings)
    buffer, timer = agent.make_buffer(), StageTimer()
    player = Player(agent, agent.envs, buffer, timer)
    player.reset()
    lengths = []

    def iterate(updates=iter(range(20))):  # noqa: B008  the iterator is this training's counter
        episodes = player.collect()
        metrics = agent.update(buffer, next(updates), timer)
        buffer.carry_over()
        lengths.extend(episodes.lengths.tolist())
        return metrics

    metrics = benchmark.pedantic(iterate, rounds=ROUNDS, warmup_rounds=2)
    assert all(math.isfinite(value) for value in metrics.values())
    # All rows but one per ended episode are steps of some episode.
    started = (ROUNDS + 2) * steps_per_update
    unfinished = int(buffer.episode_lengths.sum())
    assert started - len(lengths) <= sum(lengths) + unfinished <= started - len(lengths) + NUM_ENVS
    if not benchmark.disabled:
        benchmark.extra_info["steps_per_second"] = steps_per_update / benchmark.stats["mean"]
        benchmark.extra_info["stage_seconds"] = timer.seconds
