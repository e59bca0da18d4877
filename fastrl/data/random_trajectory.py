"""Trajectories of random actions, by one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium

from fastrl.config.checks import check_names
from fastrl.config.run import RunConfig
from fastrl.data.describing import seed_of_session, writer_of
from fastrl.data.packages import check_packages
from fastrl.data.playing import Policy, default_num_envs, record_episodes
from fastrl.data.trajectories import TrajectoryDataset
from fastrl.envs.make import base_seed, make_env
from fastrl.envs.pools import open_envs
from fastrl.envs.vector import VectorEnv
from fastrl.presets import facts_of
from fastrl.spaces.random_actions import RandomActions

ENV_SETTINGS = (
    "backend",
    "vector",
    "num_workers",
    "mask_vel",
    "env_kwargs",
    "obs_keys",
    "obs_kind",
    "scale_images",
    "gray_scale",
    "resize",
    "action_repeat",
    "frame_stack",
    "info_action_mask",
)
"""Settings that say what environments show and do."""


def make_random_trajectory(
    env: Any,
    directory: str | Path,
    total_steps: int = 10_000,
    *,
    length: int | None = None,
    num_envs: int | None = None,
    seed: int = 0,
    append: bool = False,
    **settings: Any,
) -> TrajectoryDataset:
    """Plays whole episodes with uniform random actions and writes them to a dataset.

    Args:
        env: as `PPO` takes it: a task's id, environments, or a function that makes a single one.
        directory: folder of the dataset, which must not exist yet; Minari reads it.
        total_steps: at least so many steps; the last episodes are played to their ends.
        length: of the windows that are returned; None: transitions.
        num_envs: how many to play side by side; None: one for every 1,000 steps, at most 64.
        seed: of environments and actions.
        append: add to the dataset in `directory`, if there is one.
        **settings: of the environments, as `PPO` takes them: `env_kwargs`, `obs_keys` and others.

    Returns:
        The dataset, with all episodes in it.

    Raises:
        ValueError: the folder holds something; a setting or an environment is unknown or fails; or
            the extra `data` is not installed.
    """
    if isinstance(total_steps, bool) or total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}; it must be at least 1")
    check_packages()
    seed = seed_of_session(directory, seed, append)
    given = {"env_id": env} if isinstance(env, str) else facts_of(env)
    if num_envs is not None and given.get("num_envs", num_envs) != num_envs:
        raise ValueError(f"num_envs is {num_envs}, but {given['num_envs']} environments were given")
    number = default_num_envs(total_steps, None) if num_envs is None else num_envs
    played, config = open_task(env, {"num_envs": number, **given}, settings, seed)
    # A single one that is handed over is played itself, or is made several times.
    is_ours = isinstance(env, gymnasium.Env) and played.num_envs > 1
    try:
        draw = RandomActions(played.single_observation_space, played.single_action_space, seed)
        kwargs = config.env_settings["env_kwargs"]
        with writer_of(played, directory, "random", "random", seed, kwargs, append) as writer:
            record_episodes(played, Policy(draw), writer, num_steps=total_steps)
    finally:
        if is_ours or isinstance(env, str) or not hasattr(env, "step"):
            played.close()
    return TrajectoryDataset(directory, length)


def open_task(
    env: Any, given: dict[str, Any], settings: dict[str, Any], seed: int
) -> tuple[VectorEnv, RunConfig]:
    """Returns environments to collect from, and the settings that made them.

    Args:
        env: a task's id, or what the caller built.
        given: `env_id`, `num_envs` and what else follows from `env`.
        settings: those of `ENV_SETTINGS` that the user set.
        seed: as of `base_seed`.

    Raises:
        ValueError: a setting or an environment is unknown or fails.
    """
    check_names(settings, list(ENV_SETTINGS), "the settings of environments")
    config = RunConfig.from_dict({**given, **settings, "seed": seed})
    if not isinstance(env, str):
        return open_envs(env, config)[0], config
    how = {"backend": config.backend, "testing": True, **config.env_settings}
    return make_env(env, config.num_envs, seed=base_seed(seed, "collect"), **how), config
