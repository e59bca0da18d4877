"""Ctrl-C and SIGTERM as a wish to end, which a loop may ask for between two iterations."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Self

_is_cut_short = False  # by a second Ctrl-C


class StopSignals:
    """Notes the first SIGINT or SIGTERM while it is entered; a second Ctrl-C ends the run at once.

    Outside the main thread, where Python handles no signals, nothing is noted.
    """

    def __init__(self) -> None:
        self.number = 0
        """The signal that came; 0 before."""
        self._before: dict[int, Any] = {}

    def came(self) -> bool:
        """Whether the run should end."""
        return self.number != 0

    def __enter__(self) -> Self:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: the caller's handlers stay
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        global _is_cut_short
        if self.number and number == signal.SIGINT:
            _is_cut_short = True
            raise KeyboardInterrupt
        self.number = self.number or number


def is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error. TorchScript makes a RuntimeError of it."""
    return _is_cut_short or isinstance(error, KeyboardInterrupt)
