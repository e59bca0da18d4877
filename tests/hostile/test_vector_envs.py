"""Misbehaving vector environments, handed over from Python: each is an error that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from fastrl import PPO
from hostile.rule import check, play

N, T = 4, 8

# What is wrong, by the part of an answer that it replaces.
WRONG: dict[str, dict[str, Any]] = {
    "obs": {
        "fewer rows": np.zeros((3, 2), np.float32),
        "one row": np.zeros((1, 2), np.float32),
        "more rows": np.zeros((5, 2), np.float32),
        "no rows": np.zeros((0, 2), np.float32),
        "no row axis": np.zeros(2, np.float32),
        "other columns": np.zeros((4, 3), np.float32),
        "nan": np.full((4, 2), np.nan),
        "strings": np.full((4, 2), "1"),
        "complex": np.zeros((4, 2), complex),
        "objects": np.full((4, 2), None),
        "None": None,
        "ragged": [[0], [0, 0], [0], [0]],
    },
    "rewards": {
        "fewer": np.zeros(3),
        "one": np.zeros(1),
        "a number": 0.0,
        "more": np.zeros(5),
        "of two axes": np.zeros((4, 2)),
        "nan": np.full(4, np.nan),
        "infinite": np.full(4, np.inf),
        "strings": np.full(4, "1"),
        "None": None,
        "objects": np.full(4, None),
    },
    "terminated": {
        "fewer": np.zeros(3, bool),
        "one": np.zeros(1, bool),
        "a word": "False",
        "words": ["False"] * 4,
        "None": None,
        "nan": np.full(4, np.nan),
        "numbers": np.full(4, 7.5),
        "more": np.zeros(5, bool),
    },
    "answer": {
        "four values": (np.zeros((4, 2), np.float32), np.zeros(4), np.zeros(4, bool), {}),
        "None": None,
        "a number": 1,
    },
    "raises": {
        "Exception": Exception("x"),
        "a group": ExceptionGroup("several", [ValueError("a")]),
        "GeneratorExit": GeneratorExit(),
        "SystemExit": SystemExit(0),
    },
    "num_envs": {"0": 0, "-1": -1, "3": 3, "5": 5, "text": "4", "None": None, "1.5": 1.5},
    "space": {"None": None, "text": "Box", "other": spaces.Box(-1, 1, (3,))},
    "mode": {"None": None, "text": "next_step", "number": 3},
}
WRONG["truncated"] = WRONG["terminated"]
CASES = [(place, kind, when) for place in WRONG for kind in WRONG[place] for when in (1, 3)]
TASK = "MisbehavingVectorEnv"


class MisbehavingVectorEnv(gymnasium.vector.VectorEnv):
    """Four environments with episodes of five steps, and one fault from a certain step on."""

    def __init__(self, place: str, kind: str, when: int) -> None:
        self.place, self.wrong, self.when = place, WRONG[place][kind], when
        self.num_envs = self.wrong if place == "num_envs" else N
        self.single_observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, N)
        self.action_space = batch_space(self.single_action_space, N)
        if place == "space":
            self.single_observation_space = self.wrong
        mode = self.wrong if place == "mode" else AutoresetMode.NEXT_STEP
        self.metadata = {"autoreset_mode": mode}
        self.num_steps = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Starts all."""
        self.num_steps = 0
        return np.zeros((N, 2), np.float32), {}

    def step(self, actions: Any) -> Any:
        """Steps all."""
        self.num_steps += 1
        ends = np.full(N, self.num_steps % 6 == 5)
        obs, none = np.zeros((N, 2), np.float32), np.zeros(N, bool)
        parts = {"obs": obs, "rewards": np.ones(N), "terminated": ends, "truncated": none}
        if self.num_steps >= self.when:
            if self.place == "raises":
                raise self.wrong
            if self.place == "answer":
                return self.wrong
            if self.place in parts:
                parts[self.place] = self.wrong
        return *parts.values(), {}


def trained_on(place: str, kind: str, when: int, log_dir: Path) -> str:
    """Trains on such environments; returns what breaks the rule, or ""."""
    settings: dict[str, Any] = {"num_steps": T, "per_rank_batch_size": 16, "update_epochs": 1}
    settings |= {"hidden_sizes": (8,), "accelerator": "cpu", "preset": "none"}
    settings |= {"total_timesteps": 3 * N * T, "log_dir": str(log_dir), "eval_episodes": 0}

    def work() -> int:
        PPO(MisbehavingVectorEnv(place, kind, when), **settings).learn()
        return 0

    outcome = play(work, seconds=10)
    if outcome.fault:
        return outcome.fault
    if outcome.status == 0:
        return f"exit status 0: {kind} was taken as {place}"
    names_it = TASK in outcome.err or (place == "num_envs" and place in outcome.err)
    return "" if names_it else f"an error without the task: {outcome.err.strip()[:150]}"


@pytest.mark.parametrize(
    "cases",
    [
        CASES[::24],
        pytest.param(CASES[::4], marks=pytest.mark.slow),
        pytest.param(CASES, marks=pytest.mark.hostile),
    ],
)
def test_fault_of_vector_environments_is_named_in_a_line(
    cases: list[tuple[str, str, int]], tmp_path: Path
) -> None:
    broken = {}
    for index, case in enumerate(cases):
        if words := trained_on(*case, tmp_path / str(index)):
            broken[str(case)] = words
    check(broken)
