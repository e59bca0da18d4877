"""Whole training, per rollout: PPO's standard work, and what a memory costs on it."""

from __future__ import annotations

import math
import time
from statistics import median

import pytest

from fastrl import PPO, PPORecurrent
from fastrl.runs.timer import StageTimer
from fastrl.training.player import Player

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
FORMS = {"fastrl": {}, "plain eager loop": {"engine": "eager", "num_threads": 1}}


MEMORIES = {
    "feed-forward": (PPO, {}),
    "LSTM": (PPORecurrent, {"rnn": "lstm"}),
    "GRU": (PPORecurrent, {"rnn": "gru"}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("work", WORK)
def test_train(benchmark, work, form):
    env_id, sizes = WORK[work]
    benchmark.group = f"train {work} ({env_id}), {sizes['num_envs']} x {sizes['num_steps']} steps"
    measure(benchmark, PPO, env_id, {**sizes, **FORMS[form]})


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("work", ["W1", "W2"])
def test_train_with_a_memory(benchmark, work, memory):
    """The aim: an LSTM makes at least a third of the feed-forward policy's steps per second."""
    (env_id, sizes), (kind, settings) = WORK[work], MEMORIES[memory]
    benchmark.group = f"train {work} ({env_id}), one trunk, with and without a memory"
    measure(benchmark, kind, env_id, {**sizes, "shared_network": True, **settings})


def measure(benchmark, kind, env_id, settings):
    """Times iterations of an agent's training and checks that all rows are accounted for."""
    num_envs, steps_per_update = settings["num_envs"], settings["num_envs"] * settings["num_steps"]
    total = (NUM_WARM_UPS + ROUNDS) * steps_per_update
    agent = kind(env_id, preset="none", **settings, total_timesteps=total)
    buffer, timer = agent.make_buffer(), StageTimer()
    player = Player(agent, agent.envs, buffer, timer)
    player.reset()
    lengths, cpu_seconds, updates = [], [], iter(range(agent.num_updates))

    def iterate():
        began = time.process_time()
        episodes = player.collect()
        metrics = agent.update(buffer, next(updates), timer)
        buffer.carry_over()
        lengths.extend(episodes.lengths.tolist())
        cpu_seconds.append(time.process_time() - began)
        return metrics

    metrics = benchmark.pedantic(iterate, rounds=ROUNDS, warmup_rounds=NUM_WARM_UPS)
    assert all(math.isfinite(value) for value in metrics.values())
    # All rows but one per ended episode are steps of some episode.
    started = len(cpu_seconds) * steps_per_update
    unfinished = int(buffer.episode_lengths.sum())
    assert started - len(lengths) <= sum(lengths) + unfinished <= started - len(lengths) + num_envs
    if not benchmark.disabled:
        benchmark.extra_info["steps_per_second"] = steps_per_update / benchmark.stats["mean"]
        benchmark.extra_info["cpu_seconds"] = median(cpu_seconds[-ROUNDS:])
        benchmark.extra_info["stage_seconds"] = timer.seconds
