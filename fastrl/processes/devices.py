"""Where a run computes: one device in this process, or R ranks that Lightning Fabric joins."""

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
from fastrl.processes.errors import is_told_in_a_line, one_line
from fastrl.processes.launch import (
    choose_interface,
    end_ranks,
    local_rank,
    node_rank,
    ranks_have_met,
    start_ranks,
)
from fastrl.processes.machine import share_cores
from fastrl.processes.pulse import PATIENCE_SECONDS, PULSE
from fastrl.processes.ranks import Ranks
from fastrl.processes.signals import is_interrupt

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from fastrl.processes.heartbeat import Watch


class Devices(Ranks):
    """The device of this process, its place among the others, and what it does with them.

    Fabric owns device choice, precision and the process group. A single process at full precision
    needs none of these, and importing Fabric takes longer than solving CartPole; so `fabric` is
    None there.
    """

    def __init__(
        self, device: torch.device, fabric: Fabric | None = None, watch: Watch | None = None
    ) -> None:
        """Takes the place that Fabric gave this process, or the only one.

        Args:
            device: where this process trains.
            fabric: launched already; None for a single process.
            watch: over all ranks, if there are several.
        """
        self.device, self.fabric, self._watch = device, fabric, watch
        self.global_rank = fabric.global_rank if fabric else 0
        self.world_size = fabric.world_size if fabric else 1
        self.is_global_zero = self.global_rank == 0
        """Whether this process writes logs and checkpoints."""
        self.is_player = True
        """Whether it steps environments; so do all but trainers of a decoupled run."""

    def split(self, num_players: int) -> None:
        """Makes two groups of the ranks: the players, which come first, and the trainers.

        From here on this rank plays or learns with those of its group alone, and counts among them.
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
        """Returns the context that forward passes run in: Fabric's precision, or nothing."""
        return self.fabric.autocast() if self.fabric else nullcontext()

    # Failing together

    def watch_for_hanging(self, is_watched: bool) -> None:
        """From here on a rank that stands still hangs, or may do so."""
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
        """Tells the other ranks how this one ended, so that one line says it for all."""
        if self._watch is None:
            return
        if error is None:
            self._watch.done()
            if self.is_global_zero:
                end_ranks()  # they are done too, and need not take their time to leave
            return
        from fastrl.processes.collectives import have_failed

        if not have_failed():
            if is_interrupt(error):
                self._watch.fail("interrupted", 130)
            elif is_told_in_a_line(error):
                self._watch.fail(one_line(error), 2)
            else:
                import traceback as printer

                printer.print_exception(error)
                self._watch.fail(f"{type(error).__name__}: {one_line(error)}", 1)
        self._watch.wait_for_verdict(10)  # it ends this process


def make_devices(config: RunConfig) -> Devices:
    """Returns where to train; with `torch_deterministic`, torch is told so for the whole process.

    With several ranks, the others are started if nothing else has started them, and are met. Of a
    decoupled run the first ranks play, on the CPU unless `player_on_gpu`, and the others train.

    Raises:
        ValueError: the devices are not there, or a setting would have no effect.
        OSError: the ranks cannot meet.
    """
    num_ranks = config.devices * config.num_nodes
    if num_ranks == 1 and config.strategy != "auto":
        raise ValueError(
            f"strategy={config.strategy} has no effect on one device; leave it at auto"
        )
    start_ranks(config.devices, config.num_nodes)
    is_decoupled = getattr(config, "decoupled", False)
    device = _device(config.accelerator, 0 if is_decoupled else config.devices)
    if config.torch_deterministic:
        # cuBLAS reads this when it starts; torch refuses matrix products without it.
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
        _launch(fabric)
        return Devices(fabric.device, fabric)
    return Devices(device)


def _join_decoupled(config: Any, device: torch.device) -> Devices:
    """Meets the other players and trainers, each on the device of its part.

    Args:
        config: of an algorithm that can be decoupled.
        device: the kind that trains.
    """
    players, first = config.num_players, node_rank() * config.devices
    players_here = min(max(players - first, 0), config.devices)
    is_player = local_rank() < players_here
    own, num_gpus = torch.device("cpu"), torch.cuda.device_count()
    if device.type == "cuda":
        needed = config.devices - players_here
        if needed > num_gpus:
            raise ValueError(f"{needed} trainers here, but this machine has {num_gpus} GPUs")
        # Trainers take the first GPUs; players take the next ones, and share where none is left.
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
    """Meets the other ranks, and has the watch look after them.

    Args:
        config: says how many they are.
        device: what Fabric gives to each.
        reduced_on: type of the devices whose tensors are reduced.
        names: what to call the ranks.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy

    from fastrl.processes.heartbeat import Watch

    # Fabric speaks of ranks and threads at level INFO, and warns of what we decided.
    for package in ("fabric", "pytorch"):  # the latter takes over the former's voice
        for name in ("distributed", "rank_zero"):
            logging.getLogger(f"lightning.{package}.utilities.{name}").setLevel(logging.ERROR)
    backend = "cpu:gloo,cuda:nccl" if reduced_on == "cuda" else "gloo"
    if config.num_nodes > 1:
        choose_interface()
    strategy = DDPStrategy(
        process_group_backend=backend, timeout=timedelta(seconds=PATIENCE_SECONDS)
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fabric = Fabric(
                accelerator=device.type,
                devices=config.devices,
                num_nodes=config.num_nodes,
                strategy=strategy,
                precision=config.precision,
            )
            _launch(fabric)
    except (RuntimeError, TypeError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise OSError(f"the ranks cannot meet at {address}: {one_line(error)[:300]}") from error
    from fastrl.processes.collectives import broadcast

    watch = Watch(fabric.global_rank, names, config.rank_timeout)
    meeting = torch.zeros(2, dtype=torch.int64)
    host = os.environ["MASTER_ADDR"]
    if fabric.global_rank == 0:
        meeting[:] = torch.tensor(watch.open(host))
    broadcast(meeting)
    watch.join(host, *meeting.tolist())
    ranks_have_met()
    return Devices(fabric.device, fabric, watch)


def _launch(fabric: Fabric) -> None:
    """Launches Fabric, unless `fabric run` did so as Fabric was made."""
    if os.environ.get("LT_CLI_USED") != "1":
        fabric.launch()


def uses_gpu(accelerator: str) -> bool:
    """Returns whether a run with this `accelerator` setting uses a GPU of this machine."""
    return accelerator != "cpu" and torch.cuda.is_available()


def _device(accelerator: str, num_devices: int) -> torch.device:
    """Returns what to train on, of which this machine has enough."""
    available = ["cpu"]
    if torch.cuda.is_available():
        available = ["cuda", "gpu", *available]
    if accelerator == "auto":
        accelerator = available[0]
    if accelerator not in available:
        raise ValueError(
            f"accelerator {accelerator!r} is not here; this machine has {', '.join(available)}"
        )
    if accelerator == "cpu":
        return torch.device("cpu")
    if torch.cuda.device_count() < num_devices:
        raise ValueError(
            f"devices={num_devices}, but this machine has {torch.cuda.device_count()} GPUs"
        )
    return torch.device("cuda")
