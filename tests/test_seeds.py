"""A seed means one thing: on any number of cores, and for what draws from global generators."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from quick import slow
from test_resume import agent_for, assert_equal, last_state, stopped_and_resumed
from toy_agents import Loop, make_agent
from toy_envs import StatefulEnv

from fastrl import A2C, PPO, SAC, AgentTrainer, DroQ, PPORecurrent
from fastrl.envs.pools import fitting_envs, spaces_of
from fastrl.presets import load_presets
from fastrl.processes.devices import Devices
from fastrl.processes.generators import restore_generators, state_of_generators

KINDS: dict[str, Any] = {kind.algo: kind for kind in (PPO, A2C, PPORecurrent, SAC, DroQ)}
PRESETS = [(algo, task) for algo in KINDS for task in load_presets(algo)]
OF_PIXELS = [("ppo", "Pong-v5"), ("ppo", "Breakout-v5")]  # with much larger networks


def config_of(algo: str, task: str, **more: Any) -> Any:
    settings = {"env_id": task, "accelerator": "cpu", **load_presets(algo)[task], **more}
    return KINDS[algo].config_class.from_dict(settings)


@pytest.mark.parametrize(("algo", "task"), [slow(x) if x in OF_PIXELS else x for x in PRESETS])
def test_weights_of_a_preset_are_drawn_alike_on_any_number_of_threads(algo, task, monkeypatch):
    config, before = config_of(algo, task), torch.get_num_threads()
    spaces, drawn = spaces_of(config), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            agent = KINDS[algo](spaces, config, devices=Devices(torch.device("cpu")))
            drawn.append(agent.policy.state_dict())
    finally:
        torch.set_num_threads(before)
    assert_equal(drawn[1], drawn[0])
    assert_equal(drawn[2], drawn[0])


@pytest.mark.parametrize(
    ("algo", "task", "settings"),
    [
        slow(("ppo", "LunarLander-v2", {"num_steps": 64})),
        ("ppo", "HalfCheetah-v4", {"num_steps": 64, "update_epochs": 2}),
        slow(("ppo_recurrent", "CartPole-v1", {})),
        slow(("a2c", "CartPole-v1", {})),
        ("sac", "Pendulum-v1", {"learning_starts": 4}),
    ],
)
def test_a_preset_learns_the_same_on_one_core_and_on_two(algo, task, settings, monkeypatch):
    learned, before = [], torch.get_num_threads()
    try:
        for cores in (1, 2):
            monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=cores: set(range(n)))
            torch.set_num_threads(cores)
            agent = KINDS[algo](task, config_of(algo, task, **settings))
            Loop(agent).run({"sac": 8, "ppo_recurrent": 1}.get(algo, 2))
            state = agent.state_dict()
            learned.append({name: x for name, x in state.items() if name != "config"})
    finally:
        torch.set_num_threads(before)
    assert_equal(learned[1], learned[0])


class DrawingEnv(StatefulEnv):
    """Draws from the generators of Python, NumPy and torch: made, at each reset and each step."""

    drawn: float

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.drawn = self.draw()

    def draw(self) -> float:
        return random.random() + np.random.rand() + float(torch.rand(()))

    def reset(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
        self.draw()
        return super().reset(**settings)

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        reward, terminated, truncated = super().outcome(action)
        return reward + self.draw(), terminated, truncated


DRAWING = f"{__name__}:DrawingEnv"


EAGER: dict[str, Any] = {"engine": "eager"}  # building a fast one takes longer than a run here


def train(log_dir: Path, **settings: Any) -> Path:
    agent: Any = agent_for(DRAWING, log_dir, **EAGER, **settings)
    return AgentTrainer().fit(agent).folder


def next_draws() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), float(torch.rand(()))


def test_what_environments_draw_from_global_generators_follows_from_the_seed(tmp_path):
    folders = []
    for number in range(2):
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        folders.append(train(tmp_path / str(number), total_timesteps=128, eval_episodes=2))
    assert_equal(last_state(folders[1]), last_state(folders[0]))


def test_a_run_leaves_global_generators_as_it_found_them(tmp_path):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = next_draws()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    train(tmp_path, total_timesteps=64)
    assert next_draws() == expected


def test_a_test_in_between_changes_nothing_that_training_draws(tmp_path):
    states = []
    for number, eval_every in enumerate((0, 64)):
        settings = {"total_timesteps": 192, "eval_episodes": 2, "eval_every": eval_every}
        states.append(last_state(train(tmp_path / str(number), **settings)))
    assert_equal(states[1]["agent"], states[0]["agent"])


def test_a_resumed_run_goes_on_in_the_global_generators(tmp_path):
    whole = train(tmp_path / "whole")
    parts = stopped_and_resumed(lambda: DRAWING, tmp_path / "parts", **EAGER)
    assert_equal(last_state(parts), last_state(whole))


def test_each_rank_draws_its_own(tmp_path: Path):
    def drawn_by(rank: int) -> float:
        devices = Devices(torch.device("cpu"))
        devices.global_rank = rank
        agent: Any = PPO(DRAWING, config_of_drawing(tmp_path), devices=devices)
        return agent.envs[0].envs[0].unwrapped.drawn

    assert len({drawn_by(0), drawn_by(1), drawn_by(2)}) == 3
    assert drawn_by(1) == drawn_by(1)


def config_of_drawing(log_dir: Path) -> Any:
    return agent_for(DRAWING, log_dir).config


def test_environments_that_fit_makes_of_one_differ_between_ranks():
    sizes = {"num_envs": 2, "num_steps": 16, "per_rank_batch_size": 32}
    agent = PPO(lambda: gymnasium.make("CartPole-v1"), preset="none", **sizes)
    rows = []
    for rank in (0, 1):
        parts = agent.config, rank, agent.envs, agent.task
        (pool,), _ = fitting_envs(gymnasium.make("CartPole-v1"), *parts)
        rows += pool.reset().tolist()
    assert len(set(map(tuple, rows))) == 4


def test_agents_made_in_threads_have_the_weights_of_their_seeds():
    def made(seed: int) -> Any:
        return make_agent("discrete", seed=seed, ortho_init=True).policy.state_dict()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(made, [1, 2] * 8))
    expected = made(1), made(2)
    for index, weights in enumerate(found):
        assert all(torch.equal(weights[x], expected[index % 2][x]) for x in weights)


def test_state_of_numpy_s_generator_that_is_no_whole_number_is_refused():
    state = state_of_generators()
    state["numpy_random"][0] = torch.full((624,), float("inf"))
    with pytest.raises(ValueError, match=r"random states cannot be restored: .* torch\.float32"):
        restore_generators(state)
