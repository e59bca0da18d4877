"""The squashed normal's written-out gradient is that of its formulas."""

from functools import partial

import pytest
import torch

from fastrl.kernels.extension import HAS_TILES, crew
from fastrl.kernels.squashed_normal import squashed_normal, squashed_normal_plainly

needs_extension = pytest.mark.skipif(not HAS_TILES, reason="the extension does not serve here")
in_extension = partial(squashed_normal, in_extension=True)
FUNCTIONS = [squashed_normal, pytest.param(in_extension, marks=needs_extension)]


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


@needs_extension
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("size", [1e-3, 1.0, 4.0])
@pytest.mark.parametrize("num_actions", [1, 6])
def test_the_extension_is_as_exact_as_float32(size, num_actions, num_threads):
    generator = torch.Generator().manual_seed(1)
    outputs = size * torch.randn(150, 2 * num_actions, generator=generator)
    noise = torch.randn(150, num_actions, generator=generator)
    exact = drawn(squashed_normal_plainly, outputs.double(), noise.double())
    plain = drawn(squashed_normal_plainly, outputs, noise)
    with crew(num_threads):
        mine = drawn(in_extension, outputs, noise)
    for a, b, wanted in zip(mine, plain, exact, strict=True):
        assert (a - wanted).norm() <= 1.5 * (b - wanted).norm() + 1e-7 * wanted.norm()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_clamped_deviation_has_no_gradient(function):
    outputs = torch.tensor([[0.1, -9.0], [0.1, 9.0], [0.1, 0.5]])
    *_, gradient = drawn(function, outputs, torch.ones(3, 1))
    assert gradient[:2, 1].tolist() == [0.0, 0.0]
    assert gradient[2, 1] != 0


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_density_stays_finite_far_out(function):
    outputs = torch.tensor([[40.0, 0.0], [-40.0, 0.0]])
    actions, log_probs, gradient = drawn(function, outputs, torch.zeros(2, 1))
    assert actions.abs().tolist() == [[1.0], [1.0]]
    assert log_probs.isfinite().all()
    assert gradient.isfinite().all()


@needs_extension
@pytest.mark.parametrize(
    ("outputs", "noise", "said"),
    [
        (torch.zeros(4, 2), torch.zeros(4, 3), r"\(4, 2\) outputs, \(4, 3\) noise"),
        (torch.zeros(4, 6).double(), torch.zeros(4, 3), "torch.float64"),
    ],
)
def test_the_extension_refuses_what_does_not_fit(outputs, noise, said):
    with pytest.raises(ValueError, match=said):
        in_extension(outputs, noise)
