"""Runs a function on several ranks, in processes that share one import of torch."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

PATIENCE_SECONDS = 120


def run_ranks(num_ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what `function(*arguments)` returns on each rank; it must be plain or numpy.

    Every process has the environment variables of a launched rank, so `make_devices` joins them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fastrl.ppo", "lightning.fabric", "toy_agents"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = context.Queue()
    processes = [
        context.Process(target=_rank, args=(rank, num_ranks, port, queue, function, arguments))
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
        for process in processes:
            process.join(PATIENCE_SECONDS)
    finally:
        for process in processes:
            process.kill()
    return [results[rank] for rank in range(num_ranks)]


def _rank(
    rank: int, num_ranks: int, port: int, queue: Any, function: Callable[..., Any], arguments: Any
) -> None:
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
        queue.put((rank, None, traceback.format_exc()))
    queue.close()
    queue.join_thread()
