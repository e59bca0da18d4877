"""All settings of an agent that is made from Python, and the networks that it is handed."""

from __future__ import annotations

from typing import Any

from fastrl.agents.own_networks import names_and_functions
from fastrl.config.command import Command
from fastrl.config.effects import check_effects
from fastrl.presets import id_of, resolve

_POLICIES_OF_OTHERS = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy", "MlpLstmPolicy")


def settle(
    kind: Any, env: Any, config: Any, preset: str, network: Any, settings: dict[str, Any]
) -> tuple[Command, dict[str, Any]]:
    """Returns the settings, and the functions of `network` that were handed over.

    The arguments are those of `BaseAgent`, after its class.

    Raises:
        ValueError: an unknown task or setting, or a value out of range.
    """
    if isinstance(env, str) and env in _POLICIES_OF_OTHERS:
        raise ValueError(
            f"{env!r} is not a task: networks follow from the spaces, PPO(env); "
            "fastrl.from_sb3(dict(n_steps=...)) takes SB3's other arguments"
        )
    names, functions = names_and_functions(network)
    if config is None:
        given = {**settings, "network": names} if names else settings
        return resolve(kind.config_class, kind.algo, env, preset, given), functions
    if not isinstance(config, kind.config_class):
        expected = kind.config_class.__name__
        raise ValueError(f"config must be a {expected}, not {config!r}; settings go by name")
    if preset not in ("auto", "none"):
        raise ValueError(f"give a config or a preset, not both: {preset!r}")
    if settings:
        raise ValueError(f"give a config or single settings, not both: {', '.join(settings)}")
    if names:
        config = config.replace(network=names)
        check_effects(config, ("network",))
    if id_of(env) not in ("", config.env_id):
        config = config.replace(env_id=id_of(env))
    return Command(config=config, explicit=config.unlike_defaults()), functions
