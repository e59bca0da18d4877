"""Losses against numbers worked out by hand; padding rows count nothing."""

import math

import pytest
import torch

from fastrl.ops.losses import (
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    value_loss,
    weighted_mean,
)

CLIP = torch.tensor(0.2)
QUARTERS = torch.full((4,), 0.25)


def padded(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Append two padding rows of huge values and of weight 0; the weights come last."""
    huge = [torch.cat([tensor, torch.tensor([1e6, -1e6])]) for tensor in tensors[:-1]]
    return [*huge, torch.cat([tensors[-1], torch.zeros(2)])]


def test_surrogate_takes_the_worse_of_ratio_and_clipped_ratio():
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5])
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss = clipped_surrogate(ratio.log(), advantages, QUARTERS, CLIP)
    assert loss.item() == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4)


@pytest.mark.parametrize(
    ("ratio", "advantage", "passes"),
    [(1.1, 1, True), (1.1, -1, True), (1.5, 1, False), (1.5, -1, True), (0.5, -1, False)],
)
def test_gradient_stops_where_a_step_would_leave_the_interval(ratio, advantage, passes):
    log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
    loss = clipped_surrogate(log_ratio, torch.tensor([float(advantage)]), torch.ones(1), CLIP)
    (gradient,) = torch.autograd.grad(loss, log_ratio)
    assert gradient.item() == pytest.approx(-ratio * advantage if passes else 0)


def test_value_loss_is_the_mean_squared_error():
    values, returns = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 2.0, 1.0, 0.0])
    assert value_loss(values, returns, QUARTERS).item() == pytest.approx((1 + 0 + 4 + 16) / 4)


def test_clipped_value_loss_takes_the_worse_of_both():
    old, new = torch.tensor([0.0, 0.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.1, -1.0])
    returns = torch.tensor([1.0, -1.0, 1.0, -0.1])
    # errors: clipped 0.8 beats 0; 2 beats clipped 1.2; within the interval 0.9; 0.9 beats 0.1
    expected = (0.8**2 + 2**2 + 0.9**2 + 0.9**2) / 4
    loss = clipped_value_loss(new, old, returns, QUARTERS, CLIP)
    assert loss.item() == pytest.approx(expected)


def test_approximate_kl_is_r_minus_1_minus_log_r():
    ratio = torch.tensor([1.0, 2.0, 0.5, 1.0])
    expected = ((2 - 1 - math.log(2)) + (0.5 - 1 + math.log(2))) / 4
    assert approximate_kl(ratio.log(), QUARTERS).item() == pytest.approx(expected)


def test_approximate_kl_has_the_true_divergence_as_its_mean():
    old = torch.tensor([0.2, 0.3, 0.5])
    new = torch.tensor([0.4, 0.4, 0.2])
    truth = (old * (old / new).log()).sum()
    torch.testing.assert_close(approximate_kl((new / old).log(), old), truth)


def test_clip_fraction_counts_ratios_outside_the_interval():
    ratio = torch.tensor([1.1, 1.3, 0.7, 0.9])
    assert clip_fraction(ratio.log(), QUARTERS, CLIP).item() == 0.5


def test_padding_rows_count_nothing():
    old, values = torch.tensor([0.1, 0.4, 0.3, 0.0]), torch.tensor([0.5, 0.1, 0.2, 0.9])
    returns, log_ratio = torch.tensor([1.0, 0.0, 2.0, 1.0]), torch.tensor([0.1, -0.4, 0.3, 0.0])
    (*_, weights) = padded(old, QUARTERS)
    far_old, far_values, far_returns, _ = padded(old, values, returns, QUARTERS)
    far_ratio = torch.cat([log_ratio, torch.tensor([20.0, -20.0])])
    for plain, with_padding in [
        (weighted_mean(values, QUARTERS), weighted_mean(far_values, weights)),
        (value_loss(values, returns, QUARTERS), value_loss(far_values, far_returns, weights)),
        (
            clipped_value_loss(values, old, returns, QUARTERS, CLIP),
            clipped_value_loss(far_values, far_old, far_returns, weights, CLIP),
        ),
        (
            clipped_surrogate(log_ratio, returns, QUARTERS, CLIP),
            clipped_surrogate(far_ratio, far_returns, weights, CLIP),
        ),
        (approximate_kl(log_ratio, QUARTERS), approximate_kl(far_ratio, weights)),
        (clip_fraction(log_ratio, QUARTERS, CLIP), clip_fraction(far_ratio, weights, CLIP)),
    ]:
        torch.testing.assert_close(plain, with_padding)


def test_explained_variance_is_1_for_a_perfect_value_and_0_for_a_constant():
    returns, valid = torch.randn(6, 3), torch.ones(6, 3, dtype=torch.bool)
    assert explained_variance(returns, returns, valid).item() == pytest.approx(1)
    constant = torch.full_like(returns, 3.0)
    assert explained_variance(constant, returns, valid).item() == pytest.approx(0, abs=1e-5)


def test_explained_variance_looks_at_valid_rows_only():
    returns, values = torch.randn(6, 3), torch.randn(6, 3)
    valid = torch.rand(6, 3) > 0.4
    expected = 1 - (returns - values)[valid].var() / returns[valid].var()
    far = torch.where(valid, values, 1e6)
    found = explained_variance(far, returns, valid)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_explained_variance_of_constant_returns_is_nan():
    valid = torch.ones(6, 3, dtype=torch.bool)
    assert explained_variance(torch.randn(6, 3), torch.ones(6, 3), valid).isnan()
