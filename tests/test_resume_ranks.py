"""A run goes on with another number of ranks, and learns what it would have learned with fewer."""

from __future__ import annotations

import functools
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from ranks import run_ranks
from test_ranks import LEARNER, SETTINGS
from toy_agents import make_agent_of, tensors_of

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.ppo import PPOConfig
from fastrl.config.resume import resumed
from fastrl.config.sac import SACConfig
from fastrl.ppo import PPO
from fastrl.run.checkpoint import load_checkpoint
from fastrl.run.devices import Devices, make_devices
from fastrl.run.folder import read_config
from fastrl.state import Counters, is_whole, share_of_rank
from fastrl.trainer import AgentTrainer

NUM_ENVS, BATCH, NUM_STEPS = 12, 96, 16  # over all ranks; steps of a rollout
UPDATES_BEFORE, UPDATES_AFTER = 2, 2


class SameNoisePPO(PPO):
    """Draws the noise of all environments from a stream of its own, and takes its columns."""

    num_rollouts = 0

    def begin_rollout(self, buffer: RolloutBuffer) -> None:
        ranks, rank = self.devices.world_size, self.devices.global_rank
        everyone = torch.empty(NUM_STEPS, NUM_ENVS, buffer.noise.shape[-1])
        self.num_rollouts += 1
        self.policy.head.draw_noise(everyone, torch.Generator().manual_seed(self.num_rollouts))
        assert buffer.num_envs * ranks == NUM_ENVS
        buffer.noise.copy_(everyone[:, rank * buffer.num_envs :][:, : buffer.num_envs])


def seen(agent: Any, folder: Path) -> dict[str, Any]:
    learned = {name: x.numpy() for name, x in tensors_of(agent).items() if name.startswith(LEARNER)}
    rate = float(agent.optimizer.learning_rate)
    return {"learned": learned, "learning_rate": rate, "folder": folder}


def begin(num_ranks: int, log_dir: Path) -> dict[str, Any]:
    sizes = {"num_envs": NUM_ENVS // num_ranks, "per_rank_batch_size": BATCH // num_ranks}
    parts = {"devices": num_ranks, "share_data": num_ranks > 1, "num_steps": NUM_STEPS}
    length = {"total_timesteps": NUM_ENVS * NUM_STEPS * UPDATES_BEFORE, "log_dir": str(log_dir)}
    agent = make_agent_of(SameNoisePPO, "discrete", **SETTINGS, **sizes, **parts, **length)
    return seen(agent, AgentTrainer().fit(agent).folder)


def go_on(num_ranks: int, folder: Path) -> dict[str, Any]:
    settings = {k: x for k, x in read_config(folder / "config.yaml").items() if k != "algo"}
    steps = NUM_ENVS * NUM_STEPS * (UPDATES_BEFORE + UPDATES_AFTER)
    changes = {"devices": num_ranks, "total_timesteps": steps}
    config = resumed(PPOConfig.from_dict(settings), changes, str(folder))
    agent = SameNoisePPO(config.env_id, config, devices=make_devices(config))
    result = AgentTrainer(resume=folder).fit(agent)
    return {**seen(agent, folder), "summary": result.summary}


def best_of_run(log_dir: Path) -> Path:
    steps = 2 * 4 * NUM_STEPS  # of an update
    settings = {"num_envs": 4, "num_steps": NUM_STEPS, "total_timesteps": 2 * steps}
    tests = {"eval_every": steps, "eval_episodes": 1, "checkpoint_every": 0}
    parts = {"devices": 2, "log_dir": str(log_dir)}
    agent = make_agent_of(PPO, "discrete", **settings, **tests, **parts)
    return AgentTrainer().fit(agent).folder / "checkpoints" / "best.pt"


def test_best_checkpoint_of_a_periodic_test_has_the_state_of_every_rank(tmp_path):
    ranks = load_checkpoint(run_ranks(2, best_of_run, tmp_path)[0])["ranks"]
    noise = [rank["agent"]["noise_generator"] for rank in ranks]
    assert len(noise) == 2
    assert not torch.equal(*noise)


class SignalledPPO(PPO):
    """Receives a signal in its first greedy test."""

    def predict(self, obs: Any, deterministic: bool = True) -> np.ndarray:
        signal.raise_signal(signal.SIGTERM)
        return super().predict(obs, deterministic)


def status_of_run(log_dir: Path) -> int:
    settings = {"num_steps": NUM_STEPS, "total_timesteps": 8 * NUM_STEPS, "eval_episodes": 1}
    parts = {"devices": 2, "log_dir": str(log_dir)}
    agent = make_agent_of(SignalledPPO, "discrete", **settings, **parts)
    return AgentTrainer().fit(agent).exit_status


def test_signal_to_rank_0_in_the_final_test_is_told(tmp_path):
    assert run_ranks(2, status_of_run, tmp_path)[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("saved", "num_ranks", "expected"),
    [
        ({}, 1, True),
        ({"num_ranks": 2, "ranks": [{}, {}]}, 2, True),
        ({"num_ranks": 2, "ranks": [{}, {}]}, 1, False),
        ({"num_ranks": 2}, 2, False),
    ],
)
def test_checkpoint_is_whole_if_it_has_what_each_rank_had(saved, num_ranks, expected):
    devices = Devices(torch.device("cpu"))
    devices.world_size = num_ranks
    assert is_whole(saved, devices) == expected


def test_run_with_replay_buffers_refuses_another_number_of_ranks():
    with pytest.raises(ValueError, match="on each of its 2 ranks, so it cannot go on with 1"):
        resumed(SACConfig(devices=2), {"devices": 1}, "runs/x")


def test_rank_whose_replay_was_not_saved_does_not_get_that_of_another():
    agent = cast(Any, SimpleNamespace(devices=Devices(torch.device("cpu"))))
    saved = {"num_ranks": 2, "ranks": [{}, {}], "agent": {"replay": {}}}
    with pytest.raises(ValueError, match="no replay buffer of its own for each of 1 ranks"):
        share_of_rank(saved, agent, restart=1)


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory) -> Any:
    folder = run_ranks(2, begin, 2, tmp_path_factory.mktemp("ranks"))[0]["folder"]

    @functools.cache
    def gone_on_with(num_ranks: int) -> list[dict[str, Any]]:
        copy = shutil.copytree(folder, tmp_path_factory.mktemp("resumed") / folder.name)
        return run_ranks(num_ranks, go_on, num_ranks, copy)

    return gone_on_with


@pytest.mark.parametrize("num_ranks", [3, 4])
def test_ranks_of_another_number_learn_what_one_rank_would_learn(gone_on, num_ranks):
    (one,), ranks = gone_on(1), gone_on(num_ranks)
    for rank in ranks:
        assert rank["learning_rate"] == one["learning_rate"]
        for name, expected in one["learned"].items():
            np.testing.assert_allclose(rank["learned"][name], expected, 2e-3, 2e-5, err_msg=name)


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_counters_go_on_whatever_the_number_of_ranks(gone_on, num_ranks):
    summary = gone_on(num_ranks)[0]["summary"]
    steps = NUM_ENVS * NUM_STEPS * (UPDATES_BEFORE + UPDATES_AFTER)
    assert summary["total_env_steps"] == steps
    assert summary["num_ranks"] == num_ranks
    assert summary["restarts"] == 1
    assert summary["episodes"] > Counters().episodes
