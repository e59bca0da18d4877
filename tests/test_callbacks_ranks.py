"""Callbacks on several ranks: which rank calls what, and what they agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_callbacks import Diary, Raises, Stops
from quick import quick
from ranks import end_ranks_early, run_ranks
from test_callbacks import SMALL, run_folder_in

from fastrl.agents.running import make_player, make_trainer
from fastrl.config.ppo import PPOConfig
from fastrl.ppo import PPO
from fastrl.processes.devices import make_devices
from fastrl.runs.checkpoint import load_checkpoint
from fastrl.training.trainer import AgentTrainer

TWO = {**SMALL, "env_id": "CartPole-v1", "devices": 2, "total_timesteps": 128 * 4}


def train(folder: Path, callbacks: list[Any], resume: Path | None = None, **more: Any) -> Any:
    """Trains on this rank; returns what the diaries among the callbacks hold."""
    config = PPOConfig.from_dict({**TWO, "log_dir": str(folder), **more})
    with make_devices(config) as devices:
        agent = PPO(config.env_id, config, devices=devices)
        result = AgentTrainer(callbacks=callbacks, resume=resume).fit(agent)
    diaries = [(x.count, x.calls) for x in callbacks if isinstance(x, Diary)]
    return diaries, result.summary.get("stop_reason"), agent.optimizer.flat.numpy()


def test_tests_and_checkpoints_are_told_to_rank_0_and_all_else_to_every_rank(tmp_path):
    settings = {"eval_every": 256, "eval_episodes": 2}
    ranks = run_ranks(2, train_with_diary, tmp_path, settings)
    (((count, first),), _, weights), (((_, second),), _, others) = ranks
    assert count == 4 and np.array_equal(weights, others)
    common = ("start", "rollout", "update", "end")
    assert second == [call for call in first if call[0] in common]
    assert {call[0] for call in first} == {*common, "evaluation", "checkpoint"}
    assert [steps for name, steps in second if name == "update"] == [128, 256, 384, 512]


def train_with_diary(folder: Path, settings: Any, resume: Path | None = None) -> Any:
    return train(folder, [Diary()], resume, **settings)


@pytest.mark.slow
def test_state_of_rank_0_goes_to_all_ranks_of_a_resumed_run(tmp_path):
    run_ranks(2, train_with_diary, tmp_path, {})
    folder = run_folder_in(tmp_path)
    ranks = run_ranks(2, train_with_diary, tmp_path, {"total_timesteps": 128 * 5}, folder)
    assert [diaries[0][0] for diaries, _, _ in ranks] == [5, 5]


def stop_on_one(folder: Path, rank: int) -> Any:
    return train(folder, [Stops(rank, at=2), Diary()])


@pytest.mark.parametrize("rank", quick([0, 1], 1))
def test_a_stop_on_one_rank_ends_all_after_the_same_update(tmp_path, rank):
    ranks = run_ranks(2, stop_on_one, tmp_path, rank)
    assert [diaries[0][0] for diaries, _, _ in ranks] == [2, 2]
    assert ranks[0][1] == ("enough" if rank == 0 else "a callback of another rank")
    last = load_checkpoint(run_folder_in(tmp_path) / "checkpoints" / "last.pt")
    assert last["counters"]["env_steps"] == 256


def fail_on_one(folder: Path, rank: int, hook: str) -> None:
    (folder / "now").touch()
    train(folder, [Raises(hook, at=2, rank=rank)])


@pytest.mark.parametrize(
    ("rank", "hook"),
    [(0, "on_rollout_end"), pytest.param(1, "on_update_end", marks=pytest.mark.slow)],
)
def test_an_error_on_one_rank_saves_the_run_and_ends_all_with_one_line(tmp_path, rank, hook):
    codes, stderr, _ = end_ranks_early(2, fail_on_one, tmp_path, rank, hook)
    assert all(codes)
    words = f"error: rank {rank}: Raises.{hook} raised ZeroDivisionError: of mine ("
    (line,) = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert line.startswith(words) and "own_callbacks.py:" in line
    (path,) = tmp_path.glob("*/*/*/checkpoints/last.pt")
    last = load_checkpoint(path)
    assert last["counters"]["env_steps"] == 256 and len(last["ranks"]) == 2


def other_callbacks(folder: Path) -> Any:
    config = PPOConfig.from_dict({**TWO, "log_dir": str(folder)})
    agent = PPO(config.env_id, config)
    callbacks: list[Any] = [Diary()] if agent.devices.global_rank == 0 else [Stops()]
    try:
        AgentTrainer(callbacks=callbacks).fit(agent)
    except ValueError as error:
        return str(error)


def test_ranks_with_other_callbacks_are_refused(tmp_path):
    words = "all ranks must have the same callbacks, in the same order"
    assert run_ranks(2, other_callbacks, tmp_path) == [words, words]


def play_or_train(folder: Path) -> Any:
    parts = {"decoupled": True, "num_players": 2, "num_trainers": 1, "devices": 3}
    sizes = {"num_steps": 16, "per_rank_batch_size": 64, "eval_episodes": 1}
    settings = {**TWO, **parts, **sizes, "log_dir": str(folder)}
    config = PPOConfig.from_dict(settings)
    with make_devices(config) as devices:
        if not devices.is_player:
            return make_trainer(PPO, config, devices).serve()
        player, diary = make_player(PPO, config, devices), Diary()
        status = AgentTrainer(callbacks=[diary, Stops(rank=1, at=2)]).fit(player).exit_status
        player.shut_down_trainers(status)
        return diary.calls


@pytest.mark.slow
def test_players_of_a_decoupled_run_call_and_trainers_call_nothing(tmp_path):
    first, second, status = run_ranks(3, play_or_train, tmp_path)
    common = ("start", "rollout", "update", "end")
    assert second == [call for call in first if call[0] in common] and status == 0
    assert [call for call in second if call[0] == "update"] == [("update", 128), ("update", 256)]
    assert ("evaluation", 256) in first and ("checkpoint", "last.pt") in first
