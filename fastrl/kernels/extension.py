"""Whether the C++ extension is to be had, and threads of it that share one operation's work.

No other file looks for the extension; those that have a use for it ask here.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

VERSION = 2
"""Of what the extension offers, as csrc/bindings.cpp counts it."""


def has_extension() -> bool:
    """Tells whether the extension serves, and logs why not unless it is not to.

    It is not if the environment has `FASTRL_NO_EXTENSION=1`, if there is none, and if it was built
    for another version of these files.
    """
    if os.environ.get("FASTRL_NO_EXTENSION") == "1":
        return False
    try:
        found = getattr(importlib.import_module("fastrl._C"), "VERSION", 0)
        reason = "" if found == VERSION else f"built for version {found}, not {VERSION}"
    except ImportError as error:
        reason = str(error)
    if reason:
        logging.getLogger("fastrl").warning("No C++ extension (%s): using torch.", reason)
    return not reason


HAS_EXTENSION = has_extension()
"""Whether the extension serves."""
HAS_DENSE = False
"""Whether it serves, and this processor has vectors that networks are worked out with."""
if HAS_EXTENSION:
    from fastrl._C import has_dense

    HAS_DENSE = has_dense()
if HAS_DENSE:
    from fastrl._C import wake_workers

_num_threads: ContextVar[int] = ContextVar("num_threads", default=1)


def num_worker_threads() -> int:
    """Returns how many threads an operation may use, its own among them."""
    return _num_threads.get()


@contextmanager
def worker_threads(num_threads: int) -> Iterator[None]:
    """Lets operations use this many threads in a block, and wakes them for it.

    The number is that of this Python thread.

    Raises:
        ValueError: there is not even one.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads={num_threads} must be at least 1")
    if HAS_DENSE and num_threads > 1:
        wake_workers()
    token = _num_threads.set(num_threads)
    try:
        yield
    finally:
        _num_threads.reset(token)
