"""Starts what this process is in a decoupled run: a player or a trainer."""

from __future__ import annotations

from typing import Any

from fastrl.config.command import Command, describe
from fastrl.decoupled.remote import RemoteLearner
from fastrl.decoupled.server import LearnerServer
from fastrl.envs.pools import spaces_of
from fastrl.processes.devices import Devices, make_devices
from fastrl.training.trainer import AgentTrainer


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
        if devices.is_global_zero:
            print(describe(command), flush=True)
        player = make_player(kind, config, devices)
        trainer = AgentTrainer(resume=command.resume, on_interrupt="return")
        status = trainer.fit(player).exit_status
        player.shut_down_trainers(status)
        return status


def make_player(kind: Any, config: Any, devices: Devices) -> RemoteLearner:
    """Returns this process's player; the training loop takes it for an agent."""
    return RemoteLearner(kind(config.env_id, config, devices=devices))


def make_trainer(kind: Any, config: Any, devices: Devices) -> LearnerServer:
    """Returns this process's trainer, around an agent that has no environments."""
    share = config.share_of_trainer(devices.global_rank)
    return LearnerServer(kind(spaces_of(config), share, devices=devices), config)
