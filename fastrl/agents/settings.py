"""All settings of an agent that is made from Python, and the networks that it is handed."""

from __future__ import annotations

from inspect import get_annotations
from types import FunctionType, NoneType
from typing import Any

import numpy as np

from fastrl.agents.naming import is_stock
from fastrl.agents.own_networks import names_and_functions
from fastrl.config.command import Command
from fastrl.config.effects import check_effects
from fastrl.config.groups import group_of
from fastrl.config.other_names import OTHER_NAMES
from fastrl.presets import id_of, resolve

_GROUPS_READ_ONCE = "task", "network", "devices"  # when the agent is made
_READ_ONCE = (
    *("num_envs", "num_steps", "buffer_size", "alpha", "observation_normalization"),
    *("observation_clip", "observation_epsilon", "reward_scaling", "max_grad_norm"),
    *("adam_eps", "adam_beta1", "adam_beta2", "weight_decay", "optimizer", "optimizer_eps"),
    *("rmsprop_decay", "replay_ratio", "tau", "target_entropy"),
)
_READ_BY_LEARN = "total_timesteps", "target_return"
"""Settings of the group "task" that every `learn` reads anew."""
_READ_IN_A_RUN = (
    *("learning_rate", "lr_schedule", "anneal_lr", "ent_coef", "ent_schedule", "anneal_ent_coef"),
    *("clip_coef", "clip_schedule", "anneal_clip_coef", "clip_vloss", "vf_clip_rule", "vf_coef"),
    *("gae_lambda", "update_epochs", "freeze_normalization", "learning_starts"),
    *("target_network_frequency", "total_timesteps"),
)
"""Settings that a run reads at every update; all others it read when it was built."""
_VALUES = int, float, str, tuple, list, dict, NoneType, FunctionType, np.generic
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


def set_attribute(agent: Any, name: str, value: Any) -> None:
    """Sets an attribute; refuses a setting, as in `model.gamma = 0.9`: nothing would read it.

    A class of the user's own may have attributes of such names; its code says what they do. Of
    `config`, only what is still to be read may change.

    Raises:
        ValueError: it is a setting that no class declares as an attribute; or a new config that
            changes what was read when the agent was made, or its run was built.
    """
    config = vars(agent).get("config")
    if name == "config" and config is not None:
        _check_read_later(agent, config, value)
    if config is not None and (name in vars(config) or name in OTHER_NAMES):
        _check_no_setting(agent, name, value)
    object.__setattr__(agent, name, value)


def _check_read_later(agent: Any, before: Any, now: Any) -> None:
    if not isinstance(now, type(before)):
        raise ValueError(f"config must be a {type(before).__name__}, not {now!r}")
    for name, value in vars(now).items():
        if value == getattr(before, name, value):
            continue
        if agent.engine.claim.in_run and not _is_read_in_a_run(name, now):
            raise ValueError(
                f"{name} = {value!r} in a new config cannot take effect in the middle of a run, "
                f"which was built with {getattr(before, name)!r}: set it before `learn`"
            )
        if name in _READ_BY_LEARN:
            continue
        if name in _READ_ONCE or group_of(name) in _GROUPS_READ_ONCE:
            raise ValueError(
                f"{name} = {value!r} in a new config has no effect: this agent was made with "
                f"{getattr(before, name)!r}. Give {name} to {type(agent).__name__}(...)"
            )


def _is_read_in_a_run(name: str, config: Any) -> bool:
    if config.decoupled:  # others learn, by the settings that they started with
        return name == "total_timesteps"
    if name == "gamma":  # a replay buffer and a reward scaling sum up by the one that they know
        return hasattr(config, "gae_lambda") and not config.reward_scaling
    ours = [kind for kind in type(config).__mro__ if kind.__module__.startswith("fastrl.")]
    is_ours = any(name in get_annotations(kind) for kind in ours)
    return name in _READ_IN_A_RUN or not is_ours  # a field of one's own is read by one's own code


def refuse_copy(agent: Any, protocol: Any) -> Any:
    """Refuses `copy` and `pickle`, which would share or lose environments and kernels."""
    raise TypeError(
        f"{agent!r} cannot be copied or pickled whole: agent.save(path) and "
        f"{type(agent).__name__}.load(path) make another one; deepcopy(agent.policy) has its policy"
    )


def _check_no_setting(agent: Any, name: str, value: Any) -> None:
    if not is_stock(type(agent)) or not isinstance(value, _VALUES) or hasattr(value, "_fields"):
        return  # tensors, and whatever else the algorithms keep under such names
    if any(name in get_annotations(kind) for kind in type(agent).__mro__):
        return
    for ours in (name, *OTHER_NAMES.get(name, ())):
        if ours in vars(agent.config):
            raise ValueError(
                f"{name} = {value!r} has no effect: an agent keeps the settings that it was made "
                f"with. Give {ours} to {type(agent).__name__}(...); given to load, it changes what "
                "a saved agent goes on with"
            )
