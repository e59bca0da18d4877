"""Ranks of one machine are reached by nobody else; strangers neither end a run nor read it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from quick import slow
from ranks import run_ranks

from fastrl.config.ppo import PPOConfig
from fastrl.processes import launch
from fastrl.processes.devices import make_devices
from fastrl.processes.heartbeat import Watch
from fastrl.processes.network import LOOPBACK, MOST_BYTES

LISTENS = "0A"


def listening_addresses() -> set[str]:
    """Returns the addresses that this process listens on, in hexadecimal as Linux shows them."""
    own = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            own.add(os.readlink(f"/proc/self/fd/{name}"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS and f"socket:[{fields[9]}]" in own:
                found.add(fields[1].split(":")[0])
    return found


def meet(store: str) -> set[str]:
    if store:  # as `start_ranks` has it, after which neither address counts
        os.environ |= {"FASTRL_STORE": store, "MASTER_ADDR": "10.9.9.9", "MASTER_PORT": "1"}
    os.environ["GLOO_SOCKET_IFNAME"] = "another"
    with make_devices(PPOConfig(devices=2, accelerator="cpu")):
        return listening_addresses()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux")
@pytest.mark.parametrize("way", ["in a file", "at an address"])
def test_ranks_of_one_machine_listen_on_loopback_alone(way, tmp_path):
    seen = run_ranks(2, meet, str(tmp_path / "store") if way == "in a file" else "")
    assert seen == [{"0100007F"}, {"0100007F"}]


class Child:
    """Stands for a rank that was started."""

    started: list[dict[str, Any]] = []  # noqa: RUF012  # of the test that looks at it

    def __init__(self, command: list[str], **how: Any) -> None:
        self.started.append({"command": command, **how})

    def poll(self) -> None:
        return None

    kill = poll


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What `start_ranks` starts, in an environment that other programs left behind."""
    left = {"MASTER_ADDR": "10.9.9.9", "MASTER_PORT": "0", "NODE_RANK": "3", "GROUP_RANK": "2"}
    monkeypatch.setattr(os, "environ", {**os.environ, **left})
    monkeypatch.setattr(launch.subprocess, "Popen", Child)
    monkeypatch.setattr(launch, "_children", [])
    monkeypatch.setattr(launch.threading, "Thread", lambda **how: Child([]))
    monkeypatch.setattr(Child, "start", lambda self: None, raising=False)
    monkeypatch.setattr(launch.atexit, "register", lambda function: None)
    Child.started = []
    yield Child.started


def test_addresses_that_others_left_do_not_count_on_one_machine(started):
    launch.start_ranks(3, 1)
    first, second = (rank["env"] for rank in started if "env" in rank)
    assert [first["LOCAL_RANK"], second["LOCAL_RANK"]] == ["1", "2"]
    assert first["NODE_RANK"] == second["NODE_RANK"] == "0"
    assert not {"MASTER_ADDR", "MASTER_PORT"} & (first.keys() | os.environ.keys())
    assert first["FASTRL_STORE"] == second["FASTRL_STORE"] == os.environ["FASTRL_STORE"]
    for number in started[0]["pass_fds"]:
        assert os.fstat(number).st_nlink == 0  # a file without a name
        os.close(number)


@pytest.fixture
def watch() -> Iterator[tuple[Watch, int, int]]:
    """Rank 0 of two, with its port and token."""
    watch = Watch(0, ["rank 0", "rank 1"], 0.0)
    port, token = watch.open(LOOPBACK)
    watch.join(LOOPBACK, port, token)
    yield watch, port, token
    watch.done()
    watch.wait_for_verdict(5)


def connect(port: int) -> socket.socket:
    return socket.create_connection((LOOPBACK, port), timeout=10)


def is_closed(connection: socket.socket) -> bool:
    with contextlib.suppress(ConnectionError):
        while connection.recv(4096):
            pass
    return True


STRANGE = {
    "garbage": b"GET / HTTP/1.1\r\n\r\n",
    "another token": b'{"rank": 1, "token": 1}\n',
    "a word for a token": b'{"rank": 1, "token": "x"}\n',
    "no token": b'{"rank": 1, "failed": "stop", "status": 1}\n',
    "a list for a rank": b'{"rank": [1], "token": null}\n',
    "deep": b"[" * 50_000 + b"\n",
    "a long number": b"9" * 50_000 + b"\n",
    "no end": b"x" * (4 * MOST_BYTES),
    "bytes that are no text": bytes(range(128, 256)) + b"\n",
}
QUICK_STRANGE = ("garbage", "another token", "no token", "deep", "no end")


@pytest.mark.parametrize(
    "data",
    [data if name in QUICK_STRANGE else slow(data) for name, data in STRANGE.items()],
    ids=STRANGE.keys(),
)
def test_a_stranger_is_shown_the_door_and_the_rank_let_in(watch, data):
    _, port, token = watch
    with connect(port) as stranger, connect(port) as rank:
        with contextlib.suppress(ConnectionError):
            stranger.sendall(data)
        assert is_closed(stranger)
        rank.sendall(json.dumps({"rank": 1, "token": token}).encode() + b"\n")
        assert b"beat" in rank.recv(4096)


def test_nobody_is_listened_to_once_all_ranks_are_there(watch):
    _, port, token = watch
    with connect(port) as silent, connect(port) as rank:
        rank.sendall(json.dumps({"rank": 1, "token": token}).encode() + b"\n")
        assert is_closed(silent)
        with pytest.raises(ConnectionError):
            connect(port).close()
        assert b"beat" in rank.recv(4096)


def test_a_crowd_of_silent_strangers_keeps_no_rank_out(watch):
    _, port, token = watch
    with contextlib.ExitStack() as crowd:
        for _ in range(100):
            crowd.enter_context(connect(port))
        rank = crowd.enter_context(connect(port))
        rank.sendall(json.dumps({"rank": 1, "token": token}).encode() + b"\n")
        assert b"beat" in rank.recv(4096)


def test_the_token_of_a_rank_that_is_there_lets_nobody_else_in(watch):
    _, port, token = watch
    hello = json.dumps({"rank": 1, "token": token}).encode() + b"\n"
    with connect(port) as other, connect(port) as rank:
        rank.sendall(hello)
        time.sleep(0.3)
        with contextlib.suppress(ConnectionError):
            other.sendall(hello)
        assert is_closed(other)
        assert b"beat" in rank.recv(4096)
