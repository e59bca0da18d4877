"""Adam and gradient clipping on one vector do what torch's do parameter by parameter."""

import pytest
import torch
from torch import nn

from fastrl.kernels.adam import adam_step, clip_by_norm, fused_adam_step


def gradients_of(step: int) -> torch.Tensor:
    """Return a gradient whose size changes by orders of magnitude over the steps."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(37, generator=generator) * 10.0 ** (step % 5 - 3)


@pytest.mark.parametrize("eps", [1e-8, 1e-5, 1e-2])
def test_adam_equals_that_of_torch(eps):
    start = torch.linspace(-1, 1, 37)
    theirs = nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([theirs], lr=0.0, eps=eps)
    ours, mean, square = start.clone(), torch.zeros(37), torch.zeros(37)
    steps, learning_rate = torch.zeros(()), torch.zeros(())
    for step in range(50):
        rate = 0.01 * (1 - step / 50)
        optimizer.param_groups[0]["lr"] = rate
        theirs.grad = gradients_of(step)
        optimizer.step()
        learning_rate.fill_(rate)
        adam_step(ours, gradients_of(step), mean, square, steps, learning_rate, eps)
        torch.testing.assert_close(ours, theirs.detach(), rtol=2e-5, atol=1e-6)
    assert steps.item() == 50
    assert not torch.allclose(ours, start, atol=1e-2)


@pytest.mark.parametrize("num_parameters", [37, 100_003])
def test_one_pass_over_memory_equals_the_plain_step(num_parameters):
    generator = torch.Generator().manual_seed(1)
    fast = [torch.zeros(num_parameters) for _ in range(3)] + [torch.zeros(())]
    plain = [tensor.clone() for tensor in fast]
    rate = torch.tensor(0.01)
    for size in (1.0, 1e-4, 1e3):
        gradient = size * torch.randn(num_parameters, generator=generator)
        fused_adam_step(fast[0], gradient, *fast[1:], rate, 1e-8)
        adam_step(plain[0], gradient, *plain[1:], rate, 1e-8)
    for mine, wanted in zip(fast, plain, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate_dtype", [torch.float32, torch.float64])
def test_one_pass_over_memory_takes_other_types(dtype, rate_dtype):
    gradient = torch.randn(100_000, generator=torch.Generator().manual_seed(1), dtype=dtype)
    fast = [torch.zeros_like(gradient) for _ in range(3)] + [torch.zeros(())]
    plain = [tensor.clone() for tensor in fast]
    fused_adam_step(fast[0], gradient, *fast[1:], torch.tensor(0.01, dtype=rate_dtype), 1e-8)
    adam_step(plain[0], gradient, *plain[1:], torch.tensor(0.01), 1e-8)
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-4, atol=1e-6)


def test_adam_leaves_the_gradient_alone():
    gradient = gradients_of(0)
    rate = torch.tensor(0.1)
    adam_step(
        torch.zeros(37), gradient, torch.zeros(37), torch.zeros(37), torch.zeros(()), rate, 1e-8
    )
    assert torch.equal(gradient, gradients_of(0))


def test_first_step_has_the_size_of_the_learning_rate():
    parameters, rate = torch.zeros(37), torch.tensor(0.1)
    gradient = gradients_of(2)
    adam_step(parameters, gradient, torch.zeros(37), torch.zeros(37), torch.zeros(()), rate, 1e-12)
    torch.testing.assert_close(parameters, -0.1 * gradient.sign(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e3])
def test_clipping_equals_that_of_torch(max_norm):
    shapes = [(3, 4), (4,), (1, 21)]
    gradient = gradients_of(3)
    pieces = gradient.split([12, 4, 21])
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.clone().view(parameter.shape)
    expected_norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    norm = clip_by_norm(gradient, max_norm)
    clipped = [parameter.grad for parameter in parameters]
    expected = torch.cat([piece.flatten() for piece in clipped if piece is not None])
    torch.testing.assert_close(norm, expected_norm)
    torch.testing.assert_close(gradient, expected)
    assert gradient.norm().item() <= max_norm * (1 + 1e-6)


def test_clipping_leaves_a_zero_gradient_zero():
    gradient = torch.zeros(5)
    assert clip_by_norm(gradient, 0.5).item() == 0
    assert gradient.tolist() == [0] * 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_operator_keeps_torchs_rules():
    state = [torch.ones(37), gradients_of(1), torch.zeros(37), torch.zeros(37), torch.zeros(())]
    given = *state, torch.tensor(0.01), 1e-8, 0.9, 0.999
    torch.library.opcheck(torch.ops.fastrl.fused_adam_.default, given)
