"""Raw stepping of 64 environments: ours against EnvPool's own Python step."""

from __future__ import annotations

import envpool
import numpy as np
import pytest

from fastrl.envs.make import make_env

NUM_ENVS, NUM_THREADS = 64, 2
ENV_IDS = ["CartPole-v1", "LunarLander-v2"]


def fastrl_steps(env_id):
    env = make_env(env_id, NUM_ENVS, seed=0, num_threads=NUM_THREADS)
    return env.reset(), env.step


def envpool_steps(env_id):
    seeds = list(range(NUM_ENVS))
    pool = envpool.make_gymnasium(env_id, num_envs=NUM_ENVS, num_threads=NUM_THREADS, seed=seeds)
    return pool.reset()[0], pool.step


@pytest.fixture(params=ENV_IDS)
def env_id(request):
    return request.param


@pytest.mark.parametrize("start", [fastrl_steps, envpool_steps])
def test_step(benchmark, env_id, start):
    benchmark.group = f"step 64 {env_id}"
    actions = np.arange(NUM_ENVS) % 2
    obs, step = start(env_id)
    expected_obs, expected_step = envpool_steps(env_id)
    np.testing.assert_array_equal(obs, expected_obs)
    for _ in range(100):
        parts = zip(step(actions)[:4], expected_step(actions)[:4], strict=True)  # EnvPool adds info
        for actual, expected in parts:
            np.testing.assert_array_equal(actual, expected)
    benchmark.extra_info["env_steps_per_call"] = NUM_ENVS
    benchmark.pedantic(step, (actions,), rounds=1000)
