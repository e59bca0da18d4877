"""A rehearsal runs a function once and leaves nothing behind; what is not static is found out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastrl.engine.rehearsal import NotStaticError, rehearse


def change_everything(memory: Tensor, weight: nn.Parameter) -> Callable[[Tensor], Tensor]:
    """Returns a function that changes tensors in many ways."""

    def function(x: Tensor) -> Tensor:
        with torch.no_grad():
            memory[0].copy_(x)  # a view made here
            memory.view(-1)[2:4].mul_(3)
            memory.unflatten(1, (1, -1)).add_(1)
            torch.add(memory, 1, out=memory)
            weight.sub_(torch.ones_like(weight).add_(1))
            x.zero_()
        (gradient,) = torch.autograd.grad((weight * memory).sum(), weight)
        return gradient

    return function


def test_what_a_function_changes_is_put_back():
    memory, weight, example = torch.randn(3, 2), nn.Parameter(torch.randn(3, 2)), torch.ones(2)
    before = memory.clone(), weight.detach().clone()
    rehearse(change_everything(memory, weight), (example,))
    assert torch.equal(memory, before[0]) and torch.equal(weight, before[1])
    assert example.tolist() == [1, 1] and weight.grad is None


def test_what_a_function_changes_is_put_back_though_it_raises():
    memory, weight = torch.randn(3, 2), nn.Parameter(torch.randn(3, 2))
    before = memory.clone(), weight.detach().clone()

    def function(x: Tensor) -> None:
        change_everything(memory, weight)(x)
        raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        rehearse(function, (torch.ones(2),))
    assert torch.equal(memory, before[0]) and torch.equal(weight, before[1])


@pytest.mark.parametrize("write", [lambda x, y: y.add_(x), lambda x, y: torch.add(x, y, out=y)])
def test_what_is_written_to_is_counted(write):
    memory = torch.zeros(2)
    assert rehearse(lambda x: write(x, memory), (torch.ones(2),)) == 1
    assert rehearse(lambda x: write(x, x), (torch.ones(2),)) == 0


def test_any_generator_of_numpy_may_be_the_global_one():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(3))
    try:
        rehearse(lambda x: x + 1, (torch.ones(2),))
        with pytest.raises(NotStaticError, match="generator"):
            rehearse(lambda x: x + np.random.rand(), (torch.ones(2),))
    finally:
        np.random.set_bit_generator(before)


def test_what_was_changed_before_a_value_was_read_is_put_back():
    total = torch.zeros(2)

    def function(x: Tensor) -> None:
        total.add_(x)
        if total.sum() > 0:
            total.add_(x)

    with pytest.raises(NotStaticError):
        rehearse(function, (torch.ones(2),))
    assert total.tolist() == [0, 0]


def test_overlapping_views_are_put_back_in_the_right_order():
    memory = torch.arange(6.0)
    front, middle = memory[:3], memory[2:5]

    def function(x: Tensor) -> None:
        front.add_(x.sum())
        middle.mul_(2)
        memory.add_(1)
        front.mul_(5)

    rehearse(function, (torch.ones(2),))
    assert memory.tolist() == [0, 1, 2, 3, 4, 5]


READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "bool": lambda x: bool(x[0] > 0),
    "equal": lambda x: torch.equal(x, x + 1),
    "allclose": lambda x: torch.allclose(x, x + 1),
    "tolist": lambda x: (2 * x).tolist(),
    "numpy": lambda x: (2 * x).numpy(),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
}


@pytest.mark.parametrize("how", READS)
def test_a_function_that_depends_on_a_value_is_not_static(how):
    with pytest.raises(NotStaticError):
        rehearse(READS[how], (torch.tensor([1.0, -2.0, 3.0]),))


def test_a_function_that_gives_a_tensor_other_memory_is_not_static():
    target = torch.zeros(2)
    with pytest.raises(NotStaticError, match="gives a tensor other memory"):
        rehearse(lambda x: setattr(target, "data", x), (torch.ones(2),))
    assert target.tolist() == [0, 0]


STATIC: dict[str, Callable[[Tensor], object]] = {
    "where": lambda x: torch.where(x > 0, x, 0),
    "index": lambda x: x[torch.tensor([2, 0])],
    "mask": lambda x: x.masked_fill(x > 0, 1),
    "clamp": lambda x: x.clamp(-1, 1).max(),
    "shape": lambda x: x.sum() / len(x) if x.shape[0] > 1 else x.numel(),
    "gather": lambda x: x.gather(0, x.argsort()),
}


@pytest.mark.parametrize("how", STATIC)
def test_a_function_that_depends_on_shapes_alone_is_static(how):
    rehearse(STATIC[how], (torch.tensor([1.0, -2.0, 3.0]),))
