"""Saving and restoring a run: its counters, the agent, and environments that support it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch

from fastrl.buffers.replay import columns_of
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.envs.foreign import call
from fastrl.envs.vector import EnvError, HasState, VectorEnv
from fastrl.processes.devices import Devices
from fastrl.runs.logger import SUMMARY_NAME
from fastrl.training.agent import Agent
from fastrl.training.counters import Counters

_DEEPEST = 50  # levels of the state of an environment; one that holds itself has no end

_log = logging.getLogger("fastrl")
_unsaved: WeakSet[VectorEnv] = WeakSet()  # of which that was told


def run_state(agent: Agent, buffer: RolloutBuffer, counters: Counters) -> dict[str, Any]:
    """Returns the complete state of a run between two iterations.

    Args:
        agent: the agent; the state of its environments is included if every pool provides one.
        buffer: the buffer after `carry_over`; its first row belongs to the environments' state.
        counters: progress of the run.
    """
    learner = agent.state_dict()
    state = {
        "algo": agent.algo,
        "counters": dict(vars(counters)),
        "num_ranks": agent.devices.world_size,
    }
    return state | _state_of_rank(agent, buffer, learner) | {"agent": learner}


def state_of_rank(agent: Agent, buffer: RolloutBuffer) -> dict[str, Any]:
    """Returns the part of the state that differs between ranks."""
    return _state_of_rank(agent, buffer, agent.state_dict())


def _state_of_rank(agent: Agent, buffer: RolloutBuffer, learner: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = {
        "agent": {name: learner[name] for name in agent.rank_state if name in learner},
        "torch_random": torch.get_rng_state(),
    }
    if (envs := _state_of_envs(agent.envs)) is not None:
        state["envs"], state["rollout"] = envs, buffer.state_dict()
    return state


def _state_of_envs(envs: list[VectorEnv]) -> list[Any] | None:
    """Returns the state of each pool; None if one has none, or none that can be saved."""
    able = [env for env in envs if isinstance(env, HasState)]
    if not able or len(able) < len(envs):
        return None
    states = []
    for env in able:
        where = f"{env.env_id}: state_dict"
        try:
            states.append(_arrays_to_tensors(call(where, env.state_dict), where))
        except EnvError as error:
            if envs[0] not in _unsaved:
                _unsaved.add(envs[0])
                _log.warning("%s; a resumed run starts new episodes", error)
            return None
    return states


def is_whole(restored: dict[str, Any], devices: Devices) -> bool:
    """Returns whether a checkpoint holds the state of each of these ranks."""
    has_ranks = devices.is_alone or bool(restored.get("ranks"))
    return has_ranks and restored.get("num_ranks", 1) == devices.world_size


def share_of_rank(restored: dict[str, Any], agent: Agent, restart: int) -> dict[str, Any]:
    """Returns a checkpoint with the parts that belong to this rank.

    If the number of ranks has changed, each rank gets a new random stream, and its share of the
    columns of all saved replay buffers.

    Raises:
        ValueError: the saved replay buffers have too few environments.
    """
    devices = agent.devices
    can_go_on = is_whole(restored, devices)
    ranks = restored.pop("ranks", [])
    if can_go_on:
        own = ranks[devices.global_rank] if ranks else {}
        return {**restored, **own, "agent": {**restored["agent"], **own.get("agent", {})}}
    seed = devices.stream_seed(agent.config.seed, restart)
    noise = torch.Generator(devices.device).manual_seed(seed).get_state()
    anew: dict[str, Any] = {"noise_generator": noise, "noise_device": devices.device.type}
    if restored["agent"].get("replay") is not None:
        rings = [rank["agent"]["replay"] for rank in ranks] or [restored["agent"]["replay"]]
        num_envs = agent.config.num_envs
        first = devices.global_rank * num_envs
        anew["replay"] = columns_of(rings, slice(first, first + num_envs))
    return {**restored, "agent": {**restored["agent"], **anew}}


def restored_counters(restored: dict[str, Any]) -> Counters:
    """Returns the counters of a checkpoint; ValueError if it is not the checkpoint of a run."""
    try:
        if not {"agent", "torch_random"} <= restored.keys():
            raise KeyError("agent or torch_random is missing")
        if not isinstance(restored["agent"], dict):
            raise TypeError(f"its agent is {restored['agent']!r}")
        if not isinstance(restored["torch_random"], torch.Tensor):
            raise TypeError(f"its torch_random is {restored['torch_random']!r}")
        counters = Counters(**restored["counters"])
        for name, default in vars(Counters()).items():
            if not _is_alike(value := getattr(counters, name), default):
                raise TypeError(f"its counters.{name} is {value!r}")
        return counters
    except (KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the newest checkpoint is not one of a run of this version of fastrl: {reason}"
        ) from error


def _is_alike(value: Any, default: Any) -> bool:
    """Returns whether a value has the form of the default: a number, list or dict of numbers."""
    if isinstance(default, dict | list):
        numbers = value.values() if isinstance(value, dict) else value
        return type(value) is type(default) and all(_is_alike(number, 0) for number in numbers)
    return isinstance(value, int | float)


def restore_envs(envs: list[VectorEnv], buffer: RolloutBuffer, restored: dict[str, Any]) -> bool:
    """Restores the saved state of the environments; returns False, with a warning, if they refuse.

    Raises:
        ValueError: these environments have no state, or another number of pools.
    """
    able = [env for env in envs if isinstance(env, HasState)]
    if len(able) != len(envs) or len(envs) != len(restored["envs"]):
        raise ValueError(
            f"{envs[0].env_id}: the run was saved with the state of its environments, which cannot "
            "be restored here: these have no load_state_dict, or another number of pools"
        )
    for env, state in zip(able, restored["envs"], strict=True):
        try:
            call(f"{env.env_id}: load_state_dict", env.load_state_dict, _tensors_to_arrays(state))
        except EnvError as error:
            _log.warning("%s; new episodes are started", error)
            return False
    buffer.load_state_dict(restored["rollout"])
    return True


def _arrays_to_tensors(value: Any, where: str, depth: int = 0) -> Any:
    """Converts the state of an environment to the types that a checkpoint may hold.

    Raises:
        EnvError: it holds another type, or itself.
    """
    if depth > _DEEPEST:
        raise EnvError(f"{where[:80]}... is nested more than {_DEEPEST} times")
    if isinstance(value, dict):
        for name in value:
            if type(name) not in (str, int):
                raise EnvError(f"{where} has a key that is neither a text nor a number")
            if str(name).startswith("module.") or "_orig_mod." in str(name):
                raise EnvError(f"{where} has the key {name!r}, which is that of a wrapped network")
        return {
            name: _arrays_to_tensors(item, f"{where}[{name!r}]", depth + 1)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            _arrays_to_tensors(item, f"{where}[{index}]", depth + 1)
            for index, item in enumerate(value)
        ]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        try:
            return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
        except TypeError as error:  # longdouble
            raise EnvError(f"{where} is an array of {value.dtype}") from error
    if isinstance(value, torch.Tensor) or type(value) in (bool, int, float, str, type(None)):
        return value
    kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise EnvError(f"{where} is {kind}, which no checkpoint holds")


def _tensors_to_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tensors_to_arrays(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_tensors_to_arrays(item) for item in value]
    return value.numpy() if isinstance(value, torch.Tensor) else value


def check_unfinished(agent: Agent, folder: Path, counters: Counters) -> None:
    """Raises ValueError if a resumed run has nothing left to do, its evaluation included."""
    if counters.updates >= agent.num_updates and (folder / SUMMARY_NAME).exists():
        raise ValueError(
            f"{folder} is complete at {counters.env_steps} of {agent.config.total_timesteps} "
            "steps; to continue, give a larger --total-timesteps"
        )
