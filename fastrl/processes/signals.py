"""Ctrl-C and SIGTERM as stop requests, which a loop checks between two iterations.

Imports almost nothing, so that programs can import it first.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

from fastrl.processes.pulse import PULSE

_is_cut_short = False  # by a second Ctrl-C


class StopSignals:
    """A context that records the first SIGINT or SIGTERM; a second Ctrl-C ends the run at once.

    Rank 0 also learns of signals to other ranks. Outside the main thread, where Python handles no
    signals, those to this process are not recorded.
    """

    def __init__(self) -> None:
        self._came_here = False
        self._before: dict[int, Any] = {}

    @property
    def number(self) -> int:
        """Number of the signal that arrived; 0 if none did."""
        return PULSE.signal

    def came(self) -> bool:
        """Returns whether a signal asks the run to end."""
        return self.number != 0

    def __enter__(self) -> Self:
        PULSE.signal = 0
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: the caller's handlers stay in place
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        PULSE.signal = 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        global _is_cut_short
        if self._came_here and number == signal.SIGINT:
            _is_cut_short = True
            raise KeyboardInterrupt
        self._came_here = True
        PULSE.signal = PULSE.signal or number


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Context in which Ctrl-C ends the process at once, with one line and status 130.

    For the imports of a program: a KeyboardInterrupt during an import shows a traceback, or is
    mistaken for a broken package. A handler of SIGINT that the caller installed stays in place.
    """
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if is_ours:
            signal.signal(signal.SIGINT, _leave)
    except ValueError:  # not the main thread
        is_ours = False
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    local_rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    with contextlib.suppress(OSError):
        if local_rank == "0":
            os.write(2, b"interrupted\n")
    os._exit(130)  # ranks that this process started die with it


def is_interrupt(error: BaseException) -> bool:
    """Returns whether Ctrl-C caused an error. TorchScript turns it into a RuntimeError."""
    return _is_cut_short or isinstance(error, KeyboardInterrupt)
