"""Whole training: rollouts and updates of PPO's standard work, per rollout."""

from __future__ import annotations

import math

import pytest

from fastrl import PPO
from fastrl.player import Player
from fastrl.run.timer import StageTimer

ROUNDS, NUM_WARM_UPS = 5, 6  # in the warm-up it is decided where the environments' threads run
W1 = {
    "num_envs": 64,
    "num_steps": 128,
    "per_rank_batch_size": 2048,
    "update_epochs": 4,
    "hidden_sizes": (64, 64),
    "normalize_advantages": True,
    "accelerator": "cpu",
}
W3 = {**W1, "num_envs": 1, "per_rank_batch_size": 64, "update_epochs": 10}
W4 = {
    **W1,
    "num_steps": 256,
    "update_epochs": 5,
    "hidden_sizes": (128, 64, 32),
    "activation_function": "elu",
    "shared_network": True,
    "observation_normalization": True,
}
WORK = {
    "W1": ("LunarLander-v2", W1),
    "W2": ("CartPole-v1", W1),
    "W3": ("CartPole-v1", W3),
    "W4": ("HalfCheetah-v4", W4),
}
FORMS = {"fastrl": {}, "plain eager loop": {"compile": "off", "num_threads": 1}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("work", WORK)
def test_train(benchmark, work, form):
    env_id, sizes = WORK[work]
    num_envs, num_steps = sizes["num_envs"], sizes["num_steps"]
    benchmark.group = f"train {work} ({env_id}), {num_envs} x {num_steps} steps"
    steps_per_update = num_envs * num_steps
    settings = {**sizes, **FORMS[form], "total_timesteps": 20 * steps_per_update}
    agent = PPO(env_id, preset="none", **settings)
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

    metrics = benchmark.pedantic(iterate, rounds=ROUNDS, warmup_rounds=NUM_WARM_UPS)
    assert all(math.isfinite(value) for value in metrics.values())
    # All rows but one per ended episode are steps of some episode.
    started = (ROUNDS + NUM_WARM_UPS) * steps_per_update
    unfinished = int(buffer.episode_lengths.sum())
    assert started - len(lengths) <= sum(lengths) + unfinished <= started - len(lengths) + num_envs
    if not benchmark.disabled:
        benchmark.extra_info["steps_per_second"] = steps_per_update / benchmark.stats["mean"]
        benchmark.extra_info["stage_seconds"] = timer.seconds
