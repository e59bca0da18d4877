"""What the metadata of a dataset say of the environment and of the policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from fastrl.data.columns import recorded_space
from fastrl.data.metadata import is_empty, read_metadata
from fastrl.data.writer import MinariWriter
from fastrl.envs.make import base_seed
from fastrl.envs.vector import VectorEnv
from fastrl.runs.folder import expanded


def seed_of_session(directory: str | Path, seed: int, append: bool) -> int:
    """Returns the seed to collect with: another one where episodes of it are there already."""
    folder = expanded(directory)
    if not append or is_empty(folder):
        return seed
    return base_seed(seed, "collect", int(read_metadata(folder)["total_episodes"]))


def writer_of(
    env: VectorEnv,
    directory: str | Path,
    policy: str,
    algorithm: str,
    seed: int,
    env_kwargs: Mapping[str, Any],
    append: bool,
    **more: Any,
) -> MinariWriter:
    """Returns a writer for what environments play.

    Args:
        env: the environments, whose first seed is `base_seed(seed, "collect")`.
        directory: of the dataset.
        policy: in a word; part of the dataset's id.
        algorithm: name of what trained the policy.
        seed: from `seed_of_session`.
        env_kwargs: keyword arguments of the environments.
        append: add to the dataset that is there.
        **more: further entries of the metadata under `fastrl`.

    Raises:
        ValueError: as of `MinariWriter`.
    """
    first = base_seed(seed, "collect")
    # EnvPool's environments take other numbers from a seed than gymnasium's `reset(seed=)`.
    is_single = env.backend == "gymnasium"
    seeds = {i: (first + i) % 2**31 for i in range(env.num_envs)} if is_single else {}
    facts = _facts_of(env, policy, algorithm, seed, env_kwargs, first_env_seed=first, **more)
    space = recorded_space(env.single_observation_space)
    return MinariWriter(
        directory, space, env.single_action_space, facts, append=append, seeds=seeds
    )


def _facts_of(
    env: VectorEnv,
    policy: str,
    algorithm: str,
    seed: int,
    env_kwargs: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Returns metadata of Minari's, and under `fastrl` what it has no names for."""
    task, words = _safe(env.env_id), _safe(policy)
    facts = {
        "version": _version("fastrl"),
        "env_id": env.env_id,
        "backend": env.backend,
        "policy": policy,
        "seed": seed,
        "num_envs": env.num_envs,
        "env_kwargs": {name: repr(value) for name, value in env_kwargs.items()},
        **more,
    }
    spec = _spec_of(env.env_id, env.backend, env_kwargs)
    return {
        "dataset_id": f"{task}/{words}-v0",
        "algorithm_name": algorithm,
        "description": f"Whole episodes of {env.env_id} by a {policy} policy, written by fastrl.",
        "requirements": [f"{name}=={_version(name)}" for name in (env.backend,)],
        **({} if spec is None else {"env_spec": spec}),
        "fastrl": facts,
    }


def _spec_of(env_id: str, backend: str, env_kwargs: Mapping[str, Any]) -> str | None:
    """Returns the spec of an environment as JSON, with which Minari makes it again."""
    if env_id in gymnasium.registry:
        spec = gymnasium.spec(env_id)
    elif ":" in env_id:  # a function that makes one
        spec = EnvSpec(id=f"{_safe(env_id)}-v0", entry_point=env_id)
    else:  # EnvPool's alone: the id says which
        spec = EnvSpec(id=env_id) if re.fullmatch(r"[\w:.-]+", env_id) else None
    if spec is None:
        return None
    try:
        if backend == "gymnasium" and env_kwargs:
            spec.kwargs = {**spec.kwargs, **env_kwargs}
        return spec.to_json()
    except (TypeError, ValueError):  # arguments that JSON has no names for
        return None


def _safe(name: str) -> str:
    """Returns a name as part of a dataset's id: letters, digits, "-" and "_"."""
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "unnamed"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree that is not installed
        return "0+unknown"
