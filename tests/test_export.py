"""An exported file gives the policy's own actions, and takes its place only if it does."""

import json
import os

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toy_agents import make_agent

from fastrl import PPO
from fastrl.export import SUFFIXES, example_rows, export_policy, main

EXAMPLE = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def agent():
    settings = {"num_envs": 4, "num_steps": 16, "total_timesteps": 64, "eval_episodes": 0}
    agent = PPO("CartPole-v1", preset="none", observation_normalization=True, **settings)
    assert agent.policy.normalizer is not None
    agent.policy.normalizer.update(EXAMPLE * 3 + 1, torch.ones(64, dtype=torch.bool))
    return agent


@pytest.mark.parametrize("form", ["torchscript", pytest.param("pt2", marks=pytest.mark.slow)])
def test_file_acts_like_the_policy_for_any_batch(agent, form, tmp_path):
    path = tmp_path / f"policy{SUFFIXES[form]}"
    export_policy(agent.policy, EXAMPLE, path, form)
    if form == "torchscript":
        read = torch.jit.load(str(path))
    else:
        read = torch.export.load(str(path)).module()
    for rows in (EXAMPLE, EXAMPLE[:1], EXAMPLE.repeat(40, 1)):
        assert np.array_equal(read(rows).numpy(), agent.predict(rows.numpy()))


def test_file_that_cannot_be_written_is_an_os_error(agent, tmp_path):
    with pytest.raises(OSError, match="File name too long"):
        export_policy(agent.policy, EXAMPLE, tmp_path / ("a" * 250 + ".pt"), "torchscript")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_onnx_acts_like_the_policy_and_is_written_without_a_word(agent, tmp_path, capfd):
    pytest.importorskip("onnxscript")
    export_policy(agent.policy, EXAMPLE, tmp_path / "policy.onnx", "onnx")  # it checks the actions
    assert capfd.readouterr() == ("", "")


def test_file_carries_bounds_of_box_actions(tmp_path):
    agent = make_agent("box")
    shape = agent.observation_space.shape
    assert shape is not None
    export_policy(agent.policy, torch.randn(16, *shape), tmp_path / "policy.pt", "torchscript")
    actions = torch.jit.load(str(tmp_path / "policy.pt"))(100 * torch.randn(16, *shape))
    assert agent.action_space.contains(actions[0].numpy())


def test_file_that_differs_is_not_written(tmp_path):
    class Drifting(torch.nn.Module):
        """Gives other actions at every call."""

        calls = 0.0

        def forward(self, observations):
            Drifting.calls += 1.0
            return observations[:, 0] + Drifting.calls

    with pytest.raises(ValueError, match="differ"):
        export_policy(Drifting(), EXAMPLE, tmp_path / "policy.pt", "torchscript")
    assert list(tmp_path.iterdir()) == []


def test_command_checks_and_records_rows_of_integers(tmp_path, capsys):
    agent = make_agent("toy_envs:TargetEnv", env_kwargs=("shown=discrete",))
    agent.save(tmp_path / "agent.pt")
    assert main([str(tmp_path / "agent.pt"), "--out", str(tmp_path / "policy.pt")]) == 0
    assert "int64 observations [B]" in capsys.readouterr().out
    rows = np.arange(-1, 3)
    read = torch.jit.load(str(tmp_path / "policy.pt"))
    assert np.array_equal(read(torch.from_numpy(rows)).numpy(), agent.predict(rows))


def test_examples_tell_all_values_of_a_discrete_space_apart():
    assert set(example_rows(spaces.Discrete(4, start=-1))) == {-1, 0, 1, 2}


def test_command_writes_into_the_run_folder(agent, tmp_path, capsys):
    agent.save(tmp_path / "agent.pt")
    assert main([str(tmp_path / "agent.pt"), "--out", str(tmp_path / "policy.pt")]) == 0
    assert (tmp_path / "policy.pt").exists()
    assert json.loads((tmp_path / "policy.pt.json").read_text()) == {
        "algo": "ppo",
        "env_id": "CartPole-v1",
        "observations": {"shape": [4], "dtype": "float32"},
        "actions": {"space": "Discrete(2)"},
    }
    assert main([str(tmp_path / "missing")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("place", ["policy.pt", "policy.pt.json"])
@pytest.mark.parametrize("kind", ["link", "folder", "device", "pipe"])
def test_only_a_regular_file_is_replaced(agent, tmp_path, capsys, place, kind):
    agent.save(tmp_path / "agent.pt")
    path, target = tmp_path / place, tmp_path / "target"
    target.write_text("of somebody")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(target if kind == "link" else "/dev/null")
    before = sorted(tmp_path.iterdir())
    assert main([str(tmp_path / "agent.pt"), "--out", str(tmp_path / "policy.pt")]) == 2
    told = capsys.readouterr().err
    assert f"{path} is a " in told and "only a regular file may be replaced" in told
    assert sorted(tmp_path.iterdir()) == before and target.read_text() == "of somebody"
    if place == "policy.pt":
        with pytest.raises(ValueError, match="only a regular file may be replaced"):
            agent.save(path)


def test_wrong_flag_is_one_line(capsys):
    assert main(["run", "--format", "foo"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: argument --format: invalid choice: 'foo'")
    assert told.count("\n") == 1
