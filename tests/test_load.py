"""Files that hold no agent: loading one says which file, and what is wrong, in one line."""

from __future__ import annotations

import copy
import io
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_resume import assert_equal

import fastrl
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
    small: dict[str, Any] = {"num_envs": 2, "num_steps": 16, "per_rank_batch_size": 32}
    small |= {"eval_episodes": 0, "accelerator": "cpu", "engine": "eager"}
    model = PPO("CartPole-v1", preset="none", log_dir=tmp_path, **small)
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


def leaves(state: Any, place: tuple = ()) -> Iterator[tuple]:
    """Yields the places of all values of a nested state, containers among them."""
    parts = state.items() if isinstance(state, dict) else enumerate(state)
    for name, part in parts:
        yield (*place, name)
        if isinstance(part, dict | list):
            yield from leaves(part, (*place, name))


def put(state: Any, place: tuple, value: Any) -> Any:
    """Returns a copy of a nested state with another value at a place."""
    name, *rest = place
    copied = dict(state) if isinstance(state, dict) else list(state)
    copied[name] = put(state[name], tuple(rest), value) if rest else value
    return copied


def kind_of(value: Any) -> Any:
    is_tensor = isinstance(value, torch.Tensor)
    return (value.shape, value.dtype) if is_tensor else type(value)


# What can stand at any place behind right checksums.
WRONG = [None, True, 3, -3, 2**80, 0.5, "word", [], [1, 2, 3], {}, {"a": 1}, torch.zeros(3)]
WRONG += [torch.zeros((), dtype=torch.int64), torch.zeros(5000, dtype=torch.uint8)]


def test_value_of_another_kind_is_refused_before_any_is_taken(saved):
    kind, path = saved
    agent, num_tried = kind.load(path), 0
    state = load_checkpoint(path)["agent"]
    before = agent.state_dict()
    for place in leaves(state):
        if place[0] == "config":
            continue
        old = state
        for name in place:
            old = old[name]
        for wrong in WRONG:
            is_alike = kind_of(wrong) == kind_of(old) and not isinstance(old, dict | list)
            is_alike = is_alike and not (type(wrong) is int and not 0 <= wrong < 2**63)
            if is_alike or (place == ("replay",) and wrong is None):
                continue
            if place == ("reward_scale",) or (place[0] == "noise_generator" and wrong is None):
                continue  # not used here
            if place == ("noise_device",):
                continue  # of another device: then its noise is not taken
            if place in (("layers",), ("frozen",)) and wrong in ([], {}):
                continue  # as versions of before that saved it
            num_tried += 1
            with pytest.raises(ValueError, match="the checkpoint does not fit this agent: its "):
                agent.load_state_dict(put(state, place, wrong))
    assert num_tried > 100
    assert_equal(agent.state_dict(), before)


@pytest.mark.parametrize("kind", [SAC, DroQ])
def test_replay_of_another_kind_is_refused_before_any_is_taken(kind):
    small = {"num_envs": 2, "hidden_sizes": (4,), "accelerator": "cpu", "engine": "eager"}
    agent = kind("Pendulum-v1", preset="none", buffer_size=100, **small)
    agent.make_buffer()
    state = agent.state_dict()
    agent.load_state_dict(state)
    for place in leaves({"replay": state["replay"]}):
        for wrong in [*WRONG, torch.zeros(9, 2, dtype=torch.bool), torch.zeros(1, 2, 9)]:
            if place == ("replay",) and wrong is None:
                continue
            with pytest.raises(
                ValueError, match="the checkpoint does not fit this agent: its repl"
            ):
                agent.load_state_dict(put(state, place, wrong))


def test_value_of_another_kind_is_told_with_file_and_place(saved, tmp_path):
    kind, whole = saved
    state = load_checkpoint(whole)
    names = [name for name, part in state["agent"].items() if has_tensors(part)]
    state["agent"][names[0]] = {}
    save_checkpoint(tmp_path / "agent.pt", state)
    assert f"its {names[0]}." in refusal(kind, tmp_path / "agent.pt")


def test_weights_that_are_not_finite_are_refused_as_diverged(saved, tmp_path):
    kind, whole = saved
    state = load_checkpoint(whole)
    weights = next(part for name, part in state["agent"]["policy"].items() if "weight" in name)
    weights[0, 0] = torch.nan
    save_checkpoint(tmp_path / "agent.pt", state)
    assert "is not finite: the training diverged" in refusal(kind, tmp_path / "agent.pt")


def test_agent_that_diverged_is_not_saved_over_another(saved, tmp_path):
    kind, whole = saved
    agent = kind.load(whole)
    agent.save(tmp_path / "agent.pt")
    before = (tmp_path / "agent.pt").read_bytes()
    with torch.no_grad():
        next(agent.policy.parameters()).fill_(torch.inf)
    with pytest.raises(ValueError, match=r"not saved: policy\..* is not finite"):
        agent.save(tmp_path / "agent.pt")
    assert (tmp_path / "agent.pt").read_bytes() == before


# Settings at load


def test_temperature_named_at_load_is_taken(tmp_path):
    path = tmp_path / "agent.pt"
    agent = SAC("Pendulum-v1", preset="none", accelerator="cpu")
    with torch.no_grad():
        agent.temperature.log_alpha.fill_(-0.06)  # as it was learned
    agent.save(path)
    assert SAC.load(path).alpha == pytest.approx(0.9418, abs=1e-3)
    assert SAC.load(path, tune_alpha=False, alpha=0.02).alpha == pytest.approx(0.02)
    assert SAC.load(path, alpha=1.0).alpha == 1.0


def test_seed_named_at_load_is_taken(saved):
    kind, path = saved
    states = [kind.load(path, **more).noise_generator.get_state() for more in ({}, {"seed": 7})]
    assert not states[0].equal(states[1])
    assert kind.load(path, seed=7).noise_generator.get_state().equal(states[1])


@pytest.mark.parametrize("setting", [{"ortho_init": True}, {"log_std_init": -1.0}])
def test_setting_of_the_first_weights_has_no_effect_at_load(setting, tmp_path):
    PPO("Pendulum-v1", preset="none", accelerator="cpu").save(tmp_path / "agent.pt")
    with pytest.raises(ValueError, match=r"has no effect: .* goes on from there"):
        PPO.load(tmp_path / "agent.pt", **setting)


def test_setting_without_effect_is_refused_at_load(saved):
    kind, path = saved
    with pytest.raises(ValueError, match=r"rank_timeout=3\.5 has no effect with one rank"):
        kind.load(path, rank_timeout=3.5)


def test_task_named_at_load_is_played(tmp_path):
    PPO("CartPole-v1", preset="none", accelerator="cpu").save(tmp_path / "agent.pt")
    settings = {"env_id": "CartPole-v0"}
    assert PPO.load(tmp_path / "agent.pt", **settings).envs[0].env_id == "CartPole-v0"
    with pytest.raises(ValueError, match="give env or env_id, not both"):
        PPO.load(tmp_path / "agent.pt", "CartPole-v1", **settings)


def has_tensors(part: Any) -> bool:
    """Returns whether a part of a state is a mapping with tensors."""
    return isinstance(part, dict) and any(isinstance(x, torch.Tensor) for x in part.values())


def test_an_agent_is_copied_by_its_file_alone(saved):
    agent = saved[0].load(saved[1])
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(
            TypeError, match=r"cannot be copied or pickled whole: agent.save\(path\)"
        ):
            way(agent)
    assert torch.equal(*[next(x.parameters()) for x in (agent.policy, copy.deepcopy(agent.policy))])


def test_saving_makes_the_folder_of_the_file(saved, tmp_path):
    saved[0].load(saved[1]).save(tmp_path / "of/mine/agent.pt")
    assert saved[0].load(tmp_path / "of/mine/agent.pt").config.num_envs == 2


def test_a_path_that_begins_with_a_tilde_is_at_home(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    agent = saved[0].load(saved[1])
    agent.save("~/agent.pt")
    agent.export("~/policy.pt")
    assert (tmp_path / "agent.pt").exists() and (tmp_path / "policy.pt").exists()
    assert saved[0].load("~/agent.pt").config.num_envs == 2


@pytest.mark.parametrize("path", [None, 3, io.BytesIO(), {}], ids=["None", "3", "BytesIO", "dict"])
def test_what_is_no_path_is_refused_by_all_that_take_one(saved, path):
    agent = saved[0].load(saved[1])
    takers = agent.save, agent.export, agent.load_weights, saved[0].load, fastrl.load
    for take in takers:
        with pytest.raises(ValueError, match="expected the path of a file or folder, not a"):
            take(path)


@pytest.mark.parametrize("devices", ["auto", [0], "2", True])
def test_devices_are_a_number(devices):
    with pytest.raises(ValueError, match="devices must be a whole number, not"):
        PPO("CartPole-v1", devices=devices)
    assert PPO("CartPole-v1", devices=np.int64(1)).config.devices == 1  # pyright: ignore


def test_a_policy_whose_precision_was_set_is_saved_and_loaded_or_refused(tmp_path):
    agent = PPO("CartPole-v1", preset="none", verbose=0, observation_normalization=True)
    agent.policy.float()
    agent.save(tmp_path / "agent.pt")
    PPO.load(tmp_path / "agent.pt")
    agent.policy.double()
    with pytest.raises(ValueError, match=r"are torch\.float64, and only float32 is saved"):
        agent.save(tmp_path / "other.pt")
    assert not (tmp_path / "other.pt").exists()


def squashed_by_hand(policy):
    policy.head.squash = True


def clipped_by_hand(policy):
    policy.normalizer.clip = 0.5


@pytest.mark.parametrize("change", [squashed_by_hand, clipped_by_hand])
def test_what_was_set_by_hand_in_our_layers_is_not_loaded_as_something_else(change, tmp_path):
    agent = PPO("Pendulum-v1", preset="none", verbose=0, observation_normalization=True)
    agent.save(tmp_path / "plain.pt")
    change(agent.policy)
    agent.save(tmp_path / "changed.pt")
    PPO.load(tmp_path / "plain.pt")
    with pytest.raises(ValueError, match=r"squash=True|clip=0\.5"):
        PPO.load(tmp_path / "changed.pt")
