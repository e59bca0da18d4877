"""Where a run computes: one device in this process, or what Lightning Fabric launches."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from fastrl.config.run import RunConfig

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Devices:
    """The device of this process and its place among the others.

    Fabric owns launching, device choice, precision and collectives. A single process at full
    precision needs none of these, and importing Fabric takes longer than solving CartPole; so
    `fabric` is None there.
    """

    def __init__(self, device: torch.device, fabric: Fabric | None = None) -> None:
        """Takes the place that Fabric gave this process, or the only one.

        Args:
            device: where this process trains.
            fabric: launched already; None for a single process.
        """
        self.device, self.fabric = device, fabric
        self.global_rank = fabric.global_rank if fabric else 0
        self.world_size = fabric.world_size if fabric else 1

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context that forward passes run in: Fabric's precision, or nothing."""
        return self.fabric.autocast() if self.fabric else nullcontext()

    @property
    def is_global_zero(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.global_rank == 0


def make_devices(config: RunConfig) -> Devices:
    """Returns where to train; with `torch_deterministic`, torch is told so for the whole process.

    Raises:
        ValueError: the device is not there, or a setting would have no effect so far.
    """
    world_size = os.environ.get("WORLD_SIZE", "1")
    if config.devices > 1 or config.num_nodes > 1 or world_size != "1":
        raise ValueError(
            f"fastrl trains on one device so far; devices={config.devices}, "
            f"num_nodes={config.num_nodes}, WORLD_SIZE={world_size}"
        )
    if config.strategy != "auto":
        raise ValueError(
            f"strategy={config.strategy} has no effect on one device; leave it at auto"
        )
    device = _device(config.accelerator)
    if config.torch_deterministic:
        # cuBLAS reads this when it starts; torch refuses matrix products without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if config.precision != "32-true":
        from lightning.fabric import Fabric

        fabric = Fabric(accelerator=device.type, devices=1, precision=config.precision)
        fabric.launch()
        return Devices(fabric.device, fabric)
    return Devices(device)


def _device(accelerator: str) -> torch.device:
    available = ["cpu"]
    if torch.cuda.is_available():
        available = ["cuda", "gpu", *available]
    if accelerator == "auto":
        accelerator = available[0]
    if accelerator not in available:
        raise ValueError(
            f"accelerator {accelerator!r} is not here; this machine has {', '.join(available)}"
        )
    return torch.device("cuda" if accelerator == "gpu" else accelerator)
