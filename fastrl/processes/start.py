"""Time since the start of this process."""

from __future__ import annotations

import os
import time


def seconds_since_process_start() -> float:
    """Returns the seconds since the operating system started this process, imports included.

    If the system does not provide this, the seconds since this module was imported.
    """
    return _BEFORE_IMPORT + time.monotonic() - _IMPORTED


def _age_of_process() -> float:
    """Returns the age by the system's clock, in ticks of 10 ms; 0 if the system has none."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            start_ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    # Some containers count the uptime from their own start, and the ticks from the machine's.
    return max(uptime - start_ticks / os.sysconf("SC_CLK_TCK"), 0.0)


def _begin() -> None:
    """Notes how old this process is, and when that was."""
    global _BEFORE_IMPORT, _IMPORTED
    # Read once: this clock is too coarse to measure differences; the monotonic one measures those.
    _BEFORE_IMPORT, _IMPORTED = _age_of_process(), time.monotonic()


_BEFORE_IMPORT = _IMPORTED = 0.0
_begin()
os.register_at_fork(after_in_child=_begin)
