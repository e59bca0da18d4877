"""What stands beside a film: the actions that were taken, and what they were chosen from."""

import json

import numpy as np
import pytest
import toy_envs
from test_evaluate import GreedyAgent

from fastrl import PPO, SAC, PPORecurrent
from fastrl.envs.action_names import choice_names, dimension_names
from fastrl.training import film, film_actions
from fastrl.training.film import record, record_agent

SMALL = {"preset": "none", "num_envs": 1, "num_steps": 8, "per_rank_batch_size": 8, "verbose": 0}


@pytest.fixture(autouse=True)
def _short_films(monkeypatch):
    monkeypatch.setattr(film, "MAX_FRAMES", 6)
    # It asks a process of its own for each task, which takes seconds; `test_video.py` goes by it.
    monkeypatch.setattr(film, "check_rendering", lambda env_id: None)


def beside(agent, folder, deterministic=True):
    """Records a film; returns what stands beside it."""
    record(agent, folder, "film", 3, deterministic=deterministic)
    return json.loads((folder / "film.json").read_text())


def test_probabilities_are_those_that_the_actions_were_taken_by(tmp_path):
    facts = beside(PPO("CartPole-v1", ortho_init=False, **SMALL), tmp_path)
    chances, actions = np.array(facts["probabilities"]), np.array(facts["actions"])
    assert chances.shape == (facts["num_frames"] - 1, 2)
    np.testing.assert_allclose(chances.sum(1), 1, atol=1e-3)
    np.testing.assert_array_equal(chances.argmax(1), actions[:, 0])
    assert facts["dimensions"] == [{"name": "action", "first": 0, "choices": ["left", "right"]}]
    assert facts["rewards"] == [1.0] * len(actions)


def test_a_memory_is_as_without_the_look_at_its_probabilities(tmp_path, monkeypatch):
    agent = PPORecurrent("CartPole-v1", ortho_init=False, sequence_length=8, **SMALL)
    facts = beside(agent, tmp_path)
    monkeypatch.setattr(film_actions, "_MOST_CHOICES", 0)
    plain = beside(agent, tmp_path)
    assert facts["actions"] == plain["actions"] and plain["probabilities"] == []
    chances = np.array(facts["probabilities"])
    np.testing.assert_array_equal(chances.argmax(1), np.array(facts["actions"])[:, 0])
    assert len({tuple(row) for row in chances.tolist()}) > 1


def test_of_a_box_there_are_the_actions_within_their_bounds(tmp_path):
    agent = SAC("Pendulum-v1", preset="none", num_envs=1, hidden_sizes=(8,), verbose=0)
    facts = beside(agent, tmp_path)
    assert facts["dimensions"] == [{"name": "torque", "low": -2.0, "high": 2.0}]
    actions = np.array(facts["actions"])
    assert actions.shape == (5, 1) and (np.abs(actions) <= 2).all()
    assert facts["probabilities"] == []


def test_an_agent_that_gives_only_actions_is_filmed_as_well(tmp_path):
    record_agent(GreedyAgent(f"{toy_envs.__name__}:CountingEnv"), tmp_path, "film", 0)
    facts = json.loads((tmp_path / "film.json").read_text())
    assert len(facts["actions"]) == facts["num_frames"] - 1 and facts["probabilities"] == []


def test_names_fit_the_space():
    from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

    assert choice_names("ALE/Pong-v5", Discrete(6))[0][2:4] == ["right", "left"]
    assert choice_names("Pong-v5", Discrete(18))[0][:2] == ["0", "1"]
    assert choice_names("Mine", Discrete(2, start=-1)) == [["-1", "0"]]
    assert choice_names("Mine", MultiDiscrete([2, 3])) == [["0", "1"], ["0", "1", "2"]]
    assert choice_names("Mine", MultiBinary(2)) == [["0", "1"]] * 2
    assert choice_names("Mine", Box(-1, 1)) == []
    assert dimension_names("Pendulum-v1", 1) == ["torque"]
    assert dimension_names("Pendulum-v1", 2) == ["action 1", "action 2"]
