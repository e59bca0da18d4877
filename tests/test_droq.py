"""DroQ: dropout and layer norm are really there, masks are fair, the actor's batch is its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_sac import make_agent, trained
from torch import nn
from toy_agents import Loop

from fastrl import DroQ
from fastrl.config.droq import DroQConfig
from fastrl.models.critics import Critics
from fastrl.ops.dropout import draw_dropout


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("dropped", [False, True])
def test_batched_critics_equal_networks_of_their_own(layer_norm, dropped):
    critics = Critics(5, (16, 8), 3, layer_norm)
    for weight in [*critics.scales, *critics.shifts]:
        weight.data.normal_()
    obs = torch.randn(7, 3, requires_grad=True)
    actions = torch.randn(7, 2)
    masks = (torch.rand(critics.num_mask_values(7)) < 0.7).float() / 0.7 if dropped else None
    x = torch.cat([obs, actions], 1)
    wanted = []
    for index in range(3):
        h, offset = x, 0
        for layer, size in enumerate((16, 8)):
            h = h @ critics.weights[layer][index] + critics.biases[layer][index]
            if masks is not None:
                part = masks[offset : offset + 3 * 7 * size].view(3, 7, size)[index]
                offset += 3 * 7 * size
                h = h * part
            if layer_norm:
                affine = critics.scales[layer][index, 0], critics.shifts[layer][index, 0]
                h = nn.functional.layer_norm(h, (size,), *affine)
            h = h.relu()
        wanted.append((h @ critics.weights[2][index] + critics.biases[2][index]).squeeze(1))

    values = critics(obs, actions, masks)
    torch.testing.assert_close(values, torch.stack(wanted), rtol=1e-4, atol=1e-5)
    inputs = [obs, *critics.parameters()]
    mine = torch.autograd.grad(values.square().sum(), inputs)
    theirs = torch.autograd.grad(torch.stack(wanted).square().sum(), inputs)
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


def test_values_have_the_same_bits_where_no_gradient_is_wanted():
    critics = Critics(5, (16, 8), 3, layer_norm=True)
    inputs = torch.randn(7, 3), torch.randn(7, 2)
    with torch.no_grad():
        values = critics(*inputs)
    assert torch.equal(values, critics(*inputs)) and not values.requires_grad


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.01, 0.1, 0.4])
def test_dropout_leaves_out_the_right_share_and_keeps_the_mean(rate):
    masks = torch.empty(400_000)
    draw_dropout(masks, rate, torch.Generator().manual_seed(0))
    share = (masks == 0).double().mean().item()
    assert share == pytest.approx(rate, abs=5 * np.sqrt(rate / len(masks)) + 1e-12)
    assert torch.equal(masks[masks > 0], torch.full_like(masks[masks > 0], 1 / (1 - rate)))


def test_gaps_between_dropped_values_are_geometric():
    """Neighbours are dropped as often as independent draws would, and the ends are not special."""
    generator, rate, size = torch.Generator().manual_seed(0), 0.05, 200
    drops = torch.zeros(size, dtype=torch.float64)
    pairs = 0.0
    for _ in range(4000):
        masks = torch.empty(size)
        draw_dropout(masks, rate, generator)
        dropped = (masks == 0).double()
        drops += dropped
        pairs += float((dropped[1:] * dropped[:-1]).sum())
    assert pairs / (4000 * (size - 1)) == pytest.approx(rate**2, rel=0.1)
    spread = np.sqrt(rate * (1 - rate) / 4000)
    assert float((drops / 4000 - rate).abs().max()) < 4.5 * spread


def test_defaults_are_those_of_the_paper():
    config = DroQConfig()
    assert config.replay_ratio == config.policy_frequency == 20
    assert config.dropout_rate == 0.01 and config.layer_norm


def test_critics_have_dropout_and_layer_norm_and_the_update_uses_them():
    agent = make_agent(kind=DroQ, dropout_rate=0.5)
    assert len(agent.critics.scales) == 2
    trained_ones = trained(kind=DroQ, dropout_rate=0.5)
    without = trained(kind=DroQ, dropout_rate=0.0)
    assert (trained_ones._masks == 0).any() and not (without._masks == 0).any()  # type: ignore
    moved = trained_ones.critics.scales[0] - 1
    assert moved.abs().max() > 1e-5
    assert not torch.equal(trained_ones.critics.weights[0], without.critics.weights[0])


def test_each_pass_has_masks_of_its_own():
    agent = make_agent(kind=DroQ, dropout_rate=0.5, replay_ratio=2.0)
    seen: list[bytes] = []
    loop = Loop(agent)
    critic_step, actor_step = agent._take_critic_step, agent._take_actor_step  # type: ignore[attr-defined]

    def noted_critic(*fields):
        seen.extend(x.numpy().tobytes() for x in fields[-2:])
        return critic_step(*fields)

    def noted_actor(*fields):
        seen.append(fields[-1].numpy().tobytes())
        return actor_step(*fields)

    agent._take_critic_step, agent._take_actor_step = noted_critic, noted_actor  # type: ignore
    loop.run(20)
    assert len(seen) == 2 * 120 + 6 == len(set(seen))


def test_actor_learns_from_a_full_batch_of_its_own():
    """The critics' last batch is another one, and no row of it is reused on purpose."""
    agent = make_agent(kind=DroQ, replay_ratio=5.0, policy_frequency=5)
    loop = Loop(agent)
    batches: list[torch.Tensor] = []
    calls: list[tuple[str, torch.Tensor]] = []
    assert agent.replay is not None
    gather = agent.replay.gather

    def noted_gather(rows):
        batches.append(rows.clone())
        return gather(rows)

    agent.replay.gather = noted_gather  # type: ignore[method-assign]
    for name in ("_take_critic_step", "_take_actor_step"):
        step = getattr(agent, name)

        def noted(*fields, name=name, step=step):
            calls.append((name, batches[-1]))
            return step(*fields)

        setattr(agent, name, noted)
    loop.run(10)
    assert [name for name, _ in calls[:7]] == ["_take_critic_step"] * 5 + [
        "_take_actor_step",
        "_take_critic_step",
    ]
    assert len({tuple(rows.tolist()) for _, rows in calls}) == len(calls)
    assert all(len(rows) == 16 for _, rows in calls)


def test_actor_climbs_the_mean_of_the_critics():
    values = torch.tensor([[1.0, 5.0], [3.0, -1.0]])
    assert make_agent(kind=DroQ)._combine(values).tolist() == [2.0, 2.0]
    assert make_agent()._combine(values).tolist() == [1.0, -1.0]


def test_dropout_rate_of_one_is_refused():
    with pytest.raises(ValueError, match="dropout_rate must be from 0 to below 1, not 1"):
        make_agent(kind=DroQ, dropout_rate=1.0)
