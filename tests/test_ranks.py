"""Several ranks learn what one rank with all their rows learns, and stay equal to the bit."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import pytest
import torch
from quick import quick
from ranks import run_ranks
from torch import Tensor, nn
from toy_agents import Loop, make_agent_of, tensors_of

from fastrl.a2c import A2C
from fastrl.buffers.rollout import Minibatch, RolloutBuffer
from fastrl.ppo import PPO

NUM_ENVS, BATCH = 6, 36  # over all ranks
LEARNER = ("policy.", "optimizer.", "reward_scale.")
SETTINGS: dict[str, Any] = {
    "ortho_init": True,
    "normalize_advantages": True,
    "observation_normalization": True,
    "reward_scaling": True,
    "anneal_lr": True,
    "update_epochs": 4,
    "max_grad_norm": 0.1,
    "learning_rate": 0.01,
}
# Rows are dealt alike by one rank and by several if these share their data, or if there is one
# minibatch.
WAYS: dict[str, dict[str, Any]] = {
    "share_data": {"per_rank_batch_size": BATCH, "target_kl": 1e-3},
    "a2c": {"per_rank_batch_size": BATCH, "ent_coef": 0.01, "optimizer": "adam"},
    "own_data": {"per_rank_batch_size": NUM_ENVS * 16, "clip_vloss": True, "ent_coef": 0.01},
}


class SameNoise:
    """Draws the noise of one rank with all environments, and takes this rank's columns."""

    def begin_rollout(self, buffer: RolloutBuffer) -> None:
        ranks, rank = self.devices.world_size, self.devices.global_rank
        shape = (buffer.num_steps, ranks * buffer.num_envs, buffer.noise.shape[-1])
        everyone = torch.empty(shape)
        generator = self.noise_generator if rank == 0 else self._same_generator()
        self.policy.head.draw_noise(everyone, generator)
        buffer.noise.copy_(everyone[:, rank * buffer.num_envs :][:, : buffer.num_envs])

    def _same_generator(self) -> torch.Generator:
        if not hasattr(self, "_generator"):
            self._generator = torch.Generator().manual_seed(self.config.seed)
        return self._generator


class SamePPO(SameNoise, PPO):
    pass


class SameA2C(SameNoise, A2C):
    pass


def arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: x.numpy() for name, x in tensors.items() if name.startswith(LEARNER)}


def sized(num_ranks: int, way: str, **settings: Any) -> dict[str, Any]:
    """Returns the settings of one of several ranks."""
    settings = {**SETTINGS, **WAYS[way], **settings}
    if way == "a2c":
        del settings["update_epochs"]
    settings["num_envs"] = NUM_ENVS // num_ranks
    settings["per_rank_batch_size"] //= num_ranks
    if num_ranks > 1:
        settings |= {"devices": num_ranks, "share_data": way == "share_data"}
        if way == "a2c":
            del settings["share_data"]
    return settings


def learn(num_ranks: int, way: str, kind: Any = None, **settings: Any) -> dict[str, Any]:
    """Trains for some updates; what this rank has learned and seen."""
    kind = kind or (SameA2C if way == "a2c" else SamePPO)
    loop = Loop(make_agent_of(kind, "discrete", **sized(num_ranks, way, **settings)))
    metrics = loop.run(4)
    agent, buffer = loop.agent, loop.buffer
    return {
        "learned": arrays(tensors_of(agent)),
        "metrics": {name: [update[name] for update in metrics] for name in metrics[0]},
        "positions": buffer.obs[..., 0].numpy(),
        "num_valid": buffer.num_valid,
        "learning_rate": float(agent.optimizer.learning_rate),
        "gradients": against_ddp(agent, buffer) if num_ranks > 1 and way != "a2c" else None,
    }


class Loss(nn.Module):
    """The policy with the loss of a plain PPO, for DistributedDataParallel to wrap."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Minibatch) -> Tensor:
        log_probs, _, values = self.policy.evaluate(batch.obs, batch.actions)
        ratio = (log_probs - batch.log_probs).exp()
        worst = torch.minimum(ratio * batch.advantages, ratio.clamp(0.8, 1.2) * batch.advantages)
        return ((values - batch.returns) ** 2 - worst) @ batch.weights


def against_ddp(agent: PPO, buffer: RolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
    """Returns the gradient over one minibatch, as reduced here and by DistributedDataParallel."""
    agent.config = agent.config.replace(clip_vloss=False, ent_coef=0.0, anneal_ent_coef=False)
    agent.ent_coef.zero_()
    agent.clip_coef.fill_(0.2)
    batch = Minibatch(*map(torch.clone, agent.dealer.deal(9)[0]))
    gradient, metrics = agent.step.gradient_of_loss(batch)
    ours, _ = agent.devices.sum(gradient, metrics.unbind())
    wrapped = nn.parallel.DistributedDataParallel(Loss(agent.policy))
    (agent.devices.world_size * wrapped(batch)).backward()  # it averages over the ranks
    gradients = [p.grad for p in agent.policy.parameters() if p.grad is not None]
    return ours.numpy(), torch.cat([x.flatten() for x in gradients]).numpy()


@functools.cache
def learned(num_ranks: int, way: str) -> list[dict[str, Any]]:
    if num_ranks == 1:
        return [learn(1, way)]
    return run_ranks(num_ranks, learn, num_ranks, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("num_ranks", quick([2, 3], 2))
def test_ranks_end_with_the_weights_and_normalisers_of_one_rank(num_ranks, way):
    (one,) = learned(1, way)
    first = learned(num_ranks, way)[0]
    assert first["learned"].keys() == one["learned"].keys()
    for name, expected in one["learned"].items():
        np.testing.assert_allclose(first["learned"][name], expected, 2e-3, 2e-5, err_msg=name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("num_ranks", quick([2, 3], 2))
def test_ranks_report_the_metrics_of_one_rank(num_ranks, way):
    (one,) = learned(1, way)
    for rank in learned(num_ranks, way):
        for name, expected in one["metrics"].items():
            np.testing.assert_allclose(rank["metrics"][name], expected, 5e-3, 1e-4, err_msg=name)


@pytest.mark.parametrize("way", WAYS)
def test_ranks_stay_equal_to_the_bit(way):
    first, *others = learned(3, way)
    for other in others:
        assert other["learning_rate"] == first["learning_rate"] < SETTINGS["learning_rate"]
        for name, expected in first["learned"].items():
            assert np.array_equal(other["learned"][name], expected), name


def test_ranks_hold_different_numbers_of_valid_rows():
    assert len({rank["num_valid"] for rank in learned(3, "own_data")}) > 1  # or it proves less


@pytest.mark.parametrize("way", ["share_data", "own_data"])
def test_gradient_is_that_of_distributed_data_parallel(way):
    for rank in learned(2, way):
        ours, theirs = rank["gradients"]
        np.testing.assert_allclose(ours, theirs, 1e-4, 1e-6)


def on_ranks_of_which_one_cannot() -> dict[str, Any]:
    """Rank 1 cannot record a function that sums over ranks; and then has a hook in its policy."""
    is_able = os.environ["LOCAL_RANK"] == "0"
    first = make_agent_of(PPO, "discrete", **sized(2, "own_data", engine="auto"))
    first.make_buffer()

    def total(x: Tensor) -> Tensor:
        if not is_able:
            x = x * float(x.sum().item() > 0)
        return first.devices.sum_numbers(x)

    built = first.engine.build(total, (torch.ones(3),))
    facts = {"total": built(torch.ones(3)).numpy(), "notes": first.engine.notes}
    config = first.config
    agent = PPO(config.env_id, config, devices=first.devices)
    if not is_able:
        agent.policy.actor.register_forward_hook(lambda *_: None)
    Loop(agent).run(2)
    return {**facts, "engine": agent.engine.describe(), "learned": arrays(tensors_of(agent))}


def test_what_one_rank_cannot_run_no_rank_runs():
    first, second = run_ranks(2, on_ranks_of_which_one_cannot)
    assert first["total"].tolist() == second["total"].tolist() == [2, 2, 2]
    assert first["notes"] == second["notes"] and "reads a tensor's value" in first["notes"][-1]
    assert first["engine"] == second["engine"]
    assert first["engine"].startswith("engine: eager PyTorch (") and "hook" in first["engine"]
    for name, learned_there in second["learned"].items():
        assert np.array_equal(learned_there, first["learned"][name]), name


def test_every_rank_sees_other_episodes():
    first, second = (rank["positions"] for rank in run_ranks(2, learn, 2, "own_data", PPO))
    assert not np.isin(first, second).any()
