"""An exported file gives the policy's own actions, and takes its place only if it does."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_predict import Shown
from toy_agents import make_agent

from fastrl import PPO, PPORecurrent
from fastrl.export import SUFFIXES, example_rows, export_policy, exported, main
from fastrl.spaces.observations import leaf_values

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
        "inputs": {"observations": {"shape": [4], "dtype": "float32"}},
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


# Several inputs, by name

IMAGE, GREY = (spaces.Box(0, 255, shape, np.uint8) for shape in ((12, 12, 3), (12, 12)))
SHOWN = {
    "picture, vector, number, mask": spaces.Dict(
        {
            "image": IMAGE,
            "vector": spaces.Box(-1, 1, (4,), np.float64),
            "number": spaces.Discrete(3, start=2),
            "action_mask": spaces.MultiBinary(5),
        }
    ),
    "nested": spaces.Dict(
        {
            "a": spaces.Dict(
                {"b": spaces.Box(-1, 1, (2, 2)), "c": spaces.MultiDiscrete([2, 3], start=[1, 0])}
            ),
            "t": spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(3))),
        }
    ),
    "two grey pictures and a number": spaces.Tuple((GREY, GREY, spaces.Box(-5, 5, (1,)))),
    "vector": spaces.Box(-1, 1, (3,)),
}
FORMS = [
    "torchscript",
    pytest.param("pt2", marks=pytest.mark.slow),
    pytest.param("onnx", marks=pytest.mark.slow),
]


def agent_of(shown: str, action_space: spaces.Space, kind: Any = PPO, **settings: Any) -> Any:
    env = Shown(SHOWN[shown], action_space, settings.get("info_action_mask", False))
    small = {"num_envs": 1, "num_steps": 256, "hidden_sizes": (8, 8), "accelerator": "cpu"}
    return kind(lambda: env, preset="none", **{**small, **settings})


def write(agent: Any, form: str, folder: Path) -> tuple[Path, Any]:
    """Exports an agent; returns the file, and inputs as the environment shows them."""
    if form == "onnx":
        pytest.importorskip("onnxscript")
    policy, example, wanted = exported(agent)
    path = folder / f"policy{SUFFIXES[form]}"
    export_policy(policy, example, path, form, wanted)
    return path, example


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("shown", "action_space"),
    [
        ("picture, vector, number, mask", spaces.MultiDiscrete([2, 3])),
        ("picture, vector, number, mask", spaces.Discrete(5, start=-1)),
        ("nested", spaces.Box(-1, 2, (2,))),
        ("two grey pictures and a number", spaces.MultiBinary(2)),
    ],
)
def test_parts_of_an_observation_are_inputs_by_name(shown, action_space, form, tmp_path):
    agent = agent_of(shown, action_space, hidden_sizes=(8,))
    path, example = write(agent, form, tmp_path)
    one = agent.envs[0].envs[0].observation_space.sample()
    parts = leaf_values(one)
    assert parts.keys() == example.keys()
    if "action_mask" in parts:
        parts["action_mask"][[1, 3]] = 1
    batch = {name: torch.from_numpy(np.asarray(value)[None]) for name, value in parts.items()}
    expected = np.asarray(agent.predict(dict(parts)))
    np.testing.assert_allclose(read_file(path, batch)[0], expected, atol=1e-5)


def read_file(path: Path, inputs: Any) -> Any:
    """Returns what a file makes of inputs, as a program without fastrl would."""
    if path.suffix == ".onnx":
        import onnxruntime  # pyright: ignore[reportMissingImports]

        arrays = {name: value.numpy() for name, value in inputs.items()}
        return onnxruntime.InferenceSession(str(path)).run(None, arrays)[0]
    if path.suffix == ".pt2":
        return torch.export.load(str(path)).module()(inputs).detach().numpy()
    return torch.jit.load(str(path))(inputs).numpy()


def test_mask_of_the_info_is_an_input(tmp_path):
    agent = agent_of("vector", spaces.Discrete(4), info_action_mask=True)
    path, example = write(agent, "torchscript", tmp_path)
    assert list(example) == ["observations", "action_mask"]
    mask, obs = torch.tensor([[0, 0, 1, 0]], dtype=torch.int8), torch.zeros(1, 3)
    assert read_file(path, {"observations": obs, "action_mask": mask}).tolist() == [2]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("rnn", "previous_action", "action_space"),
    [
        ("lstm", False, spaces.Discrete(3)),
        ("gru", True, spaces.MultiDiscrete([2, 3])),
        ("lstm", True, spaces.Box(-1, 2, (2,))),
    ],
)
def test_state_of_a_memory_is_an_input_and_an_output(
    rnn, previous_action, action_space, form, tmp_path
):
    more = {"rnn": rnn, "previous_action": previous_action}
    agent = agent_of("nested", action_space, PPORecurrent, **more)
    write(agent, form, tmp_path)  # it compares actions and states
    if form != "torchscript":
        return
    read = torch.jit.load(str(tmp_path / "policy.pt"))
    state, kept = torch.zeros(1, agent.policy.state_size), agent.new_state(1)
    for _ in range(5):
        parts = leaf_values(agent.envs[0].envs[0].observation_space.sample())
        inputs = {name: torch.from_numpy(np.asarray(x)[None]) for name, x in parts.items()}
        actions, state = read({**inputs, "state": state})
        batch = {name: np.asarray(x)[None] for name, x in parts.items()}
        expected = agent.predict(batch, state=kept)
        np.testing.assert_allclose(actions.numpy(), expected, atol=1e-5)
        torch.testing.assert_close(state, kept)


def test_policy_that_cannot_be_exported_is_one_line(tmp_path):
    class Odd(torch.nn.Module):
        """Returns what no file can hold."""

        def forward(self, observations):
            return {"odd": [observations, "words"]}

    with pytest.raises(ValueError, match="torchscript: this policy cannot be exported: ") as error:
        export_policy(Odd(), EXAMPLE, tmp_path / "policy.pt", "torchscript")
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_command_lists_the_inputs(tmp_path, capsys):
    agent = make_agent("toy_envs:TargetEnv", env_kwargs=("shown=mixed",))
    agent.save(tmp_path / "agent.pt")
    assert main([str(tmp_path / "agent.pt"), "--out", str(tmp_path / "policy.pt")]) == 0
    inputs = json.loads((tmp_path / "policy.pt.json").read_text())["inputs"]
    assert inputs.keys() == agent.observation_space.parts.keys()
    assert all(f" {name} [B" in capsys.readouterr().out for name in list(inputs)[:1])


def test_wrong_flag_is_one_line(capsys):
    assert main(["run", "--format", "foo"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: argument --format: invalid choice: 'foo'")
    assert told.count("\n") == 1
