"""An exported file gives the policy's own actions, and takes its place only if it does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_predict import Shown
from toy_agents import make_agent

from fastrl import A2C, PPO, SAC, DroQ, PPORecurrent
from fastrl.agents.export_files import SUFFIXES, export_policy
from fastrl.agents.exporting import example_rows, exported
from fastrl.export import main
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
        "outputs": {"actions": {"shape": [], "dtype": "int64"}},
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
    parts = leaf_values(one, example)
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
    generator = torch.get_rng_state()
    write(agent, form, tmp_path)  # it compares actions and states
    assert torch.equal(torch.get_rng_state(), generator)  # which a training may draw from
    if form != "torchscript":
        return
    read = torch.jit.load(str(tmp_path / "policy.pt"))
    state, kept = torch.zeros(1, agent.policy.state_size), agent.new_state(1)
    for _ in range(5):
        parts = leaf_values(agent.envs[0].envs[0].observation_space.sample(), ())
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


# More outputs, and inputs by name


def slow(*values: Any) -> Any:
    """Returns parameters of a case that only adds another process to the quick ones."""
    return pytest.param(*values, marks=pytest.mark.slow)


OUTPUTS = [
    (PPO, "picture, vector, number, mask", spaces.Discrete(5), ("action", "logits", "value")),
    slow(PPO, "nested", spaces.Box(-1, 2, (2,)), ("mean", "log_std", "actions", "values")),
    slow(PPORecurrent, "nested", spaces.MultiDiscrete([2, 3]), ("value", "action", "logits")),
    slow(SAC, "vector", spaces.Box(-1, 2, (2,)), ("action", "mean", "log_std", "q_values")),
    slow(DroQ, "vector", spaces.Box(-1, 2, (2,)), ("actions", "q_values")),
    slow(A2C, "vector", spaces.Discrete(3), ("actions", "values")),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "shown", "action_space", "outputs"), OUTPUTS)
def test_outputs_come_in_the_order_that_is_asked_for(
    kind, shown, action_space, outputs, form, tmp_path
):
    """Without fastrl, a process of its own reads the file; what it says is the policy's own."""
    if form == "onnx":
        pytest.importorskip("onnxscript")
    off_policy = {"num_steps": 1, "per_rank_batch_size": 8, "learning_starts": 8}
    more = off_policy if issubclass(kind, SAC) else {}
    agent = agent_of(shown, action_space, kind, **more)
    path = tmp_path / f"policy{SUFFIXES[form]}"
    facts = agent.export(path, inputs="named", outputs=outputs)
    memory = ["next_state"] if kind is PPORecurrent else []
    assert list(facts["outputs"]) == [*outputs, *memory]
    assert json.loads((tmp_path / f"{path.name}.json").read_text()) == facts
    rows = {
        name: np.asarray(part)
        for name, part in example_parts(agent, facts["inputs"].keys()).items()
    }
    np.savez(tmp_path / "rows.npz", **{name.replace("/", "|"): x for name, x in rows.items()})
    code = READING.format(form=form, path=str(path), rows=str(tmp_path / "rows.npz"))
    results = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True
    )
    got = dict(zip(facts["outputs"], json.loads(results.stdout.splitlines()[-1]), strict=True))
    state = {"state": torch.from_numpy(rows.pop("state"))} if memory else {}
    packed = rows if shown != "vector" else rows["observations"]
    given = {"action_mask": packed.pop("action_mask")} if "action_mask" in rows else {}
    if given:
        packed = {**packed, **given}
    kept = {name: x.clone() for name, x in state.items()}
    actions = agent.predict(packed, **kept)
    name = "action" if "action" in outputs else "actions"
    np.testing.assert_allclose(np.array(got[name]), actions, atol=1e-4)
    observations = torch.from_numpy(agent._rows_of(packed, None)[0])
    with torch.no_grad():
        wanted = wanted_outputs(agent, observations, *state.values())
    for name in outputs:
        if name in wanted:
            np.testing.assert_allclose(
                np.array(got[name]), wanted[name].detach(), atol=1e-4, rtol=1e-4
            )
    assert len(wanted) >= len(outputs) - 1
    if memory:
        np.testing.assert_allclose(np.array(got["next_state"]), kept["state"], atol=1e-4)


READING = """
import json, sys
sys.modules["fastrl"] = None  # it cannot be imported
import numpy as np
rows = {{name.replace("|", "/"): x for name, x in np.load({rows!r}).items()}}
if {form!r} == "onnx":
    import onnxruntime
    results = onnxruntime.InferenceSession({path!r}).run(None, rows)
else:
    import torch
    if {form!r} == "pt2":
        policy = torch.export.load({path!r}).module()
    else:
        policy = torch.jit.load({path!r})
    with torch.no_grad():
        results = policy({{name: torch.from_numpy(x) for name, x in rows.items()}})
print(json.dumps([x.tolist() for x in results]))
"""


def example_parts(agent: Any, names: Any) -> dict[str, Any]:
    """Return five rows of each input."""
    _, example, _ = exported(agent, "named")
    assert isinstance(example, dict) and example.keys() == set(names)
    return {name: x[:5].numpy() for name, x in example.items()}


def wanted_outputs(agent: Any, observations: torch.Tensor, *state: torch.Tensor) -> dict[str, Any]:
    """Return outputs of a policy by other ways than the export takes."""
    policy = agent.policy
    if isinstance(agent, SAC):
        mean, log_std = policy.outputs(observations).chunk(2, 1)
        q_values = agent.critics(policy.read(observations), mean.tanh())
        return {"mean": mean, "log_std": log_std.clamp(-5, 2), "q_values": q_values.t()}
    if state:
        features, _ = policy.step(observations, *state)
        logits = policy.head(features.split(policy.feature_sizes, 1)[0])
        return {"logits": logits, "value": policy.value(features)}
    outputs, values = policy.outputs_and_values(observations)
    found = {"logits": outputs, "value": values, "values": values}
    if policy.head.log_std is not None:
        found |= {"mean": outputs, "log_std": policy.head.log_std.expand_as(outputs)}
    return found


def test_a_file_says_its_format_by_its_suffix(agent, tmp_path):
    agent.export(tmp_path / "policy.pt")
    rows = EXAMPLE[:3]
    read = torch.jit.load(str(tmp_path / "policy.pt"))
    assert np.array_equal(read(rows).numpy(), agent.predict(rows.numpy()))
    agent.export(tmp_path / "policy.pt", inputs="named")
    read = torch.jit.load(str(tmp_path / "policy.pt"))
    assert np.array_equal(read({"observations": rows}).numpy(), agent.predict(rows.numpy()))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("policy.tar", {}, r"its suffix says no format; known are \.pt \(torchscript\)"),
        (
            "policy.pt",
            {"outputs": ("mean",)},
            "'mean' is none of this policy's: actions",
        ),
        ("policy.pt", {"outputs": ("values", "values")}, "outputs: 'values' is given twice"),
        ("policy.pt", {"outputs": "logits"}, "outputs must be a list of names, not 'logits'"),
        ("policy.pt", {"outputs": ()}, "outputs must be a list of names"),
        ("policy.pt", {"inputs": "rows"}, "inputs must be auto or named, not 'rows'"),
        ("policy.pt", {"form": "tar"}, "format 'tar' is unknown"),
    ],
)
def test_mistake_in_an_export_is_told(agent, tmp_path, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        agent.export(tmp_path / name, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_command_takes_names_of_outputs(agent, tmp_path, capsys):
    agent.save(tmp_path / "agent.pt")
    words = [str(tmp_path / "agent.pt"), "--out", str(tmp_path / "policy.pt")]
    assert main([*words, "--named-inputs", "--outputs", "actions", "logits", "value"]) == 0
    assert "[B, 4] to greedy actions and logits and value" in capsys.readouterr().out
    read = torch.jit.load(str(tmp_path / "policy.pt"))
    actions, logits, values = read({"observations": EXAMPLE})
    assert torch.equal(actions, logits.argmax(1)) and values.shape == (64,)
    before = (tmp_path / "policy.pt").read_bytes()
    assert main([*words, "--outputs", "colour"]) == 2
    error = capsys.readouterr().err
    assert "'colour' is none of this policy's" in error and error.count("\n") == 1
    assert (tmp_path / "policy.pt").read_bytes() == before


def test_wrong_flag_is_one_line(capsys):
    assert main(["run", "--format", "foo"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: argument --format: invalid choice: 'foo'")
    assert told.count("\n") == 1
