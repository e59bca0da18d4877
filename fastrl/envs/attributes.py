"""Methods and attributes of gymnasium environments, behind whatever wraps them here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastrl.envs.async_env import AsyncEnv
from fastrl.envs.foreign import call
from fastrl.envs.gym_env import GymEnv
from fastrl.envs.vector import VectorEnv
from fastrl.envs.wrapped_env import WrappedVectorEnv


def call_envs(pools: Sequence[VectorEnv], name: str, *args: Any, **kwargs: Any) -> list[Any]:
    """Calls a method of each environment; returns what they return, in order.

    Raises:
        ValueError: the environments run in EnvPool, or have no such method.
        EnvError: it raised an error.
    """
    answers: list[Any] = []
    for env in map(_innermost, pools):
        where = f"{env.env_id}: {name}"
        if isinstance(env, WrappedVectorEnv):
            _check_attribute(env, name)
            answers += call(where, env.env.call, name, *args, **kwargs)
            continue
        answers += env.call(name, *args, **kwargs)
    return answers


def set_envs_attribute(pools: Sequence[VectorEnv], name: str, value: Any) -> None:
    """Sets an attribute of each environment.

    Raises:
        ValueError: the environments run in EnvPool, or have no such attribute.
        EnvError: it raised an error.
    """
    for env in map(_innermost, pools):
        where = f"{env.env_id}: set_attr {name}"
        if isinstance(env, WrappedVectorEnv):
            _check_attribute(env, name)
            call(where, env.env.set_attr, name, [value] * env.num_envs)
            continue
        env.set_attr(name, [value] * env.num_envs)


def _innermost(pool: Any) -> AsyncEnv | GymEnv | WrappedVectorEnv:
    """Returns what holds the environments themselves, without masking or stacking around it."""
    env = pool
    while not isinstance(env, AsyncEnv | GymEnv | WrappedVectorEnv) and hasattr(env, "env"):
        env = env.env
    if not isinstance(env, AsyncEnv | GymEnv | WrappedVectorEnv):
        raise ValueError(
            f"{pool.env_id}: {pool.backend}'s environments have neither attributes nor methods of "
            "their own; make them anew with other env_kwargs, or play gymnasium's (backend)"
        )
    return env


def _check_attribute(env: WrappedVectorEnv, name: str) -> None:
    """Raises ValueError if the environments of a vector lack it; processes are asked for it."""
    singles = getattr(env.env, "envs", None)
    if singles is not None and not all(single.has_wrapper_attr(name) for single in singles):
        raise ValueError(f"{env.env_id}: its environments have no {name!r}")
