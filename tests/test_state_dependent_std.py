"""A standard deviation that depends on the state: likelihoods, engines, files, learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from quick import quick
from test_resume import agent_for, assert_equal, last_state, metrics_of, stopped_and_resumed
from torch import distributions
from toy_agents import make_a2c, make_agent, make_recurrent, run

from fastrl import A2C, PPO, AgentTrainer, PPORecurrent
from fastrl.models.distributions import StateDependentGaussianHead
from fastrl.models.heads import make_action_head

WALK = "toy_agents:BoxWalk"
SETTINGS: dict[str, Any] = {"state_dependent_std": True}


def make_head(squash: bool = False, log_std_init: float = 0.0) -> StateDependentGaussianHead:
    """Return a head of three dimensions on four features."""
    torch.manual_seed(1)
    head = make_action_head(spaces.Box(-1, 1, (3,)), 4, squash, log_std_init, None, True)
    assert isinstance(head, StateDependentGaussianHead)
    return head


def outputs(num_rows: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a network's outputs, and the means and deviations that they stand for."""
    generator = torch.Generator().manual_seed(2)
    means, log_std = torch.randn(2, num_rows, 3, generator=generator)
    return torch.cat([means, 0.5 * log_std], 1), means, (0.5 * log_std).exp()


def test_likelihood_and_entropy_are_those_of_torch() -> None:
    found, means, std = outputs()
    actions = torch.randn(7, 3) * 3
    theirs = distributions.Independent(distributions.Normal(means, std), 1)
    log_prob, entropy = make_head().log_prob_and_entropy(found, actions)
    torch.testing.assert_close(log_prob, theirs.log_prob(actions))
    torch.testing.assert_close(entropy, theirs.entropy())


def test_squashed_likelihood_is_that_of_torch_and_the_entropy_its_mean() -> None:
    head, rows = make_head(squash=True), 100_000
    found, means, std = (x[:1].expand(rows, -1) for x in outputs())
    normal = distributions.Independent(distributions.Normal(means.double(), std.double()), 1)
    theirs = distributions.TransformedDistribution(normal, [distributions.TanhTransform(1)])
    noise = torch.empty(rows, head.noise_size)
    head.draw_noise(noise, torch.Generator().manual_seed(3))
    actions = head.sample(found, noise)
    log_prob, entropy = head.log_prob_and_entropy(found, actions)
    near = actions.abs().amax(1) < 4  # beyond, torch's inverse of tanh loses digits
    expected = theirs.log_prob(actions.double().tanh())
    torch.testing.assert_close(log_prob[near].double(), expected[near], rtol=1e-4, atol=1e-4)
    assert float(entropy.mean()) == pytest.approx(-float(log_prob.mean()), abs=0.02)


def test_draws_have_the_mean_and_the_deviation_of_their_state() -> None:
    head, (found, means, std) = make_head(), outputs(2)
    noise = torch.empty(2 * 50_000, 3)
    head.draw_noise(noise, torch.Generator().manual_seed(4))
    drawn = head.sample(found.repeat(50_000, 1), noise).reshape(50_000, 2, 3)
    torch.testing.assert_close(drawn.mean(0), means, atol=0.04, rtol=0)
    torch.testing.assert_close(drawn.std(0), std, rtol=0.02, atol=0)
    torch.testing.assert_close(head.mode(found), means)


@pytest.mark.parametrize("gain", [None, 0.01])
def test_it_begins_as_one_deviation_for_all_states_and_is_clamped(gain: float | None) -> None:
    head = make_action_head(spaces.Box(-1, 1, (3,)), 4, False, -1.5, gain, True)
    assert isinstance(head, StateDependentGaussianHead)
    _, log_std = head.mean_and_log_std(head(torch.randn(9, 4) * 100))
    assert torch.equal(log_std, torch.full((9, 3), -1.5))
    _, clamped = head.mean_and_log_std(torch.tensor([[0.0, 0.0, 0.0, 5.0, -50.0, 1.0]]))
    assert clamped.tolist() == [[2.0, -20.0, 1.0]]


def test_other_actions_refuse_it() -> None:
    with pytest.raises(ValueError, match="state_dependent_std has no effect on Discrete"):
        make_agent("discrete", **SETTINGS)


# In the algorithms


@pytest.mark.parametrize("engine", [pytest.param("recorded", marks=pytest.mark.slow), "auto"])
@pytest.mark.parametrize("squash", quick([False, True], True))
@pytest.mark.parametrize("make", quick([make_agent, make_a2c, make_recurrent], make_agent))
def test_every_engine_learns_with_it_what_eager_learns(make: Any, squash: bool, engine: str):
    def learned(engine: str) -> torch.Tensor:
        agent = make("box", engine=engine, squash_actions=squash, **SETTINGS)
        before = agent.policy.head.layer.weight[2:].clone()
        run(agent)
        assert not agent.policy.head.layer.weight[2:].equal(before)
        return agent.optimizer.flat

    torch.testing.assert_close(learned(engine), learned("eager"), rtol=2e-4, atol=2e-5)


def test_the_header_says_that_its_loss_has_no_kernel() -> None:
    agent = make_agent("box", engine="auto", **SETTINGS)
    agent.make_buffer()
    assert "loss by autograd: no kernel knows such actions" in agent.engine.describe()


def test_it_is_resumed_to_the_bit_loaded_and_exported(tmp_path: Path) -> None:
    settings = {**SETTINGS, "engine": "eager"}
    straight = AgentTrainer().fit(agent_for(WALK, tmp_path, **settings)).folder
    resumed = stopped_and_resumed(lambda: WALK, tmp_path, **settings)
    assert_equal(last_state(resumed), last_state(straight))
    assert metrics_of(resumed) == metrics_of(straight)
    model = PPO.load(straight)
    obs = torch.randn(6, *model.observation_space.shape)
    model.export(tmp_path / "policy.pt", outputs=("actions", "mean", "log_std"))
    actions, means, log_std = torch.jit.load(str(tmp_path / "policy.pt"))(obs)
    np.testing.assert_allclose(actions, model.predict(obs.numpy()), atol=1e-6)
    with torch.no_grad():
        expected = model.policy.head.mean_and_log_std(model.policy.outputs(obs))
    torch.testing.assert_close((means, log_std), expected)
    assert len(log_std.unique(dim=0)) == 6  # of its own for each state
    drawn = {float(model.predict(obs[0].numpy(), deterministic=False)[0]) for _ in range(5)}
    assert len(drawn) > 1


def test_a_policy_with_a_memory_is_exported_with_it(tmp_path: Path) -> None:
    agent = make_recurrent("box", squash_actions=True, **SETTINGS)
    run(agent)
    agent.export(tmp_path / "policy.pt", outputs=("actions", "log_std"))
    obs, state = torch.randn(3, *agent.observation_space.shape), agent.new_state(3)
    read = torch.jit.load(str(tmp_path / "policy.pt"))
    actions, log_std, _ = read({"observations": obs, "state": state})
    np.testing.assert_allclose(actions, agent.predict(obs.numpy(), state=state.clone()), atol=1e-6)
    assert log_std.shape == (3, 2)


class Careful(gymnasium.Env):
    """One step: in one state actions cost their square; in the other all are alike."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-3, 3, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = float(self.np_random.choice([0.0, 1.0]))
        return np.full(1, self.state, np.float32), {}

    def step(self, action: Any) -> Any:
        cost = self.state * float(action[0]) ** 2
        return np.full(1, self.state, np.float32), -cost, True, False, {}


@pytest.mark.parametrize(
    "kind", [PPO, *(pytest.param(x, marks=pytest.mark.slow) for x in (A2C, PPORecurrent))]
)
def test_it_learns_to_be_careful_in_one_state_alone(kind: Any, tmp_path: Path) -> None:
    sizes: Any = {"num_envs": 16, "num_steps": 16, "total_timesteps": 16 * 1024, "seed": 1}
    if kind is A2C:
        sizes |= {"num_steps": 5, "total_timesteps": 64_000}
    else:
        sizes |= {"per_rank_batch_size": 128, "update_epochs": 4}
    if kind is PPORecurrent:
        sizes |= {"sequence_length": 8}
    agent = kind(
        Careful,
        preset="none",
        learning_rate=5e-3,
        hidden_sizes=(16,),
        eval_episodes=0,
        ent_coef=0.05,
        log_dir=str(tmp_path),
        **sizes,
        **SETTINGS,
    ).learn()
    rows, policy = torch.tensor([[0.0], [1.0]]), cast(Any, agent.policy)
    with torch.no_grad():
        if kind is PPORecurrent:
            features, _ = policy.step(rows, cast(Any, agent).new_state(2))
            found = policy.head(policy._of_actor(features))
        else:
            found = policy.outputs(rows)
        means, log_std = policy.head.mean_and_log_std(found)
    free, careful = log_std.exp().squeeze(1).tolist()
    assert abs(means[1]) < 0.2
    # Both begin at 1; where all actions are alike, the entropy bonus alone counts.
    assert careful < 0.6 and free > 1


@pytest.mark.slow
def test_pendulum_is_learned(tmp_path: Path) -> None:
    agent = PPO("Pendulum-v1", seed=1, log_dir=str(tmp_path), **SETTINGS).learn()
    assert agent.evaluate(episodes=20).mean > -300
