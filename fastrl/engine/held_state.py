"""State that only libraries' code reads: settings of layers and optimisers, torch's objects.

A loss says `self.huber(x, y)`; that this reads `delta`, only torch's code says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from fastrl.engine.snapshots import PLAIN, is_plain


class State(NamedTuple):
    """One value, where to look it up again, and what it is called."""

    holder: Any
    look_up: Callable[..., Any]
    key: str
    value: Any
    name: str


class _Keys:
    """The names in a layer's table of parts, which may come and go."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table

    def now(self, *_: Any) -> tuple[str, ...]:
        return (*self._table,)


def settings_of(owner: Any, label: str) -> Iterator[State]:
    """Yields the numbers and words that a layer or an optimiser has as attributes."""
    own = vars(owner)
    for key, value in own.items():
        if isinstance(value, (*PLAIN, tuple)) and is_plain(value) and key[0] != "_":
            yield State(own, own.get, key, value, f"{label}.{key}")


def layers_of(module: nn.Module, label: str, others: Collection[int]) -> Iterator[State]:
    """Yields the settings of layers, and which layers, weights and buffers there are.

    Args:
        module: with the layers in it.
        label: what it is called.
        others: ids of layers to leave out.
    """
    for path, layer in module.named_modules():
        if id(layer) in others:
            continue
        name = f"{label}.{path}" if path else label
        yield from settings_of(layer, name)
        for table in (layer._modules, layer._parameters, layer._buffers):
            if isinstance(table, dict):  # TorchScript has others
                keys = _Keys(table)
                yield State(keys, keys.now, "", keys.now(), f"what {name} consists of")
                for key, part in table.items():
                    yield State(table, table.get, key, part, f"{name}.{key}")


def state_of(owner: Any, label: str) -> Iterator[State]:
    """Yields the numbers and tensors of an object of torch's: a scheduler's, a distribution's."""
    own = getattr(owner, "__dict__", {})
    if type(owner).__module__.partition(".")[0] == "torch":
        for key, value in own.items():
            if isinstance(value, torch.Tensor) or is_plain(value):
                yield State(own, own.get, key, value, f"{label}.{key}")


def numbers_of(owners: Iterable[Any], names: set[str]) -> set[str]:
    """Returns the names of plain values in objects, and in those attributes that `names` names."""
    found: set[str] = set()
    for owner in owners:
        own = getattr(owner, "__dict__", {})
        for part in owner, *(own[name] for name in names & own.keys()):
            for holder in part, *type(part).__mro__[:-1]:
                values = getattr(holder, "__dict__", {})
                found |= {x for x, y in values.items() if x[:2] != "__" and is_plain(y)}
    return found
