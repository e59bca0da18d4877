"""The settings that users of other libraries reach for do what their formulas say."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from quick import quick, slow
from test_resume import agent_for, assert_equal, last_state, metrics_of, stopped_and_resumed
from torch import nn
from toy_agents import make_a2c, make_agent, run

from fastrl import PPO, AgentTrainer
from fastrl.config.networks import Activation
from fastrl.config.ppo import PPOConfig
from fastrl.engine.optimizer import FlatAdam
from fastrl.export import main as run_export
from fastrl.kernels.adam import adam_step
from fastrl.ops.losses import clipped_value_loss

STATEFUL = "toy_envs:StatefulEnv"
ENGINES = ("recorded", "auto")


def weights_after(engine: str, **settings: Any) -> torch.Tensor:
    agent = make_agent("box", engine=engine, **settings)
    run(agent)
    return agent.optimizer.flat


# Networks


def test_actor_and_critic_have_widths_of_their_own() -> None:
    for make in (make_agent, make_a2c):
        policy = make(hidden_sizes=(5, 7), critic_hidden_sizes=(9,)).policy
        widths = [
            [layer.out_features for layer in trunk if isinstance(layer, nn.Linear)]
            for trunk in (policy.actor, policy.critic)
        ]
        assert widths == [[5, 7], [9]]
        assert policy.head.layer.in_features == 7 and policy.value_head.in_features == 9


@pytest.mark.parametrize("engine", quick(ENGINES, "auto"))
@pytest.mark.parametrize(
    "settings",
    [
        {"critic_hidden_sizes": (16,)},
        slow({"activation_function": "SiLU"}),
        slow({"weight_decay": 0.3}),
        {"adam_beta1": 0.5, "adam_beta2": 0.9},
        {"clip_vloss": True, "vf_clip_coef": 0.01, "vf_clip_rule": "clipped"},
        {"target_kl": 1e-4, "kl_stop": "minibatch"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_engine_learns_with_it_what_eager_learns(engine: str, settings: dict) -> None:
    expected, actual = (weights_after(name, **settings) for name in ("eager", engine))
    torch.testing.assert_close(actual, expected, rtol=2e-4, atol=2e-5)


def notes_of(**settings: Any) -> str:
    agent = make_agent("box", engine="auto", **settings)
    agent.make_buffer()
    return agent.engine.describe()


def test_the_header_says_what_the_kernels_do_not_know() -> None:
    assert notes_of() == notes_of(critic_hidden_sizes=(16,)) == notes_of(weight_decay=0.1)
    assert "relu, tanh, elu as activations, not SiLU" in notes_of(activation_function="SiLU")
    apart = notes_of(clip_vloss=True, vf_clip_coef=0.01)
    assert "loss by autograd: the kernel computes another one" in apart


@pytest.mark.parametrize("name", get_args(Activation))
def test_every_activation_is_one_of_torch(name: str) -> None:
    policy = make_agent(activation_function=name).policy
    kinds = {type(layer) for layer in policy.actor} - {nn.Linear}
    assert [kind.__name__.lower() for kind in kinds] == [name.lower()]


def test_an_activation_may_be_a_class_of_torch() -> None:
    silu: Any = nn.SiLU
    assert make_agent(activation_function=silu).config.activation_function == "SiLU"
    assert make_agent(activation_function=nn.Tanh).config.activation_function == "tanh"
    with pytest.raises(ValueError, match="activation_function must be one of relu, tanh, elu"):
        make_agent(activation_function=nn.Linear)


def test_widths_and_activation_are_resumed_loaded_and_exported(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"critic_hidden_sizes": (16,), "activation_function": "GELU"}
    settings |= {"weight_decay": 0.1, "engine": "eager"}
    straight = AgentTrainer().fit(agent_for(STATEFUL, tmp_path, **settings)).folder
    resumed = stopped_and_resumed(lambda: STATEFUL, tmp_path, **settings)
    assert_equal(last_state(resumed), last_state(straight))
    assert metrics_of(resumed) == metrics_of(straight)
    model = PPO.load(straight)
    assert model.config.activation_function == "GELU"
    obs = model.observation_space.sample()
    assert run_export([str(straight), "--out", str(tmp_path / "policy.pt")]) == 0
    found = torch.jit.load(tmp_path / "policy.pt")(torch.as_tensor(obs).unsqueeze(0))[0]
    assert np.allclose(found, model.predict(obs))


# The loss


def test_values_are_clipped_as_stable_baselines3_and_as_baselines_do() -> None:
    generator = torch.Generator().manual_seed(1)
    values, old, returns = torch.randn(3, 50, generator=generator)
    weights = torch.full((50,), 1 / 50)
    sums = {"larger": 0.0, "clipped": 0.0}
    for value, before, target in zip(values.tolist(), old.tolist(), returns.tolist(), strict=True):
        moved = before + min(max(value - before, -0.3), 0.3)
        sums["clipped"] += (target - moved) ** 2 / 50
        sums["larger"] += max((target - moved) ** 2, (target - value) ** 2) / 50
    for rule, expected in sums.items():
        loss = clipped_value_loss(values, old, returns, weights, torch.tensor(0.3), rule)
        assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rule", ["larger", "clipped"])
def test_values_have_a_clip_of_their_own(rule: str) -> None:
    settings: dict[str, Any] = {"clip_vloss": True, "vf_clip_rule": rule, "clip_coef": 0.2}
    agent = make_agent("box", **settings, vf_clip_coef=0.05)
    batch = agent.make_buffer().first_minibatch
    generator = torch.Generator().manual_seed(1)
    shape = batch.returns.shape
    batch = batch._replace(
        returns=torch.randn(shape, generator=generator),
        values=torch.randn(shape, generator=generator),
        weights=torch.full(shape, 1 / len(batch.weights)),
    )
    _, (_, critic_loss, *_) = agent.loss(batch)
    values = agent.evaluate_actions(batch)[2]
    old = batch.values, batch.returns, batch.weights
    assert critic_loss.equal(clipped_value_loss(values, *old, torch.tensor(0.05), rule))
    assert not critic_loss.equal(clipped_value_loss(values, *old, torch.tensor(0.2), rule))


# The optimiser


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_adam_with_betas_and_weight_decay_is_torchs_adamw(weight_decay: float) -> None:
    network = nn.Linear(5, 3)
    twin = copy.deepcopy(network)
    ours = FlatAdam(network, 0.03, 1e-5, 0.0, betas=(0.8, 0.95), weight_decay=weight_decay)
    options: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-5, "weight_decay": weight_decay}
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.03, **options)
    plain, steps = ours.flat.clone(), torch.zeros(())
    mean, square = torch.zeros_like(plain), torch.zeros_like(plain)
    for step in range(20):
        rows = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        gradient = ours.gradient(network(rows).square().mean())
        plain.mul_(1 - 0.03 * weight_decay)
        given = gradient.clone(), mean, square, steps, torch.tensor(0.03)
        adam_step(plain, *given, 1e-5, 0.8, 0.95)
        ours.apply(gradient)
        twin.zero_grad()
        twin(rows).square().mean().backward()
        theirs.step()
    torch.testing.assert_close(network.weight, twin.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network.bias, twin.bias, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.flat, plain, rtol=1e-5, atol=1e-6)


# Stopping within an epoch


class Watched(PPO):
    """Notes what each minibatch's KL is before its step, and whether the weights then changed."""

    def build(self, rollout: Any) -> None:
        super().build(rollout)
        self.seen: list[tuple[float, bool]] = []
        step = self.step

        class Step:
            def __call__(self, batch: Any) -> bool:
                kl = float(agent.loss(batch)[1][3])
                before = agent.optimizer.flat.clone()
                taken = step(batch)
                agent.seen.append((kl, not torch.equal(before, agent.optimizer.flat)))
                return taken

            def __getattr__(self, name: str) -> Any:
                return getattr(step, name)

        agent, self.step = self, Step()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_an_update_stops_before_the_step_whose_divergence_is_too_large(engine: str) -> None:
    small: dict[str, Any] = {"num_envs": 4, "num_steps": 16, "per_rank_batch_size": 24}
    small |= {"hidden_sizes": (8, 8), "accelerator": "cpu", "eval_episodes": 0, "preset": "none"}
    small |= {"learning_rate": 0.01, "update_epochs": 4, "total_timesteps": 640, "engine": engine}
    agent = Watched("toy_agents:BoxWalk", **small, target_kl=2e-3, kl_stop="minibatch")
    metrics = run(agent, 3)
    assert any(not taken for _, taken in agent.seen)
    for kl, taken in agent.seen:
        assert taken == (kl <= 1.5 * 2e-3)
    num_stops = sum(not taken for _, taken in agent.seen)
    ends = [index for index, (_, taken) in enumerate(agent.seen) if not taken]
    assert num_stops <= 3 and len(agent.seen) < 3 * 4 * 3
    first = agent.seen[: ends[0] + 1]  # one update's, the last of them untaken
    if ends[0] < 12:
        mean = sum(kl for kl, _ in first) / len(first)
        assert metrics[0]["Info/approx_kl"] == pytest.approx(mean, rel=1e-3)


def test_the_gradient_of_a_step_that_is_not_taken_counts_in_the_mean_norm() -> None:
    small: dict[str, Any] = {"num_envs": 4, "num_steps": 16, "per_rank_batch_size": 64}
    small |= {"hidden_sizes": (8, 8), "accelerator": "cpu", "eval_episodes": 0, "preset": "none"}
    small |= {"learning_rate": 0.01, "update_epochs": 2, "total_timesteps": 64, "engine": "eager"}
    norms = []
    for most in (1e-9, 1e9):  # the second step is the one that is not taken, or the last
        agent = PPO("toy_agents:BoxWalk", **small, target_kl=most, kl_stop="minibatch")
        (metrics,) = run(agent, 1)
        norms.append(metrics["Gradients/grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vf_clip_coef": 0.1}, "vf_clip_coef has no effect without clip_vloss"),
        ({"vf_clip_rule": "clipped"}, "vf_clip_rule has no effect without clip_vloss"),
        ({"kl_stop": "minibatch"}, "kl_stop has no effect without target_kl"),
        (
            {"clip_vloss": True, "vf_clip_coef": 0.0},
            "vf_clip_coef must be above 0 or None, not 0.0",
        ),
        ({"adam_beta1": 1.0}, "adam_beta1 must be from 0 to below 1, not 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, not -1.0"),
        ({"critic_hidden_sizes": (0,)}, r"critic_hidden_sizes must each be at least 1, not \[0\]"),
        ({"critic_hidden_sizes": (8,), "shared_network": True}, "no effect with shared_network"),
    ],
)
def test_what_has_no_effect_or_is_out_of_range_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOConfig(**settings)


def test_a_list_of_widths_may_be_an_array() -> None:
    assert make_agent(hidden_sizes=np.array([8, 4])).config.hidden_sizes == (8, 4)
    with pytest.raises(ValueError, match="hidden_sizes must be a list of whole numbers"):
        make_agent(hidden_sizes=np.array([[8, 4]]))
