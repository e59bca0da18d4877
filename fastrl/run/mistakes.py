"""What a command line program answers to a mistake of its user: one line, and an exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from fastrl.run.launch import local_rank
from fastrl.run.signals import is_interrupt


def exit_status(work: Callable[[], int]) -> int:
    """Runs a program's work and returns its exit status.

    A ValueError is the user's mistake and an OSError the machine's: one line on stderr and status
    2, after a traceback if FASTRL_TRACEBACK=1. Ctrl-C gives 130. Anything else is ours, and passes.
    """
    try:
        return work()
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:
        if is_interrupt(error):
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is leaving already
            if local_rank() == 0:
                print("interrupted", file=sys.stderr)
            return 130
        if not isinstance(error, ValueError | OSError):
            raise
        if os.environ.get("FASTRL_TRACEBACK") == "1":
            traceback.print_exc()
        print(_whose(), one_line(error), file=sys.stderr)
        return 2


def _whose() -> str:
    """Begins the line; another rank than the first gives that one time to say the same."""
    if local_rank() == 0:
        return "error:"
    time.sleep(3)  # it ends this process as it leaves
    return f"error: local rank {local_rank()}:"


def one_line(error: BaseException) -> str:
    """Returns an error's message without line breaks, or its name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
