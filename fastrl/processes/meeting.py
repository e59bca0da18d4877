"""Where the ranks of a run meet: the process group, and the addresses that they listen on."""

from __future__ import annotations

import os
import socket
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch.distributed as dist

from fastrl.config.run import RunConfig
from fastrl.processes.errors import one_line
from fastrl.processes.launch import STORE, local_rank, node_rank, read_port
from fastrl.processes.network import LOOPBACK, choose_interface, listen
from fastrl.processes.pulse import PATIENCE_SECONDS

if TYPE_CHECKING:
    from lightning.fabric import Fabric

_SILENT_SECONDS = 15.0  # of waiting for other ranks


def meet(fabric: Fabric, backend: str, config: RunConfig) -> str:
    """Makes the process group of all ranks, and launches Fabric.

    Fabric by itself would have rank 0 listen on every address of its machine.

    Returns:
        The address at which rank 0 may listen: loopback if there is one machine.

    Raises:
        OSError: the ranks cannot connect to each other.
        ValueError: MASTER_PORT is not a port.
    """
    cluster: Any = getattr(fabric.strategy, "cluster_environment", None)
    cluster.set_world_size(config.devices * config.num_nodes)  # as Fabric does, but too late for us
    cluster.set_global_rank(node_rank() * config.devices + local_rank())
    if "MASTER_PORT" in os.environ:
        read_port()
    in_file = os.environ.get(STORE)
    host, port = LOOPBACK, 0
    if not in_file:
        host = LOOPBACK if config.num_nodes == 1 else cluster.main_address
        port = cluster.main_port
    where = "" if in_file else f" at {host}:{port}"
    choose_interface(host, port)
    told = threading.Timer(_SILENT_SECONDS, _tell_of_waiting, (where, host))
    told.daemon = True
    told.start()
    try:
        is_there = dist.is_initialized() or "TORCHELASTIC_RUN_ID" in os.environ
        if not is_there:  # else torchrun listens already, or an earlier run of this program
            rank, num_ranks = cluster.global_rank(), cluster.world_size()
            _make_group(backend, in_file, (host, port), rank, num_ranks)
        fabric.launch()
    except (RuntimeError, TypeError) as error:
        raise OSError(f"the ranks cannot connect{where}: {one_line(error)[:300]}") from error
    finally:
        told.cancel()
    return host


def _make_group(
    backend: str, in_file: str | None, address: tuple[str, int], rank: int, num_ranks: int
) -> None:
    """Makes the process group, whose ranks meet in a file or at an address of rank 0's machine."""
    patience, torch_distributed = timedelta(seconds=PATIENCE_SECONDS), cast(Any, dist)
    if in_file:
        store = torch_distributed.FileStore(in_file, num_ranks)
    else:
        server = listen(*address).detach() if rank == 0 else None
        more: dict[str, Any] = {"timeout": patience, "master_listen_fd": server}
        store = torch_distributed.TCPStore(*address, num_ranks, rank == 0, **more)
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_ranks, timeout=patience)


def _tell_of_waiting(where: str, host: str) -> None:
    if local_rank() > 0:
        return
    try:  # a name may become known only when the other machines are up
        socket.getaddrinfo(host, None)
        why = ""
    except OSError:
        why = f"; no machine is known by the name {host} (MASTER_ADDR)"
    print(f"waiting for the other ranks{where}{why}", file=sys.stderr, flush=True)
