"""Environments that a caller hands over, as a vector of as many as are wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

from fastrl.config.run import RunConfig
from fastrl.envs.edited import difference, maker_of, name_of, whole_spec
from fastrl.envs.make import check_no_kwargs, check_vector, vector_env_of, wrap_vector_env
from fastrl.envs.vector import VectorEnv


def opened(env: Any, seeds: Sequence[int], config: RunConfig) -> VectorEnv:
    """Returns a caller's environments, or one environment as many times as there are seeds.

    Args:
        env: a vector environment, a single one, or a function that makes single ones.
        seeds: of as many environments as are wanted; a vector environment takes the first.
        config: settings of the run.

    Raises:
        ValueError: several environments are wanted, and no spec describes the one that is there.
    """
    if isinstance(env, gymnasium.vector.VectorEnv):
        return wrap_vector_env(env, seed=seeds[0], **config.env_settings)
    if not isinstance(env, gymnasium.Env):
        return vector_env_of(name_of(env), [env] * len(seeds), seeds, **config.env_settings)
    check_no_kwargs(name_of(env), config.env_settings["env_kwargs"])
    makers: list[Callable[[], gymnasium.Env]] = [lambda: env]
    if len(seeds) == 1:
        check_vector(name_of(env), config.vector, config.num_workers)
    else:
        if (spec := whole_spec(env)) is None:
            raise ValueError(
                f"cannot make {len(seeds)} environments of the {type(env.unwrapped).__name__} that "
                "was given: no spec describes it with its wrappers; set num_envs=1, or give a "
                "function that makes one, or gymnasium.vector.SyncVectorEnv([make, make])"
            )
        makers = [maker_of(spec)] * len(seeds)
        if why_not := difference([env], makers[:1]):
            raise ValueError(f"cannot make {len(seeds)} environments of one: {why_not}")
    return vector_env_of(name_of(env), makers, seeds, **config.env_settings)
