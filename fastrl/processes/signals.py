"""Ctrl-C, SIGTERM and SIGHUP as stop requests, which a loop checks between two iterations.

Imports almost nothing, so that programs can import it first.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

from fastrl.processes.pulse import PULSE

_ENOUGH = b"\0"  # not the number of a signal
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP comes when the terminal is closed; where it is ignored, as under nohup, it stays so."""

_BOUNCE = 0.3  # seconds in which a launcher may pass on the Ctrl-C that came from the terminal
PATIENCE = 5.0  # seconds without progress after which a stop request cuts the run short

_ENDED = (128 + signal.SIGTERM, 128 + signal.SIGHUP)  # exit statuses

_is_cut_short = False  # by a second Ctrl-C
_active: StopSignals | None = None


class StopSignals:
    """A context that records the first stop request; a second Ctrl-C raises KeyboardInterrupt.

    With several ranks it does so only some time after the first: launchers may pass one on twice.

    Whatever error that leads to, torch's among them, the context ends with KeyboardInterrupt, or
    with SystemExit (143 or 129) if SIGTERM or SIGHUP came first.

    A run that makes no progress after one of these, because a step of an environment does not
    return, is interrupted as by a second Ctrl-C; if even that changes nothing, the process is
    ended. With several ranks, the heartbeats detect that instead.

    Rank 0 also learns of signals to other ranks. Outside the main thread, where Python handles no
    signals, those to this process are not recorded. Worker processes that the caller started with
    multiprocessing get no Ctrl-C meanwhile: a terminal sends it to them too, and they would die in
    the middle of a rollout.
    """

    def __init__(self, *, speaks: bool = False, is_alone: bool = False) -> None:
        """Prepares the context.

        Args:
            speaks: print a line at the first signal.
            is_alone: this process is the only one of the run.
        """
        self._speaks, self._is_alone = speaks, is_alone
        self._before: dict[int, Any] = {}
        self._outer: tuple[StopSignals | None, int] = (None, 0)
        self._num_came, self._first, self._came_at = 0, 0, 0.0
        self._is_at_once, self._is_shielded, self._is_forced = is_alone, False, False
        self._groups: dict[int, int] = {}
        self.patience = PATIENCE
        """Seconds without progress that count as hanging, once a signal came."""

    @property
    def number(self) -> int:
        """Number of the signal that arrived; 0 if none did. Kept after the context."""
        return self._first or PULSE.signal

    def came(self) -> bool:
        """Returns whether a signal asks the run to end."""
        return self.number != 0

    def take(self, number: int = signal.SIGINT) -> None:
        """Records a stop request that came as an exception."""
        PULSE.signal = PULSE.signal or number

    def hold(self) -> None:
        """Records signals from now on. Before, one raises KeyboardInterrupt: nothing is lost."""
        self._is_at_once = False

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Context, for saving, that a second Ctrl-C does not interrupt; a third one does."""
        before, self._is_shielded = self._is_shielded, True
        try:
            yield
        finally:
            self._is_shielded = before

    def __enter__(self) -> Self:
        global _active, _is_cut_short
        self._outer, _active = (_active, PULSE.signal), self
        PULSE.signal, _is_cut_short = 0, False
        try:
            for number in _heeded():
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: the caller's handlers stay in place
            return self
        self._groups = _apart_from_terminal()
        self._ear, self._mouth = os.pipe()
        os.set_blocking(self._mouth, False)
        self._mouth_before = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._attend, name="fastrl-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        global _active, _is_cut_short
        self._first, is_cut_short = PULSE.signal, error is not None and is_interrupt(error)
        if self._before:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._mouth_before)
            os.write(self._mouth, _ENOUGH)
            self._thread.join()
            os.close(self._mouth)
            os.close(self._ear)
            for worker, group in self._groups.items():
                with contextlib.suppress(OSError):
                    os.setpgid(worker, group)
        _active, PULSE.signal = self._outer
        _is_cut_short = False
        if is_cut_short:
            if self._first in (signal.SIGTERM, signal.SIGHUP):
                raise SystemExit(128 + self._first) from None
            if not isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt from error

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Runs in the main thread, as soon as that is in Python code."""
        global _is_cut_short
        now = time.monotonic()
        if self._num_came and not self._is_alone and now - self._came_at < _BOUNCE:
            return  # ranks that are interrupted at different places cannot save
        is_again = self._num_came >= (2 if self._is_shielded else 1) and number == signal.SIGINT
        self._num_came, self._came_at = self._num_came + 1, now
        PULSE.signal = PULSE.signal or number
        if is_again or self._is_at_once or self._is_forced:
            self._is_forced = False
            _is_cut_short = True
            raise KeyboardInterrupt

    def _attend(self) -> None:
        """Runs in a thread of its own, since the main thread may be stuck outside of Python."""
        came: list[int] = []
        since, count = 0.0, -1
        while True:
            ready, _, _ = select.select([self._ear], [], [], 0.2 if came else None)
            if ready:
                data = os.read(self._ear, 64)
                if _ENOUGH in data:
                    return
                numbers = [number for number in data if number in self._before]
                if numbers and not came and self._speaks and not self._is_at_once:
                    with contextlib.suppress(OSError):
                        words = "stopping as soon as the run can be saved; Ctrl-C again: at once"
                        print(words, flush=True)
                came += numbers
            now = time.monotonic()
            is_end = any(number != signal.SIGINT for number in came)
            is_urgent = self._is_alone and (is_end or len(came) > 1)
            if not is_urgent or PULSE.count != count or self._is_shielded:
                since, count = now, PULSE.count
            elif now - since > self.patience:
                if not is_end or came.count(-1):
                    _end(128 + came[0])
                self._is_forced = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                came.append(-1)  # forced
                since = now


def _heeded() -> list[int]:
    """Returns the stop signals, without a SIGHUP that is ignored: the run outlives its terminal."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or not ignored]


def _apart_from_terminal() -> dict[int, int]:
    """Takes the worker processes out of this one's process group; returns the group of each.

    Possible for those that were forked. Others die of Ctrl-C, which ends the rollout under way.
    """
    groups = {}
    workers = sys.modules.get("multiprocessing")
    for worker in workers.active_children() if workers else ():
        with contextlib.suppress(OSError):
            group = os.getpgid(worker.pid)
            os.setpgid(worker.pid, worker.pid)
            groups[worker.pid] = group
    return groups


def _forget_in_child() -> None:
    """Makes a process that is forked during a run ignore its terminal: its parent ends it."""
    global _active
    if _active is not None and _active._before:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        PULSE.signal, _active = 0, None


os.register_at_fork(after_in_child=_forget_in_child)


def pass_on(status: int) -> None:
    """Passes a signal that ended a run on to the caller of the run, as Python would have done.

    Args:
        status: exit status of the run; 0 or 128 plus the signal.

    Raises:
        KeyboardInterrupt: after SIGINT.
        SystemExit: with the status, after SIGTERM or SIGHUP.
    """
    if status <= 128:
        return
    number = signal.Signals(status - 128)
    handler = signal.getsignal(number)
    if callable(handler) and handler is not signal.default_int_handler:
        signal.raise_signal(number)  # the caller handles it, and may want to go on
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        raise SystemExit(status)


def _end(status: int) -> None:
    """Ends a process whose main thread no longer runs any Python."""
    with contextlib.suppress(Exception):
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
        words = "interrupted in a call that does not return; the newest checkpoint stays"
        print(f"{show_cursor}{words}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(status)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Context at whose end stop signals are handled that came in it. For the main thread.

    For starting a process: Python drops what a handler raises in its hooks around a fork.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in _heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Context in which Ctrl-C ends the process at once, with one line and status 130.

    For the imports of a program: a KeyboardInterrupt during an import shows a traceback, or is
    mistaken for a broken package. A handler of SIGINT that the caller installed stays in place.
    """
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if is_ours:
            signal.signal(signal.SIGINT, _leave)
    except ValueError:  # not the main thread
        is_ours = False
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    local_rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    with contextlib.suppress(OSError):
        if local_rank == "0":
            os.write(2, b"interrupted\n")
    os._exit(130)  # ranks that this process started die with it


def status_of(interrupt: BaseException) -> int:
    """Returns the exit status of a process that an interrupt ends: 130, 143 or 129."""
    code = interrupt.code if isinstance(interrupt, SystemExit) else None
    return code if isinstance(code, int) and code in _ENDED else 128 + signal.SIGINT


def is_interrupt(error: BaseException) -> bool:
    """Returns whether a signal caused an error. TorchScript turns Ctrl-C into a RuntimeError."""
    is_ended = isinstance(error, SystemExit) and error.code in _ENDED
    return _is_cut_short or is_ended or isinstance(error, KeyboardInterrupt)
