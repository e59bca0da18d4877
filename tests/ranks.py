"""Runs a function on several ranks, in processes that share one import of torch."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 40


def run_ranks(num_ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what `function(*arguments)` returns on each rank; it must be plain or numpy.

    Every process has the environment variables of a launched rank, so `make_devices` joins them.
    """
    context = _context()
    port, queue, are_all_told = _free_port(), context.Queue(), context.Event()
    processes = [
        context.Process(
            target=_rank, args=(rank, num_ranks, port, queue, function, arguments, are_all_told)
        )
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    results = {}
    try:
        for _ in processes:
            rank, result, error = queue.get(timeout=PATIENCE_SECONDS)
            assert error is None, f"rank {rank}: {error}"
            results[rank] = result
        are_all_told.set()
        for process in processes:
            process.join(PATIENCE_SECONDS)
    finally:
        for process in processes:
            process.kill()
    return [results[rank] for rank in range(num_ranks)]


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastrl.ppo", "lightning.fabric", "pytest", "toy_agents"])
    return context


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _rank(
    rank: int,
    num_ranks: int,
    port: int,
    queue: Any,
    function: Callable[..., Any],
    arguments: Any,
    are_all_told: Any = None,
    stderr: Path | None = None,
) -> None:
    if stderr is not None:
        os.dup2(os.open(stderr, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    os.environ.update(
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE=str(num_ranks),
        LOCAL_WORLD_SIZE=str(num_ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        queue.put((rank, function(*arguments), None))
    except BaseException:
        if stderr is not None:
            raise
        queue.put((rank, None, traceback.format_exc()))
    queue.close()
    queue.join_thread()
    if are_all_told is not None:  # a rank that leaves early would end those that still work
        are_all_told.wait(PATIENCE_SECONDS)


def end_ranks_early(
    num_ranks: int, function: Callable[..., Any], folder: Path, *arguments: Any
) -> tuple[list[int | None], str, float]:
    """Run a function that does not return everywhere.

    Returns:
        Exit codes of all ranks, what they wrote to stderr, and the seconds from the moment that
        `function` told by making the file "now" in `folder`.
    """
    context = _context()
    port, queue = _free_port(), context.Queue()
    processes = [
        context.Process(
            target=_rank,
            args=(rank, num_ranks, port, queue, function, (folder, *arguments)),
            kwargs={"stderr": folder / "stderr"},
        )
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(PATIENCE_SECONDS)
        seconds = time.time() - (folder / "now").stat().st_mtime
        return [process.exitcode for process in processes], (folder / "stderr").read_text(), seconds
    finally:
        for process in processes:
            process.kill()
