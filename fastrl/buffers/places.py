"""Memory of buffers: whether it suffices, and whether its tensors stay where kernels know them."""

from __future__ import annotations

import math
from typing import Any

import torch

from fastrl.processes.machine import total_memory


class Places:
    """Where an object's tensors lie; they must not move while kernels have their addresses."""

    def __init__(self, owner: Any, called: str, names: list[str]) -> None:
        """Looks up where they are.

        Args:
            owner: whose tensors.
            called: what users know it by.
            names: of the tensors; one on the host may be called `host_rewards`.
        """
        self._owner, self._called = owner, called
        self._places = {name: getattr(owner, name).data_ptr() for name in names}

    def check(self) -> None:
        """Raises ValueError if a tensor lies elsewhere now."""
        for name, place in self._places.items():
            if getattr(self._owner, name).data_ptr() != place:
                tensor = f"{self._called}.{name.removeprefix('host_')}"
                raise ValueError(
                    f"{tensor} was moved to other memory, but steps are still written to the old; "
                    f"change it in place, {tensor}.copy_(...), and send other processes "
                    f"{tensor}.clone()"
                )


def check_memory(
    num_rows: int, fields: dict[str, tuple[tuple[int, ...], torch.dtype]], device: torch.device
) -> None:
    """Raises ValueError if the machine could not hold a ring that is full."""
    if device.type != "cpu":  # its driver says so by itself, at once
        return
    row = sum(math.prod(shape) * dtype.itemsize for shape, dtype in fields.values())
    total = total_memory()
    if num_rows * row > total:
        raise ValueError(
            f"a replay buffer of {num_rows:,} transitions takes {num_rows * row / 2**30:,.1f} GiB; "
            f"this machine has {total / 2**30:,.1f} GiB: lower buffer_size"
        )
