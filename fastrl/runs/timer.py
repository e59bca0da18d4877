"""Time spent in the stages of the training loop, and when to save."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A first save soon, since small runs take some seconds; 1 % of the time at most.
_FIRST_SAVE_SECONDS, _SAVE_SECONDS, _SAVE_RARELY = 1.0, 60.0, 100.0


class _Stage:
    """A context for one stage; reusable, but must not be nested in itself."""

    __slots__ = ("seconds", "started")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.started = -1.0

    def __enter__(self) -> None:
        assert self.started < 0, "a stage is already running: it cannot be nested in itself"
        self.started = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.seconds += time.perf_counter() - self.started
        self.started = -1.0


class StageTimer:
    """Accumulates seconds per stage ("env", "act", "store", "advantage", "update", ...).

    The clock is the host's `time.perf_counter`. Asynchronous GPU work counts in the stage that
    waits for it, not in the one that launches it. Different stages may be nested; the inner time
    then counts in both.

    Example:
        >>> timer = StageTimer()
        >>> with timer.stage("update"):
        ...     pass
        >>> timer.add("env", 0.5)  # for a hot path that reads the clock anyway
    """

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}

    def stage(self, name: str) -> _Stage:
        """Returns the context of this stage; it may be kept and reused."""
        stage = self._stages.get(name)
        if stage is None:
            stage = self._stages[name] = _Stage()
        return stage

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds that the caller measured."""
        self.stage(name).seconds += seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per stage since the last reset, in order of first use."""
        return {name: stage.seconds for name, stage in self._stages.items()}

    def reset(self) -> None:
        """Sets all stages to 0 and keeps their names; a running stage counts from now on."""
        now = time.perf_counter()
        for stage in self._stages.values():
            stage.seconds = 0.0
            if stage.started >= 0:
                stage.started = now


class SaveClock:
    """When a run is saved by the clock: after a second, then ever more rarely, at most each minute.

    And so rarely that saving takes about a hundredth of the time, as long as the latest one took.
    """

    def __init__(self, never: bool = False) -> None:
        """Starts the clock; with `never` nothing is ever due."""
        self._began_at = time.perf_counter()
        self._due_at = math.inf if never else self._began_at + _FIRST_SAVE_SECONDS

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.perf_counter() >= self._due_at

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Context of a save, at whatever time; sets the time of the next one."""
        start = time.perf_counter()
        yield
        now = time.perf_counter()
        if self._due_at < math.inf:
            wait = min(now - self._began_at, _SAVE_SECONDS)
            self._due_at = now + max(_FIRST_SAVE_SECONDS, wait, _SAVE_RARELY * (now - start))
