"""Two hosts, in network namespaces of their own, train as one run and fail as one run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastrl.runs.checkpoint import Checkpoints, load_checkpoint

pytestmark = pytest.mark.slow
HOSTS = ("fastrl-a", "fastrl-b")
ADDRESS = "10.77.0.1"
PATIENCE_SECONDS = 240


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[tuple[str, ...]]:
    """Two hosts with one cable between them."""
    _remove_hosts()  # of a test that was killed
    try:
        for host in HOSTS:
            command("ip", "netns", "add", host)
        ends = [("name", "cable", "netns", HOSTS[0]), ("name", "cable", "netns", HOSTS[1])]
        command("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for number, host in enumerate(HOSTS, 1):
            command("ip", "-n", host, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            for device in ("cable", "lo"):
                command("ip", "-n", host, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        _remove_hosts()
        pytest.skip(f"network namespaces are not allowed here: {error}")
    yield HOSTS
    _remove_hosts()


def _remove_hosts() -> None:
    for host in HOSTS:
        with contextlib.suppress(OSError):  # where there is no such command
            for pid in pids_of(host):
                os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", host], capture_output=True)


def start(rank: int, log: Path, *words: str) -> subprocess.Popen[bytes]:
    """Starts the part of one host, as the page on many devices says."""
    launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launcher += ["--node-rank", str(rank), "--master-addr", ADDRESS, "--master-port", "29511"]
    program = ["-m", "fastrl.ppo", "--accelerator", "cpu", *words]
    with log.open("wb") as output:
        return subprocess.Popen(
            ["ip", "netns", "exec", HOSTS[rank], sys.executable, *launcher, *program],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )


def pids_of(host: str) -> list[int]:
    result = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True)
    return [int(word) for word in result.stdout.split()]


def wait_until(is_so, what: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < end, f"{what} did not come: {log.read_text()}"
        time.sleep(0.05)


@pytest.mark.parametrize("way", ["killed", "unplugged"])
def test_two_hosts_end_as_one_run_and_go_on_to_solve_cartpole(hosts, tmp_path, way):
    words = ["--env-id", "CartPole-v1", "--num-envs", "4", "--per-rank-batch-size", "128"]
    words += ["--log-dir", str(tmp_path / "runs"), "--eval-every", "0", "--checkpoint-every", "512"]
    logs = [tmp_path / host for host in hosts]
    first, second = (start(rank, log, *words) for rank, log in enumerate(logs))
    runs = tmp_path / "runs"
    wait_until(lambda: any(runs.glob("*/*/*/checkpoints/step_*")), "a checkpoint", logs[0])
    (run,) = runs.glob("*/*/*")

    start_of_end = time.monotonic()
    if way == "killed":
        for pid in pids_of(hosts[1]):
            os.kill(pid, signal.SIGKILL)
    else:
        command("ip", "-n", hosts[1], "link", "set", "cable", "down")
    wait_until(lambda: "error: rank 1" in logs[0].read_text(), "a word about rank 1", logs[0])
    assert time.monotonic() - start_of_end < 10
    for process in (first, second):
        assert process.wait(30) != 0
    assert not [pid for host in hosts for pid in pids_of(host)]  # no orphans
    steps = load_checkpoint(Checkpoints(run / "checkpoints").newest())["counters"]["env_steps"]
    assert 0 < steps < 100_000

    command("ip", "-n", hosts[1], "link", "set", "cable", "up")
    both = [start(rank, log, "--resume", str(run)) for rank, log in enumerate(logs)]
    for process, log in zip(both, logs, strict=True):
        assert process.wait(PATIENCE_SECONDS) == 0, log.read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["num_ranks"] == 2
    assert summary["restarts"] == 1
    assert summary["eval_return_mean"] == 500
