"""Launching the processes of a run: by fastrl itself, or by torchrun, `fabric run` or SLURM.

Without a launcher, this process is local rank 0 and runs its own command line again for each
further device, before it imports torch, so that all ranks are ready at about the same time. The
ranks differ in the environment variables that Lightning Fabric and torchrun share: LOCAL_RANK,
NODE_RANK and WORLD_SIZE. On several machines they meet at MASTER_ADDR and MASTER_PORT; on one, in
a file without a name, which no other user can open.

Imports no torch.
"""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import cache
from typing import Any, TextIO, cast

STORE = "FASTRL_STORE"
"""Environment variable with the path of the file in which the ranks of one machine meet."""
_LEAVE_SECONDS = 5.0  # grace period of a rank after rank 0 has ended
_OF_FABRIC = ("accelerator", "strategy", "precision")
_IN_FULL: dict[Any, str] = {
    "gpu": "cuda",
    "32": "32-true",
    "bf16": "bf16-mixed",
}  # short words of `fabric run`

_children: list[subprocess.Popen[bytes]] = []
_folders: list[tempfile.TemporaryDirectory[str]] = []
_met = threading.Event()
_done = threading.Event()


def children() -> list[subprocess.Popen[bytes]]:
    """Returns the ranks that this process started; local rank r is at index r - 1."""
    return _children


def read_number(*names: str, default: int | None = None) -> int:
    """Returns the value of the first of these environment variables that is set.

    Raises:
        ValueError: it is not a non-negative integer, or none is set and there is no default.
    """
    name = next((name for name in names if name in os.environ), None)
    if name is None and default is None:
        raise ValueError(f"the environment variable {names[0]} is missing; launchers set it")
    if name is None:
        return cast(int, default)
    if not os.environ[name].isdecimal():
        value = os.environ[name]
        raise ValueError(f"the environment variable {name} must be a whole number, not {value!r}")
    return int(os.environ[name])


def local_rank() -> int:
    """Returns the rank of this process within its machine."""
    return read_number("LOCAL_RANK", "SLURM_LOCALID", default=0)


def node_rank() -> int:
    """Returns the rank of this machine within the run."""
    return read_number("NODE_RANK", "GROUP_RANK", "SLURM_NODEID", default=0)


def launched_settings() -> dict[str, Any]:
    """Returns the settings that a launcher decided, by name; {} without one.

    They are `devices` and `num_nodes`, and what `fabric run` was given for Fabric.
    """
    sizes, settings = launched_sizes(), {}
    has_ranks = sizes.get("devices", 1) * sizes.get("num_nodes", 1) > 1
    for name in _OF_FABRIC if os.environ.get("LT_CLI_USED") == "1" else ():
        value = os.environ.get(f"LT_{name.upper()}", "auto")
        if value == "auto" or (value == "ddp" and has_ranks):  # which is how several ranks learn
            continue
        settings[name] = spelled_out(value)
    return sizes | settings


def spelled_out(value: Any) -> Any:
    """Returns the full name of what Fabric also has a short word for."""
    return _IN_FULL.get(value, value)


def take_over_from_fabric(config: Any) -> None:
    """Removes what `fabric run` left in the environment, which Fabric would read once more.

    Raises:
        ValueError: a setting in `config` is not what `fabric run` was told.
    """
    settings = launched_settings()
    for name in set(_OF_FABRIC) & settings.keys():
        given = getattr(config, name)
        if spelled_out(given) != settings[name]:
            raise ValueError(f"{name} is {given}, but fabric run was told {settings[name]}")
    for name in [name for name in os.environ if name.startswith("LT_")]:
        del os.environ[name]


def launched_sizes() -> dict[str, int]:
    """Returns `devices` and `num_nodes` as a launcher started them; {} without one."""
    found = os.environ
    if "TORCHELASTIC_RUN_ID" in found:
        devices, ranks = read_number("LOCAL_WORLD_SIZE"), read_number("WORLD_SIZE")
        return {"devices": devices, "num_nodes": ranks // max(devices, 1)}
    is_step = "SLURM_PROCID" in found and found.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if is_step and read_number("SLURM_NTASKS", default=1) > 1:
        if "SLURM_NTASKS_PER_NODE" not in found:
            raise ValueError("give srun --ntasks-per-node, the number of devices of a machine")
        nodes = read_number("SLURM_NNODES", default=1)
        return {"devices": read_number("SLURM_NTASKS_PER_NODE"), "num_nodes": nodes}
    return {}


def start_ranks(devices: int, num_nodes: int) -> None:
    """Starts the other ranks of this machine, unless a launcher started them.

    Args:
        devices: number of ranks of this machine.
        num_nodes: number of machines. On each the user runs the same command, with NODE_RANK and
            the address of the first machine set.

    Raises:
        ValueError: a launcher started another number of ranks, or no address is set.
    """
    ranks = devices * num_nodes
    if ranks == 1 and (_children or "FASTRL_PARENT" in os.environ):
        return  # a script may train single-rank agents after a run with several ranks
    launched = launched_sizes()
    if "LOCAL_RANK" in os.environ or launched:
        started = read_number("WORLD_SIZE", "SLURM_NTASKS", default=1)
        if started != ranks:
            why = "" if launched else "LOCAL_RANK is set, as launchers do: "
            raise ValueError(
                f"{why}{started} processes were started, but devices={devices} x "
                f"num_nodes={num_nodes} makes {ranks}"
            )
        if ranks > 1:
            _check_place(devices, num_nodes)
        _die_with_parent()
        return
    if ranks == 1:
        return
    if num_nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
        raise ValueError(
            f"num_nodes={num_nodes} needs MASTER_ADDR, MASTER_PORT and NODE_RANK in the "
            "environment of each machine, or a launcher such as torchrun that sets them"
        )
    if num_nodes > 1:
        _check_place(devices, num_nodes)
        read_port()
        if not os.environ["MASTER_ADDR"]:
            raise ValueError("the environment variable MASTER_ADDR is empty; it names a machine")
    if hasattr(sys, "ps1") or sys.argv[0] in ("", "-"):
        raise ValueError(
            f"devices={devices} runs the program again for each device: start it as a script or "
            "module, not from an interactive prompt or the standard input"
        )
    shared: tuple[int, ...] = ()
    if num_nodes == 1:  # another program may have left addresses and ranks in the environment
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)
        os.environ["NODE_RANK"] = "0"
        os.environ[STORE], shared = _make_store()
    os.environ.update(LOCAL_RANK="0", LOCAL_WORLD_SIZE=str(devices), WORLD_SIZE=str(ranks))
    command = [sys.executable, *sys.orig_argv[1:]]
    for rank in range(1, devices):
        own = {**os.environ, "LOCAL_RANK": str(rank), "FASTRL_PARENT": str(os.getpid())}
        child = subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, pass_fds=shared)
        _children.append(child)
    atexit.register(_end_ranks_at_exit)
    if _children:
        threading.Thread(target=_watch_start, name="fastrl-start", daemon=True).start()


def _check_place(devices: int, num_nodes: int) -> None:
    """Raises ValueError if such a run has no rank here: the others would wait for one for ever.

    Args:
        devices: number of ranks of this machine.
        num_nodes: number of machines.
    """
    for names, rank, count in (
        ("NODE_RANK, GROUP_RANK or SLURM_NODEID", node_rank(), num_nodes),
        ("LOCAL_RANK or SLURM_LOCALID", local_rank(), devices),
    ):
        if rank >= count:
            raise ValueError(
                f"the environment variable {names} must be a whole number below {count}, not {rank}"
            )


def read_port() -> int:
    """Returns MASTER_PORT; raises ValueError if no rank can listen there."""
    port = read_number("MASTER_PORT")
    if not 0 < port < 2**16:
        raise ValueError(f"the environment variable MASTER_PORT must be 1 to 65535, not {port}")
    return port


def _make_store() -> tuple[str, tuple[int, ...]]:
    """Makes the file in which the ranks of this machine meet.

    Returns:
        Its path, and the file descriptors that a rank must inherit to open it.
    """
    if sys.platform.startswith("linux"):
        number = os.memfd_create("fastrl-store")  # freed with the last rank, however it ends
        return f"/proc/self/fd/{number}", (number,)
    folder = tempfile.TemporaryDirectory(prefix="fastrl-")  # removed with this process
    _folders.append(folder)
    return os.path.join(folder.name, "store"), ()


def ranks_have_met() -> None:
    """Ends the supervision of the start: from now on heartbeats detect failures."""
    _met.set()


def ranks_are_done() -> None:
    """Allows the ranks a grace period in which to exit by themselves."""
    _done.set()


def end_ranks() -> None:
    """Kills the ranks that this process started."""
    for child in _children:
        with suppress(OSError):
            child.kill()


def _end_ranks_at_exit() -> None:
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # already exiting
    end = time.monotonic() + _LEAVE_SECONDS
    for child in _children if _done.is_set() else []:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, end - time.monotonic()))
    end_ranks()


def _watch_start() -> None:
    """Ends this process if a rank that it started ends before all ranks are connected."""
    while not _met.wait(0.2):
        for rank, child in enumerate(_children, 1):
            code = child.poll()
            if code is not None and not _met.is_set():
                if code == 130:
                    print("interrupted", file=sys.stderr, flush=True)  # this process was, too
                if code <= 0:
                    end = f"was killed by signal {-code}" if code else "ended before it was reached"
                    print(f"error: rank {rank} {end}", file=sys.stderr, flush=True)
                end_ranks()  # a rank that failed has printed why
                os._exit(code if code > 0 else 1)


def stop_dying_with_parent() -> None:
    """Keeps this rank alive if its parent ends: from now on heartbeats tell it about that."""
    if _is_ours():
        ask_for_death_signal(0)


def exit_if_frozen(seconds: float) -> None:
    """Ends this rank after this time, even if it can run no Python, unless called again."""
    if _is_ours():
        faulthandler.dump_traceback_later(seconds, exit=True, file=_nowhere())


def end_parent() -> None:
    """Kills the process that started this rank."""
    if _is_ours() and os.getppid() == int(os.environ["FASTRL_PARENT"]):
        with suppress(OSError):
            os.kill(os.getppid(), signal.SIGKILL)


def _is_ours() -> bool:
    """Returns whether another rank started this process."""
    return "FASTRL_PARENT" in os.environ and local_rank() > 0


def _die_with_parent() -> None:
    """Makes Linux kill this rank when the process that started it ends."""
    if _is_ours():
        ask_for_death_signal(signal.SIGKILL)
        if os.getppid() != int(os.environ["FASTRL_PARENT"]):  # it ended before the call
            os._exit(1)


def ask_for_death_signal(number: int) -> None:
    """Asks Linux to send a signal to this process when its parent ends; nothing elsewhere."""
    set_death_signal = 1
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(set_death_signal, number)


@cache
def _nowhere() -> TextIO:
    return open(os.devnull, "w")
