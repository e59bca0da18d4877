"""Seconds spent in the named stages of the training loop."""

import time


class _Stage:
    """One named stage; entered and left many times, never nested in itself."""

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
    """Adds up host seconds per named stage ("env", "act", "store", "advantage", "update", ...).

    The clock is the host's `time.perf_counter`. Work that a GPU was only handed counts in the stage
    that later waits for it, not in the stage that launched it. Stages of different names may be
    nested, and then the inner seconds count in both.

    Example:
        >>> timer = StageTimer()
        >>> with timer.stage("update"):
        ...     pass
        >>> timer.add("env", 0.5)  # for a hot path that already has its two clock readings
    """

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}

    def stage(self, name: str) -> _Stage:
        """The stage of this name, to be used in a `with`; the object may be kept and reused."""
        stage = self._stages.get(name)
        if stage is None:
            stage = self._stages[name] = _Stage()
        return stage

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds measured by the caller to a stage."""
        self.stage(name).seconds += seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage since the last reset, in the order of first use."""
        return {name: stage.seconds for name, stage in self._stages.items()}

    def reset(self) -> None:
        """Sets all stages to 0 and keeps their names, and lets a running stage go on from now."""
        now = time.perf_counter()
        for stage in self._stages.values():
            stage.seconds = 0.0
            if stage.started >= 0:
                stage.started = now
