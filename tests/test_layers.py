"""Layers: initial weights, all parameters as one vector."""

import math

import pytest
import torch
from torch import nn

from fastrl.models.layers import (
    ACTIVATIONS,
    evaluating,
    flatten_gradients,
    flatten_parameters,
    linear,
    mlp,
)


@pytest.mark.parametrize(("rows", "columns"), [(8, 64), (64, 8), (64, 64), (5, 1)])
@pytest.mark.parametrize("gain", [math.sqrt(2), 0.01])
def test_orthogonal_layer_has_its_gain_and_no_bias(rows, columns, gain):
    layer = linear(rows, columns, gain)
    weight = layer.weight.detach()
    small = weight @ weight.T if columns <= rows else weight.T @ weight
    torch.testing.assert_close(small, gain**2 * torch.eye(min(rows, columns)), rtol=1e-4, atol=1e-5)
    assert not layer.bias.any()


def test_layer_without_gain_starts_as_torch_starts_it():
    torch.manual_seed(3)
    ours = linear(4, 9)
    torch.manual_seed(3)
    theirs = nn.Linear(4, 9)
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


def test_layer_is_linear_whatever_its_memory_order():
    for sizes in ((4, 9), (9, 4)):
        layer, inputs = linear(*sizes), torch.randn(7, sizes[0])
        torch.testing.assert_close(layer(inputs), inputs @ layer.weight.T + layer.bias)


@pytest.mark.parametrize(
    ("name", "function"),
    [("relu", torch.relu), ("tanh", torch.tanh), ("elu", nn.functional.elu)],
)
def test_mlp_applies_the_activation_after_every_layer(name, function):
    network, inputs = mlp(3, (5, 7), name, False), torch.randn(4, 3)
    first, second = (layer for layer in network if isinstance(layer, nn.Linear))
    torch.testing.assert_close(network(inputs), function(second(function(first(inputs)))))


def test_mlp_has_the_widths_asked_for():
    network = mlp(3, (5, 7, 2), "relu", False)
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [layer.weight.shape for layer in layers] == [(5, 3), (7, 5), (2, 7)]


def test_all_activations_are_offered():
    assert sorted(ACTIVATIONS) == ["elu", "relu", "tanh"]


@pytest.fixture
def network() -> nn.Sequential:
    """Return a network, one of whose weights lies in memory by columns."""
    torch.manual_seed(0)
    network = mlp(3, (6, 2, 5), "tanh", False)
    weight = next(network.parameters())
    weight.data = weight.data.t().contiguous().t()
    return network


def test_flattening_changes_no_parameter(network):
    before = [parameter.detach().clone() for parameter in network.parameters()]
    flat = flatten_parameters(list(network.parameters()))
    assert flat.shape == (sum(parameter.numel() for parameter in before),)
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), before, strict=True))
    assert all(parameter.is_contiguous() for parameter in network.parameters())


def test_parameters_are_views_of_the_flat_vector(network):
    flat = flatten_parameters(list(network.parameters()))
    flat.copy_(torch.arange(len(flat)))
    assert sorted(torch.cat([p.detach().flatten() for p in network.parameters()]).tolist()) == (
        list(range(len(flat)))
    )
    for parameter in network.parameters():
        assert parameter.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()


def test_loading_a_state_goes_into_the_flat_vector(network):
    flat = flatten_parameters(list(network.parameters()))
    other = mlp(3, (6, 2, 5), "tanh", False)
    network.load_state_dict(other.state_dict())
    inputs = torch.randn(4, 3)
    assert torch.equal(network(inputs), other(inputs))
    flat.zero_()
    assert not any(parameter.any() for parameter in network.parameters())


def test_flat_gradient_has_the_order_of_the_flat_parameters(network):
    flat = flatten_parameters(list(network.parameters()))
    parameters = list(network.parameters())
    loss = network(torch.randn(4, 3)).square().sum()
    gradients = torch.autograd.grad(loss, parameters)
    flat.copy_(flatten_gradients(gradients))
    # The parameters are views: each now holds its own gradient.
    assert all(torch.equal(*pair) for pair in zip(parameters, gradients, strict=True))


def test_flat_gradient_does_not_depend_on_how_gradients_lie_in_memory(network):
    gradients = [torch.randn(parameter.shape) for parameter in network.parameters()]
    turned = [x.t().contiguous().t() if x.dim() == 2 else x for x in gradients]
    assert torch.equal(flatten_gradients(gradients), flatten_gradients(turned))


def test_a_flat_gradient_can_be_written_to_though_it_is_a_number_expanded():
    weight = torch.zeros(3, requires_grad=True)
    flat = flatten_gradients(torch.autograd.grad(weight.sum(), [weight]))
    assert flat.mul_(2).tolist() == [2, 2, 2]


def test_evaluation_mode_reaches_layers_that_torchscript_made():
    network = nn.Sequential(torch.jit.script(nn.Sequential(nn.Dropout(0.9))))
    with evaluating(network):
        assert torch.equal(network(torch.ones(50)), torch.ones(50))
    assert not torch.equal(network(torch.ones(50)), torch.ones(50)) and network[0].training
