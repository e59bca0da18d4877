"""Exploration by a function of the state: its noise, likelihood, gradients, engines and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from quick import quick
from test_resume import agent_for, assert_equal, last_state, metrics_of, stopped_and_resumed
from torch import distributions
from toy_agents import Loop, make_a2c, make_agent, make_recurrent, run

from fastrl import PPO, AgentTrainer, from_sb3
from fastrl.config.ppo import PPOConfig
from fastrl.models.exploring import ExploringGaussianHead
from fastrl.models.heads import make_action_head
from fastrl.ops.exploration import exploration_log_std, exploration_noise
from fastrl.processes.memory import check_memory

WALK = "toy_agents:BoxWalk"
SETTINGS: dict[str, Any] = {"state_dependent_exploration": True}
MAKERS = (make_agent, make_a2c, make_recurrent)


def make_head(resample_steps: int = 0, squash: bool = False) -> ExploringGaussianHead:
    """Return a head of three dimensions on four features, with uneven deviations."""
    torch.manual_seed(1)
    box = spaces.Box(-1, 1, (3,))
    how = {"state_dependent_exploration": True, "exploration_resample_steps": resample_steps}
    head: Any = make_action_head(box, 4, squash, -0.5, None, **how)
    assert isinstance(head, ExploringGaussianHead)
    with torch.no_grad():
        head.weight_log_std.normal_().mul_(0.5)
    return head


def test_noise_is_a_product_of_features_and_weights() -> None:
    features, log_std, noise = torch.randn(5, 4), torch.randn(4, 3), torch.randn(5, 12)
    found = exploration_noise(features, log_std, noise)
    for row in range(5):
        for dim in range(3):
            terms = [
                features[row, f] * log_std[f, dim].exp() * noise[row, 3 * f + dim] for f in range(4)
            ]
            assert float(found[row, dim]) == pytest.approx(float(sum(terms)), rel=1e-4, abs=1e-5)


def test_draws_have_the_deviation_that_their_likelihood_says() -> None:
    head, rows = make_head(), 200_000
    outputs = head(torch.randn(1, 4)).expand(rows, -1)
    noise = torch.empty(rows, head.noise_size)
    head.draw_noise(noise, torch.Generator().manual_seed(2))
    drawn = head.sample(outputs, noise)
    means, log_std = head.mean_and_log_std(outputs[:1])
    torch.testing.assert_close(drawn.std(0), log_std[0].exp(), rtol=0.02, atol=0)
    torch.testing.assert_close(drawn.mean(0), means[0], rtol=0, atol=0.02)


@pytest.mark.parametrize("squash", [False, True])
def test_likelihood_and_entropy_are_those_of_torch(squash: bool) -> None:
    head = make_head(squash=squash)
    features = torch.randn(7, 4)
    outputs = head(features)
    variance = features.square() @ head.weight_log_std.exp().square() + 1e-6
    actions = torch.randn(7, 3)
    theirs: Any = distributions.Independent(
        distributions.Normal(head.means(features), variance.sqrt()), 1
    )
    log_prob, entropy = head.log_prob_and_entropy(outputs, actions)
    if squash:
        theirs = distributions.TransformedDistribution(theirs, [distributions.TanhTransform(1)])
        expected = theirs.log_prob(actions.tanh())
    else:
        expected = theirs.log_prob(actions)
        torch.testing.assert_close(entropy, theirs.entropy(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(log_prob, expected, rtol=1e-3, atol=1e-3)


def test_features_get_no_gradient_from_the_noise() -> None:
    head = make_head()
    features, actions = torch.randn(7, 4, requires_grad=True), torch.randn(7, 3)
    log_prob, entropy = head.log_prob_and_entropy(head(features), actions)
    with torch.no_grad():
        log_std = exploration_log_std(features, head.weight_log_std)
    fixed = distributions.Normal(head.means(features), log_std.exp())
    expected = fixed.log_prob(actions).sum()
    (mine,) = torch.autograd.grad(log_prob.sum() + entropy.sum(), features, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, features)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    (learned,) = torch.autograd.grad(log_prob.sum(), head.weight_log_std)
    assert bool((learned != 0).all())


@pytest.mark.parametrize(
    ("steps", "starts"), [(0, {0}), (3, {0, 3, 6}), (8, {0}), (1, set(range(8)))]
)
def test_weights_stay_for_the_steps_that_are_asked_for(steps: int, starts: set[int]) -> None:
    noise = torch.zeros(8, 2, 12)
    make_head(steps).draw_noise(noise, torch.Generator().manual_seed(3))
    assert not torch.equal(noise[0, 0], noise[0, 1])  # each environment has its own
    for t in range(1, 8):
        assert torch.equal(noise[t], noise[t - 1]) == (t not in starts)


@pytest.mark.parametrize("make", MAKERS)
def test_a_rollout_acts_by_one_function_and_the_next_by_another(make: Any) -> None:
    agent = make("box", **SETTINGS)
    loop = Loop(agent)
    loop.collect()
    first = loop.buffer.noise.clone()
    assert torch.equal(first, first[:1].expand_as(first))
    loop.update()
    loop.collect()
    assert not torch.equal(loop.buffer.noise, first)


def test_the_same_state_is_answered_alike_within_a_rollout_and_the_greedy_policy_as_ever() -> None:
    agent = make_agent("box", **SETTINGS)
    rows = torch.as_tensor(np.stack([agent.observation_space.sample()] * 2))
    noise = torch.empty(1, agent.policy.head.noise_size)
    agent.policy.head.draw_noise(noise, torch.Generator().manual_seed(1))
    drawn = agent.policy.act(rows, noise.expand(2, -1))
    assert torch.equal(drawn[0], drawn[1])
    greedy = agent.policy.head.to_env(agent.policy.head.means(agent.policy.actor(rows)))
    assert np.allclose(agent.predict(rows.numpy()), greedy.detach().numpy(), atol=1e-6)
    one, other = (agent.predict(rows[0].numpy(), deterministic=False) for _ in range(2))
    assert not np.array_equal(one, other)  # outside of a rollout it is drawn each time


@pytest.mark.parametrize("make", quick(MAKERS, make_agent, make_recurrent))
def test_recorded_learning_equals_eager_to_the_bit(make: Any) -> None:
    weights = []
    for engine in ("eager", "recorded"):
        agent = make("box", engine=engine, exploration_resample_steps=4, **SETTINGS)
        before = agent.policy.head.weight_log_std.detach().clone()
        run(agent, 2)
        assert not torch.equal(agent.policy.head.weight_log_std, before)
        weights.append(agent.optimizer.flat)
    assert torch.equal(*weights)


def test_the_header_says_that_no_kernel_knows_it() -> None:
    agent = make_agent("box", engine="auto", **SETTINGS)
    agent.make_buffer()
    line = agent.engine.describe()
    assert line.startswith("engine: recorded graphs")
    assert "native: " in line


def test_runs_are_resumed_to_the_bit_loaded_and_exported(tmp_path: Path) -> None:
    settings = {**SETTINGS, "exploration_resample_steps": 3, "engine": "eager"}
    straight = AgentTrainer().fit(agent_for("toy_agents:BoxWalk", tmp_path, **settings)).folder
    resumed = stopped_and_resumed(lambda: "toy_agents:BoxWalk", tmp_path, **settings)
    assert_equal(last_state(resumed), last_state(straight))
    assert metrics_of(resumed) == metrics_of(straight)
    model = PPO.load(straight)
    obs = model.observation_space.sample()
    model.export(tmp_path / "policy.pt", outputs=("action", "mean", "log_std"))
    found = torch.jit.load(tmp_path / "policy.pt")(torch.as_tensor(obs).unsqueeze(0))
    assert np.allclose(found[0][0], model.predict(obs), atol=1e-6)
    assert found[2].shape == (1, 2)


def test_reward_is_learned() -> None:
    """The largest actions are the best ones, whatever the state."""
    how = {"learning_rate": 0.01, "gamma": 0.5, "total_timesteps": 16 * 4 * 60}
    agent = make_agent("box", engine="recorded", normalize_advantages=True, **how, **SETTINGS)
    metrics = run(agent, 60)
    assert metrics
    greedy = agent.predict(np.stack([agent.observation_space.sample() for _ in range(20)]))
    assert (greedy.mean(0) > [0.7, 1.4]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exploration_resample_steps": 4}, "no effect without state_dependent_exploration"),
        ({**SETTINGS, "state_dependent_std": True}, "state_dependent_std has no effect with"),
        ({**SETTINGS, "exploration_resample_steps": -1}, "exploration_resample_steps"),
    ],
)
def test_what_has_no_effect_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOConfig(**settings)


def test_weights_that_cannot_fit_into_memory_are_refused() -> None:
    sizes: dict[str, Any] = {"num_envs": 4096, "num_steps": 4096, "hidden_sizes": (4096,)}
    sizes |= {"total_timesteps": 2**24}
    check_memory(PPOConfig(**sizes))
    with pytest.raises(ValueError, match=r"num_steps=4096.* cannot fit"):
        check_memory(PPOConfig(**sizes, **SETTINGS))


def test_other_actions_refuse_it() -> None:
    with pytest.raises(ValueError, match="state_dependent_exploration has no effect on Discrete"):
        make_agent("discrete", **SETTINGS)


def test_sb3s_arguments_are_ours() -> None:
    config = PPO(WALK, **from_sb3({"use_sde": True, "sde_sample_freq": 4})).config
    assert (config.state_dependent_exploration, config.exploration_resample_steps) == (True, 4)
    config = PPO(WALK, **from_sb3({"use_sde": True, "sde_sample_freq": -1})).config
    assert config.exploration_resample_steps == 0
    with pytest.raises(ValueError, match="full_std=False has no counterpart"):
        from_sb3({"use_sde": True, "policy_kwargs": {"full_std": False}})
