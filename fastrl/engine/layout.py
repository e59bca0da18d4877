"""Which parts networks are made of, so that a part that was replaced is noticed quickly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter, is_

from torch import nn

from fastrl.engine.ways import HOOKS

_dicts_of = attrgetter("_modules", "_parameters", *HOOKS)  # of an `nn.Module`


class Layout:
    """The layers, weights and hooks of networks at one time.

    Off-policy algorithms look twice at each step of the environments. So the parts are listed once,
    and compared without a loop in Python: walking through all modules at each look made that take
    more than twice as long.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Notes what the networks hold now."""
        self._networks = [*networks]
        modules = [module for network in networks for module in network.modules()]
        # What TorchScript made is closed: it has no such dicts, and gets no other layers.
        self._modules = [x for x in modules if isinstance(x._modules, dict)]
        self._dicts = [*chain.from_iterable(map(_dicts_of, self._modules))]
        self._sizes = [*map(len, self._dicts)]
        self._values = [*self._parts()]

    def is_of(self, networks: Sequence[nn.Module]) -> bool:
        """Tells whether these are the networks, and hold the same objects in the same order."""
        now = chain.from_iterable(map(_dicts_of, self._modules))
        return (
            len(networks) == len(self._networks)
            and all(map(is_, networks, self._networks))
            and all(map(is_, now, self._dicts))
            and [*map(len, self._dicts)] == self._sizes
            and all(map(is_, self._parts(), self._values))
        )

    def _parts(self) -> chain[object]:
        return chain.from_iterable(map(dict.values, self._dicts))
