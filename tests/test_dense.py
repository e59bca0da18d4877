"""Networks in the extension: as exact as float32, the same on any number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from fastrl.engine.compiling import build
from fastrl.kernels.extension import HAS_DENSE, worker_threads
from fastrl.kernels.networks import (
    ACTIVATIONS,
    DenseNetwork,
    dense,
    dense_plainly,
    dense_stack,
    layout_of,
    starts_of,
)
from fastrl.models.layers import flatten_gradients, flatten_parameters, linear

pytestmark = pytest.mark.skipif(not HAS_DENSE, reason="no extension, or no wide vectors")

# rows, inputs, and of each network hidden layers and heads
SHAPES = [
    (64, 8, [((64, 64), (4,)), ((64, 64), (1,))]),
    (1000, 17, [((128, 64, 32), (6, 1))]),
    (1, 1, [((1,), (1,))]),
    (65, 3, [((5,), (2,)), ((33, 17), (1, 3, 18))]),
    (2048, 40, [((100, 31), (33, 1))]),
    (513, 376, [((256, 130), (17, 1))]),
    (300, 10, [((256, 256), (1,)), ((256, 256), (1,))]),
]
Networks = list[DenseNetwork]
Function = Callable[[Tensor, Networks, str], list[Tensor]]


def make(shape: tuple, mixed: bool = True) -> tuple[Tensor, Networks, nn.ParameterList]:
    """Return rows and networks whose weights lie as `models.layers.linear` lays them."""
    num_rows, num_inputs, sizes = shape
    torch.manual_seed(1)
    networks, parameters = [], nn.ParameterList()
    for hidden_sizes, head_sizes in sizes:
        layers, fan_in = [], num_inputs
        for size in hidden_sizes:
            layers.append(linear(fan_in, size) if mixed else nn.Linear(fan_in, size))
            fan_in = size
        heads = [linear(fan_in, size) for size in head_sizes]
        parameters.extend(x for layer in (*layers, *heads) for x in (layer.weight, layer.bias))
        pairs = [[(layer.weight, layer.bias) for layer in part] for part in (layers, heads)]
        networks.append(DenseNetwork(*pairs))
    return torch.randn(num_rows, num_inputs), networks, parameters


def run(function: Function, x: Tensor, networks: Networks, activation: str) -> list[Tensor]:
    """Return the values of all heads, and the gradients of a loss on them, that by x last."""
    x = x.clone().requires_grad_()
    outputs = function(x, networks, activation)
    parameters = [x for network in networks for part in network for pair in part for x in pair]
    return [
        *[y.detach() for y in outputs],
        *torch.autograd.grad(loss_on(outputs), [*parameters, x]),
    ]


def loss_on(outputs: list[Tensor]) -> Tensor:
    """Return a scalar that depends on all values."""
    weighted = [(y * torch.linspace(0.5, 1, y.numel()).view_as(y)).sum() for y in outputs]
    return torch.stack(weighted).sum()


def in_float64(networks: Networks) -> Networks:
    """Return the same networks in float64."""

    def double(tensor: Tensor) -> Tensor:
        return tensor.detach().double().requires_grad_()

    return [DenseNetwork(*[[tuple(map(double, p)) for p in part] for part in n]) for n in networks]


def distances(found: list[Tensor], exact: list[Tensor]) -> Tensor:
    """Return how far each tensor is from the exact one, as a part of its size."""
    pairs = zip(found, exact, strict=True)
    return torch.stack([(a - b).norm() / (b.norm() + 1e-30) for a, b in pairs])


@pytest.mark.parametrize("activation", ["tanh", "elu"])
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_that_of_float32(shape, activation):
    x, networks, _ = make(shape)
    exact = run(dense_plainly, x.double(), in_float64(networks), activation)
    found = distances(run(dense, x, networks, activation), exact)
    plain = distances(run(dense_plainly, x, networks, activation), exact)
    assert (found < 2 * plain + 5e-7).all(), (found, plain)


@pytest.mark.parametrize("shape", SHAPES)
def test_relu_is_torchs(shape):
    # Not told by float64: a sum near 0 may lie on the other side there.
    x, networks, _ = make(shape)
    with torch.no_grad():
        for network in networks:
            for _, bias in network.hidden:
                bias.add_(0.3)
    found, plain = (run(function, x, networks, "relu") for function in (dense, dense_plainly))
    assert (distances(found, plain) < 2e-3).all()
    num_heads = sum(len(network.heads) for network in networks)
    assert (distances(found, plain)[:num_heads] < 2e-6).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_number_of_threads_changes_no_bit(shape):
    x, networks, _ = make(shape)
    alone = run(dense, x, networks, "tanh")
    for num_threads in (2, 3, 8):
        with worker_threads(num_threads):
            together = run(dense, x, networks, "tanh")
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True)), num_threads


@pytest.mark.parametrize("shape", SHAPES)
def test_what_nobody_asks_for_changes_nothing_else(shape):
    x, networks, parameters = make(shape)
    wanted = run(dense, x, networks, "elu")
    *of_parameters, of_x = wanted[-len(parameters) - 1 :]
    (found,) = torch.autograd.grad(loss_on(dense(x, networks, "elu")), parameters[0])
    assert torch.equal(found, of_parameters[0])
    fixed = [
        DenseNetwork(*[[(w.detach(), b.detach()) for w, b in part] for part in network])
        for network in networks
    ]
    x.requires_grad_()
    (found,) = torch.autograd.grad(loss_on(dense(x, fixed, "elu")), x)
    assert torch.equal(found, of_x)


def test_values_without_a_gradient_count_as_zeros():
    x, networks, parameters = make(SHAPES[1])
    values, others = dense(x, networks, "tanh")
    found = torch.autograd.grad(values.sum(), list(parameters))
    wanted = torch.autograd.grad(
        sum(y.sum() * factor for y, factor in zip(dense(x, networks, "tanh"), (1, 0), strict=True)),
        list(parameters),
    )
    assert others.shape == (1000, 1)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_second_derivative_is_refused():
    x, networks, _ = make(SHAPES[0])
    x.requires_grad_()
    loss = sum(y.square().sum() for y in dense(x, networks, "tanh"))
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        gradient.sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("is_learning", [pytest.param(True, marks=pytest.mark.slow), False])
def test_operators_keep_torchs_rules(is_learning):
    x, networks, _ = make(SHAPES[3])
    x.requires_grad_()
    layers = [pair for network in networks for part in network for pair in part]
    weights, biases = ([pair[i].detach() for pair in layers] for i in (0, 1))
    for tensor in (*weights, *biases):
        tensor.requires_grad_(is_learning)
    layout = layout_of(networks, "tanh")
    given = x, weights, biases, layout
    torch.library.opcheck(torch.ops.fastrl.dense.default, (*given, True))
    with torch.no_grad():
        *values, hidden = torch.ops.fastrl.dense(*given, True)
    x, weights, biases = x.detach(), [w.detach() for w in weights], [b.detach() for b in biases]
    starts = starts_of([*weights, *biases]) if is_learning else []
    known = x, hidden, values, weights, biases, layout, starts
    torch.library.opcheck(torch.ops.fastrl.dense_backward.default, (*known, True))


def test_a_row_does_not_depend_on_those_beside_it():
    x, networks, _ = make(SHAPES[1])
    with torch.no_grad():
        together = dense(x, networks, "elu")
        for first, last in ((0, 32), (32, 64), (999, 1000), (100, 117)):
            apart = dense(x[first:last], networks, "elu")
            assert all(torch.equal(a, b[first:last]) for a, b in zip(apart, together, strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_hold_at_all_sizes(activation):
    x = torch.cat([torch.logspace(-30, 30, 601), torch.zeros(1)])
    x = torch.cat([x, -x]).unsqueeze(1)
    one = DenseNetwork([(torch.ones(1, 1), torch.zeros(1))], [(torch.ones(1, 1), torch.zeros(1))])
    (found,) = dense(x, [one], activation)
    (exact,) = dense_plainly(x.double(), in_float64([one]), activation)
    torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_in_a_row_reaches_its_values_alone(activation):
    x, networks, _ = make(SHAPES[0])
    x[3, 2] = torch.nan
    with torch.no_grad():
        for values in dense(x, networks, activation):
            assert values[3].isnan().all()
            assert values[[*range(3), *range(4, 64)]].isfinite().all()


def test_a_team_has_at_least_one_thread():
    with pytest.raises(ValueError, match="num_threads=0"), worker_threads(0):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    x, networks, _ = make(SHAPES[4])
    with worker_threads(2), torch.no_grad():
        wanted = dense(x, networks, "relu")[0].numpy().tobytes()
        child = os.fork()
        if child == 0:  # without torch's own threads, which do not outlive a fork
            found = dense(x, networks, "relu")[0].numpy().tobytes()
            os._exit(0 if found == wanted else 1)
        assert os.waitpid(child, 0)[1] == 0


def make_stack(num_networks: int, sizes: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Return weights `[E, K, N]` and biases `[E, 1, N]`."""
    torch.manual_seed(2)
    weights = [torch.randn(num_networks, a, b) / a**0.5 for a, b in pairwise(sizes)]
    biases = [0.3 * torch.randn(num_networks, 1, size) for size in sizes[1:]]
    parts = nn.ParameterList([*weights, *biases])
    flatten_parameters(parts)
    parameters = list(parts)
    return parameters[: len(weights)], parameters[len(weights) :]


@pytest.mark.parametrize(
    ("num_networks", "sizes"), [(2, (10, 256, 256, 1)), (5, (3, 33, 4)), (1, (8, 64, 48, 64, 18))]
)
def test_networks_side_by_side_are_networks_apart(num_networks, sizes):
    weights, biases = make_stack(num_networks, sizes)
    networks = []
    for network in range(num_networks):
        layers = [(w[network].t(), b[network, 0]) for w, b in zip(weights, biases, strict=True)]
        networks.append(DenseNetwork(layers[:-1], layers[-1:]))
    x = torch.randn(256, sizes[0], requires_grad=True)
    with worker_threads(2):
        stack = dense_stack(x, weights, biases, "relu")
        apart = torch.stack(dense(x, networks, "relu"))
        assert torch.equal(stack, apart)
        learned = [*weights, *biases, x]
        factors = torch.randn(apart.shape)
        found, wanted = (torch.autograd.grad(y, learned, factors) for y in (stack, apart))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_operators_of_stacks_keep_torchs_rules():
    weights, biases = make_stack(3, (4, 20, 2))
    x = torch.randn(7, 4, requires_grad=True)
    layout = [0, 3, 3, *(3 * [1, 1, 20, 1, 2, 1])]
    given = x, list(weights), list(biases), layout, True
    torch.library.opcheck(torch.ops.fastrl.dense.default, given)


def test_stacks_that_do_not_fit_are_refused():
    weights, biases = make_stack(2, (4, 20, 2))
    x = torch.randn(7, 4)
    for wrong, words in (
        (([w[0] for w in weights], biases), "contiguous layers"),
        ((weights, [biases[0][:1], biases[1]]), "contiguous layers"),
        ((weights[:1], biases[:1]), "hidden layer and a head"),
        ((weights, [biases[1], biases[0]]), "expected a dense layer"),
    ):
        with pytest.raises(ValueError, match=words):
            dense_stack(x, *wrong, "relu")


def test_recorded_gradient_is_one_block_in_the_order_of_the_parameters():
    x, networks, parameters = make(SHAPES[0])
    flat = flatten_parameters(list(parameters))

    def gradient(x: Tensor) -> Tensor:
        outputs = dense(x, networks, "tanh")
        gradients = torch.autograd.grad(sum(y.sum() for y in outputs), list(parameters))
        return flatten_gradients(gradients)

    recorded = build(gradient, (x,), "auto")
    assert torch.equal(recorded(x), gradient(x))
    assert gradient(x).shape == flat.shape
    assert torch.equal(recorded(2 * x), gradient(2 * x))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, n: (x.double(), n), "float32"),
        (lambda x, n: (x[:, :-1], n), "dense layer of 7 inputs"),
        (lambda x, n: (x[:0], n), "rows"),
        (lambda x, n: (x, [DenseNetwork([], n[0].heads)]), "hidden layer and a head"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    x, networks, _ = make(SHAPES[0])
    x, networks = change(x, networks)
    with pytest.raises(ValueError, match=words):
        dense(x, networks, "tanh")
    with pytest.raises(ValueError, match="must be one of"):
        dense(x, networks, "gelu")
