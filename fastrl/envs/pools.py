"""The environments that a run plays: one pool, or two halves that step in turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gymnasium
import torch

from fastrl.config.run import RunConfig
from fastrl.envs.envpool_env import default_num_threads, family_of
from fastrl.envs.make import base_seed, make_env, wrap_vector_env
from fastrl.envs.vector import Spaces, VectorEnv
from fastrl.processes.machine import available_cores

_FEWEST_ENVS_TO_HALVE = 32  # a step of fewer is over before the policy has acted on the other half
_SLOW_FAMILIES = "envpool.mujoco", "envpool.box2d"  # physics: 10 us a step and more


class TaskPools(list[VectorEnv]):
    """Pools that were made from a task's id, and so can be made anew."""

    def __init__(self, pools: list[VectorEnv], reopen: Callable[[int], list[VectorEnv]]) -> None:
        """Holds the pools.

        Args:
            pools: side by side.
            reopen: makes the same pools with the seeds of a restart.
        """
        super().__init__(pools)
        self._reopen = reopen

    def reopened(self, restart: int) -> list[VectorEnv]:
        """Closes the pools and returns the same ones with other seeds, for a resumed run."""
        for pool in self:
            pool.close()
        return self._reopen(restart)


def open_envs(
    env: str | VectorEnv | gymnasium.vector.VectorEnv,
    config: RunConfig,
    rank: int = 0,
    restart: int = 0,
) -> list[VectorEnv]:
    """Returns the pools of one rank, side by side; those of a task's id as `TaskPools`.

    Args:
        env: a task's id, or environments that somebody built; these are one pool.
        config: how many, on which backend, with which seed.
        rank: ranks own disjoint seeds.
        restart: how often the run was resumed; a resumed run does not play the same episodes again.
    """
    if isinstance(env, gymnasium.vector.VectorEnv):
        reading = {"obs_keys": config.obs_keys, "frame_stack": config.frame_stack}
        return [wrap_vector_env(env, seed=base_seed(config.seed, "train", restart), **reading)]
    if not isinstance(env, str):
        return [env]
    num_pools = config.num_pools or _default_num_pools(env, config)
    size = config.num_envs // num_pools
    num_threads = -(-config.num_env_threads // num_pools)
    seed = base_seed(config.seed, "train", restart)
    pools: list[VectorEnv] = []
    for pool in range(num_pools):
        pools.append(
            make_env(
                env,
                size,
                seed=seed,
                first_env=rank * config.num_envs + pool * size,
                backend=config.backend,
                num_threads=num_threads or default_num_threads(size),
                **config.env_settings,
            )
        )
        if pool == 0 and pools[0].backend != "envpool" and config.num_pools == 0 and num_pools == 2:
            # Only EnvPool steps in the background: elsewhere halves would cost and not gain.
            pools[0].close()
            return open_envs(env, config.replace(num_pools=1), rank, restart)
    return TaskPools(pools, partial(open_envs, env, config, rank))


def spaces_of(config: RunConfig) -> Spaces:
    """Returns the spaces of a run's environments; to ask, it opens one and closes it again."""
    seed = base_seed(config.seed, "train", 0)
    env = make_env(config.env_id, 1, seed=seed, backend=config.backend, **config.env_settings)
    env.close()
    return Spaces(env.single_observation_space, env.single_action_space)


def _default_num_pools(env_id: str, config: RunConfig) -> int:
    """Halves hide the policy that acts, and what Python does, behind the other half's steps.

    On the CPU only steps that take long are worth it: the policy is called twice as often, and the
    threads of both halves share the cores.
    """
    elsewhere = config.accelerator != "cpu" and torch.cuda.is_available()
    may_halve = config.num_envs >= _FEWEST_ENVS_TO_HALVE and config.num_envs % 2 == 0
    if not may_halve or config.backend == "gymnasium":
        return 1
    is_slow = available_cores() > 1 and family_of(env_id).startswith(_SLOW_FAMILIES)
    return 2 if elsewhere or is_slow else 1
