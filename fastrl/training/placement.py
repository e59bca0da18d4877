"""Where the environments' threads run: on one core with the policy, or on all cores.

Policy and environments take turns. Across cores each turn wakes a sleeping core, which may take
longer than a whole step of cheap environments; on one core a turn is a switch of threads. Which is
faster depends on task and machine, and no number that the agent sees depends on it. So both are
tried, and the clock decides; now and then again, for it may have been disturbed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time

from fastrl.processes.launch import local_rank
from fastrl.processes.machine import own_cores

_NUM_TRIALS = 2  # rollouts each way at most; the fastest of them counts
_CLEAR = 1.2  # one trial each way is enough where one way takes this many times as long
_NEXT_TRIALS, _LATER = 16, 4  # rollouts before both are tried again, and then times as many
_PARALLEL = 3.0  # with this many cores at work at once, one alone is not worth a trial


class Placement:
    """Times rollouts with the environments' threads apart and together, and keeps the better."""

    def __init__(self, worker_threads: frozenset[int]) -> None:
        """Remembers the threads.

        Args:
            worker_threads: the kernel's ids of the environments' threads. Where there are none, or
                threads cannot be bound to cores, everything is left to the scheduler.
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
        """Surrounds one rollout; all are of the same length."""
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
        """Returns this thread's core, if it is one of those that this rank has for itself.

        Ranks that meet at the end of an update may be on any: two would stay on one core for the
        whole of a rollout, and leave another idle.
        """
        assert self._current_core is not None
        current, own = self._current_core(), own_cores(allowed, local_rank())
        return current if current in own else own[0]

    def _bind(self, core: int | None, allowed: set[int]) -> None:
        """Binds this thread and the workers to one core, or the workers to none."""
        cores = allowed if core is None else {core}
        try:
            os.sched_setaffinity(0, cores)
            if core != self._bound_to:
                for thread in self._workers:
                    os.sched_setaffinity(thread, cores)
                self._bound_to = core
        except OSError:  # a thread has ended, or the machine took cores away
            self._current_core = None

    def _judge(self, seconds: float, cpu_seconds: float) -> None:
        if not self._is_warm:  # the first rollout also fills caches
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
    """Returns the C library's function that tells the core this thread is on, if it has one."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        return None
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError):
        return None
