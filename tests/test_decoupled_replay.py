"""Players and trainers of SAC and DroQ learn what one process learns, and go on where they were."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick import quick
from ranks import run_ranks
from test_resume import assert_equal
from toy_agents import Loop

from fastrl import SAC, DroQ
from fastrl.agents.running import make_player, make_trainer
from fastrl.config.command import Command
from fastrl.config.sac import SACConfig
from fastrl.processes.devices import make_devices
from fastrl.runs.checkpoint import load_checkpoint

NUM_UPDATES = 14
KINDS: dict[str, type[SAC]] = {"sac": SAC, "droq": DroQ}
SETTINGS: dict[str, Any] = {
    "env_id": "toy_agents:BoxWalk",
    "num_envs": 4,
    "learning_starts": 20,
    "replay_ratio": 0.5,
    "per_rank_batch_size": 16,
    "hidden_sizes": (8, 8),
    "buffer_size": 400,
    "total_timesteps": 400,
    "log_every": 40,
    "eval_episodes": 0,
    "accelerator": "cpu",
    "num_threads": 1,
    "engine": "eager",
}


def config_of(name: str, **settings: Any) -> Any:
    return KINDS[name].config_class(**{**SETTINGS, **settings})


def learned_by(agent: Any) -> dict[str, np.ndarray]:
    """Returns all that gradient steps change."""
    parts = {
        "policy": agent.actor_optimizer.flat,
        "critics": agent.critic_optimizer.flat,
        "targets": agent.target.flat,
        "alpha": agent.temperature.log_alpha.detach(),
        "critic_metrics": agent.critic_step.sums,
        "actor_metrics": agent.actor_step.sums,
    }
    return {part: tensor.numpy() for part, tensor in parts.items()}


def play_or_train(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Trains for some updates; what this process has then."""
    config = config_of(name, decoupled=True, **settings)
    devices = make_devices(config)
    if not devices.is_player:
        trainer = make_trainer(KINDS[name], config, devices)
        assert trainer.serve() == 7
        agent = trainer.agent
        steps = agent.num_env_steps, agent.num_gradient_steps
        obs = agent.replay.state_dict()["obs"].numpy()
        return {"learned": learned_by(agent), "obs": obs, "steps": steps}
    loop = Loop(make_player(KINDS[name], config, devices))
    metrics = loop.run(NUM_UPDATES)
    loop.agent.finish_pending()
    state = {} if devices.global_rank else loop.agent.state_dict()
    loop.agent.shut_down_trainers(7)
    actor = loop.agent.agent.actor_optimizer.flat.numpy()
    return {"state": _arrays(state), "metrics": metrics, "actor": actor}


def _arrays(value: Any) -> Any:
    """Returns a state as it may be handed to another process."""
    if isinstance(value, dict):
        return {name: _arrays(item) for name, item in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tensors(item) for name, item in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


@functools.cache
def decoupled(name: str, players: int, trainers: int, **settings: Any) -> list[dict[str, Any]]:
    parts = {"num_players": players, "num_trainers": trainers, **settings}
    return run_ranks(players + trainers, play_or_train, name, parts)


@pytest.mark.parametrize("name", quick(KINDS, "sac"))
def test_one_player_and_one_trainer_learn_to_the_bit_what_one_process_learns(name):
    config = config_of(name)
    one = Loop(KINDS[name](config.env_id, config))
    metrics = one.run(NUM_UPDATES)
    player, _ = decoupled(name, 1, 1)
    assert one.agent.num_gradient_steps > 0
    states = player["state"], _arrays(one.agent.state_dict())
    actual, expected = ({**_tensors(state), "config": None} for state in states)
    assert_equal(actual, expected)
    logged = [{k: x for k, x in row.items() if k != "Info/policy_lag"} for row in player["metrics"]]
    assert logged == metrics
    assert sum(map(bool, metrics)) > 0


@pytest.mark.parametrize("name", quick(KINDS, "sac"))
@pytest.mark.parametrize(("players", "trainers"), quick([(1, 2), (2, 1), (2, 2)], (2, 2)))
def test_players_have_the_actor_that_all_trainers_have(name, players, trainers):
    processes = decoupled(name, players, trainers)
    trained = processes[players:]
    for trainer in trained:
        for part, values in trained[0]["learned"].items():
            np.testing.assert_array_equal(trainer["learned"][part], values, err_msg=part)
        np.testing.assert_array_equal(trainer["obs"], trained[0]["obs"])
    for player in processes[:players]:
        np.testing.assert_array_equal(player["actor"], trained[0]["learned"]["policy"])


def test_trainers_store_the_steps_of_all_players_and_count_them_once():
    *_, trainer = decoupled("sac", 2, 2)
    num_env_steps = NUM_UPDATES * 2 * 4
    assert trainer["steps"] == (num_env_steps, (num_env_steps - 20) // 2)
    rows = trainer["obs"][: NUM_UPDATES + 1]
    assert rows.shape[1] == 8
    assert len(np.unique(rows.reshape(len(rows), 8, -1)[..., 0], axis=1).T) == 8


def test_two_trainers_learn_from_different_minibatches():
    # As much as one trainer learns from both minibatches: another gradient than from either.
    one, two = decoupled("sac", 1, 1), decoupled("sac", 1, 2)
    assert not np.array_equal(one[0]["actor"], two[0]["actor"])


def test_overlap_acts_with_the_actor_of_one_update_before():
    player, _ = decoupled("sac", 1, 1, overlap=True, log_every=4)
    lags = [row.get("Info/policy_lag") for row in player["metrics"]]
    assert lags[:4] == [None, 0, 1, 1]
    strict, _ = decoupled("sac", 1, 1)
    assert not np.array_equal(player["actor"], strict["actor"])


def run_to(log_dir: Path, num_steps: int, resume: Path | None) -> Path | None:
    parts = {"decoupled": True, "num_players": 2, "num_trainers": 2, "eval_episodes": 0}
    config = config_of("sac", total_timesteps=num_steps, log_dir=str(log_dir), **parts)
    assert SAC.run(Command(config=config, resume=resume and str(resume))) == 0
    return next(log_dir.rglob("last.pt"))


@pytest.mark.slow
def test_resumed_run_is_bit_identical(tmp_path):
    num_steps = 8 * 16
    whole = run_ranks(4, run_to, tmp_path / "whole", num_steps, None)[0]
    half = run_ranks(4, run_to, tmp_path / "halves", num_steps // 2, None)[0]
    halves = run_ranks(4, run_to, tmp_path / "halves", num_steps, half.parent.parent)[0]
    first, second = load_checkpoint(whole), load_checkpoint(halves)
    assert first["agent"]["num_gradient_steps"] == (num_steps - 20) // 2
    for state in (first, second):
        del state["agent"]["config"]
    assert_equal(second["agent"], first["agent"])
    assert_equal(second["ranks"], first["ranks"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"buffer_size": 15, "num_players": 2}, "holds fewer than 2 steps of 8 environments"),
        ({"num_trainers": 2, "devices": 2}, "are 3 processes, not devices=2"),
        ({"decoupled": False, "overlap": True}, "overlap has no effect without decoupled"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SACConfig(**{"decoupled": True, **settings})


def test_more_trainers_than_environments_are_fine():
    assert SACConfig(decoupled=True, num_envs=1, num_trainers=3).num_rollouts == 1
