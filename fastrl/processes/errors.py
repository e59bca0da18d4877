"""User errors on the command line: one line on stderr and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from fastrl.processes.launch import local_rank
from fastrl.processes.signals import is_interrupt, status_of

_MOST_TOLD = 1000  # characters of an error
_NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")


class Parser(argparse.ArgumentParser):
    """A parser that raises user errors as ValueError instead of exiting; a flag may come once."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as `argparse` does, but refuses a flag that is given twice."""
        words = sys.argv[1:] if args is None else list(args)
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        for flag in flags:
            if flags.count(flag) > 1:
                self.error(f"{flag} is given twice; give it once")
        return super().parse_known_args(words, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as `argparse` does, but says what an unknown flag may have meant."""
        found, unknown = self.parse_known_args(args, namespace)
        flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        for flag in flags:
            near = difflib.get_close_matches(flag, self._option_string_actions, n=1, cutoff=0.7)
            hint = f"did you mean {near[0]}?" if near else "--help lists all"
            self.error(f"unknown flag {flag}; {hint}")
        if unknown:
            self.error(f"{unknown[0]!r} is one argument too many; --help lists all")
        return found

    def error(self, message: str) -> NoReturn:
        """Raises the error."""
        raise ValueError(message)


def how_to_install(extra: str) -> str:
    """Returns the words that end a message on a package that is missing.

    Not by the name fastrl, which pip would look up in an index, nor without `-e`, which would put
    a copy in place of the files that the user edits.
    """
    return f'in the clone of fastrl: pip install -c constraints.txt -e ".[{extra}]"'


class _Terminal(io.FileIO):
    """The output to a terminal, which is dropped once somebody has closed that."""

    def write(self, data: Any, /) -> int:
        """Writes bytes; returns how many."""
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


def _outlast_terminal() -> None:
    """Makes both streams to a terminal go on without it: a run must save when it is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream.isatty():
            raw = _Terminal(stream.fileno(), "w", closefd=False)
            lasting = io.TextIOWrapper(
                io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True
            )
            setattr(sys, name, lasting)


def exit_status(work: Callable[[], int]) -> int:
    """Runs a program's work and returns its exit status.

    An expected error (see `is_expected`) is one line on stderr and status 2, after a traceback if
    FASTRL_TRACEBACK=1. Ctrl-C gives 130, SIGTERM 143, SIGHUP 129. Any other error is a bug of ours,
    and is raised.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: print would fall back to the other stream
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # it stays open
    _outlast_terminal()
    if isinstance(sys.stdout, io.TextIOWrapper):  # an unencodable character must not end a run
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return work()
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:
        if is_interrupt(error):
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # already exiting
            if _rank() == 0:
                print("interrupted", file=sys.stderr)
            return status_of(error)
        if not is_expected(error):
            raise
        if os.environ.get("FASTRL_TRACEBACK") == "1":
            traceback.print_exc()
        print(_prefix(), one_line(error), file=sys.stderr)
        return 2


def is_expected(error: BaseException) -> bool:
    """Returns whether one line explains an error, so that no traceback is needed.

    A ValueError is an error of the user, an OSError one of the machine; running out of memory may
    be either.
    """
    if isinstance(error, RuntimeError):  # torch has no exception type for all of these
        return any(words in str(error) for words in _NO_MEMORY)
    return isinstance(error, ValueError | OSError | MemoryError)


def _prefix() -> str:
    """Returns the start of the line; ranks other than 0 first give rank 0 time to report it."""
    if _rank() == 0:
        return "error:"
    time.sleep(3)  # when rank 0 exits, it ends this process
    return f"error: local rank {_rank()}:"


def _rank() -> int:
    """Returns the local rank, or 0 if that is what is wrong."""
    try:
        return local_rank()
    except ValueError:
        return 0


def one_line(error: BaseException) -> str:
    """Returns an error's message without line breaks, or its name if it has none.

    What a file or an environment put into it can be long, and could command a terminal: it is cut,
    and what cannot be printed is written as an escape.
    """
    try:
        text = " ".join(str(error).split())
    except KeyboardInterrupt:
        raise
    except BaseException as other:  # its __str__ may be anybody's code
        text = f"(its __str__ raised {type(other).__name__})"
    if len(text) > _MOST_TOLD:
        text = f"{text[: _MOST_TOLD // 2]} ... {text[-_MOST_TOLD // 2 :]}"
    if not text.isprintable():
        text = "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)
    return text or type(error).__name__
