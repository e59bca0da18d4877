"""Threads of the C++ extension that share one operation's work, and what it has here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

HAS_TILES = False
"""Whether the extension serves, and this processor has matrix tiles of bfloat16."""
HAS_DENSE = False
"""Whether the extension serves, and this processor has vectors of 8 numbers or more."""
if os.environ.get("FASTRL_NO_EXTENSION") != "1":
    try:
        from fastrl._C import has_dense, has_tiles

        HAS_TILES, HAS_DENSE = has_tiles(), has_dense()
    except ImportError:  # no extension, or one from before this was in it
        pass
if HAS_DENSE:
    from fastrl._C import wake_crew

_num_threads: ContextVar[int] = ContextVar("num_threads", default=1)


def crew_threads() -> int:
    """Returns how many threads an operation may use, its own among them."""
    return _num_threads.get()


def check_addresses(*tensors: Tensor) -> None:
    """Raises ValueError for tensors whose addresses kernels beside the tiles could not take."""
    if not HAS_TILES:
        raise ValueError("this processor has no tiles of bfloat16, or fastrl no extension")
    for tensor in tensors:
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise ValueError(f"expected float32 on the CPU, got {tensor.dtype} on {tensor.device}")


@contextmanager
def crew(num_threads: int) -> Iterator[None]:
    """Lets operations use this many threads in a block, and wakes them for it.

    The number is that of this Python thread.

    Raises:
        ValueError: there is not even one.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads={num_threads} must be at least 1")
    if HAS_DENSE and num_threads > 1:
        wake_crew()
    token = _num_threads.set(num_threads)
    try:
        yield
    finally:
        _num_threads.reset(token)
