"""Placement of the environments' threads: on one core with the policy, or on all cores.

Policy and environments take turns. Across cores each turn wakes a sleeping core, which may take
longer than a whole step of cheap environments; on one core a turn is a thread switch. Which is
faster depends on the task and the machine; the results are the same. So both are timed, and the
faster one is used. The trials are repeated from time to time, as timings may be disturbed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time

from fastrl.processes.launch import local_rank
from fastrl.processes.machine import own_cores

_NUM_TRIALS = 2  # most rollouts per placement in a trial; the fastest of them counts
_CLEAR = 1.2  # a ratio of times above which one rollout each is enough
_NEXT_TRIALS, _LATER = 16, 4  # rollouts before the next trial; factor on it after each
_PARALLEL = 3.0  # if this many cores are busy on average, a single one is not worth a trial


class Placement:
    """Times rollouts with the threads apart and together, and keeps the faster placement."""

    def __init__(self, worker_threads: frozenset[int]) -> None:
        """Starts with the threads apart.

        Args:
            worker_threads: the kernel's ids of the environments' threads. If there are none, or
                threads cannot be bound to cores, the operating system places them.
        """
        self._workers = worker_threads
        self._current_core = _current_core_function() if worker_threads else None
        self._bound_to: int | None = None
        self._apart: list[float] = []
        self._together: list[float] = []
        self._is_warm = self._is_decided = False
        self._num_rollouts, self._next_trials = 0, _NEXT_TRIALS
        self.together = False
        """Whether the next rollout runs on one core."""

    @contextmanager
    def rollout(self) -> Iterator[None]:
        """Context for one rollout; all must have the same length."""
        if self._current_core is None:
            yield
            return
        allowed = os.sched_getaffinity(0)
        start, cpu_start = perf_counter(), process_time()
        try:
            self._bind(self._core(allowed) if self.together else None, allowed)
            yield
        finally:
            os.sched_setaffinity(0, allowed)
        self._num_rollouts += 1
        if self._num_rollouts == self._next_trials:
            self._next_trials *= _LATER
            self._apart, self._together = [], []
            self.together = self._is_decided = False
        elif not self._is_decided:
            self._judge(perf_counter() - start, process_time() - cpu_start)

    def _core(self, allowed: set[int]) -> int:
        """Returns the core of this thread if it belongs to this rank, else the rank's first core.

        After an update ranks may be on any core: two of them could stay on the same one for a whole
        rollout, and leave another idle.
        """
        assert self._current_core is not None
        current, own = self._current_core(), own_cores(allowed, local_rank())
        return current if current in own else own[0]

    def _bind(self, core: int | None, allowed: set[int]) -> None:
        """Binds this thread and the workers to a core, or to all allowed ones if it is None."""
        cores = allowed if core is None else {core}
        try:
            os.sched_setaffinity(0, cores)
            if core != self._bound_to:
                for thread in self._workers:
                    os.sched_setaffinity(thread, cores)
                self._bound_to = core
        except OSError:  # a thread has ended, or the allowed cores have changed
            self._current_core = None

    def _judge(self, seconds: float, cpu_seconds: float) -> None:
        if not self._is_warm:  # the first rollout also warms up caches
            self._is_warm = True
            return
        (self._together if self.together else self._apart).append(seconds)
        if not self._together:
            self.together = cpu_seconds < _PARALLEL * seconds
            self._is_decided = not self.together
            return
        together, apart = min(self._together), min(self._apart)
        is_clear = max(together, apart) > _CLEAR * min(together, apart)
        self._is_decided = is_clear or len(self._together) == _NUM_TRIALS
        self.together = together < apart if self._is_decided else not self.together


def _current_core_function() -> Callable[[], int] | None:
    """Returns the C library's `sched_getcpu`, if it exists and there are at least two cores."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        return None
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError):
        return None
