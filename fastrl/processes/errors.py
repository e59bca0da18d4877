"""What a command line program answers to a mistake of its user: one line, and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from fastrl.processes.launch import local_rank
from fastrl.processes.signals import is_interrupt

_NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")


class Parser(argparse.ArgumentParser):
    """Raises a mistake as the ValueError that it is."""

    def error(self, message: str) -> NoReturn:
        """Raises it."""
        raise ValueError(message)


def exit_status(work: Callable[[], int]) -> int:
    """Runs a program's work and returns its exit status.

    What `is_told_in_a_line` gives one on stderr and status 2, after a traceback if
    FASTRL_TRACEBACK=1. Ctrl-C gives 130. Anything else is ours, and passes.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed: print would take the other one
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # it stays open
    if isinstance(sys.stdout, io.TextIOWrapper):  # no letter that it lacks ends a run
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return work()
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:
        if is_interrupt(error):
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is leaving already
            if _rank() == 0:
                print("interrupted", file=sys.stderr)
            return 130
        if not is_told_in_a_line(error):
            raise
        if os.environ.get("FASTRL_TRACEBACK") == "1":
            traceback.print_exc()
        print(_whose(), one_line(error), file=sys.stderr)
        return 2


def is_told_in_a_line(error: BaseException) -> bool:
    """Tells whether a line is all that there is to say.

    A ValueError is the user's mistake, an OSError the machine's, and memory that is not there is a
    matter between both.
    """
    if isinstance(error, RuntimeError):  # torch has no common type for these
        return any(words in str(error) for words in _NO_MEMORY)
    return isinstance(error, ValueError | OSError | MemoryError)


def _whose() -> str:
    """Begins the line; another rank than the first gives that one time to say the same."""
    if _rank() == 0:
        return "error:"
    time.sleep(3)  # it ends this process as it leaves
    return f"error: local rank {_rank()}:"


def _rank() -> int:
    """Returns the local rank, or 0 if the mistake is in how it is given."""
    try:
        return local_rank()
    except ValueError:
        return 0


def one_line(error: BaseException) -> str:
    """Returns an error's message without line breaks, or its name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
