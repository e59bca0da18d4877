"""The machine: cores this process may use, its threads and their priorities."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_NICER = 5  # such threads get a quarter of a core that they share with another process
_sharers = 1  # processes that share the cores


def available_cores() -> int:
    """Returns the number of cores this process may use.

    That is its CPU affinity, capped by its cgroup's CPU quota, divided evenly among the ranks of
    the machine.
    """
    return max(1, _shared_cores() // _sharers)


def has_core_for_each_rank() -> bool:
    """Returns whether there is at least one core for each process that shares them."""
    return _shared_cores() >= _sharers


def total_memory(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> float:
    """Returns the bytes of this machine's memory, or what its container may use of them.

    NaN where the system does not say.
    """
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return float("nan")  # Windows does not say it this way
    with suppress(OSError, ValueError):  # "max": no limit
        total = min(total, int(limit.read_text()))
    return total


def own_cores(cores: set[int], rank: int) -> list[int]:
    """Returns the cores of one of the processes that share `cores`; at least one."""
    ordered = sorted(cores)
    rank %= _sharers
    first = len(ordered) * rank // _sharers
    return ordered[first : max(first + 1, len(ordered) * (rank + 1) // _sharers)]


def share_cores(num_processes: int) -> None:
    """Sets how many processes share the cores of this machine."""
    global _sharers
    _sharers = num_processes


def _shared_cores() -> int:
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return int(min(cores, _cgroup_cpu_quota()))


def _cgroup_cpu_quota(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> float:
    """Returns how many CPUs the cgroup and its parents allow; inf if they set no limit."""
    quota = float("inf")
    try:
        # cgroup v2 has one line, "0::/path". Inside a container often only its root is mounted,
        # not that path.
        lines = [line for line in membership.read_text().splitlines() if line.startswith("0::")]
    except OSError:
        lines = []
    group = root / lines[0][3:].strip("/") if lines else root
    for folder in (group, *group.parents):
        try:
            limit, period = (folder / "cpu.max").read_text().split()
            if limit != "max":
                quota = min(quota, int(limit) / int(period))
        except (OSError, ValueError):
            pass
        if folder == root:
            break
    try:  # cgroup v1, -1 means no limit
        limit = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        if limit > 0:
            quota = min(quota, limit / int((root / "cpu" / "cpu.cfs_period_us").read_text()))
    except (OSError, ValueError):
        pass
    return quota


def thread_ids() -> frozenset[int]:
    """Returns the kernel's ids of the threads of this process; none if not on Linux."""
    try:
        return frozenset(int(name) for name in os.listdir("/proc/self/task"))
    except OSError:
        return frozenset()


def let_others_first(threads: Iterable[int]) -> None:
    """Lowers the priority of threads, so that other threads preempt them when they wake up.

    Without this, a thread that wakes up may wait some milliseconds for the end of a running
    thread's time slice; threads scheduled as batch work are preempted at once. Has no effect where
    the system does not permit it.

    Args:
        threads: the kernel's ids of threads of this process.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    niceness = min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICER)
    for thread in threads:
        with suppress(OSError):
            if os.sched_getscheduler(thread) == os.SCHED_OTHER:
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
