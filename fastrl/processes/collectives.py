"""Collectives and messages between ranks.

They use the process group of Lightning Fabric; on one machine, small tensors go through shared
memory instead. While a rank waits here, its heartbeats say so.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastrl.processes.pulse import PULSE
from fastrl.processes.shared_memory import SharedMemory, share_memory

_library = torch.library.Library("fastrl", "FRAGMENT")
_library.define("sum_over_ranks(Tensor x) -> Tensor")
_failures: list[BaseException] = []
_group: Any = None  # the process group of this rank; None: of all ranks
_memory: SharedMemory | None = None  # of the group; None: not available
_has_tried_memory = False
_is_apart = False


def use_group(ranks_of_groups: list[list[int]]) -> None:
    """Restricts the collectives to groups of ranks; each rank is in one group."""
    global _group, _memory, _has_tried_memory
    for ranks in ranks_of_groups:
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            _group = group
    _memory, _has_tried_memory = None, False


def have_failed() -> bool:
    """Returns whether a collective failed: another rank is gone, and heartbeats tell which."""
    return bool(_failures)


@contextmanager
def exchange() -> Iterator[None]:
    """Surrounds whatever waits for another process, and notes if it fails."""
    with PULSE.waiting():
        try:
            yield
        except RuntimeError as error:
            _failures.append(error)
            raise


@contextmanager
def apart() -> Iterator[None]:
    """Context in which `sum_over_ranks` returns what it is given: a function is only tried out."""
    global _is_apart
    _is_apart = True
    try:
        yield
    finally:
        _is_apart = False


def _memory_for(x: Tensor) -> SharedMemory | None:
    """Returns the shared memory for such a tensor; None: use the process group."""
    global _memory, _has_tried_memory
    if not _has_tried_memory:
        _memory, _has_tried_memory = share_memory(_group), True
    return _memory if _memory is not None and _memory.takes(x) else None


def _sum_over_ranks(x: Tensor) -> Tensor:
    if _is_apart:
        return x.clone(memory_format=torch.contiguous_format)
    with exchange():
        memory = _memory_for(x)
        if memory is not None:
            first, *others = memory.gather(x)
            for other in others:  # in the same order on each rank
                first += other
            return first
    total = x.clone(memory_format=torch.contiguous_format)
    with exchange():
        dist.all_reduce(total, group=_group)
    return total


def _same_shape(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_library.impl("sum_over_ranks", _sum_over_ranks, "CompositeExplicitAutograd")
torch.library.register_fake("fastrl::sum_over_ranks", _same_shape, lib=_library)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Returns the sum of `x` over all ranks, bit-identical on each.

    It is a single operation to the dispatcher, so it may be part of a step that
    `engine/compiling.py` builds.
    """
    return torch.ops.fastrl.sum_over_ranks(x)


def gather(x: Tensor) -> Tensor:
    """Returns `x` `[*]` of all ranks as `[R, *]`; its shape must be the same on all."""
    with exchange():
        memory = _memory_for(x)
        if memory is not None:
            return memory.gather(x)
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size(_group))]
    with exchange():
        dist.all_gather(parts, x.contiguous(), group=_group)
    return torch.stack(parts)


def broadcast(x: Tensor) -> None:
    """Overwrites `x` with that of rank 0 of the group."""
    with exchange():
        dist.broadcast(x, group=_group, group_src=0)


def packed_state(state: dict[str, Any]) -> Tensor:
    """Returns nested dicts of tensors and plain values as bytes, uint8 `[K]`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def unpacked_state(parcel: Tensor) -> dict[str, Any]:
    """Returns what `packed_state` packed, on the host."""
    data = io.BytesIO(parcel.numpy().tobytes())
    return torch.load(data, map_location="cpu", weights_only=True)


def gather_states(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the states of all ranks on rank 0, else []: nested dicts of tensors and values."""
    own = packed_state(state)
    sizes = gather(torch.tensor(own.numel())).tolist()
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: own.numel()] = own
    leads = dist.get_rank(_group) == 0
    parts = [torch.empty_like(padded) for _ in sizes] if leads else None
    with exchange():
        dist.gather(padded, parts, group=_group, group_dst=0)
    return [
        unpacked_state(part[:size])
        for part, size in zip(parts or [], sizes if leads else [], strict=True)
    ]
