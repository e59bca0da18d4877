"""What ranks exchange: sums, gathered rows and states.

The process group is Lightning Fabric's; on one machine, memory that the ranks share carries what is
small. A rank that waits here says so to the watch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
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
_group: Any = None  # of the ranks that do what this one does; None: of all
_memory: SharedMemory | None = None  # of the group
_has_tried_memory = False


def use_group(ranks_of_groups: list[list[int]]) -> None:
    """From here on ranks exchange within their group; each is in one."""
    global _group, _memory, _has_tried_memory
    for ranks in ranks_of_groups:
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            _group = group
    _memory, _has_tried_memory = None, False


def have_failed() -> bool:
    """Whether an exchange failed: then another rank is gone, and the watch will say which."""
    return bool(_failures)


@contextmanager
def _exchange() -> Iterator[None]:
    with PULSE.waiting():
        try:
            yield
        except RuntimeError as error:
            _failures.append(error)
            raise


def _memory_for(x: Tensor) -> SharedMemory | None:
    """Returns the memory by which to exchange such a tensor; None: the process group does it."""
    global _memory, _has_tried_memory
    if not _has_tried_memory:
        _memory, _has_tried_memory = share_memory(_group), True
    return _memory if _memory is not None and _memory.takes(x) else None


def _sum_over_ranks(x: Tensor) -> Tensor:
    with _exchange():
        memory = _memory_for(x)
        if memory is not None:
            first, *others = memory.gather(x)
            for other in others:  # in the same order on each rank
                first += other
            return first
    total = x.clone(memory_format=torch.contiguous_format)
    with _exchange():
        dist.all_reduce(total, group=_group)
    return total


def _same_shape(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_library.impl("sum_over_ranks", _sum_over_ranks, "CompositeExplicitAutograd")
torch.library.register_fake("fastrl::sum_over_ranks", _same_shape, lib=_library)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Returns the sum of `x` over all ranks, the same to the bit on each.

    To the dispatcher it is one operation, so it may stand inside a step that `engine/compiling.py`
    builds.
    """
    return torch.ops.fastrl.sum_over_ranks(x)


def gather(x: Tensor) -> Tensor:
    """Returns `x` `[*]` of all ranks as `[R, *]`; it must have one shape on all."""
    with _exchange():
        memory = _memory_for(x)
        if memory is not None:
            return memory.gather(x)
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size(_group))]
    with _exchange():
        dist.all_gather(parts, x.contiguous(), group=_group)
    return torch.stack(parts)


def broadcast(x: Tensor) -> None:
    """Overwrites `x` with that of the group's rank 0."""
    with _exchange():
        dist.broadcast(x, group=_group, group_src=0)


_MESSAGE_BYTES = 4096  # of plain values; what is shorter is padded


class Mail:
    """Tensors to other processes and from them, in order; sending does not wait for the receiver.

    Tensors travel as they lie in memory, and numbers and strings as JSON before them: all of one
    call in one parcel, because each wakes the other process up. Both sides know the shapes. Parcels
    are kept until `flush`: gloo never says by itself that it has sent one.
    """

    def __init__(self) -> None:
        """Starts with nothing under way."""
        self._under_way: list[tuple[Any, Tensor]] = []

    def send(self, values: dict[str, Any], tensors: Sequence[Tensor], rank: int) -> None:
        """Sends values by name and copies of tensors to a process, which is counted among all."""
        text = json.dumps(values).encode().ljust(_MESSAGE_BYTES)
        assert len(text) == _MESSAGE_BYTES, f"a message of {len(text)} bytes"
        message = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        parcel, parts = _pack([message, *tensors])
        for part, x in zip(parts, [message, *tensors], strict=True):
            part.copy_(x.detach())
        with _exchange():
            self._under_way.append((dist.isend(parcel, rank), parcel))

    @torch.no_grad()
    def receive(self, tensors: Sequence[Tensor], rank: int) -> dict[str, Any]:
        """Waits for what `rank` sent, overwrites tensors with it, and returns the values."""
        message = torch.empty(_MESSAGE_BYTES, dtype=torch.uint8)
        parcel, (text, *parts) = _pack([message, *tensors])
        with _exchange():
            dist.recv(parcel, rank)
        for part, x in zip(parts, tensors, strict=True):
            x.copy_(part)
        return json.loads(text.numpy().tobytes())

    def send_state(self, state: dict[str, Any], rank: int) -> None:
        """Sends nested dicts of tensors and plain values, for which nobody made room."""
        parcel = _packed_state(state)
        self.send({"num_bytes": parcel.numel()}, [], rank)
        self.send({}, [parcel], rank)

    def receive_state(self, rank: int) -> dict[str, Any]:
        """Waits for what `send_state` sent."""
        parcel = torch.empty(self.receive([], rank)["num_bytes"], dtype=torch.uint8)
        self.receive([parcel], rank)
        return _unpacked_state(parcel)

    def flush(self) -> None:
        """Waits until all is sent."""
        with _exchange():
            for work, _ in self._under_way:
                work.wait()
        self._under_way = []


def _pack(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Returns bytes that have room for all tensors, and a view on them in place of each."""
    starts, end = [], 0
    for x in tensors:
        starts.append(end)
        end += -(-x.numel() * x.element_size() // 8) * 8  # every type may start at a multiple of 8
    parcel = torch.empty(end, dtype=torch.uint8)
    return parcel, [
        parcel[start : start + x.numel() * x.element_size()].view(x.dtype).view(x.shape)
        for start, x in zip(starts, tensors, strict=True)
    ]


def _packed_state(state: dict[str, Any]) -> Tensor:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _unpacked_state(parcel: Tensor) -> dict[str, Any]:
    data = io.BytesIO(parcel.numpy().tobytes())
    return torch.load(data, map_location="cpu", weights_only=True)


def gather_states(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns on rank 0 what each rank gave, nested dicts of tensors and plain values; else []."""
    own = _packed_state(state)
    sizes = gather(torch.tensor(own.numel())).tolist()
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: own.numel()] = own
    leads = dist.get_rank(_group) == 0
    parts = [torch.empty_like(padded) for _ in sizes] if leads else None
    with _exchange():
        dist.gather(padded, parts, group=_group, group_dst=0)
    return [
        _unpacked_state(part[:size])
        for part, size in zip(parts or [], sizes if leads else [], strict=True)
    ]
