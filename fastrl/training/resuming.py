"""Saving and restoring a run: its counters, the agent, and environments that support it."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import torch

from fastrl.buffers.replay import columns_of
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.checks import check_length
from fastrl.config.resume import changed_settings, check_beginnings, check_task
from fastrl.envs.foreign import call
from fastrl.envs.vector import EnvError, HasState, VectorEnv
from fastrl.processes.devices import Devices
from fastrl.processes.errors import one_line
from fastrl.processes.generators import state_of_generators
from fastrl.runs.fitting import check_fits
from fastrl.runs.logger import SUMMARY_NAME
from fastrl.runs.plain_files import MOST_SUMMARY, read_facts
from fastrl.training.agent import Agent
from fastrl.training.counters import Counters

ENVS_STATE = ("envs", "rollout")  # names of what belongs to the state of the environments
_DEEPEST = 50  # levels of the state of an environment; one that holds itself has no end

_log = logging.getLogger("fastrl")
_unsaved: WeakSet[VectorEnv] = WeakSet()  # about which that was logged


def run_state(agent: Agent, buffer: RolloutBuffer, counters: Counters) -> dict[str, Any]:
    """Returns the complete state of a run between two iterations.

    Args:
        agent: the agent; the state of its environments is included if every pool provides one.
        buffer: the buffer after `carry_over`; its first row belongs to the environments' state.
        counters: progress of the run.
    """
    learner = agent.state_dict()
    state = {
        **checkpoint_labels(agent),
        "counters": dict(vars(counters)),
        "num_ranks": agent.devices.world_size,
    }
    return state | _state_of_rank(agent, buffer, learner) | {"agent": learner}


def checkpoint_labels(agent: Agent) -> dict[str, Any]:
    """Returns what a checkpoint says of an agent; `class` is "" for an algorithm of fastrl's."""
    labels = agent.labels()  # where "agent" is the class; in a checkpoint it is the state
    return {"class": labels.pop("agent", ""), **labels}


def state_of_rank(agent: Agent, buffer: RolloutBuffer) -> dict[str, Any]:
    """Returns the part of the state that differs between ranks."""
    return _state_of_rank(agent, buffer, agent.state_dict())


def _state_of_rank(agent: Agent, buffer: RolloutBuffer, learner: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = {
        "agent": {name: learner[name] for name in agent.rank_state if name in learner},
        **state_of_generators(),
    }
    if (envs := _state_of_envs(agent.envs)) is not None:
        state["envs"], state["rollout"] = envs, buffer.state_dict()
    return state


def check_same_run(restored: dict[str, Any], agent: Agent) -> None:
    """Raises ValueError if a checkpoint is of another algorithm or task, or began in another way.

    Of environments that are handed over, nothing tells whether they are the same.
    """
    if restored.get("algo") != agent.algo:
        raise ValueError(f"it is of the algorithm {restored.get('algo')!r}, not {agent.algo!r}")
    saved = restored["agent"].get("config")
    check_beginnings(agent.config, saved, "the run")
    if agent.task.is_named:
        check_task(agent.config, saved, restored.get("handed_over"))
    if (changed := changed_settings(agent.config, saved)) and agent.devices.global_rank == 0:
        _log.warning("the run goes on with other settings than before: %s", changed)


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
    del restored["torch_random"]  # of rank 0, with the other generators
    return {**restored, "agent": {**restored["agent"], **anew}}


def restored_counters(restored: dict[str, Any]) -> Counters:
    """Returns the counters of a checkpoint; ValueError if it is not the checkpoint of a run."""
    try:
        if not {"agent", "torch_random"} <= restored.keys():
            raise KeyError("agent or torch_random is missing")
        if not isinstance(restored["agent"], dict):
            raise TypeError(f"its agent is {restored['agent']!r}")
        check_fits(restored["torch_random"], torch.get_rng_state(), "torch_random")
        if type(num_ranks := restored.get("num_ranks", 1)) is not int or num_ranks < 1:
            raise TypeError(f"its num_ranks is {num_ranks!r}")
        for name in ("ranks", "envs"):
            parts = restored.get(name, [])
            if not isinstance(parts, list) or not all(isinstance(x, dict) for x in parts):
                raise TypeError(f"its {name} is not a list of mappings")
        if len(restored.get("ranks") or [None] * num_ranks) != num_ranks:
            raise TypeError(f"its ranks are {len(restored['ranks'])}, not {num_ranks}")
        counters = Counters(**restored["counters"])
        items: dict[str, Any] = {"unlogged_infos": {"": [0.0, 0.0]}, "recent_infos": {"": []}}
        for name, default in {**vars(Counters()), **items}.items():
            if not _is_alike(value := getattr(counters, name), default):
                raise TypeError(f"its counters.{name} is {value!r}")
        return counters
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "the newest checkpoint is not one of a run of this version of fastrl: "
            f"{one_line(error)}"
        ) from error


def _is_alike(value: Any, default: Any) -> bool:
    """Returns whether a value has the form of the default: a number, list or dict of numbers.

    Lists that begin empty may have any length; an item of a dict stands for all of its items.
    """
    if isinstance(default, dict):
        item = next(iter(default.values()), 0.0)
        return type(value) is dict and all(_is_alike(x, item) for x in value.values())
    if isinstance(default, list):
        is_alike = type(value) is list and len(value) == (len(default) or len(value))
        return is_alike and all(_is_alike(number, 0.0) for number in value)
    if type(default) is int:
        return type(value) is int and 0 <= value < 2**63
    return type(value) in (int, float)


def restore_envs(envs: list[VectorEnv], buffer: RolloutBuffer, restored: dict[str, Any]) -> bool:
    """Restores the saved state of the environments; returns False, with a warning, if it is not.

    The weights do not depend on that, so a run whose environments have changed goes on, too.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    able = [env for env in envs if isinstance(env, HasState)]
    if len(able) != len(envs) or len(envs) != len(restored["envs"]):
        _log.warning(
            "%s: the run was saved with the state of its environments, which these cannot take; "
            "new episodes are started",
            envs[0].env_id,
        )
        return False
    # Files of before it was saved lack `is_restarted`.
    check_fits(restored["rollout"], buffer.state_dict(), "rollout", free=("is_restarted",))
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
                raise EnvError(f"{where} has a key that is neither a string nor an integer")
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
    target, is_ended = agent.config.target_return, _has_ended(folder / SUMMARY_NAME, counters)
    if target is not None and counters.has_reached(target) and is_ended:
        raise ValueError(
            f"{folder} is complete: its target_return of {target:g} was reached by "
            f"{counters.env_steps} steps; to continue, give another --target-return, or None"
        )
    if counters.updates >= agent.num_updates and is_ended:
        raise ValueError(
            f"{folder} is complete at {counters.env_steps} of {agent.config.total_timesteps} "
            "steps; to continue, give a larger --total-timesteps"
        )


def check_frozen_statistics(agent: Agent) -> None:
    """Raises ValueError if statistics are to stay as they are before there are any."""
    if not getattr(agent.config, "freeze_normalization", False):
        return
    learner: Any = getattr(agent, "agent", agent)  # of a player with trainers
    for of_what, module in (
        ("observations", learner.policy.normalizer),
        ("rewards", learner.reward_scale),
    ):
        if module is not None and not getattr(module, "count", 1):
            raise ValueError(
                f"freeze_normalization: there are no statistics of {of_what} yet; "
                "load an agent that has them, or resume a run"
            )


def check_warm_up(agent: Agent, counters: Counters) -> None:
    """Raises ValueError if a run would end before the first gradient step.

    Args:
        agent: in the state in which it plays on; it may have learned before this run.
        counters: progress of the run.
    """
    learner: Any = getattr(agent, "agent", agent)  # of a player with trainers
    taken = getattr(learner, "num_env_steps", counters.env_steps) - counters.env_steps
    check_length(agent.config, taken)


def _has_ended(summary: Path, counters: Counters) -> bool:
    """Returns whether a run wrote its summary here, and not because a signal ended its test."""
    with contextlib.suppress(OSError, ValueError):
        told = read_facts(summary, MOST_SUMMARY)
        is_of_here = told.get("total_env_steps", counters.env_steps) == counters.env_steps
        return is_of_here and told.get("interrupted") is not True
    return summary.exists()
