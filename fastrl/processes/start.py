"""When this process began."""

from __future__ import annotations

import os
import time


def seconds_since_process_start() -> float:
    """Seconds since the operating system started this process; imports and compiling count.

    Where the system does not tell, since this module was imported.
    """
    return _BEFORE_IMPORT + time.monotonic() - _IMPORTED


def _age_of_process() -> float:
    """Seconds by the system's clock, whose ticks are hundredths; 0 where it does not tell."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            start_ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    # Some containers count the uptime from their own start, and the ticks from the machine's.
    return max(uptime - start_ticks / os.sysconf("SC_CLK_TCK"), 0.0)


# Asked once: two readings of a clock with ticks may be equal although something lies between them.
_BEFORE_IMPORT, _IMPORTED = _age_of_process(), time.monotonic()
