"""When this process began."""

from __future__ import annotations

import os
import time

_IMPORTED = time.time()


def seconds_since_process_start() -> float:
    """Seconds since the operating system started this process; imports and compiling count.

    Where the system does not tell, since this module was imported.
    """
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            start_ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
        return uptime - start_ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.time() - _IMPORTED
