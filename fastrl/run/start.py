"""When this process began."""

from __future__ import annotations

import os
import time

_IMPORTED = time.monotonic()


def seconds_since_process_start() -> float:
    """Seconds since the operating system started this process; imports and compiling count.

    Where the system does not tell, since this module was imported.
    """
    since_import = time.monotonic() - _IMPORTED
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            start_ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return since_import
    # Some containers count the uptime from their own start, and the ticks from the machine's.
    return max(uptime - start_ticks / os.sysconf("SC_CLK_TCK"), since_import)
