"""What a module's network gets of observations: one array as it is stored, parts by key.

Rows `[..., R]` of several parts become a dict of tensors `[..., *shape]` by key, as networks of the
user's own see them (`models/own.py`): float32, images in [0, 1] with the channels first, choices
one-hot. An action mask is the key "action_mask" of the dict, bool `[..., M]`, and is not shown to
the network; an array beside which there is nothing but a mask has the key "observations".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor

from fastrl.models.encoders import Reader
from fastrl.models.own import SeenParts
from fastrl.spaces.observations import observation_rows
from fastrl.spaces.packed import MASK_KEY, PackedRow

Seen = Tensor | dict[str, Tensor]
"""`[..., *O]`, or `[..., *shape]` by key."""

_SINGLE = "observations"  # the name of an array without one, as in exports


def rows_space(space: Space, action_space: Space) -> Space:
    """Returns the space of stored rows of a space, which it may be itself."""
    if isinstance(space, PackedRow) or not isinstance(space, spaces.Dict | spaces.Tuple):
        return space
    return observation_rows("bind_spaces", space, action_space)


class Observations:
    """Brings rows, or the parts of an observation, to what a network gets."""

    def __init__(self, reader: Reader) -> None:
        """Learns which parts there are of what `reader` reads."""
        self._reader = reader
        self._parts = SeenParts(reader) if reader.packed is not None else None
        self._row_dims = len(reader.space.shape or ())

    @property
    def are_parts(self) -> bool:
        """Whether a network gets its observations by key."""
        return self._parts is not None

    def seen(self, obs: Any, reader: Reader | None = None) -> Seen:
        """Returns what rows `[..., *O]`, or parts by key, are as a network gets them.

        Args:
            obs: rows; or parts by key, of which those that a network gets already are kept.
            reader: what reads `obs`, if something else than rows.
        """
        if self._parts is None:
            return obs
        if isinstance(obs, Mapping) and reader is None:
            return self._parts.completed(obs)
        if isinstance(obs, Mapping):
            return self._by_key(obs, reader or self._reader)
        if not self._are_rows(obs):
            return {_SINGLE: obs}
        lead = obs.shape[:-1]
        parts = self._by_key(obs.flatten(0, -2), reader or self._reader)
        if len(lead) == 1:
            return parts
        return {name: x.unflatten(0, lead) for name, x in parts.items()}

    def _are_rows(self, obs: Tensor) -> bool:
        """Tells rows from an array that the network gets, of which rows have a mask beside it."""
        (width,) = self._reader.space.shape or (0,)
        is_bytes = obs.dtype == torch.uint8
        return obs.shape[-1] == width and is_bytes == (self._reader.space.dtype == np.uint8)

    def _by_key(self, rows: Any, reader: Reader) -> dict[str, Tensor]:
        assert self._parts is not None
        inputs = reader.read(rows)
        parts = self._parts.of(inputs.pixels, inputs.vector)
        parts = {name or _SINGLE: x for name, x in parts.items()}
        return parts if inputs.mask is None else {**parts, MASK_KEY: inputs.mask}

    def lead_of(self, seen: Seen) -> torch.Size:
        """Returns the shape of the batch: `[...]` in front of each observation's own."""
        if self._parts is None:
            assert isinstance(seen, Tensor)
            return seen.shape[: seen.dim() - self._row_dims]
        assert not isinstance(seen, Tensor)
        name, shape = next(iter(self._parts.shapes.items()))
        part = seen[name or _SINGLE]
        return part.shape[: part.dim() - len(shape)]

    def flattened(self, seen: Seen) -> Seen:
        """Returns observations as one batch `[B, ...]`."""
        dims = len(self.lead_of(seen))
        if isinstance(seen, Tensor):
            return seen.flatten(0, dims - 1)
        return {name: x.flatten(0, dims - 1) for name, x in seen.items()}

    def for_network(self, seen: Seen) -> Seen:
        """Returns what the network gets: without the mask, and one array as an array."""
        if self._parts is None or isinstance(seen, Tensor):
            return seen
        if list(self._parts.shapes) == [""]:
            return seen[_SINGLE]
        return {name: seen[name] for name in self._parts.shapes}

    def mask_of(self, seen: Seen) -> Tensor | None:
        """Returns which actions are allowed, bool `[..., M]`; None without a mask."""
        return seen[MASK_KEY] if self._reader.mask_size and isinstance(seen, dict) else None
