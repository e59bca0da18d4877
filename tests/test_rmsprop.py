"""RMSprop on one vector does what TensorFlow's does, number by number."""

import math

import pytest
import torch

from fastrl.engine.optimizer import FlatAdam, FlatRMSprop
from fastrl.models.layers import mlp
from fastrl.ops.rmsprop import rmsprop_step


@pytest.mark.parametrize("eps", [1e-8, 1e-5, 1e-1])
def test_rmsprop_equals_its_formula(eps):
    parameter, square = torch.tensor([2.0]), torch.ones(1)
    expected_parameter, expected_square = 2.0, 1.0
    for step in range(30):
        gradient, rate = math.sin(step) * 10 ** (step % 4 - 2), 0.1 / (step + 1)
        rmsprop_step(
            parameter, torch.tensor([gradient]), square, torch.tensor(rate), eps, decay=0.9
        )
        expected_square = 0.9 * expected_square + 0.1 * gradient**2
        expected_parameter -= rate * gradient / math.sqrt(expected_square + eps)
        assert parameter.item() == pytest.approx(expected_parameter, rel=1e-5, abs=1e-6)


def test_rmsprop_is_that_of_torch_with_epsilon_inside_the_root_and_a_start_at_one():
    """Without epsilon and from the same square, the two forms are the same."""
    theirs = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    ours, square = theirs.detach().clone(), torch.ones(7)
    optimizer = torch.optim.RMSprop([theirs], lr=0.01, alpha=0.9, eps=0.0)
    optimizer.state[theirs] = {"step": torch.tensor(0.0), "square_avg": torch.ones(7)}
    for step in range(20):
        gradient = torch.sin(torch.arange(7.0) + step)
        theirs.grad = gradient.clone()
        optimizer.step()
        rmsprop_step(ours, gradient, square, torch.tensor(0.01), 0.0, decay=0.9)
    torch.testing.assert_close(ours, theirs.detach())


def test_first_step_is_small_because_the_square_starts_at_one():
    module = mlp(2, (3,), "tanh", ortho_init=False)
    optimizer = FlatRMSprop(module, 0.1, 1e-5, max_grad_norm=0.0, decay=0.99)
    before = optimizer.flat.clone()
    optimizer.apply(torch.full_like(before, 0.01))
    step = before - optimizer.flat
    torch.testing.assert_close(step, torch.full_like(step, 0.1 * 0.01), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
def test_saved_optimiser_goes_on_as_if_never_stopped(kind):
    def make():
        torch.manual_seed(0)
        module = mlp(2, (3,), "tanh", ortho_init=False)
        settings = (module, 0.1, 1e-5, 0.5)
        return FlatAdam(*settings) if kind == "adam" else FlatRMSprop(*settings, decay=0.9)

    def steps(optimizer, first, last):
        for step in range(first, last):
            optimizer.apply(torch.sin(torch.arange(float(len(optimizer.flat))) + step))

    straight, stopped, resumed = make(), make(), make()
    steps(straight, 0, 6)
    steps(stopped, 0, 3)
    resumed.flat.copy_(stopped.flat)
    resumed.load_state_dict({name: x.clone() for name, x in stopped.state_dict().items()})
    steps(resumed, 3, 6)
    assert torch.equal(resumed.flat, straight.flat)
