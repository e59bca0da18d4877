"""Policies that take their inputs by name, as exported files do."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from fastrl.models.encoders import Inputs, Reader
from fastrl.spaces.packed import MASK_KEY, PackedRow
from fastrl.spaces.parts import one_hot_columns
from fastrl.spaces.pixels import is_pixels


class PartsReader(Reader):
    """A `Reader` of the parts that a row is packed of: `{name: [B, *shape]}`, as they come."""

    def __init__(self, space: PackedRow) -> None:
        """Learns which part is what; `space` is that of the rows."""
        super().__init__(space)
        self._parts_of = space.parts
        for index, part in enumerate(space.parts.values()):
            if isinstance(part, spaces.Discrete | spaces.MultiDiscrete):
                columns, values = one_hot_columns(part)
                self.register_buffer(f"columns_{index}", torch.tensor(columns), persistent=False)
                self.register_buffer(f"values_{index}", torch.tensor(values), persistent=False)

    def _parts(self, rows: Any) -> Inputs:
        vectors: list[Tensor] = []
        images: list[Tensor] = []
        mask = None
        for index, (name, part) in enumerate(self._parts_of.items()):
            values = rows[name]
            if name == MASK_KEY and self.mask_size:
                mask = values.flatten(1) > 0.5
            elif is_pixels(part):
                images.append(values.unsqueeze(1) if values.dim() == 3 else values)
            elif isinstance(part, spaces.Discrete | spaces.MultiDiscrete):
                columns, wanted = (getattr(self, f"{x}_{index}") for x in ("columns", "values"))
                chosen = _flat(values).index_select(1, columns)
                vectors.append((chosen == wanted).float())
            else:
                vectors.append(_flat(values).float())
        pixels = None
        if images:
            pixels = torch.cat(images, 1 + self.channel_axis)
            pixels = pixels.permute(0, 3, 1, 2) if self.channel_axis == 2 else pixels
        return Inputs(torch.cat(vectors, 1) if vectors else None, pixels, mask)


def _flat(values: Tensor) -> Tensor:
    """Returns `[B, V]` of `[B, *shape]`; a graph must not hold B, which `len` would be."""
    return values.unsqueeze(-1).flatten(1)


class ByName(nn.Module):
    """A policy that takes a dict: an observation's parts, an action mask, a memory's state."""

    def __init__(self, policy: Any, space: spaces.Space, has_reader: Any = None) -> None:
        """Takes over a policy whose reader is replaced.

        Args:
            policy: maps rows, or their parts, to what is returned.
            space: that of its rows.
            has_reader: the part of it that has the reader; by default the whole.
        """
        super().__init__()
        self.policy = policy
        self.names = {"observations": ""}
        if isinstance(space, PackedRow):
            (has_reader or policy).reader = PartsReader(space)
            self.names = {name or "observations": name for name in space.parts}
        self.is_packed = isinstance(space, PackedRow)

    def forward(self, inputs: dict[str, Tensor]) -> Any:
        """Returns what the policy returns; with a memory also the state after it."""
        parts = {name: inputs[key] for key, name in self.names.items()}
        state = [inputs["state"]] if "state" in inputs.keys() - self.names.keys() else []
        return self.policy(parts if self.is_packed else parts[""], *state)
