"""Signs of life of this process's main thread, which the watch sends to rank 0."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

PATIENCE_SECONDS = 7200.0
"""Longest wait of a rank for the others, in the middle of a run: rank 0 tests the policy meanwhile.
That a rank is gone or hangs is found out by the watch, within seconds."""


class Pulse:
    """How far this process's main thread is."""

    def __init__(self) -> None:
        self.count = 0
        """Grows with every step of the environments, every collective, every minibatch."""
        self.waits = False
        """Whether it waits for other ranks."""
        self.is_watched = False
        """Whether standing still means that it hangs; not so while it compiles, say."""
        self.slowness = 1
        """How many times as long as --rank-timeout it may stand still."""
        self.signal = 0
        """The signal that came to end the run; 0 before. The watch tells rank 0 of that of others,
        so rank 0 has it too."""

    @property
    def beats(self) -> list[int]:
        """What rank 0 judges by."""
        return [self.count, self.waits, self.is_watched, self.slowness]

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for other ranks."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False
            self.count += 1

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """The block may take long without a sign of life."""
        before, self.is_watched = self.is_watched, False
        try:
            yield
        finally:
            self.count += 1
            self.is_watched = before

    @contextlib.contextmanager
    def slow(self, times: int) -> Iterator[None]:
        """The block may stand still for so many times as long, and then hangs."""
        before = self.is_watched, self.slowness
        self.is_watched, self.slowness = True, times
        try:
            yield
        finally:
            self.count += 1
            self.is_watched, self.slowness = before


PULSE = Pulse()
