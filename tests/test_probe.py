"""The probe tells a twin from one that is off by a little, and leaves weights as they were."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastrl.engine.probe import NUM_ROWS, differences, moved, outputs_and_gradients, random_rows

SIZE = 5


def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
    return (random_rows(torch.zeros(1, SIZE), NUM_ROWS, generator),)


def compared(edit: Any, seed: int = 0, width: int = 8) -> list[str]:
    """Returns the differences between a small network and an edited one."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(SIZE, width), nn.Tanh(), nn.Linear(width, 3))
    run = partial(outputs_and_gradients, module=module)
    state = list(module.parameters())
    return differences(run(module), run(lambda x: edit(module, x)), draw, state, ("outputs",))


def another_order(module: nn.Sequential, x: Tensor) -> Tensor:
    """The same numbers but for rounding."""
    first, last = module[0], module[2]
    order = torch.arange(SIZE - 1, -1, -1)
    hidden = torch.tanh(first.bias + x[:, order] @ first.weight[:, order].t())
    flipped = torch.arange(last.weight.shape[1] - 1, -1, -1)
    return hidden[:, flipped] @ last.weight[:, flipped].t() + last.bias


@pytest.mark.parametrize("width", [3, 8, 64])
@pytest.mark.parametrize("seed", range(5))
def test_rounding_is_no_difference(seed, width):
    assert compared(another_order, seed, width) == []


EDITS = {
    "scale": lambda module, x: module(x) * 1.001,
    "shift": lambda module, x: module(x) + 1e-3 * module(x).abs().mean(),
    "one output": lambda module, x: module(x) * torch.tensor([1, 1.001, 1]),
    "one input": lambda module, x: module(x * torch.tensor([1, 1, 1.001, 1, 1])),
    "no bias": lambda module, x: module(x) - module[2].bias,
    "gradient alone": lambda module, x: (
        module(x.detach()) + 1e-3 * (y := module(x)) - 1e-3 * y.detach()
    ),
    "detached": lambda module, x: module(x).detach().requires_grad_(),
    "clamped": lambda module, x: module(x).clamp(-2, 2),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("width", [8, 64])
def test_an_edit_of_a_thousandth_is_found(edit, width):
    assert compared(EDITS[edit], width=width)


@pytest.mark.parametrize("size", [1, 4, 16, 17, 1000])
def test_one_number_in_a_hundred_that_is_off_is_found(size):
    values = torch.randn(size, generator=torch.Generator().manual_seed(2)) + 2
    wrong = values.clone()
    wrong[0] += values.norm() * 1e-3 + 1e-3
    assert not differences(lambda: values, lambda: values + 1e-7, lambda _: (), [], ())
    assert differences(lambda: values, lambda: wrong, lambda _: (), [], ("values",)) == ["values"]


def test_a_small_metric_beside_a_large_one_is_compared_too():
    metrics = torch.tensor([1.0, 5.0, -0.01, 2e-3])
    wrong = metrics * torch.tensor([1, 1, 1, 1.1])
    assert differences(lambda: metrics, lambda: wrong, lambda _: (), [], ()) == ["result 0"]


def test_draws_may_differ_where_two_are_as_good_and_not_more_often():
    choices = torch.arange(NUM_ROWS)
    one, many = choices.clone(), choices.clone()
    one[3] += 1
    many[:10] += 1
    assert not differences(lambda: choices, lambda: one, lambda _: (), [], ())
    assert differences(lambda: choices, lambda: many, lambda _: (), [], ())


def test_other_shapes_types_and_numbers_of_results_are_differences():
    x = torch.ones(3)
    for other in ((torch.ones(1, 3),), (torch.ones(3).double(),), (x, x)):
        assert differences(lambda: (x,), lambda other=other: other, lambda _: (), [], ())


def test_a_twin_that_raises_is_told_by_its_words():
    def twin() -> Tensor:
        raise ValueError("wider than 512\nand more")

    assert differences(lambda: torch.ones(1), twin, lambda _: (), [], ()) == ["wider than 512"]


def test_what_is_moved_is_put_back_though_something_raises():
    weight, count = torch.zeros(4, 3), torch.zeros((), dtype=torch.int64)
    with pytest.raises(KeyError), moved([weight, count], 1.0, torch.Generator().manual_seed(0)):
        assert (weight != 0).all()
        raise KeyError
    assert not weight.any() and count == 0


def test_zero_biases_and_unit_scales_hide_nothing():
    """A normaliser begins as the identity, and biases at zero: moved, they count."""
    bias, scale = torch.zeros(3), torch.ones(3)
    rows = partial(random_rows, torch.zeros(1, 3), NUM_ROWS)

    def draw_rows(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (rows(generator),)

    twin = differences(
        lambda x: x * scale + bias, lambda x: x * scale, draw_rows, [bias, scale], ()
    )
    assert twin and differences(lambda x: x * scale, lambda x: x, draw_rows, [scale], ())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32])
def test_random_rows_have_the_type_and_shape_that_is_asked_for(dtype):
    rows = random_rows(torch.zeros(2, 3, 4, dtype=dtype), 7, torch.Generator().manual_seed(0))
    assert rows.shape == (7, 3, 4) and rows.dtype == dtype and len(rows.unique()) > 1
