"""Shared memory for the collectives of ranks on one machine, instead of the loopback network.

A gradient of some ten thousand weights arrives within microseconds; gloo takes two system calls,
two wake-ups and two copies by the kernel for each receiving rank. gloo is the reference
implementation, and the fallback without the extension or the memory.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastrl.kernels.extension import HAS_EXTENSION
from fastrl.processes.machine import has_core_for_each_rank
from fastrl.processes.pulse import PATIENCE_SECONDS

if HAS_EXTENSION and sys.platform.startswith("linux"):
    from fastrl._C import Exchange
else:
    Exchange = None

_FOLDER = Path("/dev/shm")
_SLOT_BYTES = 2**20  # most that a rank can send at once; larger tensors go through gloo
_PATH_BYTES = 256
_SPIN_SECONDS = 2e-4  # about what waking up a sleeping core takes


class SharedMemory:
    """Memory shared by the ranks of a group."""

    def __init__(self, region: Tensor, rank: int, num_ranks: int) -> None:
        """Attaches this rank.

        Args:
            region: uint8 `[B]`: memory that all ranks have mapped, initially zero.
            rank: rank of this process in the group.
            num_ranks: R.
        """
        assert Exchange is not None
        spin_seconds = _SPIN_SECONDS if has_core_for_each_rank() else 0.0
        self._exchange = Exchange(region, rank, num_ranks, spin_seconds)
        self._num_ranks = num_ranks

    def takes(self, x: Tensor) -> bool:
        """Returns whether a tensor can be gathered through this memory."""
        num_bytes = x.numel() * x.element_size()
        return x.device.type == "cpu" and 0 < num_bytes <= self._exchange.slot_bytes

    def gather(self, x: Tensor) -> Tensor:
        """Returns `x` `[*]` of all ranks as `[R, *]`; its shape must be the same on all.

        Raises:
            RuntimeError: another rank did not take part.
        """
        own = x.contiguous()
        parts = torch.empty((self._num_ranks, *x.shape), dtype=x.dtype)
        as_bytes = own.view(-1).view(torch.uint8), parts.view(self._num_ranks, -1).view(torch.uint8)
        if not self._exchange.gather(*as_bytes, PATIENCE_SECONDS):
            raise RuntimeError(f"a rank did not take part within {PATIENCE_SECONDS:.0f} seconds")
        return parts


def share_memory(group: Any) -> SharedMemory | None:
    """Returns memory shared by all ranks of a group; None on every rank if one cannot map it.

    Args:
        group: a process group; None: all ranks.
    """
    rank, num_ranks = dist.get_rank(group), dist.get_world_size(group)
    path, num_bytes = torch.zeros(_PATH_BYTES, dtype=torch.uint8), 2 * num_ranks * _SLOT_BYTES
    if rank == 0:
        name = _reserve(num_bytes).encode()
        path[: len(name)] = torch.tensor(list(name), dtype=torch.uint8)
    dist.broadcast(path, group=group, group_src=0)
    name = bytes(path.tolist()).rstrip(b"\0").decode()
    region = _open(name, num_bytes)
    num_open = torch.tensor(float(region is not None))
    dist.all_reduce(num_open, group=group)
    if rank == 0 and name:
        os.unlink(name)  # the memory is freed with the last process that has mapped it
    if region is None or num_open < num_ranks:
        return None
    return SharedMemory(region, rank, num_ranks)


def _reserve(num_bytes: int) -> str:
    """Returns the path of a new file of zeros in /dev/shm, or "" if that is not possible."""
    if Exchange is None:
        return ""
    with contextlib.suppress(OSError):
        number, name = tempfile.mkstemp(prefix="fastrl-", dir=_FOLDER)
        try:
            os.posix_fallocate(number, 0, num_bytes)
            return name
        except OSError:
            os.unlink(name)
        finally:
            os.close(number)
    return ""


def _open(name: str, num_bytes: int) -> Tensor | None:
    """Maps the file that rank 0 created; None if it does not exist on this machine."""
    if Exchange is None or not Path(name).is_file():  # torch would create it
        return None
    try:
        return torch.from_file(name, shared=True, size=num_bytes, dtype=torch.uint8)
    except RuntimeError:  # torch raises no OSError here
        return None
