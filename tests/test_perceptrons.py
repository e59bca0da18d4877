"""Networks in matrix tiles: as exact as float32, the same on any number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fastrl import SAC
from fastrl.engine.compiling import build
from fastrl.engine.threads import matmul_precision
from fastrl.kernels.extension import HAS_TILES, crew, crew_threads
from fastrl.kernels.perceptrons import perceptrons, perceptrons_plainly, suits_tiles

pytestmark = pytest.mark.skipif(not HAS_TILES, reason="this processor has no matrix tiles")

# networks, rows, sizes of layers, whether weights lie in columns as nn.Linear's do
SHAPES = [
    (2, 256, (10, 256, 256, 1), False),
    (1, 250, (17, 128, 64, 12), True),
    (3, 33, (40, 64, 96, 64, 5), False),
    (5, 1, (1, 32, 3), True),
    (1, 300, (376, 64, 33), False),
    (1, 420, (600, 352, 64, 9), True),
]
Network = Callable[[Tensor, list[Tensor], list[Tensor]], Tensor]


def make(shape: tuple[int, int, tuple[int, ...], bool]) -> tuple[Tensor, list[Tensor]]:
    """Returns rows, and weights followed by biases."""
    num_networks, num_rows, sizes, in_columns = shape
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_rows, sizes[0], generator=generator, requires_grad=True)
    weights, biases = [], []
    for fan_in, fan_out in pairwise(sizes):
        weight = torch.randn(num_networks, fan_in, fan_out, generator=generator) / fan_in**0.5
        if in_columns:
            weight = weight.mT.contiguous().mT
        weights.append(weight.requires_grad_())
        bias = torch.randn(num_networks, fan_out, generator=generator)
        biases.append(bias.requires_grad_())
    return x, [*weights, *biases]


def run(network: Network, x: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Returns outputs, and gradients of rows and parameters."""
    middle = len(parameters) // 2
    y = network(x, parameters[:middle], parameters[middle:])
    loss = (y * torch.linspace(0.5, 1, y.numel()).view_as(y)).sum()
    return [y.detach(), *torch.autograd.grad(loss, [x, *parameters])]


def exactly(x: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Returns what float64 makes of it."""
    doubled = [tensor.detach().double().requires_grad_() for tensor in (x, *parameters)]
    return run(perceptrons_plainly, doubled[0], doubled[1:])


def errors(mine: list[Tensor], wanted: list[Tensor]) -> list[float]:
    pairs = zip(mine, wanted, strict=True)
    return [((a - b).norm() / b.norm().clamp(min=1e-30)).item() for a, b in pairs]


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_are_as_exact_as_float32(shape):
    x, parameters = make(shape)
    wanted = exactly(x, parameters)
    plain = errors(run(perceptrons_plainly, x, parameters), wanted)
    for mine, theirs in zip(errors(run(perceptrons, x, parameters), wanted), plain, strict=True):
        assert mine <= 2 * theirs + 1e-7


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_threads", [2, 3, 16])
def test_the_number_of_threads_changes_no_bit(shape, num_threads):
    x, parameters = make(shape)
    alone = run(perceptrons, x, parameters)
    for _ in range(20):
        with crew(num_threads):
            together = run(perceptrons, x, parameters)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert crew_threads() == 1


def test_gradients_lie_in_memory_as_their_parameters_do():
    for shape in SHAPES:
        x, parameters = make(shape)
        for gradient, parameter in zip(
            run(perceptrons, x, parameters)[2:], parameters, strict=True
        ):
            assert gradient.shape == parameter.shape
            assert gradient.stride() == parameter.stride()


@pytest.mark.parametrize("shape", SHAPES)
def test_what_nobody_asks_for_changes_nothing_else(shape):
    x, parameters = make(shape)
    wanted = run(perceptrons, x, parameters)
    fixed = [parameter.detach() for parameter in parameters]
    middle = len(fixed) // 2
    y = perceptrons(x, fixed[:middle], fixed[middle:])
    loss = (y * torch.linspace(0.5, 1, y.numel()).view_as(y)).sum()
    assert torch.equal(torch.autograd.grad(loss, x)[0], wanted[1])
    with torch.no_grad():
        y = perceptrons(x, parameters[:middle], parameters[middle:])
    assert torch.equal(y, wanted[0])


def test_pieces_follow_the_precision_of_products():
    x, parameters = make((2, 256, (10, 256, 256, 12), False))
    wanted = exactly(x, parameters)
    found = {}
    for name in ("highest", "high", "medium"):
        with matmul_precision(name):
            found[name] = errors(run(perceptrons, x, parameters), wanted)[0]
    assert found["highest"] < 1e-6 < found["high"] < 1e-4 < found["medium"] < 1e-1


def test_numbers_of_all_sizes_keep_their_bits():
    x, parameters = make((1, 64, (64, 64, 64), False))
    with torch.no_grad():
        x.copy_(10.0 ** torch.linspace(-12, 12, 64).expand(64, 64) * x.sign())
        parameters[0].copy_(torch.eye(64).unsqueeze(0))
        for bias in parameters[2:]:
            bias.zero_()
        parameters[1].copy_(torch.eye(64).unsqueeze(0))
        y = perceptrons(x, parameters[:2], parameters[2:]).squeeze(0)
    torch.testing.assert_close(y, x.clamp(min=0), rtol=2**-23, atol=0)


def test_what_is_not_a_number_goes_through():
    x, parameters = make((1, 64, (64, 64, 64, 1), False))
    with torch.no_grad():
        x[3, 5] = torch.nan
        y = perceptrons(x, parameters[:3], parameters[3:])
    assert y[0, 3].isnan().all()
    assert y.isnan().sum() == 1


def test_recorded_equals_eager():
    x, parameters = make((2, 96, (10, 64, 64, 1), False))
    x, parameters = x.detach(), [parameter.detach().requires_grad_() for parameter in parameters]

    def step(rows: Tensor) -> tuple[Tensor, ...]:
        rows = rows * 2
        y = perceptrons(rows, parameters[:3], parameters[3:])
        gradients = torch.autograd.grad(y.square().sum(), parameters)
        return y.detach(), *gradients

    recorded = build(step, (x,), "auto")
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        results = recorded(other)
    for mine, wanted in zip(results, step(other), strict=True):
        assert torch.equal(mine, wanted)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, w, b: (x.double(), w, b), "float32"),
        (lambda x, w, b: (x[:, :-1], w, b), "expected dense"),
        (lambda x, w, b: (x.t().contiguous().t(), w, b), "expected dense"),
        (lambda x, w, b: (x[:0], w, b), "expected dense"),
        (lambda x, w, b: (x, w[:-1], b), "two layers"),
        (lambda x, w, b: (x, w[:1], b[:1]), "two layers"),
        (lambda x, w, b: (x, [w[0], w[0], w[2]], b), "expected dense"),
        (lambda x, w, b: (x, w, [b[0], b[1], b[2].expand(2, -1)]), "expected dense"),
        (lambda x, w, b: (x, [w[0][..., :40], w[1][:, :40], w[2]], b), "multiples of 32"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    x, parameters = make((1, 64, (10, 64, 64, 1), False))
    with pytest.raises(ValueError, match=said):
        perceptrons(*change(x, parameters[:3], parameters[3:]))


def test_a_second_derivative_is_refused():
    x, parameters = make((1, 64, (10, 64, 64, 1), False))
    y = perceptrons(x, parameters[:3], parameters[3:]).square().sum()
    (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_crew_has_at_least_one_thread():
    with pytest.raises(ValueError, match="num_threads=0"), crew(0):
        pass


def test_only_networks_that_gain_go_through_tiles():
    assert suits_tiles((256, 256), 256)
    assert suits_tiles((64,), 64)
    assert not suits_tiles((8, 8), 256)
    assert not suits_tiles((256, 100), 256)
    assert not suits_tiles((256, 256), 16)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    x, parameters = make(SHAPES[0])
    weights, biases = parameters[:3], parameters[3:]
    with crew(2), torch.no_grad():
        wanted = perceptrons(x, weights, biases)
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(perceptrons(x, weights, biases), wanted) else 1)
        assert os.waitpid(child, 0)[1] == 0


def agents(**settings) -> list[SAC]:
    """Returns agents that go through tiles and past them."""
    small = {"num_envs": 4, "per_rank_batch_size": 64, "hidden_sizes": (64, 64), "num_threads": 2}
    made = []
    for in_tiles in (True, False):
        agent = SAC("Pendulum-v1", preset="none", accelerator="cpu", **{**small, **settings})
        agent.has_perceptrons = in_tiles  # pyright: ignore[reportAttributeAccessIssue]
        agent.make_buffer()
        assert agent._in_tiles == (in_tiles and settings.get("compile") != "on")
        made.append(agent)
    return made


def test_a_gradient_step_in_tiles_is_the_plain_one():
    generator = torch.Generator().manual_seed(3)
    weights = []
    noise = torch.randn(2, 64, 1, generator=generator)
    fields = [torch.randn(64, 3, generator=generator), torch.rand(64, 1, generator=generator)]
    fields += [torch.randn(64, 3, generator=generator), torch.randn(64, generator=generator)]
    for agent in agents():
        with agent.learning():
            for _ in range(5):
                agent._full_step(*fields, torch.full((64,), 0.99), *noise)
        weights.append(torch.cat([agent.actor_optimizer.flat, agent.critic_optimizer.flat]))
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)
    assert not torch.equal(*weights)  # or both went the same way


@pytest.mark.parametrize(
    "settings",
    [{"engine": "compile"}, {"precision": "bf16-mixed"}, {"hidden_sizes": (8, 8)}],
    ids=["compiled", "mixed", "small"],
)
def test_other_agents_go_past_tiles(settings):
    small = {"num_envs": 4, "per_rank_batch_size": 64, "hidden_sizes": (64, 64), **settings}
    agent = SAC("Pendulum-v1", preset="none", accelerator="cpu", **small)
    agent._build_steps = lambda minibatch: None  # pyright: ignore[reportAttributeAccessIssue]
    agent.make_buffer()
    assert not agent._in_tiles
