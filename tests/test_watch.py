"""A rank that raises, dies or hangs ends all ranks within ten seconds, with one line naming it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from ranks import end_ranks_early, run_ranks
from toy_envs import EndlessEnv

from fastrl.agents.running import run_decoupled
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.command import Command
from fastrl.config.ppo import PPOConfig
from fastrl.ppo import PPO
from fastrl.processes import heartbeat
from fastrl.processes.devices import make_devices
from fastrl.processes.network import Lines
from fastrl.runs.checkpoint import Checkpoints, load_checkpoint
from fastrl.training import trainer
from fastrl.training.trainer import AgentTrainer


def slow(*values: Any) -> Any:
    """Returns parameters of a case that is like another which the quick tests have."""
    return pytest.param(*values, marks=pytest.mark.slow)


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
        slow(3, 1, "raise", "error: rank 1: a mistake\n", 2),
        slow(2, 0, "raise", "error: rank 0: a mistake\n", 2),
        (2, 0, "all raise", "error: a mistake\n", 2),
        slow(3, 2, "crash", "error: rank 2: RuntimeError: a bug\n", 1),
        (3, 1, "die", "error: rank 1: ended unexpectedly: was it killed?\n", 1),
        slow(2, 0, "die", "error: rank 0 ended unexpectedly: was it killed?\n", 1),
        slow(2, 1, "hang", "error: rank 1 hangs: no progress for 2 seconds", 1),
        (2, 0, "hang", "error: rank 0 hangs: no progress for 2 seconds", 1),
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


class Failing(PPO):
    """Fails on one rank, by default of a run that is well under way."""

    way, num_calls, failing_call = "", 0, 30

    def begin_rollout(self, buffer: RolloutBuffer) -> None:
        self.fail_in_time()  # on every rank that plays
        super().begin_rollout(buffer)

    def update_obs_normalizer(self, buffer: RolloutBuffer, *arguments: Any) -> None:
        self.fail_in_time()  # on every rank that learns
        super().update_obs_normalizer(buffer, *arguments)

    def fail_in_time(self) -> None:
        self.num_calls += 1
        if self.num_calls < self.failing_call or os.environ["LOCAL_RANK"] != os.environ["CULPRIT"]:
            return
        (Path(self.config.log_dir) / "now").touch()
        if self.way == "raise":
            raise ValueError("a mistake")
        if self.way == "hang":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)


def train_until_failure(
    folder: Path, culprit: int, way: str, settings: dict[str, Any], program: Any, call: int = 30
) -> None:
    os.environ["CULPRIT"] = str(culprit)
    Failing.way, Failing.failing_call = way, call
    small = {"num_envs": 2, "num_steps": 16, "per_rank_batch_size": 32, "update_epochs": 1}
    small |= {"accelerator": "cpu", "engine": "eager", "eval_episodes": 0, "checkpoint_every": 320}
    config = PPOConfig(total_timesteps=2**40, log_dir=str(folder), **small, **settings)
    timeout = 2.0 if way == "hang" else 60.0
    program(Failing, Command(config.replace(rank_timeout=timeout)))


def train_coupled(kind: Any, command: Command) -> None:
    with make_devices(command.config) as devices:
        AgentTrainer().fit(kind(command.config.env_id, command.config, devices=devices))


@pytest.mark.slow
def test_hang_in_the_first_rollout_ends_the_run(tmp_path):
    arguments = tmp_path, 1, "hang", {"devices": 2}, train_coupled, 1
    _, stderr, seconds = end_ranks_early(2, train_until_failure, *arguments)
    assert "error: rank 1 hangs: no progress for 2 seconds" in stderr
    assert seconds < 10


class HangingReset(EndlessEnv):
    """Hangs in its first reset, on one rank."""

    def reset(self, **options: Any) -> Any:
        if os.environ["LOCAL_RANK"] == os.environ["CULPRIT"]:
            Path(os.environ["NOW"]).touch()
            time.sleep(600)
        return super().reset(**options)


def begin(folder: Path, culprit: int, settings: dict[str, Any]) -> None:
    os.environ.update(CULPRIT=str(culprit), NOW=str(folder / "now"))
    trainer._SLOWNESS_OF_RESETS = 2  # ten would take long
    settings |= {"accelerator": "cpu", "log_dir": str(folder), "rank_timeout": 2.0}
    command = Command(PPOConfig(env_id=f"{__name__}:HangingReset", **settings))
    (run_decoupled if command.config.decoupled else train_coupled)(PPO, command)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "culprit", "name"),
    [({"devices": 2}, 1, "rank 1"), ({"decoupled": True}, 0, "player 0")],
)
def test_hang_in_the_first_reset_ends_the_run_after_a_multiple_of_the_limit(
    settings, culprit, name, tmp_path
):
    _, stderr, seconds = end_ranks_early(2, begin, tmp_path, culprit, settings)
    assert f"error: {name} hangs: no progress for 4 seconds" in stderr
    assert 3 < seconds < 12  # counted from a little before the reset


@pytest.mark.parametrize(
    ("num_players", "culprit", "way", "expected"),
    [
        slow(0, 1, "die", "error: rank 1: ended unexpectedly"),
        slow(2, 2, "die", "error: trainer 0: ended unexpectedly"),
        slow(2, 2, "raise", "error: trainer 0: a mistake"),
        slow(2, 1, "hang", "error: player 1 hangs: no progress for 2 seconds"),
        slow(1, 1, "hang", "error: trainer 0 hangs: no progress for 2 seconds"),
        (1, 0, "die", "error: player 0 ended unexpectedly"),
    ],
)
def test_failure_in_the_middle_of_training_leaves_a_whole_checkpoint(
    tmp_path, num_players, culprit, way, expected
):
    settings: dict[str, Any] = {"devices": 2}
    if num_players:
        settings = {"decoupled": True, "num_players": num_players, "devices": num_players + 1}
    program = run_decoupled if num_players else train_coupled
    arguments = tmp_path, culprit, way, settings, program
    codes, stderr, seconds = end_ranks_early(settings["devices"], train_until_failure, *arguments)
    status = 2 if way == "raise" else 1
    killed = {culprit} if way == "die" else set()
    assert codes == [-signal.SIGKILL if i in killed else status for i in range(len(codes))]
    assert stderr.startswith(expected)
    assert stderr.count("\n") == 1
    assert seconds < 10
    checkpoints = Checkpoints(next(tmp_path.glob("*/*/*/checkpoints")))
    assert load_checkpoint(checkpoints.newest())["counters"]["env_steps"] > 0


class Signalled(PPO):
    """Gets a signal on one rank, in the fifth update."""

    number, num_updates_seen = 0, 0

    def update_obs_normalizer(self, buffer: RolloutBuffer, *arguments: Any) -> None:
        self.num_updates_seen += 1
        if self.num_updates_seen == 5 and os.environ["LOCAL_RANK"] == os.environ["CULPRIT"]:
            signal.raise_signal(self.number)
        super().update_obs_normalizer(buffer, *arguments)


def train_until_signal(folder: Path, culprit: int, number: int, settings: dict[str, Any]) -> int:
    os.environ["CULPRIT"], Signalled.number = str(culprit), number
    small = {"num_envs": 2, "num_steps": 16, "per_rank_batch_size": 16, "update_epochs": 1}
    small |= {"accelerator": "cpu", "engine": "eager", "eval_episodes": 0}
    config = PPOConfig(total_timesteps=2**40, log_dir=str(folder), **small, **settings)
    if config.decoupled:
        return run_decoupled(Signalled, Command(config))
    with make_devices(config) as devices:
        agent: Any = Signalled("CartPole-v1", config, devices=devices)
        return AgentTrainer(on_interrupt="return").fit(agent).exit_status


COUPLED = {"devices": 2}
ONE_PLAYER = {"decoupled": True, "num_trainers": 2, "devices": 3}


@pytest.mark.parametrize(
    ("settings", "culprit", "number"),
    [
        (COUPLED, 1, signal.SIGINT),
        slow(ONE_PLAYER, 1, signal.SIGINT),
        slow(ONE_PLAYER, 2, signal.SIGTERM),
        slow(ONE_PLAYER | {"overlap": True}, 2, signal.SIGINT),
    ],
)
def test_signal_to_any_rank_ends_the_run_in_order(settings, culprit, number, tmp_path):
    num_ranks = settings["devices"]
    arguments = tmp_path, culprit, number, settings
    assert run_ranks(num_ranks, train_until_signal, *arguments) == [128 + number] * num_ranks
    (folder,) = tmp_path.glob("ppo/*/*")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["interrupted"] is True
    last = load_checkpoint(folder / "checkpoints" / "last.pt")
    assert last["counters"]["env_steps"] == summary["total_env_steps"] > 0


def lose_rank_0(num_ranks: int) -> str:
    """Ends rank 0 as a signal would, before the ranks have met; returns how that ended."""

    def leave(*_: Any) -> None:
        dist.destroy_process_group()
        raise KeyboardInterrupt

    heartbeat.Watch.open = leave
    try:
        with make_devices(PPOConfig(devices=num_ranks, accelerator="cpu")):
            return "they met"
    except (KeyboardInterrupt, OSError) as error:
        return f"{type(error).__name__}: {error}"


def test_a_rank_that_ends_while_they_meet_is_named_in_a_line():
    """It was a traceback of rank 1, beside the "interrupted" of rank 0."""
    first, second = run_ranks(2, lose_rank_0, 2)
    assert first == "KeyboardInterrupt: "
    assert second.startswith("OSError: a rank ended while they met: ")


def test_what_is_no_message_is_passed_over():
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as other:
        other.sendall(b'5\n[1]\nnull\n{"token": 1}\n')
        lines = Lines(server.accept()[0])
        with lines.socket:
            select.select([lines.socket], [], [], 10)
            assert lines.receive() == [{"token": 1}]


def finish(num_ranks: int) -> int:
    with make_devices(PPOConfig(devices=num_ranks, accelerator="cpu")) as devices:
        return devices.world_size


def test_ranks_that_are_done_leave_in_peace():
    assert run_ranks(2, finish, 2) == [2, 2]
