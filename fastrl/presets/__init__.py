"""Tuned settings per task, as data, and what they reached.

One YAML file an algorithm holds the settings; `results.yaml` holds what `python -m
benchmarks.learning` measured with them. `python -m fastrl.presets` lists both.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, TypeVar

from fastrl.config.run import RunConfig

Config = TypeVar("Config", bound=RunConfig)


RESULTS_NAME = "results.yaml"


def algorithms() -> list[str]:
    """Returns the algorithms that have presets, by module name."""
    names = [file.name for file in resources.files(__name__).iterdir()]
    own = [name for name in names if name.endswith(".yaml") and name != RESULTS_NAME]
    return sorted(name.removesuffix(".yaml") for name in own)


def load_results() -> dict[str, dict[str, dict[str, Any]]]:
    """Returns what the presets reached, by algorithm and task: an id, some with flags behind it.

    A result holds `returns` (greedy mean of each of the `seeds`), their `return_mean` and
    `return_std` (divided by their number less one), `eval_episodes` of each, `steps`,
    `wall_seconds` and `cpu_seconds` (medians of whole processes; None where not known), `machine`,
    `versions`, and the preset's `settings` of then.
    """
    return _read(RESULTS_NAME)


def load_presets(algo: str) -> dict[str, dict[str, Any]]:
    """Returns the presets of an algorithm, by task id.

    Args:
        algo: module name of the algorithm, for example "ppo".
    """
    return _read(f"{algo}.yaml")


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


def _read(name: str) -> dict[str, Any]:
    import yaml

    text = resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}
