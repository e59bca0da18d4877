"""Whether a process is still the one that was started: its number is given to others later."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path


def birth_of(pid: int) -> str | None:
    """Returns what tells a process from an earlier one of the same number; None if it is gone.

    A process that has ended and was not yet waited for is gone.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _birth_by_ps(pid)
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state in "ZX" else rest[18]  # field 22: ticks since the machine started


def send_signal(pid: int, birth: str, number: int) -> bool:
    """Sends a signal to a process if it is still the same; returns whether it was."""
    if birth_of(pid) != birth:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def _birth_by_ps(pid: int) -> str | None:
    words = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    state, _, start = done.stdout.strip().partition(" ")
    return None if done.returncode or state.startswith("Z") else start.strip()
