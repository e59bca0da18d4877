"""Which process writes a run folder: a lock on the folder, and `process.json` while it runs.

The lock says whether a process writes: the operating system drops it however the process ends.
`process.json` says which one, so that it can be stopped. Imports no torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastrl.runs.folder import owned, replaced_file
from fastrl.runs.plain_files import read_facts

PROCESS_NAME = "process.json"

_MOST_BYTES = 10_000


@dataclass(frozen=True)
class Process:
    """A process that writes, or wrote, a run folder."""

    pid: int
    """Its number, which the system gives to another process later."""
    host: str
    """Name of its machine."""
    boot: str
    """Id of the machine's start and of the space in which `pid` counts; empty if unknown."""
    start_ticks: int
    """When it began, in ticks of the machine's clock; 0 if unknown. With `pid` it is unique."""
    started: float
    """When it began to write, in seconds since 1970."""

    @property
    def is_local(self) -> bool:
        """Whether it counts among the processes that this one can see."""
        return (self.host, self.boot) == (os.uname().nodename, _boot())

    @property
    def is_alive(self) -> bool:
        """Whether it still exists; False if it cannot be seen from here."""
        return self.is_local and self.pid > 0 and _start_ticks(self.pid) == self.start_ticks


def process_of(pid: int) -> Process | None:
    """Returns what tells a process of this machine from later ones of its number.

    `started` is the present time. None if there is no such process.
    """
    ticks = _start_ticks(pid)
    return None if ticks is None else Process(pid, os.uname().nodename, _boot(), ticks, time.time())


@contextlib.contextmanager
def owned_by_this_process(folder: Path) -> Iterator[None]:
    """Context in which no other process may own this run folder, and this one is named in it.

    Raises:
        ValueError: another process owns the folder.
    """
    path = folder / PROCESS_NAME
    with owned(folder):
        process = process_of(os.getpid())
        assert process is not None, "this process exists"
        with replaced_file(path) as file:
            file.write(json.dumps(asdict(process)).encode() + b"\n")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the folder may be gone
                path.unlink()


def read_process(folder: Path) -> Process | None:
    """Returns the process that writes a run folder, or wrote it until it was killed.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        values = read_facts(folder / PROCESS_NAME, _MOST_BYTES)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{PROCESS_NAME} is damaged: {error}") from error
    kinds = {"pid": int, "host": str, "boot": str, "start_ticks": int, "started": float}
    if {x: type(y) for x, y in values.items()} != kinds:
        raise ValueError(f"{PROCESS_NAME} is damaged: it does not name a process")
    return Process(**values)


def is_owned(folder: Path) -> bool | None:
    """Returns whether a process owns a folder; None if the file system cannot tell.

    It asks for a shared lock, for microseconds; `owned` tries again for longer than that.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(handle)
    return False


def stop(folder: str | Path, number: signal.Signals = signal.SIGINT) -> Process:
    """Asks the process that writes a run to save and stop.

    No other process is ever hit, even if the number was given anew meanwhile: the process must have
    begun when `process.json` says, and must have this folder open.

    Args:
        folder: the run folder.
        number: SIGINT or SIGTERM save and stop; a second one abandons the rollout.

    Returns:
        The process.

    Raises:
        ValueError: no process writes the folder, or it cannot be reached from here.
    """
    folder = Path(folder)
    if is_owned(folder) is False:
        raise ValueError(f"{folder}: no process writes this run")
    process = read_process(folder)
    if process is None:
        raise ValueError(f"{folder}: it does not say which process writes this run")
    if not process.is_local:
        raise ValueError(f"{folder}: process {process.pid} writes it on {process.host}, not here")
    with _reached(process) as send:
        if not process.is_alive or not _has_open(process.pid, folder):
            raise ValueError(f"{folder}: process {process.pid} no longer writes this run")
        send(number)
    return process


def signal_to(process: Process, number: int) -> bool:
    """Sends a signal to a process, if it still exists here; returns whether it did."""
    with contextlib.suppress(ValueError, OSError), _reached(process) as send:
        if process.is_alive:
            send(number)
            return True
    return False


@contextlib.contextmanager
def _reached(process: Process) -> Iterator[Any]:
    """Context with a function that sends a signal to the process that has the number now."""
    if not hasattr(os, "pidfd_open"):  # not Linux
        yield lambda number: os.kill(process.pid, number)
        return
    try:
        handle = os.pidfd_open(process.pid)
    except (OSError, OverflowError, ValueError) as error:
        raise ValueError(f"process {process.pid} cannot be reached: {error}") from error
    try:
        yield lambda number: signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def _has_open(pid: int, folder: Path) -> bool:
    """Returns whether a process has a folder open, as who locks it has; True if nobody can say."""
    handles = Path(f"/proc/{pid}/fd")
    if not handles.exists():  # not Linux
        return True
    wanted = folder.stat()
    try:
        entries = list(handles.iterdir())
    except OSError:  # it ended, or is somebody else's
        return False
    for handle in entries:
        with contextlib.suppress(OSError):  # closed meanwhile
            found = handle.stat()
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    return False


def _boot() -> str:
    """Returns an id of the machine's start and of the space of process numbers; "" if unknown."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _start_ticks(pid: int) -> int | None:
    """Returns when a process began, in ticks since the machine's start; None if there is none.

    0 where the system does not say when, but that the process exists.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        if os.path.exists("/proc/self/stat"):
            return None
    with contextlib.suppress(OSError, OverflowError):
        os.kill(pid, 0)
        return 0
    return None
