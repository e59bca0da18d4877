"""A kernel stands in for a loss only if the loss is the one that it computes, far out as well."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_agents import Loop, make_agent, make_agent_of

from fastrl.droq import DroQ
from fastrl.kernels.extension import HAS_DENSE
from fastrl.ppo import PPO

pytestmark = pytest.mark.skipif(
    not HAS_DENSE, reason="the extension or this processor has no kernels"
)


def dual_clip(log_ratio: Tensor, advantages: Tensor, weights: Tensor, clip: Tensor) -> Tensor:
    """Keeps the surrogate of bad actions above three times the advantage (arXiv 1912.09729)."""
    most = advantages + clip * advantages.abs()
    surrogate = torch.minimum(log_ratio.exp() * advantages, most)
    bounded = torch.where(advantages < 0, torch.maximum(surrogate, 3 * advantages), surrogate)
    return -torch.dot(bounded, weights)


def clamped(log_ratio: Tensor, advantages: Tensor, weights: Tensor, clip: Tensor) -> Tensor:
    """Bounds ratios and advantages before anything is done with them."""
    log_ratio, advantages = log_ratio.clamp(-6, 6), advantages.clamp(-20, 20)
    most = advantages + clip * advantages.abs()
    return -torch.dot(torch.minimum(log_ratio.exp() * advantages, most), weights)


def huber(values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """Grows less than squared where errors are large."""
    loss = torch.nn.functional.huber_loss(values, returns, reduction="none", delta=5.0)
    return 2 * torch.dot(loss, weights)


@pytest.mark.parametrize(
    ("name", "function"),
    [("clipped_surrogate", dual_clip), ("clipped_surrogate", clamped), ("value_loss", huber)],
)
def test_a_loss_that_differs_far_out_alone_is_left_to_autograd(name, function, monkeypatch):
    monkeypatch.setattr(f"fastrl.ppo.{name}", function)
    loop = Loop(make_agent(engine="auto"))
    assert "the kernel computes another one" in loop.agent.engine.describe()


class Watching(PPO):
    """Keeps a mean of what it saw beside the loss."""

    def loss(self, batch: Any) -> Any:
        self.seen.lerp_(batch.returns.mean(), 0.5)
        return super().loss(batch)


def test_a_loss_that_changes_a_tensor_in_place_runs_as_it_is():
    agent = make_agent_of(Watching, "discrete", engine="auto")
    agent.seen = torch.zeros(())
    loop = Loop(agent)
    assert agent.seen == 0  # trying it left nothing behind
    loop.run(1)
    assert agent.seen != 0


class Looking(PPO):
    """Acts by a branch on a value."""

    def draw_actions(self, obs: Tensor, noise: Tensor, actions: Tensor) -> Tensor:
        return super().draw_actions(obs, noise if obs.sum() > 0 else -noise, actions)


def test_acting_that_looks_at_values_runs_eagerly():
    loop = Loop(make_agent_of(Looking, "box", engine="auto"))
    assert "reads a tensor's value" in loop.agent.engine.describe()
    loop.run(1)


class Drawing(PPO):
    """Draws a number of Python's for each minibatch."""

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        return loss * (1 + random.random()), metrics


def test_a_loss_that_draws_from_python_s_generator_runs_eagerly():
    loop = Loop(make_agent_of(Drawing, "discrete", engine="auto"))
    assert "Python's or NumPy's generator" in loop.agent.engine.describe()


def test_dropout_without_layer_norm_learns():
    small = {"learning_starts": 8, "buffer_size": 64, "num_steps": 1, "per_rank_batch_size": 8}
    loop = Loop(make_agent_of(DroQ, "box", engine="auto", layer_norm=False, **small))
    assert torch.isfinite(torch.tensor([x for m in loop.run(8) for x in m.values()])).all()
