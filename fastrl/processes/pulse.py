"""Liveness counters of the main thread, which `heartbeat.py` sends to rank 0."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

PATIENCE_SECONDS = 7200.0
"""Timeout of the collectives: long, because the other ranks wait while rank 0 evaluates the policy.
Ranks that die or hang are detected by their heartbeats, within seconds."""


class Pulse:
    """Liveness counters of the main thread of this process."""

    def __init__(self) -> None:
        self.count = 0
        """Progress: grows with every environment step, every collective and every minibatch."""
        self.waits = False
        """Whether the thread waits for other ranks."""
        self.is_watched = False
        """Whether a lack of progress means that the thread hangs; false while it compiles, say."""
        self.slowness = 1
        """Factor on --rank-timeout, for phases in which progress is slow."""
        self.signal = 0
        """Signal that asks the run to end; 0: none. Heartbeats pass it on to rank 0."""

    @property
    def beats(self) -> list[int]:
        """The counters that rank 0 needs to detect a rank that hangs."""
        return [self.count, self.waits, self.is_watched, self.slowness]

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context in which the thread waits for other ranks."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False
            self.count += 1

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """Context that may take long without progress."""
        before, self.is_watched = self.is_watched, False
        try:
            yield
        finally:
            self.count += 1
            self.is_watched = before

    @contextlib.contextmanager
    def slow(self, times: int) -> Iterator[None]:
        """Context in which the timeout is this many times as long."""
        before = self.is_watched, self.slowness
        self.is_watched, self.slowness = True, times
        try:
            yield
        finally:
            self.count += 1
            self.is_watched, self.slowness = before


PULSE = Pulse()
