"""A few runs at a time, each in its slot: what the search, its confirmation and grids share."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrl.sweep.processes import RunProcess, cores_of_slots
from fastrl.sweep.warm import Forge, is_possible

TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Job:
    """A run that is to be made."""

    algo: str
    words: tuple[str, ...]
    """The command line."""
    folder: Path
    """Folder of the trial, in which the run makes its own."""
    seed: int
    of_what: Any = None
    """What the caller knows it by."""


@dataclass(frozen=True)
class Running:
    """A run under way."""

    job: Job
    process: RunProcess
    slot: int


class Pool:
    """Slots for runs; a context that ends all of them when it is left.

    Args:
        num_slots: runs at a time.
    """

    def __init__(self, num_slots: int) -> None:
        self._cores = cores_of_slots(num_slots)
        self._forge: Forge | None = None
        self._running: dict[int, Running] = {}

    @contextmanager
    def warm(self, algo: str) -> Iterator[None]:
        """Context in which runs are forked from a process that has done their imports.

        Where the system does not offer that, they do their own.
        """
        self._forge = Forge(algo) if is_possible() else None
        try:
            yield
        finally:
            if self._forge is not None:
                self._forge.close()
            self._forge = None

    @property
    def num_slots(self) -> int:
        """How many runs there can be at a time."""
        return len(self._cores)

    @property
    def running(self) -> list[Running]:
        """The runs under way."""
        return list(self._running.values())

    @property
    def has_room(self) -> bool:
        """Whether a run can be started."""
        return len(self._running) < self.num_slots

    def start(self, job: Job) -> Running:
        """Starts a run in a free slot."""
        slot = next(slot for slot in range(self.num_slots) if slot not in self._running)
        log = job.folder / f"run_{job.seed}.log"
        cores = self._cores[slot]
        process = RunProcess(job.algo, job.words, job.seed, job.folder, log, cores, self._forge)
        running = self._running[slot] = Running(job, process, slot)
        return running

    def take_ended(self) -> list[Running]:
        """Returns the runs that came to their end, and frees their slots."""
        ended = [run for run in self.running if run.process.poll() is not None]
        for run in ended:
            del self._running[run.slot]
        return ended

    def stop(self, running: Running) -> None:
        """Ends a run and all its processes, and frees its slot."""
        running.process.stop()
        del self._running[running.slot]

    def work_through(
        self,
        jobs: Iterable[Job],
        on_end: Callable[[Running], Sequence[Job]],
        on_tick: Callable[[], None],
        on_start: Callable[[Running], None] = lambda running: None,
    ) -> None:
        """Makes runs, as many at a time as there are slots.

        Args:
            jobs: in this order.
            on_end: called with each run that ended; the jobs it returns come next.
            on_tick: called several times a second.
            on_start: called with each run that was started.
        """
        waiting = deque(jobs)
        while waiting or self._running:
            while waiting and self.has_room:
                on_start(self.start(waiting.popleft()))
            for ended in self.take_ended():
                waiting.extendleft(reversed(on_end(ended)))
            on_tick()
            if not (waiting and self.has_room):
                time.sleep(TICK_SECONDS)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        for running in self.running:
            self.stop(running)
