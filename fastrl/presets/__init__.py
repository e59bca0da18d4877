"""Tuned settings per task, as data: one YAML file an algorithm."""

from __future__ import annotations

from importlib import resources
from typing import Any, TypeVar

from fastrl.config.run import RunConfig

Config = TypeVar("Config", bound=RunConfig)


def load_presets(algo: str) -> dict[str, dict[str, Any]]:
    """Returns the presets of an algorithm, by task id.

    Args:
        algo: module name of the algorithm, for example "ppo".
    """
    import yaml

    text = resources.files(__name__).joinpath(f"{algo}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}


def preset_for(algo: str, env_id: str) -> dict[str, Any]:
    """Returns the tuned settings of a task, or nothing if it has none."""
    return load_presets(algo).get(env_id, {})


def resolve(
    config_class: type[Config], algo: str, env: object, preset: str, settings: dict[str, Any]
) -> Config:
    """Returns the config of a call from Python: defaults, then the preset, then single settings.

    Args:
        config_class: the algorithm's config.
        algo: its module name.
        env: a task's id, or a vector environment, whose number of environments then counts.
        preset: "auto" or "none".
        settings: single settings by name.

    Raises:
        ValueError: an unknown setting or a value out of range.
    """
    if preset not in ("auto", "none"):
        raise ValueError(f"preset must be auto or none, not {preset!r}")
    env_id = (
        env
        if isinstance(env, str)
        else getattr(env, "env_id", None) or getattr(getattr(env, "spec", None), "id", "")
    )
    tuned = preset_for(algo, env_id) if preset == "auto" else {}
    given: dict[str, Any] = {"env_id": env_id or type(env).__name__}
    if not isinstance(env, str):
        num_envs = getattr(env, "num_envs", None)
        if num_envs is None:
            raise ValueError(
                f"cannot play a {type(env).__name__}; give a task's id, module:callable, or a "
                "gymnasium.vector.VectorEnv"
            )
        given["num_envs"] = num_envs
    return config_class.from_dict({**tuned, **given, **settings}, f"{algo} settings")
