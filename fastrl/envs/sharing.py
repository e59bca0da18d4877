"""What environments consist of, and whether a test would reset or lack a part of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
from gymnasium.wrappers import NormalizeObservation

from fastrl.envs.vector import VectorEnv


def share(env: Any, trained_on: Sequence[VectorEnv]) -> bool:
    """Returns whether an environment, or a part of it, is trained on."""
    kinds = gymnasium.Env | gymnasium.vector.VectorEnv
    used = {id(part) for part in all_of(trained_on)}
    return any(id(part) in used for part in all_of([env]) if isinstance(part, kinds))


def all_of(envs: Sequence[Any]) -> Iterator[Any]:
    """Yields environments and those that they consist of; what a single one holds is its own."""
    for env in envs:
        yield env
        if not isinstance(env, gymnasium.Env) or isinstance(env, gymnasium.Wrapper):
            own = getattr(env, "__dict__", {})
            inner, several = own.get("env"), own.get("envs")
            yield from all_of([inner] if inner is not None else [])
            yield from all_of(several if isinstance(several, list | tuple) else [])


def keep_statistics(envs: Sequence[Any]) -> bool:
    """Returns whether one of some environments normalises by statistics of its own."""
    return any(
        isinstance(part, NormalizeObservation)
        or getattr(part, "__dict__", {}).get("keeps_statistics") is True  # of an `AsyncEnv`
        for part in all_of(envs)
    )


def note_on_statistics(envs: Sequence[VectorEnv]) -> str:
    """Returns what the user should know of statistics that each environment keeps; or ""."""
    if not keep_statistics(envs):
        return ""
    return (
        f"{envs[0].env_id}: NormalizeObservation begins anew in each environment, in tests and in "
        "resumed runs; observation_normalization=True is part of the policy and saved with it"
    )


def check_distinct(env_id: str, envs: Sequence[Any]) -> None:
    """Raises ValueError if an environment is there twice, below wrappers of its own or not.

    Each row would step and reset the episode of the other.
    """
    inner = [id(env.unwrapped) for env in envs]
    if len({*inner}) < len(inner):
        raise ValueError(
            f"{env_id}: several of the environments are the same one; its function must make a new "
            "one at every call"
        )
