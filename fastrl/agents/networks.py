"""What a checkpoint says of its networks: their layers, and which parameters do not learn."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from torch import nn

from fastrl.models.layers import check_float32, structure_of

Networks = Mapping[str, nn.Module]


def describe_networks(networks: Networks) -> dict[str, Any]:
    """Returns the layers and the frozen parameters of networks, for a checkpoint.

    Raises:
        ValueError: weights are not float32, as no agent could load them.
    """
    for name, module in networks.items():
        check_float32(module.named_parameters(name), "saved")
    layers = {name: structure_of(module) for name, module in networks.items()}
    return {"layers": layers, "frozen": frozen_names(networks)}


def frozen_names(networks: Networks) -> list[str]:
    """Returns the names of the parameters that do not learn: `requires_grad` is False."""
    return [
        f"{name}.{key}"
        for name, module in networks.items()
        for key, parameter in module.named_parameters()
        if not parameter.requires_grad
    ]


def with_classes_of(networks: Networks, state: Any) -> Any:
    """Returns a saved state in which classes of the user's own go by their names of today.

    Only a class's name is taken from here: the names of layers, and of torch's what they were made
    with, stay as they were saved.
    """
    layers = state.get("layers") if isinstance(state, dict) else None
    if not isinstance(layers, dict) or not all(isinstance(x, list) for x in layers.values()):
        return state  # `match_networks` refuses it
    renamed = {
        x: _renamed(y, structure_of(networks[x])) for x, y in layers.items() if x in networks
    }
    return {**state, "layers": {**layers, **renamed}}


def _renamed(saved: list[Any], here: list[str]) -> list[Any]:
    names = dict(line.split(": ", 1) for line in here)
    lines = []
    for line in saved:
        name, _, kind = str(line).partition(": ")
        now = names.get(name, "(")
        lines.append(line if "(" in kind or "(" in now else f"{name}: {now}")
    return lines


def match_networks(networks: Networks, state: Mapping[str, Any]) -> bool:
    """Freezes what was frozen when a state was saved.

    Args:
        networks: by name.
        state: has what `describe_networks` returned, unless an older version saved it.

    Returns:
        Whether parameters learn now, or do not, that did otherwise.

    Raises:
        ValueError: the layers differ, or other parameters are frozen here.
    """
    saved_layers: Any
    frozen: Any
    saved_layers, frozen = state.get("layers", {}), state.get("frozen", [])
    described = (*saved_layers.values(), frozen) if isinstance(saved_layers, dict) else (None,)
    if not all(isinstance(names, list) and all(map(_is_text, names)) for names in described):
        raise ValueError("the checkpoint does not fit this agent: its networks are not described")
    for name, lines in saved_layers.items():
        here = structure_of(networks[name]) if name in networks else []
        for theirs, mine in zip_longest(lines, here, fillvalue="nothing"):
            if theirs != mine:
                raise ValueError(
                    f"the checkpoint does not fit this agent: its {name} has {theirs}, this one "
                    f"{mine}; layers of your own belong in make_policy of a class of your own"
                )
    if frozen == (mine := frozen_names(networks)):
        return False
    if mine:
        raise ValueError(
            f"the checkpoint does not fit this agent: frozen are {', '.join(frozen) or 'none'} in "
            f"it, and {', '.join(mine)} here"
        )
    for name, module in networks.items():
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(f"{name}.{key}" not in frozen)
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
