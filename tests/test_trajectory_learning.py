"""What is learned from trajectories: world models, imitation, and PPO that goes on from there.

The models are those of `docs/trajectories.md`.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from test_docs import DOCS, blocks
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

pytest.importorskip("minari")

from fastrl import PPO, TrajectoryDataset, make_random_trajectory
from fastrl.collect.__main__ import main as collect
from fastrl.training.greedy import fresh_env, play

LENGTH = 10
LANDER = "LunarLander-v2"


def of_the_docs(name: str) -> Any:
    """Returns a file of the page as a module."""
    text = (DOCS / "trajectories.md").read_text()
    (code,) = (code for words, code, _ in blocks(text) if words == f"file: {name}.py")
    module = types.ModuleType(name)
    exec(compile(code, name, "exec"), vars(module))
    return module


def linear_model(step: Any, num_choices: int) -> Any:
    """Returns the least-squares fit of the next observation to observation and action."""

    def inputs(obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        if num_choices:
            actions = torch.nn.functional.one_hot(actions, num_choices).float()
        return torch.cat([obs, actions, torch.ones_like(obs[:, :1])], -1).double()

    fit = torch.linalg.lstsq(inputs(step.obs, step.actions), step.next_obs.double()).solution

    def open_loop(window: Any) -> torch.Tensor:
        obs, predicted = window.obs[:, 0], []
        for action in window.actions.unbind(1):
            obs = (inputs(obs, action) @ fit).float()
            predicted.append(obs)
        return torch.stack(predicted, 1)

    return open_loop


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "num_choices", "num_steps", "max_steps"),
    [("CartPole-v1", 2, 10_000, 200), ("HalfCheetah-v4", 0, 20_000, 300)],
)
def test_a_world_model_predicts_ten_steps(env_id, num_choices, num_steps, max_steps, tmp_path):
    """Better than persistence and a linear model, open loop, in episodes that it has not seen."""
    torch.manual_seed(0)
    data = make_random_trajectory(env_id, tmp_path / "data", num_steps, length=LENGTH)
    train, held_out = data.split(0.2)
    step = train.subset(train.episodes, length=None)[:]
    model = of_the_docs("world_model").WorldModel(
        step.obs, step.actions, step.next_obs, num_choices
    )
    sampler = BatchSampler(RandomSampler(train), 256, drop_last=False)
    loader = DataLoader(train, batch_size=None, sampler=sampler)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(
        max_steps=max_steps, accelerator="cpu", enable_progress_bar=False, **quiet
    )
    trainer.fit(model, loader)
    window, scale = held_out[:], step.obs.std(0)

    def error_of(predicted: torch.Tensor) -> float:
        return ((predicted - window.obs[:, 1:]) / scale)[:, -1].square().mean().item()

    with torch.no_grad():
        learned = error_of(model.open_loop(window))
    linear = error_of(linear_model(step, num_choices)(window))
    persistence = error_of(window.obs[:, :1].expand(-1, LENGTH, -1))
    print(f"{env_id}: learned {learned:.3g} linear {linear:.3g} persistence {persistence:.4f}")
    assert learned < 0.8 * min(linear, persistence)


def mean_return(agent: PPO) -> float:
    """Returns the mean greedy return of 100 episodes, the same for every agent."""
    return play(agent, fresh_env(agent, 50, "eval", 7), 100).mean


@pytest.mark.slow
def test_a_clone_of_twenty_episodes_lands_as_its_expert_does_and_ppo_goes_on(
    tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    expert = PPO(LANDER, seed=1, total_timesteps=600_000, eval_episodes=0).learn()
    assert expert.result is not None
    folder = str(expert.result.folder)
    assert collect([folder, "--episodes", "20", "--out", "expert", "--stochastic"]) == 0
    data = TrajectoryDataset("expert")
    assert len(data.episodes) == 20
    student = PPO(LANDER, seed=2, eval_episodes=0)
    torch.manual_seed(0)
    of_the_docs("cloning").clone(student.policy, data, num_epochs=60)
    returns = [mean_return(agent) for agent in (expert, student)]
    tuned = PPO(
        LANDER, seed=3, eval_episodes=0, total_timesteps=200_000, learning_rate=3e-4, anneal_lr=True
    )
    untrained = mean_return(tuned)
    tuned.policy.load_state_dict(student.policy.state_dict())
    assert mean_return(tuned) == returns[1]
    after = mean_return(tuned.learn())
    print(f"expert, clone: {returns}, tuned {after:.1f}, untrained {untrained:.1f}")
    assert returns[0] > 200 and returns[1] > 0.9 * returns[0]
    assert after > 0.9 * returns[0] and np.isfinite(after)
