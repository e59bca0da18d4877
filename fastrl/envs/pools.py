"""Environment pools of a run: one pool, or two halves that step in turn."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium

from fastrl.config.run import RunConfig
from fastrl.envs.choosing import vector_of
from fastrl.envs.envpool_env import default_num_threads, family_of
from fastrl.envs.given import opened
from fastrl.envs.make import base_seed, make_env, settings_of_made
from fastrl.envs.rebuild import Task, task_of
from fastrl.envs.vector import Spaces, VectorEnv
from fastrl.processes.devices import uses_gpu
from fastrl.processes.machine import available_cores

_log = logging.getLogger("fastrl")

_FEWEST_ENVS_TO_HALVE = 32  # a step of fewer ends before the policy has acted on the other half
_SLOW_FAMILIES = "envpool.mujoco", "envpool.box2d"  # physics: at least 10 us per step

_LEAST_ASKED = {"num_env_threads": 1, "num_pools": 2}  # what asks for more than the default

AnyEnvs = VectorEnv | gymnasium.Env | gymnasium.vector.VectorEnv | list[VectorEnv]


class _PoolsOfId(list[VectorEnv]):
    """Pools that were made from a task's id, and how to make them again."""

    def __init__(self, pools: list[VectorEnv], remake: Callable[..., list[VectorEnv]]) -> None:
        """Takes the pools, and what makes them with a given config and `restart`."""
        super().__init__(pools)
        self.remake = remake


def open_envs(
    env: Any,
    config: RunConfig,
    rank: int = 0,
    restart: int = 0,
) -> list[VectorEnv]:
    """Returns the pools of one rank.

    Args:
        env: a task's id; or what the caller built, which becomes one pool: a vector environment, a
            `gymnasium.Env`, which is made as many times as `config` says, or a function that
            makes one.
        config: number of environments, backend, seed, and other settings.
        rank: this rank; ranks have disjoint seeds.
        restart: number of times the run was resumed, so that episodes are not played again.
    """
    if not isinstance(env, str):
        if not isinstance(env, gymnasium.Env | gymnasium.vector.VectorEnv) and hasattr(env, "recv"):
            check_made(env, config)
            _tell_of_idle(config, "make_env or the caller chose its threads", "num_env_threads")
            return [env]
        _tell_of_idle(config, "environments that are handed over step together", "num_pools")
        first = base_seed(config.seed, "train", restart) + rank * config.num_envs
        return [opened(env, [(first + i) % 2**31 for i in range(config.num_envs)], config)]
    num_pools = config.num_pools or _default_num_pools(env, config)
    size = config.num_envs // num_pools
    num_threads = -(-config.num_env_threads // num_pools)
    num_workers = -(-config.num_workers // num_pools)
    seed = base_seed(config.seed, "train", restart)
    settings = {**config.env_settings, "num_workers": num_workers}
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
                **settings,
            )
        )
        settings["vector"] = vector_of(pools[0])  # "auto" chooses once
        if pool == 0 and pools[0].backend != "envpool" and config.num_pools == 0 and num_pools == 2:
            # Only EnvPool steps in the background; for others, halves cost time and gain nothing.
            pools[0].close()
            return open_envs(env, config.replace(num_pools=1), rank, restart)
    if pools[0].backend != "envpool":
        idle = ["num_env_threads"] + ["num_pools"] * (settings["vector"] == "sync")
        _tell_of_idle(config, "gymnasium steps one environment after the other", *idle)
    return _PoolsOfId(pools, partial(open_envs, env, rank=rank))


def check_made(env: VectorEnv, config: RunConfig) -> None:
    """Raises ValueError for settings that say otherwise of what `make_env` or the caller made."""
    made = settings_of_made(env)
    known = {**(made[1] if made else {}), "backend": env.backend}
    default = {**RunConfig().env_settings, "backend": "auto"}
    for name, value in {**config.env_settings, "backend": config.backend}.items():
        is_free = name == "vector" and value == "auto"
        if is_free or value == default[name] or value == known.get(name, default[name]):
            continue
        setting = "info_action_mask" if name == "info_mask" else name
        hint = f"; make_env takes {name}" if made else ""
        raise ValueError(
            f"{env.env_id}: {setting}={value} has no effect on environments that are made "
            f"already{hint}"
        )


def _tell_of_idle(config: RunConfig, why: str, *names: str) -> None:
    """Writes a line to the log for each of these settings that is of no use here."""
    for name in names:
        if (value := getattr(config, name)) >= _LEAST_ASKED[name]:
            _log.warning("%s=%d gains nothing on %s: %s", name, value, config.env_id, why)


def can_be_reopened(pools: list[VectorEnv]) -> bool:
    """Returns whether `open_envs` made these pools from a task's id, so that `reopened` can."""
    return isinstance(pools, _PoolsOfId)


def reopened(
    pools: list[VectorEnv], config: RunConfig, restart: int, rank: int = 0, speaks: bool = True
) -> list[VectorEnv]:
    """Returns the pools of a resumed run, which must not play the same episodes again.

    Pools that `open_envs` made from a task's id are closed and made again with other seeds.
    Environments that the caller built get these seeds for their next reset.

    Args:
        pools: as `open_envs` returned them.
        config: settings to make them with.
        restart: number of times the run was resumed, or another that was not given before.
        rank: this rank; ranks have disjoint seeds.
        speaks: whether rank 0 prints what the caller's environments do.
    """
    if isinstance(pools, _PoolsOfId):
        for pool in pools:
            pool.close()
        return pools.remake(config, restart=restart)
    seed = base_seed(config.seed, "train", restart) + rank * config.num_envs
    for pool in pools:
        words = f"{pool.env_id}: the environments that were handed over"
        if (reseed := getattr(pool, "reseed", None)) is not None:
            reseed([(seed + i) % 2**31 for i in range(pool.num_envs)])
            if rank == 0 and speaks:
                print(f"{words} start new episodes, from seed {seed % 2**31}", flush=True)
        elif rank == 0:
            _log.warning("%s cannot be given other seeds: they play on from where they are", words)
        seed += pool.num_envs
    return pools


def fitting_envs(
    env: AnyEnvs, config: RunConfig, rank: int, built_for: list[VectorEnv], before: Task
) -> tuple[list[VectorEnv], Task]:
    """Returns the pools of `env` and their task.

    Args:
        env: what the caller handed over.
        config: settings of the run.
        rank: this rank; ranks have disjoint seeds.
        built_for: the pools that the agent was built for.
        before: their task.

    Raises:
        ValueError: an agent that was built for others cannot play them.
    """
    given = env if isinstance(env, list) else [env]
    envs = [pool for part in given for pool in open_envs(part, config, rank)]

    def facts(pools: list[VectorEnv]) -> tuple[Any, ...]:
        spaces = pools[0].single_observation_space, pools[0].single_action_space
        return sum(pool.num_envs for pool in pools), *spaces

    if facts(envs) != facts(built_for):
        raise ValueError(
            f"{envs[0].env_id}: the number of environments and their spaces are {facts(envs)}; "
            f"the agent was built for {facts(built_for)}"
        )
    task = task_of(given[0], envs, config)
    if not _are_alike(envs):
        why_not = "the pools that were given are not made alike by make_env"
        task = Task(task.env_id, None, why_not, is_named=False)
    if before.is_own:  # the caller said before what is tested
        task = task._replace(make=before.make, why_not=before.why_not, is_own=True)
    return envs, task


def _are_alike(pools: list[VectorEnv]) -> bool:
    """Returns whether there is one pool, or `make_env` made all with the same settings."""
    first, *others = [(settings_of_made(pool), pool.backend) for pool in pools]
    return not others or (first[0] is not None and all(pool == first for pool in others))


def spaces_of(config: RunConfig) -> Spaces:
    """Returns the spaces of a run's environments; to ask, it opens one and closes it again."""
    seed = base_seed(config.seed, "train", 0)
    settings = {**config.env_settings, "vector": "sync"}
    env = make_env(config.env_id, 1, seed=seed, backend=config.backend, **settings)
    env.close()
    return Spaces(env.single_observation_space, env.single_action_space)


def _default_num_pools(env_id: str, config: RunConfig) -> int:
    """Returns 2 if two halves are likely faster than one pool, else 1.

    With halves, the policy and Python's overhead overlap with the other half's steps. On the CPU
    this pays off for slow steps only: the policy is called twice as often, and the threads of both
    halves share the cores.
    """
    may_halve = config.num_envs >= _FEWEST_ENVS_TO_HALVE and config.num_envs % 2 == 0
    if not may_halve or config.backend == "gymnasium":
        return 1
    is_slow = available_cores() > 1 and family_of(env_id).startswith(_SLOW_FAMILIES)
    return 2 if uses_gpu(config.accelerator) or is_slow else 1
