"""The squashed normal's written-out gradient is that of its formulas."""

import pytest
import torch

from fastrl.ops.squashed_normal import squashed_normal, squashed_normal_plainly


def drawn(function, outputs, noise):
    """Returns actions, log-densities, and gradients of a sum that depends on both."""
    outputs = outputs.clone().requires_grad_()
    actions, log_probs = function(outputs, noise)
    loss = (actions * noise.cos()).sum() + (log_probs * torch.arange(len(noise))).sum()
    return actions.detach(), log_probs.detach(), torch.autograd.grad(loss, outputs)[0]


@pytest.mark.parametrize("size", [1e-3, 1.0, 4.0])
@pytest.mark.parametrize("num_actions", [1, 6])
def test_squashed_normal_equals_its_formulas(size, num_actions):
    generator = torch.Generator().manual_seed(1)
    outputs = size * torch.randn(50, 2 * num_actions, generator=generator, dtype=torch.float64)
    noise = torch.randn(50, num_actions, generator=generator, dtype=torch.float64)
    mine = drawn(squashed_normal, outputs, noise)
    for a, b in zip(mine, drawn(squashed_normal_plainly, outputs, noise), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def test_a_clamped_deviation_has_no_gradient():
    outputs = torch.tensor([[0.1, -9.0], [0.1, 9.0], [0.1, 0.5]])
    *_, gradient = drawn(squashed_normal, outputs, torch.ones(3, 1))
    assert gradient[:2, 1].tolist() == [0.0, 0.0]
    assert gradient[2, 1] != 0


def test_the_density_stays_finite_far_out():
    outputs = torch.tensor([[40.0, 0.0], [-40.0, 0.0]])
    actions, log_probs, gradient = drawn(squashed_normal, outputs, torch.zeros(2, 1))
    assert actions.abs().tolist() == [[1.0], [1.0]]
    assert log_probs.isfinite().all()
    assert gradient.isfinite().all()
