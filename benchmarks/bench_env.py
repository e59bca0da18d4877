"""Raw stepping of 64 environments, beside EnvPool's own Python step."""

from __future__ import annotations

import envpool
import numpy as np
import pytest

from fastrl.envs.make import make_env

NUM_ENVS, NUM_THREADS = 64, 2


@pytest.mark.parametrize("env_id", ["CartPole-v1", "LunarLander-v2"])
def test_step(compare, env_id):
    actions = np.arange(NUM_ENVS) % 2
    env = make_env(env_id, NUM_ENVS, seed=0, num_threads=NUM_THREADS)
    seeds = list(range(NUM_ENVS))
    pool = envpool.make_gymnasium(env_id, num_envs=NUM_ENVS, num_threads=NUM_THREADS, seed=seeds)
    np.testing.assert_array_equal(env.reset(), pool.reset()[0])
    for _ in range(100):
        parts = zip(env.step(actions)[:4], pool.step(actions)[:4], strict=True)  # EnvPool adds info
        for mine, theirs in parts:
            np.testing.assert_array_equal(mine, theirs)
    work = f"step {NUM_ENVS} {env_id}"
    compare(work, lambda: env.step(actions), lambda: pool.step(actions), "steps", NUM_ENVS)
    env.close()
    pool.close()
