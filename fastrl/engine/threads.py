"""Threads and memory of this process, where torch's and the C library's defaults cost time."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from fastrl.processes.machine import available_cores

_COLLECT_EVERY = 100_000  # objects that were made and not freed


def update_threads(batch_size: int, width: int) -> int:
    """Returns how many threads are fastest for `batch_size` rows through layers of `width`.

    A second thread has to be woken, or kept spinning, for every operation. That pays for large ones
    on a machine with nothing else to do; where another process wants the core, it costs many times
    what it gains.
    """
    return available_cores() if batch_size * width >= 2048 * 64 else 1


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Runs a block with this many intra-operation threads."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Runs a block with products of float32 at this precision, as torch names it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Runs a block in which Python's garbage collector starts a hundred times as rarely.

    A loop of training makes few cycles, and each collection looks through all that torch imported.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], _COLLECT_EVERY), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed blocks for the next allocation.

    By default it hands blocks of some hundred KiB back to the kernel at once and gets them anew,
    page by page, for every intermediate result: about 1,100 page faults, a third of the time, in
    one update of 2,048 rows through two layers of 64.

    Returns:
        Whether the allocator took the advice; False where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    advice: Iterable[tuple[int, int]] = (
        (mmap_threshold, 1 << 30),
        (trim_threshold, 1 << 30),
        (top_pad, 1 << 26),
    )
    return all(mallopt(name, value) for name, value in advice)
