"""Devices of a run: one in this process, or one in each of R ranks, joined by Lightning Fabric."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from fastrl.config.run import RunConfig
from fastrl.processes.errors import is_expected, one_line
from fastrl.processes.launch import (
    STORE,
    end_ranks,
    local_rank,
    node_rank,
    ranks_have_met,
    start_ranks,
    take_over_from_fabric,
)
from fastrl.processes.machine import share_cores
from fastrl.processes.pulse import PATIENCE_SECONDS, PULSE
from fastrl.processes.ranks import Ranks
from fastrl.processes.signals import is_interrupt, status_of

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from fastrl.processes.heartbeat import Watch


class Devices(Ranks):
    """The device of this process, its rank, and what ends all ranks together if one fails.

    Lightning Fabric places the ranks, and provides precision and the process group. A single
    process at full precision needs none of these, and importing Fabric takes longer than solving
    CartPole; so `fabric` is None there.
    """

    def __init__(
        self, device: torch.device, fabric: Fabric | None = None, watch: Watch | None = None
    ) -> None:
        """Reads the rank of this process from Fabric; without Fabric it is the only one.

        Args:
            device: where this process trains.
            fabric: already launched; None for a single process at full precision.
            watch: failure detector, if there are several ranks.
        """
        self.device, self.fabric, self._watch = device, fabric, watch
        self.global_rank = fabric.global_rank if fabric else 0
        self.world_size = fabric.world_size if fabric else 1
        self.is_global_zero = self.global_rank == 0
        """Whether this process writes logs and checkpoints."""
        self.is_player = True
        """Whether it steps environments: true except for the trainers of a decoupled run."""

    def split(self, num_players: int) -> None:
        """Splits the ranks into two groups: the players, which come first, and the trainers.

        Afterwards `global_rank`, `world_size` and the collectives are those of this rank's group.
        """
        from fastrl.processes.collectives import use_group

        ranks = list(range(self.world_size))
        use_group([ranks[:num_players], ranks[num_players:]])
        self.is_player = self.global_rank < num_players
        if self.is_player:
            self.world_size = num_players
        else:
            self.world_size -= num_players
            self.global_rank -= num_players

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context for forward passes: Fabric's autocast, or none."""
        return self.fabric.autocast() if self.fabric else nullcontext()

    # Failing together

    def watch_for_hanging(self, is_watched: bool) -> None:
        """Sets whether this rank counts as hanging when it makes no progress."""
        if self._watch is not None:
            PULSE.is_watched = is_watched

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Tells the other ranks how this one ended, so that one line is printed for all."""
        if self._watch is None:
            return
        if error is None:
            self._watch.done()
            if self.is_global_zero:
                end_ranks()  # they are done too; no need to wait for their clean-up
            return
        from fastrl.processes.collectives import have_failed

        if not have_failed():
            if is_interrupt(error):
                self._watch.fail("interrupted", status_of(error))
            elif is_expected(error):
                self._watch.fail(one_line(error), 2)
            else:
                import traceback as printer

                printer.print_exception(error)
                self._watch.fail(f"{type(error).__name__}: {one_line(error)}", 1)
        self._watch.wait_for_verdict(10)  # it ends this process


def make_devices(config: RunConfig) -> Devices:
    """Returns the device to train on; applies `torch_deterministic` to the whole process.

    With several ranks, starts the others unless a launcher did, and joins the process group. In a
    decoupled run the first ranks are players, on the CPU unless `player_on_gpu`, and the others
    trainers.

    Raises:
        ValueError: a device is missing, or a setting would have no effect.
        OSError: the ranks cannot connect to each other.
    """
    num_ranks = config.devices * config.num_nodes
    if num_ranks == 1 and config.strategy != "auto":
        raise ValueError(
            f"strategy={config.strategy} has no effect on one device; leave it at auto"
        )
    take_over_from_fabric(config)
    start_ranks(config.devices, config.num_nodes)
    share_cores(config.devices)
    is_decoupled = getattr(config, "decoupled", False)
    device = _device(config.accelerator, 0 if is_decoupled else config.devices)
    if config.torch_deterministic:
        # cuBLAS reads this when it is initialised; torch refuses matrix products without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if is_decoupled:
        return _join_decoupled(config, device)
    if num_ranks > 1:
        names = [f"rank {rank}" for rank in range(num_ranks)]
        return _join(config, device, device.type, names)
    if config.precision != "32-true":
        from lightning.fabric import Fabric

        fabric = Fabric(accelerator=device.type, devices=1, precision=config.precision)
        fabric.launch()
        return Devices(fabric.device, fabric)
    return Devices(device)


def _join_decoupled(config: Any, device: torch.device) -> Devices:
    """Joins the players and trainers, each on the device for its role.

    Args:
        config: a `DecoupledConfig`.
        device: type of device to train on.
    """
    players, first = config.num_players, node_rank() * config.devices
    players_here = min(max(players - first, 0), config.devices)
    is_player = local_rank() < players_here
    own, num_gpus = torch.device("cpu"), torch.cuda.device_count()
    if device.type == "cuda":
        needed = config.devices - players_here
        if needed > num_gpus:
            raise ValueError(f"{needed} trainers here, but this machine has {num_gpus} GPUs")
        # Trainers take the first GPUs, players the next ones; when none is left they share.
        index = (needed + local_rank()) if is_player else local_rank() - players_here
        if not is_player or config.player_on_gpu:
            own = torch.device("cuda", index % num_gpus)
            torch.cuda.set_device(own)
    elif config.player_on_gpu:
        raise ValueError("player_on_gpu has no effect: this machine has no GPU")
    names = [f"player {index}" for index in range(players)]
    names += [f"trainer {index}" for index in range(config.num_trainers)]
    devices = _join(config, torch.device("cpu"), device.type, names)
    devices.split(players)
    devices.device = own
    if not config.overlap:  # players wait while trainers work: each may use all cores
        share_cores(players_here if is_player else config.devices - players_here)
    return devices


def _join(config: RunConfig, device: torch.device, reduced_on: str, names: list[str]) -> Devices:
    """Joins the process group, and starts the failure detector.

    Args:
        config: number of ranks, precision and timeout.
        device: type of device that Fabric gives to each rank.
        reduced_on: type of the devices whose tensors are reduced.
        names: names of the ranks, for messages.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.strategies.ddp import DDPStrategy

    from fastrl.processes.collectives import broadcast
    from fastrl.processes.heartbeat import Watch
    from fastrl.processes.meeting import meet

    # Fabric logs ranks and threads at level INFO, and warns about deliberate choices of ours.
    for package in ("fabric", "pytorch"):  # the same loggers under two names
        for name in ("distributed", "rank_zero"):
            logging.getLogger(f"lightning.{package}.utilities.{name}").setLevel(logging.ERROR)
    backend = "cpu:gloo,cuda:nccl" if reduced_on == "cuda" else "gloo"
    strategy = DDPStrategy(
        process_group_backend=backend, timeout=timedelta(seconds=PATIENCE_SECONDS)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator=device.type,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=strategy,
            precision=config.precision,
            # Started by fastrl, ranks are what LOCAL_RANK says, wherever it was called from.
            plugins=[LightningEnvironment()] if STORE in os.environ else None,
        )
        host = meet(fabric, backend, config)
    watch = Watch(fabric.global_rank, names, config.rank_timeout)
    meeting = torch.zeros(2, dtype=torch.int64)
    if fabric.global_rank == 0:
        meeting[:] = torch.tensor(watch.open(host))
    try:
        broadcast(meeting)
    except RuntimeError as error:  # a signal ended one, which nobody watches yet
        raise OSError(f"a rank ended while they met: {one_line(error)[:300]}") from error
    watch.join(host, *meeting.tolist())
    ranks_have_met()
    return Devices(fabric.device, fabric, watch)


def uses_gpu(accelerator: str) -> bool:
    """Returns whether a run with this `accelerator` setting uses a GPU of this machine."""
    return accelerator != "cpu" and torch.cuda.is_available()


def _device(accelerator: str, num_devices: int) -> torch.device:
    """Returns the type of device to train on; ValueError if this machine has too few."""
    available = ["cpu"]
    if torch.cuda.is_available():
        available = ["cuda", "gpu", *available]
    if accelerator == "auto":
        accelerator = available[0]
    if accelerator not in available:
        raise ValueError(
            f"accelerator {accelerator!r} is not available; this machine has {', '.join(available)}"
        )
    if accelerator == "cpu":
        return torch.device("cpu")
    if torch.cuda.device_count() < num_devices:
        raise ValueError(
            f"devices={num_devices}, but this machine has {torch.cuda.device_count()} GPUs"
        )
    return torch.device("cuda")
