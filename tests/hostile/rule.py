"""The rule that all hostile use is held against.

Whatever comes in, a program ends with status 0 and a result, with status 2 and at most three plain
lines on stderr, or with 128 + signal. It never shows a traceback, hangs or drops a setting.
"""

from __future__ import annotations

import io
import os
import re
import signal
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Collection
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

import fastrl
from fastrl.processes.errors import exit_status

SEED = int(os.environ.get("FASTRL_HOSTILE_SEED", "0"))
_OURS = Path(fastrl.__file__).parent
_LONGEST_LINE = 2000


class Hang(BaseException):
    """Raised in a program that takes too long; no `except Exception` swallows it."""


@dataclass(frozen=True)
class Outcome:
    """What a program did."""

    status: int | None
    """Exit status; None if it raised or hung."""
    out: str
    err: str
    fault: str
    """What breaks the rule, in a line; empty if nothing does."""


def play(work: Callable[[], int], seconds: float, ways: Collection[int | None] = (0, 2)) -> Outcome:
    """Runs a program in this process.

    Args:
        work: returns the exit status; errors are reported as for any program of fastrl.
        seconds: time after which it hangs.
        ways: exit statuses that the rule allows here.
    """
    out, err = io.StringIO(), io.StringIO()
    status, raised = None, ""
    start = time.monotonic()
    before = signal.signal(signal.SIGALRM, _raise_hang)
    threads_before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        with ExitStack() as context:
            context.enter_context(redirect_stdout(out))
            context.enter_context(redirect_stderr(err))
            context.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", DeprecationWarning)  # as for any program
            status = exit_status(work)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raised = _described(error, time.monotonic() - start)
    finally:
        signal.signal(signal.SIGALRM, before)
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), threads_before, strict=True):
            signal.signal(number, handler)
    fault = raised or _fault(status, err.getvalue(), ways)
    return Outcome(status, out.getvalue(), err.getvalue(), fault)


def _fault(status: int | None, err: str, ways: Collection[int | None]) -> str:
    if status not in ways:
        return f"exit status {status}: {err.strip()[-150:]!r}"
    if "Traceback (most recent call last)" in err:
        return f"a traceback on stderr: {err.strip().splitlines()[-1][:150]}"
    if status != 2:
        return ""
    lines = err.strip().splitlines()
    if not any(line.startswith("error:") for line in lines):
        return f"exit status 2 without a line of error: {err[:150]!r}"
    if len(lines) > 3:
        return f"{len(lines)} lines for one error: {lines[0][:100]!r}"
    if longest := [line for line in lines if len(line) > _LONGEST_LINE]:
        return f"a line of {len(longest[0])} characters: {longest[0][:100]!r}"
    if any(unicodedata.category(character) == "Cc" for line in lines for character in line):
        return f"control characters in the line {err.strip()[:100]!r}"
    return ""


def _described(error: BaseException, seconds: float) -> str:
    """Returns a line about an exception that left a program, with our innermost line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_OURS)]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "outside of fastrl"
    if isinstance(error, Hang):
        return f"hangs for {seconds:.0f} s in {place}"
    try:
        words = " ".join(str(error).split())[:120]
    except Exception as second:
        words = f"(its __str__ raises {type(second).__name__})"
    return f"traceback: {type(error).__name__} in {place}: {words}"


def _raise_hang(number: int, frame: object) -> None:
    raise Hang


def check(faults: dict[str, str]) -> None:
    """Fails the test if there are faults, with their kinds and an example of each.

    Args:
        faults: what is wrong, by the hostile input in words.
    """
    kinds: dict[str, list[str]] = {}
    for case, fault in faults.items():
        kind = re.sub(r"\d+|'[^']*'|\"[^\"]*\"|/\S+", "*", fault)[:90]
        kinds.setdefault(kind, []).append(f"{case}\n      {fault}")
    shown = "\n".join(
        f"  {len(cases)}x, for example {cases[0]}"
        for cases in sorted(kinds.values(), key=len, reverse=True)
    )
    if faults:
        words = f"{len(faults)} break the rule, in {len(kinds)} ways (seed {SEED})"
        pytest.fail(f"{words}:\n{shown}", pytrace=False)
