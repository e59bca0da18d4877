"""What `Layout` notices: parts and hooks put in the place of others, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fastrl.engine.layout import Layout


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


def nothing(*_: object) -> None:
    """Is a hook."""


def put_weight(network: nn.Sequential) -> None:
    network[0].weight = nn.Parameter(torch.zeros(3, 2))


def put_hook_of_same_number(network: nn.Sequential) -> None:
    network[2]._forward_hooks.clear()
    network[2].register_forward_hook(nothing)


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "a layer put in place": lambda network: network.__setitem__(1, nn.ReLU()),
    "a layer added": lambda network: network.append(nn.Tanh()),
    "a layer taken out": lambda network: network.pop(1),
    "a weight put in place": put_weight,
    "a weight added": lambda network: network.register_parameter(
        "scale", nn.Parameter(torch.ones(1))
    ),
    "a hook added": lambda network: network[0].register_forward_pre_hook(nothing),
    "a hook in the place of another": put_hook_of_same_number,
    "all layers' dict put in place": lambda network: setattr(network, "_modules", {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_parts_are_seen(change):
    network = two_layers()
    network[2].register_forward_hook(lambda *_: None)
    layout = Layout([network])
    assert layout.is_of([network])
    CHANGES[change](network)
    assert not layout.is_of([network])


def test_other_networks_are_seen():
    first, second = two_layers(), two_layers()
    layout = Layout([first])
    assert not layout.is_of([second])
    assert not layout.is_of([])
    assert not layout.is_of([first, second])


def test_values_and_modes_are_none_of_its_business():
    network = two_layers()
    layout = Layout([network])
    with torch.no_grad():
        next(network.parameters()).fill_(1.0)
    network.eval().requires_grad_(False)
    assert layout.is_of([network])


def test_a_part_that_torchscript_made_may_be_one_of_a_network():
    network = nn.Sequential(nn.Linear(2, 2), torch.jit.script(nn.Tanh()))
    layout = Layout([network])
    assert layout.is_of([network])
    network[1] = nn.Tanh()
    assert not layout.is_of([network])
