"""A run goes on with another number of ranks, and learns what it would have learned with fewer."""

from __future__ import annotations

import functools
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks
from test_ranks import LEARNER, SETTINGS
from test_sac import make_agent as make_sac
from toy_agents import make_agent_of, tensors_of

from fastrl.buffers.replay import columns_of
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.ppo import PPOConfig
from fastrl.config.resume import resumed
from fastrl.config.sac import SACConfig
from fastrl.ppo import PPO
from fastrl.processes.devices import Devices, make_devices
from fastrl.runs.checkpoint import load_checkpoint
from fastrl.runs.folder import LABELS, read_config
from fastrl.sac import SAC
from fastrl.training.counters import Counters
from fastrl.training.resuming import is_whole
from fastrl.training.trainer import AgentTrainer

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
    written = read_config(folder / "config.yaml")
    settings = {name: x for name, x in written.items() if name not in LABELS}
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


@pytest.mark.slow
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
    return AgentTrainer(on_interrupt="return").fit(agent).exit_status


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


def test_ranks_share_out_a_replay_buffer_evenly():
    saved = SACConfig(devices=2, num_envs=6, buffer_size=100, per_rank_batch_size=9)
    config = resumed(saved, {"devices": 3}, "runs/x")
    sizes = config.num_envs, config.buffer_size, config.per_rank_batch_size
    assert sizes == (4, 66, 6)


def begin_sac(num_ranks: int, log_dir: Path) -> Path:
    sizes = {"num_envs": 4 // num_ranks, "per_rank_batch_size": 16 // num_ranks}
    parts = {"devices": num_ranks, "total_timesteps": 80, "log_dir": str(log_dir)}
    return AgentTrainer().fit(make_sac(**sizes, **parts)).folder


def go_on_with_sac(num_ranks: int, folder: Path, num_steps: int) -> Path:
    written = read_config(folder / "config.yaml")
    settings = {name: x for name, x in written.items() if name not in ("algo", "signature")}
    changes = {"devices": num_ranks, "total_timesteps": num_steps}
    config = resumed(SACConfig.from_dict(settings), changes, str(folder))
    agent = SAC(config.env_id, config, devices=make_devices(config))
    AgentTrainer(resume=folder).fit(agent)
    return folder


def replay_of(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Returns what all ranks stored, side by side, and the newest checkpoint."""
    state = load_checkpoint(folder / "checkpoints" / "last.pt")
    rings = [rank["agent"]["replay"] for rank in state.get("ranks", [])]
    return columns_of(rings or [state["agent"]["replay"]], slice(0, 4)), state


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_other_number_of_ranks_goes_on_from_the_same_replay(tmp_path, before, after):
    folder = run_ranks(before, begin_sac, before, tmp_path)[0]
    saved, first = replay_of(folder)
    run_ranks(after, go_on_with_sac, after, folder, 120)
    stored, second = replay_of(folder)
    num_rows = len(saved["rewards"]) - 1  # the last one was to come
    assert num_rows == 20
    for name in ("actions", "rewards", "obs"):
        assert torch.equal(stored[name][:num_rows], saved[name][:num_rows]), name
    assert stored["done"][num_rows - 1].all()  # episodes under way ended there
    assert len(stored["rewards"]) == num_rows + 1 + 10 + 1
    assert (first["num_ranks"], second["num_ranks"]) == (before, after)
    assert second["agent"]["num_env_steps"] == 120
    assert second["agent"]["num_gradient_steps"] == 50


def test_replay_of_fewer_environments_than_were_saved_is_refused():
    ring = {"valid": torch.zeros(3, 2, dtype=torch.bool)}
    with pytest.raises(ValueError, match="the saved replay has 4 environments, not 6"):
        columns_of([ring, ring], slice(3, 6))


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory) -> Any:
    folder = run_ranks(2, begin, 2, tmp_path_factory.mktemp("ranks"))[0]["folder"]

    @functools.cache
    def gone_on_with(num_ranks: int) -> list[dict[str, Any]]:
        copy = shutil.copytree(folder, tmp_path_factory.mktemp("resumed") / folder.name)
        return run_ranks(num_ranks, go_on, num_ranks, copy)

    return gone_on_with


@pytest.mark.parametrize("num_ranks", [3, pytest.param(4, marks=pytest.mark.slow)])
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
