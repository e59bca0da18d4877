"""Running normalisers: exact statistics, reset rows left out, saved with the policy."""

import pytest
import torch
from torch import nn

from fastrl.models.normalization import RewardScale, RunningNorm


def everything(*shape: int) -> torch.Tensor:
    """Return a mask that lets all rows count."""
    return torch.ones(shape, dtype=torch.bool)


def test_normaliser_starts_as_the_identity():
    rows = torch.randn(5, 3)
    assert torch.equal(RunningNorm((3,))(rows), rows)


def test_normalised_observations_have_mean_0_and_deviation_1():
    norm, rows = RunningNorm((3,)), torch.randn(2000, 3) * torch.tensor([1.0, 50.0, 1e-3]) + 7
    for part in rows.split(300):
        norm.update(part, everything(len(part)))
    normalised = norm(rows)
    torch.testing.assert_close(normalised.mean(0), torch.zeros(3), rtol=0, atol=1e-2)
    torch.testing.assert_close(normalised.std(0), torch.ones(3), rtol=1e-2, atol=0)


def test_normaliser_keeps_the_moments_of_all_rows():
    norm, rows = RunningNorm((2,)), torch.randn(1000, 2, dtype=torch.float64)
    for part in rows.split(77):
        norm.update(part, everything(len(part)))
    assert norm.count.item() == 1000
    torch.testing.assert_close(norm.mean, rows.mean(0), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(norm.variance, rows.var(0, correction=0), rtol=1e-12, atol=0)


def test_normalised_observations_are_clipped():
    norm = RunningNorm((1,), clip=5.0)
    assert norm(torch.tensor([[1e9], [-1e9], [2.0]])).tolist() == [[5.0], [-5.0], [2.0]]


def test_constant_observation_stays_finite():
    norm, rows = RunningNorm((1,)), torch.full((10, 1), 3.0)
    norm.update(rows, everything(10))
    assert norm(rows).tolist() == [[0.0]] * 10


def test_count_and_statistics_go_on_beyond_2_to_the_24():
    norm = RunningNorm((1,))
    norm.update(torch.zeros(1, 1), everything(1))
    norm.count.fill_(2**24)
    for _ in range(3):
        norm.update(torch.ones(1, 1), everything(1))
    assert norm.count.item() == 2**24 + 3 and norm.count.dtype == torch.int64
    assert norm.mean.item() == pytest.approx(3 / (2**24 + 3), rel=1e-9)


def test_reset_rows_do_not_reach_the_normaliser():
    rows, valid = torch.randn(50, 2), torch.rand(50) > 0.3
    clean, poisoned = RunningNorm((2,)), RunningNorm((2,))
    clean.update(rows[valid], everything(int(valid.sum())))
    poisoned.update(torch.where(valid.unsqueeze(1), rows, 1e20), valid)
    for name, value in clean.state_dict().items():
        assert torch.equal(poisoned.state_dict()[name], value)


def test_statistics_are_saved_and_loaded():
    norm, rows = RunningNorm((2,)), torch.randn(50, 2) * 9
    norm.update(rows, everything(50))
    other = RunningNorm((2,))
    other.load_state_dict(norm.state_dict())
    assert torch.equal(other(rows), norm(rows)) and other.count.item() == 50


def test_reward_scale_starts_as_the_identity():
    rewards = torch.randn(4, 2)
    torch.testing.assert_close(RewardScale(0.9)(rewards), rewards)


def discounted_returns(rewards: torch.Tensor, done: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return the running discounted return of every row, by a plain loop."""
    returns = torch.zeros(rewards.shape, dtype=torch.float64)
    for env in range(rewards.shape[1]):
        running = 0.0
        for t in range(len(rewards)):
            running = gamma * running + float(rewards[t, env])
            returns[t, env] = running
            running = 0.0 if done[t, env] else running
    return returns


def nothing_yet() -> torch.Tensor:
    """Return discounted returns of episodes that have just begun."""
    return torch.zeros(2, dtype=torch.float64)


def random_rollout(num_steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rewards, done and valid `[T, 2]`; the reset row after each end has reward 0."""
    rewards = torch.randn(num_steps, 2)
    done, valid = torch.zeros(2, num_steps, 2, dtype=torch.bool)
    for t in range(num_steps):
        valid[t] = ~done[t - 1] if t else True
        done[t] = valid[t] & (torch.rand(2) < 0.3)
    return rewards * valid, done, valid


def test_rewards_are_divided_by_the_spread_of_the_discounted_return():
    scale = RewardScale(0.9)
    rewards, done, valid = random_rollout(60)
    running = nothing_yet()
    for rows in (slice(0, 25), slice(25, 60)):  # episodes go on from rollout to rollout
        scale.update(rewards[rows], done[rows], valid[rows], running)
    returns = discounted_returns(rewards, done, 0.9)[valid]
    assert scale.count.item() == int(valid.sum())
    torch.testing.assert_close(scale.variance, returns.var(correction=0))
    expected = rewards.double() / (returns.var(correction=0) + 1e-8).sqrt()
    torch.testing.assert_close(scale(rewards).double(), expected, rtol=1e-5, atol=1e-6)


def test_scaled_rewards_are_clipped():
    assert RewardScale(0.9)(torch.tensor([[1e9], [-1e9]])).tolist() == [[10.0], [-10.0]]


def test_reset_rows_do_not_reach_the_reward_scale():
    rewards, done, valid = random_rollout(60)
    clean, poisoned = RewardScale(0.9), RewardScale(0.9)
    clean.update(rewards, done, valid, nothing_yet())
    poisoned.update(torch.where(valid, rewards, 1e6), done, valid, nothing_yet())
    for name, value in clean.state_dict().items():
        assert torch.equal(poisoned.state_dict()[name], value), name


def test_reward_scale_is_saved_and_loaded():
    rewards, done, valid = random_rollout(30)
    first, second = RewardScale(0.9), RewardScale(0.9)
    first.update(rewards, done, valid, nothing_yet())
    second.load_state_dict(first.state_dict())
    for scale in (first, second):
        scale.update(rewards, done, valid, nothing_yet())
    assert torch.equal(first(rewards), second(rewards))


@pytest.mark.parametrize("change", ["float", "double", "half"])
def test_statistics_keep_their_precision_when_a_network_changes_its_own(change: str) -> None:
    norm, scale = RunningNorm((2,)), RewardScale(0.9)
    norm.update(torch.tensor([[1.0, 2.0], [4.0, 1e-9]]), torch.ones(2, dtype=torch.bool))
    network = nn.Sequential(nn.Linear(2, 2), norm, scale)
    before = [x.clone() for x in network.buffers()]
    getattr(network, change)()
    for x, kept in zip(network.buffers(), before, strict=True):
        assert x.dtype == kept.dtype and torch.equal(x, kept)
    assert norm.to("meta").mean.device.type == "meta"
