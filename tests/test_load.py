"""Files that hold no agent: loading one says which file, and what is wrong, in one line."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from fastrl import A2C, PPO, SAC, DroQ, PPORecurrent
from fastrl.config.ppo import PPOConfig
from fastrl.runs.checkpoint import load_checkpoint, save_checkpoint

TASKS = {
    PPO: "CartPole-v1",
    A2C: "CartPole-v1",
    PPORecurrent: "CartPole-v1",
    SAC: "Pendulum-v1",
    DroQ: "Pendulum-v1",
}
OURS = {"format": "fastrl", "format_version": 1}


@pytest.fixture(scope="module", params=TASKS, ids=lambda kind: kind.__name__)
def saved(request, tmp_path_factory) -> tuple[Any, Path]:
    """Returns an algorithm and a file of an untrained agent of it."""
    kind = request.param
    path = tmp_path_factory.mktemp("agents") / "agent.pt"
    small = {"num_envs": 2, "hidden_sizes": (4,), "accelerator": "cpu"}
    kind(TASKS[kind], preset="none", **small).save(path)
    return kind, path


def refusal(kind: Any, path: Path) -> str:
    """Returns what is said of a file instead of loading it; it names the file, in one line."""
    with pytest.raises(ValueError) as error:
        kind.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_missing_file_is_not_found(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"agent\.pt does not exist"):
        saved[0].load(tmp_path / "agent.pt")


def test_folder_that_is_no_run_is_refused(saved, tmp_path):
    assert "is not a run folder" in refusal(saved[0], tmp_path)


def test_task_of_an_agent_with_a_whole_config_is_saved_with_it(tmp_path):
    PPO("Acrobot-v1", PPOConfig(accelerator="cpu")).save(tmp_path / "agent.pt")
    agent = PPO.load(tmp_path / "agent.pt")
    assert agent.config.env_id == agent.envs[0].env_id == "Acrobot-v1"


def test_run_folder_gives_its_newest_checkpoint(tmp_path):
    small = {"num_envs": 2, "num_steps": 16, "per_rank_batch_size": 32, "eval_episodes": 0}
    model = PPO("CartPole-v1", preset="none", log_dir=tmp_path, accelerator="cpu", **small)
    result = model.learn(64).result
    assert result is not None
    agents = [PPO.load(path) for path in (result.folder, result.folder / "checkpoints" / "last.pt")]
    expected = model.policy.state_dict()
    for agent in agents:
        weights = agent.policy.state_dict()
        assert all(weights[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("content", [b"", b"no checkpoint\n", b"\0" * 5000])
def test_file_of_another_kind_is_refused(content, tmp_path):
    path = tmp_path / "agent.pt"
    path.write_bytes(content)
    assert "not a fastrl checkpoint" in refusal(PPO, path)


def test_cut_file_is_refused(saved, tmp_path):
    kind, whole = saved
    path, content = tmp_path / "agent.pt", whole.read_bytes()
    for length in (1, 100, len(content) // 2, len(content) - 30, len(content) - 1):
        path.write_bytes(content[:length])
        assert "is cut short" in refusal(kind, path)


def test_file_with_flipped_bytes_is_refused_or_means_the_same(tmp_path):
    whole, path, places = tmp_path / "whole.pt", tmp_path / "agent.pt", random.Random(0)
    state = {"weights": torch.arange(100.0), "name": "agent"}
    save_checkpoint(whole, state)
    content, num_refused = whole.read_bytes(), 0
    for _ in range(300):
        flipped = bytearray(content)
        flipped[places.randrange(len(content))] ^= 255
        path.write_bytes(flipped)
        try:  # between the parts of the file are bytes that nobody reads
            loaded = load_checkpoint(path)
        except ValueError as error:
            num_refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert loaded["weights"].equal(state["weights"]) and loaded["name"] == "agent"
    assert num_refused > 150


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        torch.zeros(3),
        {"weights": torch.zeros(3)},
        {"format": torch.zeros(3)},
        {**OURS, "format_version": torch.ones(2)},
        OURS,
        {**OURS, "algo": torch.ones(2)},
        {**OURS, "algo": "ppo"},
        {**OURS, "algo": "ppo", "agent": 3},
        {**OURS, "algo": "ppo", "agent": {"config": [1]}},
        {**OURS, "algo": "ppo", "agent": {"config": {"num_steps": "many"}}},
        {**OURS, "algo": "ppo", "agent": {"config": {3: 4}}},
        {**OURS, "algo": "ppo", "agent": {"config": {}}},
    ],
    ids=repr,
)
def test_content_of_another_kind_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "agent.pt")
    refusal(PPO, tmp_path / "agent.pt")


def test_agent_of_another_algorithm_is_refused(saved):
    kind, path = saved
    other: Any = SAC if kind is not SAC else DroQ
    assert f"holds '{kind.algo}', not '{other.algo}'" in refusal(other, path)


@pytest.mark.parametrize("wrong", [None, 3, 2**80, "word", [1], {}, torch.zeros(3)], ids=repr)
def test_weights_of_a_wrong_type_are_refused(saved, wrong, tmp_path):
    kind, whole = saved
    state = load_checkpoint(whole)
    name = next(name for name, part in state["agent"].items() if has_tensors(part))
    state["agent"][name] = wrong
    save_checkpoint(tmp_path / "agent.pt", state)
    assert "the checkpoint does not fit this agent" in refusal(kind, tmp_path / "agent.pt")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (2**80, f", not {2**80}"),
        (torch.tensor(0.0), ", not ()"),
        (torch.zeros(3), ", not (3,)"),
    ],
    ids=repr,
)
def test_memory_of_the_optimiser_of_a_wrong_shape_is_refused(wrong, message, tmp_path):
    path = tmp_path / "agent.pt"
    PPO("CartPole-v1", preset="none", accelerator="cpu").save(path)
    state = load_checkpoint(path)
    state["agent"]["optimizer"]["square"] = wrong
    save_checkpoint(path, state)
    told = refusal(PPO, path)
    assert "the optimizer's square must have shape (" in told and told.endswith(message)


def has_tensors(part: Any) -> bool:
    """Returns whether a part of a state is a mapping with tensors."""
    return isinstance(part, dict) and any(isinstance(x, torch.Tensor) for x in part.values())
