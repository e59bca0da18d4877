"""Statistics of observations: frozen ones stay as they are; clip and epsilon do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from quick import quick
from ranks import run_ranks
from test_acting import make_policy
from test_decoupled import decoupled
from test_ranks import learn
from test_resume import agent_for, assert_equal, last_state
from toy_agents import Loop, make_a2c, make_agent, make_recurrent, run

from fastrl import PPO, AgentTrainer, cli
from fastrl.config.a2c import A2CConfig
from fastrl.config.ppo import PPOConfig
from fastrl.engine.native_acting import NativeActing

STATEFUL = "toy_envs:StatefulEnv"
BOTH = {"observation_normalization": True, "reward_scaling": True}


def give_statistics(agent: Any) -> None:
    """Gives an agent statistics that no rollout has: mean 3 and variance 4, of 50 rows."""
    for scale in (agent.policy.normalizer, agent.reward_scale):
        scale.count.fill_(50)
        scale.mean.fill_(3.0)
        scale.variance.fill_(4.0)
    agent.policy.normalizer.shift.fill_(3.0)
    agent.policy.normalizer.scale.fill_(0.5)


class Given(PPO):
    """Begins with these statistics."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        give_statistics(self)


def statistics_of(agent: Any) -> dict[str, torch.Tensor]:
    parts = {"seen": agent.policy.normalizer, "rewards": agent.reward_scale}
    states = {name: module.state_dict() for name, module in parts.items()}
    return {f"{x}.{y}": z.clone() for x, state in states.items() for y, z in state.items()}


# Frozen statistics


@pytest.mark.parametrize("engine", quick(["eager", "recorded", "auto"], "auto"))
@pytest.mark.parametrize(
    "make", quick([make_agent, make_a2c, make_recurrent], make_agent, make_recurrent)
)
def test_frozen_statistics_are_used_and_stay_to_the_bit(make: Any, engine: str) -> None:
    agent = make("box", engine=engine, freeze_normalization=True, **BOTH)
    give_statistics(agent)
    weights = agent.optimizer.flat.clone()
    before = statistics_of(agent)
    run(agent)
    assert_equal(statistics_of(agent), before)
    assert not agent.optimizer.flat.equal(weights)
    obs = torch.randn(5, *agent.observation_space.shape)
    seen = agent.policy.read(obs).vector
    torch.testing.assert_close(seen, (obs - 3) / 2)


def test_frozen_rewards_are_divided_by_the_given_deviation() -> None:
    agent = make_agent("box", freeze_normalization=True, reward_scaling=True, gae_lambda=0.0)
    assert agent.reward_scale is not None
    agent.reward_scale.variance.fill_(4.0)
    loop = Loop(agent)
    loop.run(1)
    rows = loop.buffer
    goes_on = rows.valid & ~(rows.terminated | rows.truncated)
    rewards = rows.returns - agent.config.gamma * rows.values[1:]
    torch.testing.assert_close(rewards[goes_on], rows.rewards[goes_on] / 2)


def learn_frozen() -> dict[str, Any]:
    return learn(2, "own_data", Given, total_timesteps=4096, freeze_normalization=True)


def test_ranks_keep_frozen_statistics() -> None:
    for each in run_ranks(2, learn_frozen):
        assert np.all(each["learned"]["policy.normalizer.mean"] == 3)
        assert each["learned"]["reward_scale.count"] == 50


def test_players_and_trainers_keep_frozen_statistics() -> None:
    (player,) = decoupled("own_data", 1, 1, Given, total_timesteps=4096, freeze_normalization=True)
    assert np.all(player["learned"]["policy.normalizer.mean"] == 3)
    assert player["learned"]["policy.normalizer.count"] == 50
    assert player["learned"]["reward_scale.variance"] == 4


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: Any) -> Path:
    agent = agent_for(STATEFUL, tmp_path_factory.mktemp("runs"), engine="eager")
    return AgentTrainer().fit(agent).folder


@pytest.mark.parametrize("is_frozen", quick([True, False], True))
def test_a_loaded_agent_keeps_its_statistics_only_if_frozen(
    is_frozen: bool, run_folder: Path, tmp_path: Path
) -> None:
    settings: Any = {"log_dir": str(tmp_path), "keep_normalizer": True}
    agent = PPO.load(run_folder, freeze_normalization=is_frozen, **settings)
    before = statistics_of(agent)
    assert int(before["seen.count"]) > 0
    agent.learn(128)
    now = statistics_of(agent)
    assert {name for name in now if not torch.equal(now[name], before[name])} == (
        set() if is_frozen else set(now)
    )
    assert agent.result is not None
    again = PPO.load(agent.result.folder)
    assert again.config.freeze_normalization == is_frozen
    assert_equal(statistics_of(again), now)


def test_a_run_is_resumed_with_statistics_that_no_longer_change(tmp_path: Path) -> None:
    folder = AgentTrainer().fit(agent_for(STATEFUL, tmp_path, engine="eager")).folder
    before = last_state(folder)["agent"]
    words = ["--resume", str(folder), "--total-timesteps", "640", "--freeze-normalization"]
    assert cli.main("ppo", words) == 0
    now = last_state(folder)["agent"]
    for name in ("count", "mean", "variance", "shift", "scale"):
        assert torch.equal(
            now["policy"][f"normalizer.{name}"], before["policy"][f"normalizer.{name}"]
        )
    assert_equal(now["reward_scale"], before["reward_scale"])
    layer = "value_head.weight"
    assert not torch.equal(now["policy"][layer], before["policy"][layer])


@pytest.mark.parametrize("settings", [{}, {"keep_normalizer": False}])
def test_freezing_before_there_are_statistics_is_refused(
    settings: dict[str, Any], run_folder: Path, tmp_path: Path
) -> None:
    if settings:
        agent = PPO.load(run_folder, freeze_normalization=True, log_dir=str(tmp_path), **settings)
    else:
        agent = agent_for(STATEFUL, tmp_path, freeze_normalization=True, engine="eager")
    with pytest.raises(ValueError, match="no statistics of observations yet; load an agent"):
        agent.learn()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [PPOConfig, A2CConfig])
def test_freezing_without_a_normaliser_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="freeze_normalization has no effect without"):
        kind(freeze_normalization=True)
    assert kind(freeze_normalization=True, reward_scaling=True).freeze_normalization


# Clip and epsilon

BOUNDED: dict[str, Any] = {
    "observation_normalization": True,
    "observation_clip": 0.7,
    "observation_epsilon": 0.5,
}
# Of observations within [-1, 1]: values at the clip and within it.
ROWS = torch.linspace(-4, 4, 18).reshape(9, 2)


def plainly(policy: Any, rows: torch.Tensor) -> torch.Tensor:
    """Returns rows normalised as the formula says, in float64."""
    mean, variance = policy.normalizer.mean, policy.normalizer.variance
    return ((rows.double() - mean) / (variance + 0.5).sqrt()).clamp(-0.7, 0.7).float()


@pytest.mark.parametrize("make", [make_agent, make_a2c])
def test_clip_and_epsilon_are_those_of_the_formula_in_predict_and_exports(
    make: Any, tmp_path: Path
) -> None:
    agent = make("box", **BOUNDED)
    run(agent)
    policy = agent.policy
    seen = plainly(policy, ROWS)
    assert (seen.abs() == 0.7).any() and (seen.abs() < 0.7).any()
    with torch.no_grad():
        expected = policy.head.to_env(policy.head.mode(policy.head(policy.actor(seen))))
    np.testing.assert_allclose(agent.predict(ROWS.numpy()), expected, atol=1e-6)
    agent.export(tmp_path / "policy.pt")
    exported = torch.jit.load(str(tmp_path / "policy.pt"))(ROWS)
    torch.testing.assert_close(exported, expected, atol=1e-6, rtol=0)


def test_clip_and_epsilon_reach_a_policy_with_a_memory() -> None:
    agent = make_recurrent("box", **BOUNDED)
    run(agent)
    torch.testing.assert_close(agent.policy.read(ROWS).vector, plainly(agent.policy, ROWS))


@pytest.mark.parametrize("engine", quick(["recorded", "auto"], "auto"))
@pytest.mark.parametrize("settings", [{"observation_clip": 0.3}, {"observation_epsilon": 2.0}])
def test_every_engine_learns_with_them_what_eager_learns(engine: str, settings: Any) -> None:
    def learned(name: str, **more: Any) -> torch.Tensor:
        agent = make_agent("box", engine=name, observation_normalization=True, **more)
        run(agent)
        return agent.optimizer.flat

    expected = learned("eager", **settings)
    torch.testing.assert_close(learned(engine, **settings), expected, rtol=2e-4, atol=2e-5)
    assert not torch.allclose(learned("eager"), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Box(-1, 1, (3,))])
def test_the_kernel_that_acts_has_them(space: Any) -> None:
    policy = make_policy(
        space, normalize_observations=True, observation_clip=0.3, observation_epsilon=0.5
    )
    head, obs = policy.head, 5 * torch.randn(64, 5)
    noise = torch.zeros(64, head.noise_size)
    stored = torch.empty((64, *head.action_shape), dtype=head.action_dtype)
    NativeActing(policy, 64)(obs, noise, stored)
    with torch.no_grad():
        torch.testing.assert_close(stored, policy.act(obs, noise), rtol=1e-5, atol=1e-5)


def test_another_epsilon_takes_effect_when_an_agent_or_weights_are_loaded(
    run_folder: Path,
) -> None:
    changes: Any = {"observation_epsilon": 0.5, "observation_clip": 0.7}
    agent = PPO.load(run_folder, **changes, freeze_normalization=True)
    rows = torch.linspace(-4, 4, 9 * agent.policy.normalizer.mean.numel()).reshape(9, -1)
    torch.testing.assert_close(agent.policy.read(rows).vector, plainly(agent.policy, rows))
    other = PPO.load(run_folder, **changes, keep_normalizer=False)
    assert int(other.policy.normalizer.count) == 0
    other.load_weights(run_folder)
    assert other.policy.normalizer.scale.equal(agent.policy.normalizer.scale)
    assert not other.policy.normalizer.scale.equal(PPO.load(run_folder).policy.normalizer.scale)


@pytest.mark.parametrize("name", ["observation_clip", "observation_epsilon"])
def test_they_are_refused_where_they_have_no_effect_or_no_meaning(name: str) -> None:
    config: Any = PPOConfig
    with pytest.raises(ValueError, match=f"{name} has no effect without observation_normal"):
        config(**{name: 0.5})
    with pytest.raises(ValueError, match=f"{name} must be above 0, not 0"):
        config(**{"observation_normalization": True, name: 0.0})
