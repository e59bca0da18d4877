"""Memory, files and threads of a process that makes one agent after the other."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastrl import A2C, PPO, SAC, DroQ, PPORecurrent

MOST_BYTES = 100 * 1024  # a run; TorchScript's own list of what it traced took ten times as much

ON_POLICY = {"num_envs": 2, "num_steps": 16, "total_timesteps": 64}
OFF_POLICY = {"num_envs": 1, "total_timesteps": 24, "learning_starts": 16, "buffer_size": 64}
KINDS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "ppo": (PPO, "CartPole-v1", {**ON_POLICY, "update_epochs": 1}),
    "a2c": (A2C, "CartPole-v1", ON_POLICY),
    "recurrent": (
        PPORecurrent,
        "CartPole-v1",
        {**ON_POLICY, "update_epochs": 1, "sequence_length": 8},
    ),
    "sac": (SAC, "Pendulum-v1", OFF_POLICY),
    "droq": (DroQ, "Pendulum-v1", OFF_POLICY),
}


def held() -> tuple[int, int, int]:
    """Returns resident bytes, open files and threads of this process."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files, threads = (len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task"))
    return pages * os.sysconf("SC_PAGE_SIZE"), files, threads


def growth(work: Callable[[int], None], num_runs: int) -> float:
    """Returns bytes per run, in the quarter of the runs in which it is least.

    What leaks, leaks in each of them; caches fill in the first ones. Asserts that no file or thread
    is left open.
    """
    work(0)
    before, per_run = held(), []
    for quarter in range(4):
        for seed in range(num_runs // 4):
            work(1 + quarter * num_runs + seed)
        after = held()
        assert after[1:] == before[1:]
        per_run.append((after[0] - before[0]) / (num_runs // 4))
        before = after
    return min(per_run)


def agent_of(name: str, log_dir: Path, seed: int, **settings: Any) -> Any:
    kind, task, sizes = KINDS[name]
    common = {"hidden_sizes": (8,), "per_rank_batch_size": 16, "eval_episodes": 0, "seed": seed}
    parts = {**common, **sizes, **settings, "accelerator": "cpu", "log_dir": str(log_dir)}
    return kind(task, preset="none", **parts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sac", "a2c"])
def test_memory_is_flat_over_runs(name, tmp_path):
    def work(seed: int) -> None:
        agent_of(name, tmp_path, seed, engine="recorded").learn()

    assert growth(work, 12) < MOST_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "recorded", "eager"])
@pytest.mark.parametrize("name", KINDS)
def test_memory_is_flat_over_many_runs(name, engine, tmp_path):
    settings = {"engine": engine, "eval_episodes": 2}
    work = lambda seed: agent_of(name, tmp_path, seed, **settings).learn()  # noqa: E731
    assert growth(work, 300 if engine == "auto" else 60) < MOST_BYTES / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_memory_is_flat_over_a_hundred_agents_that_are_dropped(name, tmp_path):
    assert growth(lambda seed: agent_of(name, tmp_path, seed).make_buffer(), 100) < MOST_BYTES / 2
