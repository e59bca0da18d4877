"""A rank that raises, dies or hangs ends all ranks within ten seconds, with one line naming it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from ranks import end_ranks_early, run_ranks

from fastrl.config.ppo import PPOConfig
from fastrl.run.devices import make_devices


def fail(folder: Path, num_ranks: int, culprit: int, way: str) -> None:
    """Fails on one rank, while the others wait for it."""
    timeout = 2.0 if way == "hang" else 60.0
    config = PPOConfig(devices=num_ranks, accelerator="cpu", rank_timeout=timeout)
    with make_devices(config) as devices:
        devices.watch_for_hanging(True)
        devices.gather(np.zeros(1))
        if way == "all raise":
            (folder / "now").touch()
            raise ValueError("a mistake")
        if devices.global_rank == culprit:
            (folder / "now").touch()
            if way == "raise":
                raise ValueError("a mistake")
            if way == "crash":
                raise RuntimeError("a bug")
            if way == "hang":
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGKILL)
        devices.gather(np.zeros(1))


@pytest.mark.parametrize(
    ("num_ranks", "culprit", "way", "expected", "status"),
    [
        (3, 1, "raise", "error: rank 1: a mistake\n", 2),
        (2, 0, "raise", "error: rank 0: a mistake\n", 2),
        (2, 0, "all raise", "error: a mistake\n", 2),
        (3, 2, "crash", "error: rank 2: RuntimeError: a bug\n", 1),
        (3, 1, "die", "error: rank 1: ended without a word: was it killed?\n", 1),
        (2, 0, "die", "error: rank 0 ended without a word: was it killed?\n", 1),
        (2, 1, "hang", "error: rank 1 hangs: it stood still for 2 seconds", 1),
        (2, 0, "hang", "error: rank 0 hangs: it stood still for 2 seconds", 1),
    ],
)
def test_failure_of_a_rank_ends_all_with_one_line(
    tmp_path, num_ranks, culprit, way, expected, status
):
    codes, stderr, seconds = end_ranks_early(num_ranks, fail, tmp_path, num_ranks, culprit, way)
    killed = {culprit} if way == "die" else set()
    assert codes == [-signal.SIGKILL if rank in killed else status for rank in range(num_ranks)]
    lines = stderr.splitlines(keepends=True)
    assert lines[-1].startswith(expected)
    assert len(lines) == 1 or way == "crash"  # a bug shows its traceback first
    assert seconds < 10


def finish(num_ranks: int) -> int:
    with make_devices(PPOConfig(devices=num_ranks, accelerator="cpu")) as devices:
        return devices.world_size


def test_ranks_that_are_done_leave_in_peace():
    assert run_ranks(2, finish, 2) == [2, 2]
