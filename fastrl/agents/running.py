"""Starts what a command line asks for, or the part of it that is this process's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastrl.agents.naming import class_name, class_of, is_stock
from fastrl.config.command import Command, describe
from fastrl.decoupled.remote import RemoteLearner
from fastrl.decoupled.server import LearnerServer
from fastrl.envs.ids import fault_of
from fastrl.envs.make import is_known_id
from fastrl.envs.pools import spaces_of
from fastrl.processes.devices import Devices, make_devices
from fastrl.training.trainer import AgentTrainer, shown_folder


def run_command(kind: Any, command: Command) -> int:
    """Trains as the command line says, maybe as one part of it; returns the exit status.

    Args:
        kind: the algorithm's agent, such as `PPO`; a class that the command names takes its place.
        command: settings, and the run that is resumed.

    Raises:
        ValueError: that class is of another algorithm; or the run played an id that is not
            registered here.
    """
    if command.agent:
        algo, kind = kind.algo, class_of(command.agent)
        if kind.algo != algo:
            raise ValueError(f"{command.agent} is of {kind.algo!r}, not of {algo!r}")
    env_id = command.config.env_id
    if command.resume and not is_known_id(env_id):  # `cli` refuses those that were handed over
        raise ValueError(
            f"{command.resume} played {fault_of(env_id, False)}; go on from the script that "
            f"registers it: AgentTrainer(resume=RUN).fit({kind.__name__}({env_id!r}, ...)). Runs "
            f"of --env-id module:{env_id}, whose module registers it, resume here"
        )
    if command.config.decoupled:
        return run_decoupled(kind, command)
    with make_devices(command.config) as devices:
        if devices.is_global_zero and not command.is_quiet:
            print(describe(command), flush=True)
        agent = kind(command.config.env_id, command.config, devices=devices)
        return _fit(agent, command)


def learn(agent: Any, command: Command, total_timesteps: int | None, **how: Any) -> None:
    """Trains an agent from Python, in a new run folder, and leaves what came of it in `result`.

    Args:
        agent: with the settings to train by.
        command: the settings that it was made with.
        total_timesteps: environment steps to train for; None: those of the settings.
        **how: arguments of `AgentTrainer`.
    """
    agent.engine.claim.check(agent.envs)
    if total_timesteps is not None:
        agent.config = agent.config.replace(total_timesteps=total_timesteps)
    if agent.devices.is_global_zero and agent.verbose:
        kind = type(agent)
        own = "" if is_stock(kind) else class_name(kind)
        print(describe(replace(command.with_config(agent.config), agent=own)), flush=True)
    trainer = AgentTrainer(**how)
    try:
        trainer.fit(agent)
    finally:
        agent.result = trainer.result


def run_decoupled(kind: Any, command: Command) -> int:
    """Plays or trains, whichever is this process's part; returns the exit status.

    Args:
        kind: the algorithm's agent, such as `PPO`.
        command: its settings, `decoupled` among them.
    """
    config = command.config
    with make_devices(config) as devices:
        if not devices.is_player:
            return make_trainer(kind, config, devices).serve()
        if devices.is_global_zero and not command.is_quiet:
            print(describe(command), flush=True)
        player = make_player(kind, config, devices)
        status = _fit(player, command)
        player.shut_down_trainers(status)
        return status


def _fit(agent: Any, command: Command) -> int:
    """Trains an agent as the command line says; returns the exit status."""
    verbose = 0 if command.is_quiet else 1
    trainer = AgentTrainer(resume=command.resume, on_interrupt="return", verbose=verbose)
    trainer.began_at = command.began_at
    result = trainer.fit(agent)
    if command.is_quiet and agent.devices.is_global_zero:
        print(f"run folder: {shown_folder(agent, result.folder, command.resume)}", flush=True)
    return result.exit_status


def make_player(kind: Any, config: Any, devices: Devices) -> RemoteLearner:
    """Returns this process's player; the training loop takes it for an agent."""
    return RemoteLearner(kind(config.env_id, config, devices=devices))


def make_trainer(kind: Any, config: Any, devices: Devices) -> LearnerServer:
    """Returns this process's trainer, around an agent that has no environments."""
    share = config.share_of_trainer(devices.global_rank)
    return LearnerServer(kind(spaces_of(config), share, devices=devices), config)
