"""A time limit is no end: an endless task has its true value, one that terminates has not."""

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from quick import quick
from toy_agents import Loop, make_agent
from toy_envs import EndlessEnv, TerminatingEnv

from fastrl.envs.make import make_env
from fastrl.envs.vector import VectorEnv
from fastrl.ops.gae import gae
from fastrl.ppo import PPO

GAMMA, LIMIT = 0.9, 5
ENDLESS_VALUE = 1 / (1 - GAMMA)
VALUE_OF_LIMIT_STEPS = (1 - GAMMA**LIMIT) / (1 - GAMMA)
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


class Foreign(SyncVectorEnv):
    """Not exactly a SyncVectorEnv, so it can't be switched to another mode."""


def own_env(kind: type[gymnasium.Env]) -> VectorEnv:
    """Return four tasks by their id."""
    return make_env(f"{kind.__module__}:{kind.__name__}", 4, env_kwargs={"time_limit": LIMIT})


def foreign_env(kind: type[gymnasium.Env], mode: AutoresetMode) -> gymnasium.vector.VectorEnv:
    """Return four tasks in a vector environment that somebody else built."""
    return Foreign([partial(kind, time_limit=LIMIT)] * 4, autoreset_mode=mode)


def cartpole(backend: str) -> VectorEnv:
    """Return CartPole cut so early that it cannot fall: reward 1, for ever."""
    return make_env("CartPole-v1", 4, backend=backend, env_kwargs={"max_episode_steps": LIMIT})  # pyright: ignore[reportArgumentType]


SOURCES = {
    "make_env": own_env,
    **{mode.name: partial(foreign_env, mode=mode) for mode in MODES},
}


def learner(env: VectorEnv | gymnasium.vector.VectorEnv, **changes: float) -> PPO:
    """Return an agent that learns values quickly."""
    settings = {
        "gamma": GAMMA,
        "gae_lambda": 0.95,
        "learning_rate": 0.02,
        "update_epochs": 6,
        "num_steps": 24,
        "per_rank_batch_size": 48,
        "total_timesteps": 96 * 20,
        "max_grad_norm": 0.0,
        "anneal_lr": True,
    }
    return make_agent(env, **{**settings, **changes})


def set_value(agent: PPO, value: float) -> None:
    """Make the critic say the same everywhere."""
    with torch.no_grad():
        agent.policy.value_head.weight.zero_()
        agent.policy.value_head.bias.fill_(value)


def advantages_of(agent: PPO, num_rollouts: int = 3) -> torch.Tensor:
    """Return the advantages of all valid rows of some rollouts."""
    loop, kept = Loop(agent), []
    for _ in range(num_rollouts):
        loop.collect()
        loop.num_updates += 1
        buffer = loop.buffer
        agent.compute_advantages(buffer)
        assert buffer.num_valid < buffer.num_steps * buffer.num_envs
        kept.append(buffer.advantages[buffer.valid])
    return torch.cat(kept)


@pytest.mark.parametrize("source", SOURCES)
def test_endless_task_has_its_true_value_as_fixed_point(source):
    agent = learner(SOURCES[source](EndlessEnv))
    set_value(agent, ENDLESS_VALUE)
    assert advantages_of(agent).abs().max().item() < 1e-4


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_cartpole_cut_before_it_falls_has_the_value_of_an_endless_task(backend):
    agent = learner(cartpole(backend))
    set_value(agent, ENDLESS_VALUE)
    assert advantages_of(agent).abs().max().item() < 1e-4


@pytest.mark.parametrize("source", SOURCES)
def test_task_that_ends_has_not_the_value_of_an_endless_one(source):
    agent = learner(SOURCES[source](TerminatingEnv))
    set_value(agent, ENDLESS_VALUE)
    advantages = advantages_of(agent)
    assert advantages.max().item() < 0
    # The last step is worth 1 alone.
    assert advantages.min().item() == pytest.approx(1 - ENDLESS_VALUE, abs=1e-4)


@pytest.mark.parametrize("source", SOURCES)
def test_task_that_ends_has_its_own_value_as_fixed_point(source):
    loop = Loop(learner(SOURCES[source](TerminatingEnv)))
    loop.collect()
    buffer = loop.buffer
    steps_left = LIMIT * (1 - buffer.obs[..., 1])
    values = (1 - GAMMA**steps_left) / (1 - GAMMA) + 1000 * (steps_left < 0.5)  # the end is unread
    advantages = gae(buffer.rewards, values, buffer.terminated, buffer.truncated, GAMMA, 0.9)
    assert advantages[buffer.valid].abs().max().item() < 1e-4


def learned_value(agent: PPO, obs: np.ndarray) -> float:
    """Train to the end; return the value of one observation."""
    Loop(agent).run(agent.num_updates)
    return agent.policy.value(torch.from_numpy(obs).unsqueeze(0)).item()


@pytest.mark.parametrize("source", quick(SOURCES, "SAME_STEP"))
def test_ppo_learns_the_value_of_an_endless_task(source):
    agent = learner(SOURCES[source](EndlessEnv))
    value = learned_value(agent, np.ones(2, np.float32))
    assert value == pytest.approx(ENDLESS_VALUE, rel=0.03)


def test_ppo_learns_the_value_of_a_task_that_ends():
    agent = learner(own_env(TerminatingEnv))
    value = learned_value(agent, np.array([1, 0], np.float32))
    assert value == pytest.approx(VALUE_OF_LIMIT_STEPS, rel=0.05)


def test_ppo_learns_the_endless_value_of_cut_cartpole():
    agent = learner(cartpole("envpool"))
    value = learned_value(agent, np.zeros(4, np.float32))
    assert value == pytest.approx(ENDLESS_VALUE, rel=0.03)


def test_ppo_learns_the_value_by_its_task_id():
    agent = learner("toy_envs:EndlessEnv")  # pyright: ignore[reportArgumentType]
    value = learned_value(agent, np.ones(2, np.float32))
    assert value == pytest.approx(ENDLESS_VALUE, rel=0.03)
