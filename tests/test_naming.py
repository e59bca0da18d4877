"""A checkpoint knows its class and its layers: others of the same shapes are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml
from own_agents import DoubledPPO, GeluPPO, OtherPPO, OwnSAC
from torch import nn

import fastrl
from fastrl import PPO, SAC, AgentTrainer
from fastrl.agents.naming import class_of
from fastrl.cli import main as command_line
from fastrl.evaluate import main as evaluate
from fastrl.export import main as export
from fastrl.runs.checkpoint import load_checkpoint, save_checkpoint
from fastrl.runs.folder import read_config

OBS = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)


def small(kind: Any, folder: Path, **settings: Any) -> Any:
    more = {"num_envs": 2, "hidden_sizes": (8,), "accelerator": "cpu", "engine": "eager"}
    if not issubclass(kind, SAC):
        more |= {"num_steps": 16, "per_rank_batch_size": 16, "total_timesteps": 32}
    task = "Pendulum-v1" if issubclass(kind, SAC) else "CartPole-v1"
    return kind(
        task, preset="none", log_dir=str(folder), **{**more, "eval_episodes": 0, **settings}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Returns the run folder of an agent of somebody's own."""
    agent = small(DoubledPPO, tmp_path_factory.mktemp("runs")).learn()
    return agent.result.folder


def refusal(work: Any) -> str:
    with pytest.raises(ValueError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


def without(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Does as if nobody had imported a module."""
    monkeypatch.delitem(sys.modules, module)


def test_a_run_names_a_class_that_is_not_of_fastrl(run, tmp_path):
    assert read_config(run / "config.yaml")["agent"] == "own_agents:DoubledPPO"
    assert load_checkpoint(run / "checkpoints/last.pt")["class"] == "own_agents:DoubledPPO"
    stock = small(PPO, tmp_path).learn().result.folder
    assert "agent" not in read_config(stock / "config.yaml")
    assert load_checkpoint(stock / "checkpoints/last.pt")["class"] == ""


@pytest.mark.parametrize("load", [PPO.load, DoubledPPO.load, fastrl.load])
def test_every_load_finds_the_class_that_is_imported(load, run):
    agent = load(run)
    assert type(agent) is DoubledPPO
    np.testing.assert_array_equal(agent.predict(OBS), DoubledPPO.load(run).predict(OBS))


def test_load_of_the_package_reads_every_algorithm(tmp_path):
    for kind in (SAC, OwnSAC, PPO):
        small(kind, tmp_path).save(tmp_path / "agent.pt")
        assert type(fastrl.load(tmp_path / "agent.pt")) is kind


def test_another_class_of_the_same_shapes_is_refused_in_one_line(run, tmp_path):
    told = refusal(lambda: OtherPPO.load(run))
    assert "is of own_agents:DoubledPPO, not of own_agents:OtherPPO" in told
    small(PPO, tmp_path).save(tmp_path / "stock.pt")
    assert "is of fastrl's own ppo, not of own_" in refusal(
        lambda: OtherPPO.load(tmp_path / "stock.pt")
    )
    assert "holds 'ppo', not 'sac'" in refusal(lambda: OwnSAC.load(run))


def test_a_class_that_only_a_file_of_somebody_else_names_is_not_imported(
    run, monkeypatch, capsys, tmp_path
):
    without("own_agents", monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))  # without the key that signed the run
    told = "wants to run own_agents:DoubledPPO(), but is signed by another user"
    assert told in refusal(lambda: PPO.load(run))
    for main in (evaluate, export):
        assert main([str(run)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert command_line("ppo", ["--resume", str(run), "--total-timesteps", "64"]) == 2
    assert told in capsys.readouterr().err
    assert "own_agents" not in sys.modules


def test_a_class_of_a_run_of_this_user_is_imported(run, monkeypatch):
    without("own_agents", monkeypatch)
    assert type(PPO.load(run)).__name__ == "DoubledPPO"


def test_trust_and_a_name_on_the_command_line_import_it(run, monkeypatch, capsys, tmp_path):
    without("own_agents", monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert type(fastrl.load(run, trust=True)).__name__ == "DoubledPPO"
    for words in (["--trust"], ["--agent", "own_agents:DoubledPPO"]):
        without("own_agents", monkeypatch)
        assert evaluate([str(run), "--episodes", "2", *words]) == 0
        assert export([str(run), "--out", str(tmp_path / "policy.pt"), *words]) == 0
    assert capsys.readouterr().err == ""


def test_the_command_line_trains_and_resumes_a_class_of_ones_own(tmp_path, capsys):
    words = "--preset none --num-envs 2 --num-steps 16 --per-rank-batch-size 16 --eval-episodes 0"
    argv = [*words.split(), "--total-timesteps", "32", "--log-dir", str(tmp_path)]
    assert command_line("ppo", [*argv, "--agent", "own_agents:GeluPPO"]) == 0
    assert "ppo (own_agents:GeluPPO) on CartPole-v1" in capsys.readouterr().out
    (folder,) = tmp_path.glob("ppo/*/*")
    assert command_line("ppo", ["--resume", str(folder), "--total-timesteps", "64"]) == 0
    assert type(fastrl.load(folder)) is GeluPPO


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_agents", "is named module:Class, not 'own_agents'"),
        ("own_agents:Missing", "there is no class of that name"),
        ("own_agents:Doubled", "which is not an agent of fastrl"),
        ("os:system", "there is no class of that name"),
        ("no_such_module:PPO", "No module named 'no_such_module'"),
        ("own_agents:OwnSAC", "is of 'sac', not of 'ppo'"),
    ],
)
def test_a_wrong_name_is_one_line(name, words, capsys):
    assert command_line("ppo", ["--agent", name]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", 3, "", "a:b:c", "os:path.join"])
def test_a_name_in_a_file_runs_nothing(name, tmp_path):
    small(PPO, tmp_path).save(tmp_path / "agent.pt")
    state = {**load_checkpoint(tmp_path / "agent.pt"), "class": name}
    save_checkpoint(tmp_path / "agent.pt", state)
    if name:
        refusal(lambda: PPO.load(tmp_path / "agent.pt"))


def test_a_class_of_a_script_is_refused_elsewhere_with_the_way_out(run, tmp_path):
    state = {**load_checkpoint(run / "checkpoints/last.pt"), "class": "__main__:DoubledPPO"}
    save_checkpoint(tmp_path / "agent.pt", state)
    told = refusal(lambda: PPO.load(tmp_path / "agent.pt"))
    assert "a class of a script: load it there, by DoubledPPO.load" in told
    assert type(DoubledPPO.load(tmp_path / "agent.pt")) is DoubledPPO


@pytest.mark.slow
def test_a_script_loads_its_own_class(tmp_path):
    (tmp_path / "script.py").write_text(
        "from fastrl import PPO\n"
        "class Mine(PPO): pass\n"
        "Mine('CartPole-v1', preset='none', accelerator='cpu').save('agent.pt')\n"
        "assert type(PPO.load('agent.pt')) is Mine\n"
    )
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True)
    assert load_checkpoint(tmp_path / "agent.pt")["class"] == "__main__:Mine"


def test_layers_put_in_place_are_told_apart_from_others_of_the_same_shapes(tmp_path):
    agent = small(PPO, tmp_path)
    agent.policy.actor[1] = nn.GELU()
    agent.save(tmp_path / "agent.pt")
    told = refusal(lambda: PPO.load(tmp_path / "agent.pt"))
    assert "its policy has actor.1: GELU(approximate='none'), this one actor.1: Tanh()" in told
    result = agent.learn().result
    other = small(PPO, tmp_path, total_timesteps=64)
    with pytest.raises(ValueError, match="does not fit this agent"):
        AgentTrainer(resume=result.folder).fit(other)
    other.policy.actor[1] = nn.GELU()
    AgentTrainer(resume=result.folder).fit(other)


def test_files_of_older_versions_are_read(tmp_path):
    small(PPO, tmp_path).save(tmp_path / "agent.pt")
    state = load_checkpoint(tmp_path / "agent.pt")
    del state["class"], state["agent"]["layers"], state["agent"]["frozen"]
    save_checkpoint(tmp_path / "agent.pt", state)
    assert type(PPO.load(tmp_path / "agent.pt")) is PPO
    assert type(OtherPPO.load(tmp_path / "agent.pt")) is OtherPPO


def test_config_file_of_a_run_is_one_of_settings(run, tmp_path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["agent"] and class_of(config["agent"]) is DoubledPPO
    path = str(run / "config.yaml")
    assert command_line("ppo", ["--config", path, "--log-dir", str(tmp_path)]) == 0
    (folder,) = tmp_path.glob("ppo/*/*")
    assert type(fastrl.load(folder)) is DoubledPPO


# What a run calls itself


def limited() -> gymnasium.Env:
    return gymnasium.make("CartPole-v1", max_episode_steps=50)


def test_a_run_that_goes_on_with_a_function_is_named_after_it(tmp_path, capsys):
    agent = small(PPO, tmp_path)
    agent.save(tmp_path / "agent.pt")
    again = PPO.load(tmp_path / "agent.pt", limited).learn()
    folder = again.result.folder
    assert folder.name == "limited_default_42"
    words = " ".join(capsys.readouterr().out.split())
    assert words.startswith("ppo on limited, seed 42 from ")
    assert words.count("env=limited (was CartPole-v1)") == 1
    assert "env_id" not in words
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert (settings["env_id"], settings["handed_over"]) == ("limited", True)


def test_the_first_line_names_a_class_of_ones_own(tmp_path, capsys):
    small(DoubledPPO, tmp_path).learn()
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "ppo (own_agents:DoubledPPO) on CartPole-v1, seed 42"
    small(PPO, tmp_path).learn()
    assert capsys.readouterr().out.startswith("ppo on CartPole-v1, seed 42\n")
