"""What ranks exchange: sums, gathered rows and states.

The process group is Lightning Fabric's. A rank that waits here says so to the watch.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastrl.run.watch import PULSE

_library = torch.library.Library("fastrl", "FRAGMENT")
_library.define("sum_over_ranks(Tensor x) -> Tensor")
_failures: list[BaseException] = []


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


def _sum_over_ranks(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    with _exchange():
        dist.all_reduce(total)
    return total


def _same_shape(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_library.impl("sum_over_ranks", _sum_over_ranks, "CompositeExplicitAutograd")
torch.library.register_fake("fastrl::sum_over_ranks", _same_shape, lib=_library)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Returns the sum of `x` over all ranks, the same to the bit on each.

    To the dispatcher it is one operation, so it may stand inside a step that `run/compiling.py`
    builds.
    """
    return torch.ops.fastrl.sum_over_ranks(x)


def gather(x: Tensor) -> Tensor:
    """Returns `x` `[*]` of all ranks as `[R, *]`; it must have one shape on all."""
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    with _exchange():
        dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)


def broadcast(x: Tensor, source: int = 0) -> None:
    """Overwrites `x` with that of rank `source`."""
    with _exchange():
        dist.broadcast(x, source)


def gather_states(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns on rank 0 what each rank gave, nested dicts of tensors and plain values; else []."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    own = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    sizes = gather(torch.tensor(own.numel())).tolist()
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: own.numel()] = own
    leads = dist.get_rank() == 0
    parts = [torch.empty_like(padded) for _ in sizes] if leads else None
    with _exchange():
        dist.gather(padded, parts)
    return [
        torch.load(io.BytesIO(part[:size].numpy().tobytes()), weights_only=True)
        for part, size in zip(parts or [], sizes if leads else [], strict=True)
    ]
