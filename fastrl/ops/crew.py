"""Threads of the C++ extension that share one operation's work, and whether it has tiles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

HAS_TILES = HAS_DENSE = False
"""Whether this processor has matrix tiles of bfloat16, and vectors of 8 numbers or more;
and the extension serves."""
if os.environ.get("FASTRL_NO_EXTENSION") != "1":
    try:
        from fastrl._C import has_tiles, has_wide_vectors

        HAS_TILES, HAS_DENSE = has_tiles(), has_wide_vectors()
    except ImportError:  # no extension, or one from before this was in it
        pass
if HAS_DENSE:
    from fastrl._C import wake_crew

_num_threads = 1


def crew_threads() -> int:
    """Returns how many threads an operation may use, its own among them."""
    return _num_threads


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

    The number holds for the whole process: blocks of several Python threads must not interleave.

    Raises:
        ValueError: there is not even one.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads={num_threads} must be at least 1")
    global _num_threads
    before, _num_threads = _num_threads, num_threads
    if HAS_DENSE and num_threads > 1:
        wake_crew()
    try:
        yield
    finally:
        _num_threads = before
