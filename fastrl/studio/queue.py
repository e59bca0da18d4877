"""The queue: starts jobs as cores become free, and goes on where an earlier studio left off."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from fastrl.processes.machine import available_cores
from fastrl.runs.owner import signal_to
from fastrl.studio.jobs import STUDIO_NAME, Job, JobFolder, Progress

_TICK_SECONDS = 0.5
_SHORT = ("evaluate", "export")  # these do not wait for trainings


class Queue:
    """Starts the jobs of a log folder, one studio of several at a time.

    Args:
        jobs: the folder of jobs.
        at_once: how many run at the same time; None: one per core that this process may use.
        num_others: number of runs under way that are not the queue's.
    """

    def __init__(
        self,
        jobs: JobFolder,
        at_once: int | None = None,
        num_others: Callable[[], int] = lambda: 0,
    ) -> None:
        self._jobs, self._num_others = jobs, num_others
        self.at_once = at_once or available_cores()
        self._lock: int | None = None
        self._mine: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}
        self._wake, self._is_closed = threading.Event(), False
        self._deciding = threading.Lock()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begins to start jobs, in a thread."""
        self._thread = threading.Thread(target=self._work, name="fastrl-queue", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; the processes go on."""
        self._is_closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def hurry(self) -> None:
        """Looks for new jobs at once."""
        self._wake.set()

    def cancel(self, job: Job) -> None:
        """Takes a job that waits out of the queue, or asks its process to save and end.

        Raises:
            ValueError: it has ended.
        """
        with self._deciding:
            for progress in self._jobs.all():
                if progress.job.id != job.id:
                    continue
                if progress.state in ("waiting", "refused"):
                    return self._jobs.end(job, None)
                if progress.process is not None:
                    signal_to(progress.process, signal.SIGTERM)  # SIGINT may be ignored
                    return None
        raise ValueError(f"{job.title} has ended already")

    def tick(self) -> None:
        """Notes what ended, and starts what there are cores for."""
        with self._deciding:
            self._tick()

    def _tick(self) -> None:
        for job, process in list(self._mine.values()):
            if (status := process.poll()) is None:
                continue
            try:
                self._jobs.end(job, status)
            except (FileNotFoundError, NotADirectoryError):  # somebody removed the job's folder
                pass
            except (OSError, ValueError):  # such as a full disk: it is tried again
                continue
            del self._mine[job.id]
        if not self._owns():
            return
        progresses = self._jobs.all()
        for is_short in (True, False):
            lane = [x for x in progresses if (x.job.command in _SHORT) == is_short]
            waiting = [x for x in lane if x.state == "waiting"]
            if waiting:
                num_running = sum(x.state == "running" for x in lane)
                free = self.at_once - num_running - (0 if is_short else self._num_others())
                for progress in waiting:
                    if free > 0:
                        free -= self._start(progress)

    def _start(self, progress: Progress) -> bool:
        """Starts a job; returns whether it was. It holds up no other, whatever its folder is."""
        job = progress.job
        try:
            self._mine[job.id] = (job, self._jobs.start(job))
            return True
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError, ValueError):  # such as a full disk: it is tried again
                self._jobs.fail(job, f"error: it could not be started: {error}")
        return False

    def _owns(self) -> bool:
        """Returns whether this studio is the one that starts the jobs of the log folder."""
        folder = self._jobs.log_dir / STUDIO_NAME
        if self._lock is not None and not _is_at(self._lock, folder):
            os.close(self._lock)  # the folder was removed: a lock on it keeps no other studio out
            self._lock = None
        if self._lock is None:
            if not folder.is_dir():  # no job was ever given
                return False
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            except OSError:  # a file system without locks: there is one studio, it is hoped
                pass
            self._lock = handle
        return True

    def _work(self) -> None:
        while not self._is_closed:
            with contextlib.suppress(OSError, ValueError):  # the log folder is unreachable, say
                self.tick()
            self._wake.wait(_TICK_SECONDS)
            self._wake.clear()


def _is_at(handle: int, folder: Path) -> bool:
    """Returns whether an open folder is the one that has this path now."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(folder))
    except FileNotFoundError:
        return False
