"""Calls of an environment's own code: what it raises becomes one line, and what hangs is named."""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import gymnasium

from fastrl.envs.vector import EnvError
from fastrl.processes.errors import one_line

PATIENCE_SECONDS = 10
"""After which a line names a call that has not returned."""

_OWN_FOLDER = Path(__file__).parents[1]
_PYTHON_FOLDER = sysconfig.get_path("stdlib")

_log = logging.getLogger("fastrl")
_leave_process = os._exit


class ForeignCode:
    """A context for calls of an environment's code.

    - Whatever it raises, other than KeyboardInterrupt, becomes an EnvError that says where.
    - `os._exit` there is an error too: it would end a run without a word, as if it were complete.
    - A call that does not return within `PATIENCE_SECONDS` is named by a warning.
    """

    def __init__(self, where: str) -> None:
        """Names what is called, such as "MyEnv: step"."""
        self.where = where
        self.env = -1
        """Which environment, if there are several."""

    def __enter__(self) -> ForeignCode:
        self._outer = _WATCH.call
        _WATCH.begin(self)
        return self

    def at(self, env: int) -> None:
        """Says that the code of this environment is next."""
        self.env = env
        _WATCH.count += 1

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _WATCH.end(self._outer)
        if error is None or isinstance(error, EnvError | KeyboardInterrupt):
            return
        if not isinstance(error, Exception) and _is_own(error):
            return  # of a signal that came meanwhile
        raise failure(str(self), error) from error

    def __str__(self) -> str:
        """Names the call, and the environment if there are several."""
        return self.where if self.env < 0 else f"{self.where} of env {self.env}"


class _Watch:
    """Knows the call that is under way, and names it once if it does not return."""

    def __init__(self) -> None:
        self.call: ForeignCode | None = None
        self.count = 0
        """Grows with each call."""
        self.thread, self._process = 0, 0
        self.patience = 1
        """In units of `PATIENCE_SECONDS`."""

    def begin(self, call: ForeignCode) -> None:
        self.count += 1
        self.call, self.thread = call, threading.get_ident()
        os._exit = _refuse_to_leave
        if self._process != os.getpid():  # the first call, or a process forked from another
            self._process = os.getpid()
            threading.Thread(target=self._run, name="fastrl-envs", daemon=True).start()

    def end(self, outer: ForeignCode | None) -> None:
        self.count += 1
        self.call = outer
        if outer is None:
            os._exit = _leave_process

    def refuses(self, caller: str) -> bool:
        """Returns whether this thread runs an environment, of this process, and code of its."""
        is_inside = self.call is not None and self.thread == threading.get_ident()
        return is_inside and self._process == os.getpid() and not _is_of_base(Path(caller))

    def _run(self) -> None:
        seen, seconds = -1, 0  # not by the clock, which goes on while the process is stopped
        while True:
            time.sleep(1)
            call, thread = self.call, self.thread
            if call is None or self.count != seen:
                seen, seconds = self.count, 0
                continue
            seconds += 1
            if seconds == self.patience * PATIENCE_SECONDS:
                self.patience *= 2  # so that slow environments fill no screen
                place = _place(_lines_of(sys._current_frames().get(thread)))
                _log.warning("%s has not returned for %d s%s", call, seconds, place)


_WATCH = _Watch()


def _refuse_to_leave(status: int) -> None:
    """Stands for `os._exit` while environments run."""
    if _WATCH.refuses(sys._getframe(1).f_code.co_filename):
        raise SystemExit(f"os._exit({status})")
    _leave_process(status)


def call(where: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls code of an environment; turns what it raises into an EnvError that says where."""
    with ForeignCode(where):
        return function(*args, **kwargs)


def failure(where: str, error: BaseException) -> EnvError:
    """Returns the EnvError for what code of an environment raised."""
    name, words = type(error).__name__, one_line(error)
    if isinstance(error, EOFError) and words == name:
        words = "one of its processes ended"  # as those of an AsyncVectorEnv may
    words = "" if words == name else f": {words}"
    return EnvError(f"{where} raised {name}{words}{own_line(error)}")


def own_line(error: BaseException) -> str:
    """Returns " (file:line)" of the innermost user code in the traceback of an error, or "".

    User code is in neither fastrl, nor the standard library, nor an installed package.
    """
    lines = traceback.walk_tb(error.__traceback__)
    return _place((frame.f_code.co_filename, line) for frame, line in lines)


def line_of(env: Any, method: str) -> str:
    """Returns " (file:line)" of the outermost definition of a method in user code, or ""."""
    while True:
        code = getattr(getattr(type(env), method, None), "__code__", None)
        if code is not None and not _is_foreign(code.co_filename):
            return f" ({code.co_filename}:{code.co_firstlineno})"
        if not isinstance(env, gymnasium.Wrapper | gymnasium.vector.VectorWrapper):
            return ""
        env = env.env


def _lines_of(frame: FrameType | None) -> Iterable[tuple[str, int]]:
    """Returns the file and line of each frame that fastrl called, the innermost one last."""
    lines: list[tuple[str, int]] = []
    while frame is not None and not Path(frame.f_code.co_filename).is_relative_to(_OWN_FOLDER):
        lines.insert(0, (frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return lines


def _place(lines: Iterable[tuple[str, int]]) -> str:
    own = [f" ({file}:{line})" for file, line in lines if not _is_foreign(file)]
    return own[-1] if own else ""


def _is_foreign(name: str) -> bool:
    """Returns whether a file is not the user's own: of fastrl, Python or an installed package."""
    file = Path(name)
    return _is_installed(file) or _is_of_base(file) or file.name.startswith("<")


def _is_installed(file: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & {*file.parts})


def _is_of_base(file: Path) -> bool:
    """Returns whether a file is part of fastrl or of Python, whose own calls must not be bent."""
    is_python = file.is_relative_to(_PYTHON_FOLDER) and not _is_installed(file)
    return is_python or file.is_relative_to(_OWN_FOLDER)


def _is_own(error: BaseException) -> bool:
    """Returns whether fastrl itself raised an error, as the handler of a signal may do."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    file = frame.f_code.co_filename
    return file != __file__ and Path(file).is_relative_to(_OWN_FOLDER)
