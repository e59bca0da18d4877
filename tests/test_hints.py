"""What a run says about its environments at the start, and where it says nothing."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastrl.config.ppo import PPOConfig
from fastrl.config.sac import SACConfig
from fastrl.spaces.observations import observation_rows, pack_observation
from fastrl.training.hints import lines_about

CHOICE = spaces.Discrete(2)
PICTURE = spaces.Box(0, 255, (8, 8), np.uint8)


def hints(
    space: spaces.Space, shown: Any, actions: spaces.Space = CHOICE, config: Any = None
) -> Any:
    """Returns the hints of a run whose first observation is `shown`."""
    row = observation_rows("MyEnv", space, actions)
    env = SimpleNamespace(single_observation_space=row, single_action_space=actions)
    agent: Any = SimpleNamespace(envs=[env], config=config or PPOConfig(), networks=dict)
    rows = torch.from_numpy(pack_observation(row, shown))
    first, *others = lines_about(agent, rows)
    assert first.startswith("observations: ")
    return others


def vector(low: float, high: float) -> spaces.Box:
    return spaces.Box(low, high, (2,))


@pytest.mark.parametrize(
    ("space", "shown", "config", "words"),
    [
        (vector(-np.inf, np.inf), [[0, 5000]], None, "reach 5,000.*--observation-normalization"),
        (vector(-1, 1e4), [[0, 0]], None, "reach 10,000"),
        (vector(-1, 1e4), [[0, 0]], SACConfig(), "reach 10,000.*scale them$"),
        (spaces.Box(0, 255, (9,), np.uint8), [[0] * 9], None, "reach 255"),
        (PICTURE, np.full((1, 8, 8), 2), None, "at most 2 of 255.*--obs-kind vector"),
        (vector(-np.inf, np.inf), [[0, 50]], None, ""),
        (vector(-1, 1e4), [[0, 0]], PPOConfig(observation_normalization=True), ""),
        (vector(-3e38, 3e38), [[0, 0]], None, ""),
        (spaces.Discrete(500), [499], None, ""),
        (PICTURE, np.full((1, 8, 8), 200), None, ""),
        (PICTURE, np.zeros((1, 8, 8)), None, ""),
    ],
)
def test_observations_that_are_learned_badly_are_named(space, shown, config, words):
    found = hints(space, np.array(shown), config=config)
    assert len(found) == bool(words) and re.search(words, " ".join(found))


def test_bytes_of_a_packed_row_are_no_bounds():
    space = spaces.Dict({"image": PICTURE, "x": vector(-1, 1)})
    assert hints(space, {"image": np.full((1, 8, 8), 200), "x": np.ones((1, 2))}) == []


@pytest.mark.parametrize(
    ("low", "high", "config", "is_named"),
    [
        (-1, 1, PPOConfig(), False),
        (-2, 2, PPOConfig(), False),
        (-0.4, 0.4, PPOConfig(), False),
        (-100, 100, PPOConfig(), True),
        (-0.01, 0.01, PPOConfig(), True),
        (-0.01, 0.01, PPOConfig(log_std_init=-5), False),
        (50, 52, PPOConfig(), True),
        (-3e38, 3e38, PPOConfig(), True),
        (-100, 100, PPOConfig(squash_actions=True), False),
        (-100, 100, SACConfig(), False),
    ],
)
def test_ranges_far_from_the_policy_are_named(low, high, config, is_named):
    found = hints(vector(-1, 1), np.zeros((1, 2)), vector(low, high), config)
    assert len(found) == is_named
    assert not is_named or "--squash-actions" in found[0]
