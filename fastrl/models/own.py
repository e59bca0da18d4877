"""Networks of the user's own in front of the heads: what they see, and what they must give.

A network gets one tensor `[B, *shape]`, or of several parts a dict of them by name. All are
float32: vectors in the shape of their space and normalised if that is asked for, `Discrete` and
`MultiDiscrete` as one-hot vectors, images in [0, 1], or as they are if that is asked for, with the
channels first. It gives features `[B, F]`. An action mask is not shown to it. Letters: B rows, F
features, C x H x W pixels.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from fastrl.models.encoders import Reader
from fastrl.models.layers import evaluating
from fastrl.processes.errors import one_line
from fastrl.spaces.packed import MASK_KEY, PackedRow
from fastrl.spaces.parts import one_hot_columns, width_of
from fastrl.spaces.pixels import ImageBox, channel_axis, is_pixels, with_channels

CHANGES_INPUT = (
    "a network must not change its input in place (x.mul_(2), x += 1, a first layer with "
    "inplace=True): the rows are learned from later"
)

_COUNTS = (2, 3)  # rows that a network is tried on: of another number, F is the same

MakeNetwork = Callable[[gymnasium.Space], nn.Module]
"""What makes a network of the space of its inputs, from `space_seen`."""

NetworksOf = Mapping[str, MakeNetwork]
"""What makes the networks of "actor" and "critic"."""


def space_seen(row: gymnasium.Space) -> gymnasium.Space:
    """Returns the space of what a network gets of the rows of a space from `observation_rows`.

    A Box of float32, or a Dict of such by name; nested names are joined by a dot.
    """
    parts = _parts_of(row)
    seen: dict[str, gymnasium.Space] = {name: _box_seen(part) for name, part in parts.items()}
    return seen[""] if list(seen) == [""] else spaces.Dict(seen)


class SeenParts:
    """Takes what a batch of rows holds apart, into parts by name, each in its own shape."""

    def __init__(self, reader: Reader) -> None:
        """Learns from the reader of the rows which parts there are."""
        self._brightest = reader.brightest
        self._parts = parts = _parts_of(reader.space)
        self._images = {name: _box_seen(x).shape for name, x in parts.items() if is_pixels(x)}
        self._vectors = {name: _shape_of(x) for name, x in parts.items() if not is_pixels(x)}
        self.shapes = {name: _box_seen(x).shape for name, x in parts.items()}
        """Shapes of what is seen, by name; "" of an array that is all."""

    @property
    def has_vectors(self) -> bool:
        """Whether there is a part that is no image."""
        return bool(self._vectors)

    def of(self, pixels: Tensor | None, vector: Tensor | None) -> dict[str, Tensor]:
        """Returns the parts `[B, *shape]` of pixels `[B, C, H, W]` and a vector `[B, V]`."""
        parts: dict[str, Tensor] = {}
        if pixels is not None:
            images = pixels.float().contiguous() / self._brightest
            sizes = [shape[0] for shape in self._images.values()]
            parts |= dict(zip(self._images, images.split(sizes, 1), strict=True))
        if vector is not None:
            widths = [math.prod(shape) for shape in self._vectors.values()]
            values = vector.float().split(widths, 1)
            for (name, shape), part in zip(self._vectors.items(), values, strict=True):
                parts[name] = part if len(shape) == 1 else part.unflatten(1, shape)
        return parts

    def completed(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns parts `[..., *]` by name as they are seen, of which some may be so already.

        Bytes of images and whole numbers of choices are those that an environment shows.
        """
        return {name: self._completed(name, x) for name, x in parts.items()}

    def _completed(self, name: str, values: Tensor) -> Tensor:
        part = self._parts.get(name)
        is_seen = values.is_floating_point()
        if name in self._images:  # floats as they are shown may have the channels last
            is_seen &= tuple(values.shape[-3:]) == self._images[name]
        if part is None or is_seen:
            return values
        if name in self._images:
            shape = with_channels(part.shape or ())
            lead = values.shape[: values.dim() - len(part.shape or ())]
            images = values.reshape(*lead, *shape)
            images = images.movedim(-1, -3) if channel_axis(part) == 2 else images
            return images.float().contiguous() / self._brightest
        if isinstance(part, spaces.Discrete | spaces.MultiDiscrete):
            columns, wanted = (torch.tensor(x, device=values.device) for x in one_hot_columns(part))
            lead = values.shape[: values.dim() - len(part.shape or ())]
            return (values.reshape(*lead, -1)[..., columns] == wanted).float()
        return values.float()


class OwnNetwork(nn.Module):
    """Hands the parts of an observation to a network, each in its own shape."""

    def __init__(self, reader: Reader, network: nn.Module) -> None:
        """Holds the network; the reader says which parts there are."""
        super().__init__()
        self.network = network
        self._parts = SeenParts(reader)
        self._is_one = list(self._parts.shapes) == [""]

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Returns features `[B, F]` of a vector; of pixels; or of pixels and a vector."""
        pixels, vector = inputs if len(inputs) == 2 else (None, inputs[0])
        if not self._parts.has_vectors:
            pixels, vector = inputs[0], None
        parts = self._parts.of(pixels, vector)
        return self.network(parts[""] if self._is_one else parts)


def check_apart(*networks: nn.Module) -> None:
    """Raises ValueError if networks share weights, of which one would be frozen for the other."""
    seen: set[int] = set()
    for network in networks:
        mine = {id(parameter) for parameter in network.parameters()}
        if seen & mine:
            raise ValueError(
                "network returned one module twice; actor, critics and target critics need one "
                "each: make it inside of the function"
            )
        seen |= mine


def make_own(reader: Reader, make: MakeNetwork) -> tuple[nn.Module, int]:
    """Returns a network of the user's own over the parts of a row, and its number of features F.

    It stands for what `make_trunk` returns. One that takes a plain vector is returned as it is.

    Args:
        reader: says which parts there are.
        make: makes the network.

    Raises:
        ValueError: it is no module, or does not give float32 features `[B, F]`.
    """
    network = make(space_seen(reader.space))
    if not isinstance(network, nn.Module):
        raise ValueError(f"a network must be a torch.nn.Module, not {type(network).__name__}")
    is_plain = reader.is_flat or reader.is_one_hot
    trunk = network if is_plain else OwnNetwork(reader, network)
    widths = {_features_of(trunk, reader, count).shape[1] for count in _COUNTS}
    if len(widths) > 1:
        raise ValueError(f"a network must give features [B, F]; F changes with B: {sorted(widths)}")
    return trunk, widths.pop()


def _features_of(trunk: nn.Module, reader: Reader, count: int) -> Tensor:
    """Returns what a network makes of blank rows; ValueError if these are no features `[B, F]`."""
    row = reader.space
    blank = torch.from_numpy(np.zeros((count, *(row.shape or ())), row.dtype))
    inputs = reader.read(blank)
    given = (inputs.vector,) if inputs.pixels is None else (inputs.pixels, inputs.vector)
    versions = [x._version for x in given if x is not None]
    # What it draws here must not change what is drawn for the weights that come after it.
    with torch.no_grad(), evaluating(trunk), torch.random.fork_rng(devices=[]):
        try:
            features = trunk(*given)
        except Exception as error:  # foreign code may raise anything
            *_, last = traceback.extract_tb(error.__traceback__)
            words = f"{type(error).__name__}: {one_line(error)} ({last.filename}:{last.lineno})"
            raise ValueError(f"of {count} rows of zeros, the network raised {words}") from error
    if versions != [x._version for x in given if x is not None]:
        raise ValueError(CHANGES_INPUT)
    is_table = isinstance(features, Tensor) and features.dim() == 2 and features.shape[1] > 0
    if not is_table or len(features) != count:
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"a network must give features [B, F]; of {count} rows it gave {found}")
    if features.dtype != torch.float32 or features.device != blank.device:
        raise ValueError(
            f"a network must give float32 features where its input is, not {features.dtype} on "
            f"{features.device}"
        )
    return features


def _parts_of(row: gymnasium.Space) -> dict[str, gymnasium.Space]:
    """Returns the parts of a row by name, without an action mask; "" for a single one."""
    if not isinstance(row, PackedRow):
        return {"": row}
    return {x: part for x, part in row.parts.items() if not (row.mask_size and x == MASK_KEY)}


def _shape_of(part: gymnasium.Space) -> tuple[int, ...]:
    """Returns the shape in which a network gets a part that is no image."""
    is_one_hot = isinstance(part, spaces.Discrete | spaces.MultiDiscrete)
    shape = (width_of(part),) if is_one_hot else part.shape
    return shape or (1,)


def _box_seen(part: gymnasium.Space) -> spaces.Box:
    if is_pixels(part):
        assert isinstance(part, spaces.Box)
        first, second, third = with_channels(part.shape or ())
        is_last = channel_axis(part) == 2
        shape = (third, first, second) if is_last else (first, second, third)
        if isinstance(part, ImageBox) and not part.is_scaled:
            return spaces.Box(float(part.low.min()), float(part.high.max()), shape)
        return spaces.Box(0, 1, shape)
    if not isinstance(part, spaces.Box):
        return spaces.Box(0, 1, _shape_of(part))
    with np.errstate(over="ignore"):  # a bound beyond float32 becomes infinite
        low, high = (x.astype(np.float32).reshape(_shape_of(part)) for x in (part.low, part.high))
    return spaces.Box(low, high, dtype=np.float32)
