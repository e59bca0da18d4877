"""Runs of modules: resumed after any end, on several ranks; loaded, tested and exported."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import own_modules
import pytest
import torch
from own_modules import Reinforce, mlp
from quick import quick
from ranks import _context, run_ranks
from test_module import KINDS, SMALL, STATEFUL, fit, module_for, weights_of
from test_resume import assert_equal, last_state, metrics_of

import fastrl
from fastrl import AgentTrainer
from fastrl.collect.__main__ import main as collect
from fastrl.evaluate import main as evaluate
from fastrl.export import main as export
from fastrl.runs.folder import read_config

MAKERS = {
    "rollouts": "own_modules:make_reinforce",
    "minibatches": "own_modules:make_ppo",
    "replay": "own_modules:make_dqn",
}


# Resuming


def train_until_killed(kind: str, folder: Path, stop_at: int) -> None:
    module = module_for(kind, 2, checkpoint_every=64)
    step, calls = module.training_step, []

    def training_step(batch: Any) -> Any:
        calls.append(1)
        if len(calls) == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(batch)

    module.training_step = training_step  # pyright: ignore[reportAttributeAccessIssue]
    fit(module, STATEFUL, folder)


@pytest.mark.parametrize("kind", quick(KINDS, "replay"))
def test_a_run_that_was_killed_goes_on_to_the_bit(kind, tmp_path):
    straight = fit(module_for(kind, 2, checkpoint_every=64), STATEFUL, tmp_path / "a").folder
    stop_at = {"rollouts": 4, "minibatches": 30, "replay": 20}[kind]
    process = _context().Process(target=train_until_killed, args=(kind, tmp_path / "b", stop_at))
    process.start()
    process.join(40)
    assert process.exitcode == -signal.SIGKILL
    (killed,) = (tmp_path / "b").glob("*/*/*")
    fit(module_for(kind, 2, checkpoint_every=64), STATEFUL, tmp_path, resume=killed)
    assert_equal(last_state(killed), last_state(straight))
    assert metrics_of(killed) == metrics_of(straight)


def train_rank(kind: str, folder: Path, steps: int, resume: Path | None = None) -> Any:
    module = module_for(kind, 2, num_envs=2, devices=2)
    result = fit(module, STATEFUL, folder, resume=resume, max_steps=steps)
    return {name: x.numpy() for name, x in weights_of(module).items()}, str(result.folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_two_ranks_goes_on_to_the_bit(kind, tmp_path):
    straight = run_ranks(2, train_rank, kind, tmp_path / "a", 256)
    ((_, half), _) = run_ranks(2, train_rank, kind, tmp_path / "b", 128)
    resumed = run_ranks(2, train_rank, kind, tmp_path / "b", 256, Path(half))
    for (expected, _), (actual, _) in zip(straight, resumed, strict=True):
        for name, value in expected.items():
            assert np.array_equal(actual[name], value), name
    folders = Path(half), Path(straight[0][1])
    states = [last_state(folder) for folder in folders]
    for state in states:
        del state["counters"]["best_return"]  # the first half ended with a result
    assert_equal(*states)
    assert [row["Loss/loss"] for row in metrics_of(folders[0])] == [
        row["Loss/loss"] for row in metrics_of(folders[1])
    ]


# Loading


@pytest.fixture(params=quick(KINDS, "minibatches"))
def run(request: Any, tmp_path: Path) -> tuple[str, Any, Path]:
    module = module_for(request.param)
    return request.param, module, fit(module, "CartPole-v1", tmp_path).folder


def test_every_command_finds_a_module_that_is_named(run, capsys, tmp_path):
    kind, module, folder = run
    assert evaluate([str(folder), "--episodes", "3", "--agent", MAKERS[kind]]) == 0
    out = str(tmp_path / "policy.pt")
    assert export([str(folder), "--out", out, "--agent", MAKERS[kind]]) == 0
    rows = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    exported = torch.jit.load(out)(torch.from_numpy(rows)).numpy()
    assert (exported == module.predict(rows)).all()
    agent = fastrl.load(folder, agent=MAKERS[kind])
    assert (agent.predict(rows) == module.predict(rows)).all()
    assert capsys.readouterr().err == ""


def test_episodes_of_a_module_are_collected(tmp_path, capsys):
    pytest.importorskip("minari")
    folder = fit(module_for("rollouts"), "CartPole-v1", tmp_path).folder
    words = ["--episodes", "2", "--out", str(tmp_path / "data"), "--agent", MAKERS["rollouts"]]
    assert collect([str(folder), *words]) == 0
    assert "2 episodes" in capsys.readouterr().out


def test_a_restored_module_plays_as_the_one_that_learned(run):
    kind, module, folder = run
    fresh = module_for(kind, total_timesteps=10**6).restore(folder)
    assert_equal(weights_of(fresh), weights_of(module))
    rows = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    assert (fresh.predict(rows) == module.predict(rows)).all()
    results = [x.agent.evaluate(3, seed=5).returns.tolist() for x in (fresh, module)]
    assert results[0] == results[1]


def test_a_restored_module_trains_as_a_new_one(run, tmp_path):
    kind, _, folder = run
    restored = module_for(kind).restore(folder)
    result = fit(restored, "CartPole-v1", tmp_path / "more")
    assert result.summary["total_env_steps"] == 256


@pytest.mark.parametrize("kind", quick(KINDS, "rollouts"))
def test_a_module_is_not_restored_or_resumed_on_another_task_than_it_learned(kind, tmp_path):
    folder = fit(module_for(kind), limited(), tmp_path).folder
    assert read_config(folder / "config.yaml")["handed_over"] is True
    with pytest.raises(ValueError, match=r"environments of CartPole-v1 that were handed over; giv"):
        module_for(kind).restore(folder)
    assert module_for(kind).restore(folder, limited()).agent.evaluate(5).lengths.tolist() == 5 * [7]
    assert module_for(kind).restore(folder, "CartPole-v1").agent.evaluate(5).lengths.max() > 7
    with pytest.raises(ValueError, match=r"environments of CartPole-v1 that were handed over; giv"):
        fit(module_for(kind), "CartPole-v1", tmp_path, resume=folder, max_steps=512)
    more = fit(module_for(kind), limited(), tmp_path, resume=folder, max_steps=512)
    assert more.summary["total_env_steps"] == 512


def test_a_module_plays_environments_that_are_handed_over_without_the_settings_of_its_id(tmp_path):
    settings = {"env_kwargs": {"max_episode_steps": 6}}
    folder = fit(module_for("rollouts", **settings), "CartPole-v1", tmp_path).folder
    assert "handed_over" not in read_config(folder / "config.yaml")
    for env, length in ((None, 6), (limited(), 7)):
        restored = module_for("rollouts").restore(folder, env)
        assert restored.agent.evaluate(5).lengths.tolist() == 5 * [length]


def limited() -> Any:
    return gymnasium.make_vec("CartPole-v1", 4, max_episode_steps=7)


REFUSED = [
    ([], "whose network its own code makes: --agent module:callable names what returns"),
    (["--agent", "own_modules:Reinforce"], "own_modules:Reinforce() raised TypeError:"),
    (["--agent", "own_modules:nothing"], "own_modules has no callable 'nothing'"),
    (["--agent", "own_modules"], "--agent must be module:callable, not 'own_modules'"),
    (["--agent", "no_such_module:make"], "importing no_such_module raised ModuleNotFoundError"),
    (["--agent", "own_modules:make_ppo"], "it is of the module own_modules:Reinforce, not of"),
    (["--agent", "own_modules:make_dqn"], "unknown setting 'gae_lambda'"),
    (["--agent", "own_modules:make_wide"], "does not fit"),
    (["--agent", "own_callbacks:Diary"], "own_callbacks:Diary() returned Diary, not a Lightning"),
    (
        ["--agent", MAKERS["rollouts"], "--network", "own_networks:plain"],
        "network has no effect: own_modules:make_reinforce makes the module's network",
    ),
]


def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path, capsys):
    folder = fit(module_for("rollouts"), "CartPole-v1", tmp_path).folder
    capsys.readouterr()
    for words, told in REFUSED:
        for command in (evaluate, export):
            assert command([str(folder), *words]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert told in line, line
    with pytest.raises(ValueError, match="module:callable names what returns"):
        fastrl.load(folder)
    ppo = fastrl.PPO("CartPole-v1", eval_episodes=0, accelerator="cpu", num_envs=2)
    ppo.save(tmp_path / "ppo.pt")
    with pytest.raises(ValueError, match="is of 'ppo', not of a LightningAgentModule"):
        module_for("rollouts").restore(tmp_path / "ppo.pt")


def test_a_network_for_a_module_that_has_its_own_is_refused():
    module = Reinforce(mlp(4, 2), **SMALL)
    module.given["network"] = "own_networks:plain"
    with pytest.raises(ValueError, match="unknown setting 'network'"):
        AgentTrainer().fit(module, "CartPole-v1")


def test_a_task_of_a_module_that_only_a_file_of_somebody_else_names_is_not_imported(
    tmp_path, monkeypatch
):
    folder = fit(module_for("rollouts", 2), STATEFUL, tmp_path).folder
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))  # without the key that signed the run
    with pytest.raises(ValueError, match="wants to run toy_envs:StatefulEnv"):
        module_for("rollouts", 2).restore(folder)
    module_for("rollouts", 2).restore(folder, STATEFUL)
    module_for("rollouts", 2).restore(folder, trust=True)
    assert own_modules.make_reinforce().agent is None
