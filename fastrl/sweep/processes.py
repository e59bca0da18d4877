"""Runs as processes: `python -m fastrl.<algo>` in a group of its own, that is ended as a whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from fastrl.processes.launch import ask_for_death_signal
from fastrl.processes.signals import signals_held
from fastrl.runs.folder import CONFIG_NAME
from fastrl.sweep.warm import Forge

_SECONDS_TO_SAVE = 3.0  # that a run has to end by itself, before it is killed
_MOST_READ = 20_000  # bytes at the end of what a process printed


class RunProcess:
    """A run in a process.

    It leads a process group, and a session, of its own: a Ctrl-C at the terminal does not reach it,
    and whatever it started goes with it. On Linux it also ends when this process is killed.

    Args:
        algo: module name of the algorithm.
        words: the command line after it.
        seed: of the run; given to it as --seed.
        log_dir: where the run makes its folder; given to it as --log-dir.
        log: file that gets what it prints.
        cores: those that it may use; None: all that this process may use.
        forge: makes processes that have done their imports; None: this one does its own.
    """

    def __init__(
        self,
        algo: str,
        words: Sequence[str],
        seed: int,
        log_dir: Path,
        log: Path,
        cores: Sequence[int] | None = None,
        forge: Forge | None = None,
    ) -> None:
        self._algo, self._log_dir, self._log = algo, log_dir.absolute(), log
        self._seed = seed  # other seeds may be under way in the same folder
        self._before = set(self._folders())
        self._folder: Path | None = None
        self.seconds: float | None = None
        """Wall time of the process, once it is over."""
        words = [*words, "--seed", str(seed), "--log-dir", str(self._log_dir)]
        environment = {"OMP_NUM_THREADS": "1"} if cores is not None and len(cores) == 1 else {}
        log.parent.mkdir(parents=True, exist_ok=True)
        self._popen: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        forged = forge.start(words, str(log.absolute()), environment, cores) if forge else None
        self.pid = forged or self._start([*program_of(algo), *words], log, environment, cores)
        self._started = time.monotonic()

    def _start(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        cores: Sequence[int] | None,
    ) -> int:
        with open(log, "wb") as output, signals_held():
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=partial(_begin, cores, os.getpid()),  # there is one thread here
            )
        return self._popen.pid

    @property
    def elapsed(self) -> float:
        """Seconds since the process was started."""
        return time.monotonic() - self._started if self.seconds is None else self.seconds

    def poll(self) -> int | None:
        """Returns the exit status, negative for a signal; None while it runs."""
        if self._status is None and self._is_over():
            self._finish()
        return self._status

    def stop(self) -> None:
        """Ends the process and all others of its group; waits until they are gone."""
        if self._status is not None:
            return
        deadline = time.monotonic() + _SECONDS_TO_SAVE
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)  # it ends what it started, and cleans up
        while not self._is_over() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._finish()

    def _is_over(self) -> bool:
        """Returns whether the process ended; its id stays taken until `_finish`."""
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self._popen is None or self._popen.poll() is not None
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    def _finish(self) -> None:
        """Kills what is left of the group, while no other process can have its id, and waits."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._popen is not None:
            self._status = self._popen.wait()
        else:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with contextlib.suppress(ChildProcessError):  # those that became children of this process
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass
        self.seconds = time.monotonic() - self._started

    def folder(self) -> Path | None:
        """Returns the run folder; None before there is one."""
        if self._folder is None:
            new = [folder for folder in self._folders() if folder not in self._before]
            self._folder = new[0] if new else None
        return self._folder

    def _folders(self) -> list[Path]:
        pattern = f"{self._algo}/*/*_{self._seed}/{CONFIG_NAME}"
        return [path.parent for path in self._log_dir.glob(pattern)]

    def error(self) -> str:
        """Returns the line that says why it failed: its last error, or its last words."""
        with contextlib.suppress(OSError), open(self._log, "rb") as file:
            file.seek(max(0, self._log.stat().st_size - _MOST_READ))
            lines = file.read().decode(errors="replace").splitlines()
            lines = [line.strip() for line in lines if line.strip()]
            errors = [line for line in lines if line.startswith("error:")]
            if errors or lines:
                return (errors or lines)[-1].removeprefix("error:").strip()
        return f"it ended with status {self._status} and said nothing"


def program_of(algo: str) -> list[str]:
    """Returns the words that start an algorithm."""
    return [sys.executable, "-m", f"fastrl.{algo}"]


def _begin(cores: Sequence[int] | None, parent: int) -> None:
    """Runs in the new process, before its program."""
    ask_for_death_signal(signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)
    if cores is not None and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cores)


def cores_of_slots(num_slots: int) -> list[list[int] | None]:
    """Returns the cores of each of several processes that share the machine.

    None, for all of them, if there is one process, or more of them than cores, or a system that
    does not say.
    """
    if num_slots == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * num_slots
    cores = sorted(os.sched_getaffinity(0))
    if num_slots > len(cores):
        return [None] * num_slots
    edges = [len(cores) * slot // num_slots for slot in range(num_slots + 1)]
    return [cores[edges[slot] : edges[slot + 1]] for slot in range(num_slots)]
