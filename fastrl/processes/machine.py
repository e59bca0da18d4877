"""What the machine is like: its cores, its processor, this process's threads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_NICER = 5  # beside another process on the same core such threads get a quarter of its time
_sharers = 0  # 0: as many as there are ranks on this machine


def available_cores() -> int:
    """Return the cores this process may use.

    Its CPU affinity, capped by its cgroup's CPU quota; ranks on one machine share these evenly.
    """
    return max(1, _shared_cores() // _num_sharers())


def has_core_for_each_rank() -> bool:
    """Return whether those that share this machine's cores can all work at the same time."""
    return _shared_cores() >= _num_sharers()


def own_cores(cores: set[int], rank: int) -> list[int]:
    """Return the part of some cores that is for one of those that share them; never none."""
    ordered, sharers = sorted(cores), _num_sharers()
    rank %= sharers
    first = len(ordered) * rank // sharers
    return ordered[first : max(first + 1, len(ordered) * (rank + 1) // sharers)]


def share_cores(num_processes: int) -> None:
    """From here on as many processes work on this machine at the same time."""
    global _sharers
    _sharers = num_processes


def _num_sharers() -> int:
    return _sharers or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun and we set it


def _shared_cores() -> int:
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return int(min(cores, _cgroup_cpu_quota()))


def _cgroup_cpu_quota(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> float:
    """Return how many CPUs the cgroup and its parents allow; inf if they set no limit."""
    quota = float("inf")
    try:
        # cgroup v2 has one line, "0::/path". Inside a container that path is often not mounted,
        # only its root is.
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
    """Return the kernel's ids of this process's threads; none where Linux is not."""
    try:
        return frozenset(int(name) for name in os.listdir("/proc/self/task"))
    except OSError:
        return frozenset()


def let_others_first(threads: Iterable[int]) -> None:
    """Make threads of this process, by the kernel's ids, give way to all others at once.

    A thread that wakes up has to wait for the end of a time slice, some milliseconds, unless those
    that run are batch work. Where the system does not allow it everything stays as it is.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return
    niceness = min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICER)
    for thread in threads:
        with suppress(OSError):
            if os.sched_getscheduler(thread) == os.SCHED_OTHER:
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
