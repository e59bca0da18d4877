"""From rows as the rollout stores them to features: vectors, one-hot numbers, pixels, or both.

What a row is, `fastrl.spaces.observations` says. Letters: B rows, V values of a vector, M actions
under a mask, C x H x W pixels, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor, nn

from fastrl.models.layers import mlp
from fastrl.models.normalization import RunningNorm
from fastrl.spaces.packed import PackedRow
from fastrl.spaces.parts import one_hot_columns
from fastrl.spaces.pixels import brightest, channel_axis, is_pixels, with_channels
from fastrl.spaces.values import on_one_line


class Inputs(NamedTuple):
    """What one batch of rows holds; what the space lacks is None."""

    vector: Tensor | None
    """float `[B, V]`."""
    pixels: Tensor | None
    """uint8 or float32 `[B, C, H, W]`, in whatever memory order they are stored."""
    mask: Tensor | None
    """bool `[B, M]`: True where the action is allowed."""


class Reader(nn.Module):
    """Takes rows apart, without copying what is wanted as it is. It has no parameters."""

    columns: Tensor
    values: Tensor

    def __init__(self, space: gymnasium.Space) -> None:
        """Learns where the parts are.

        Raises:
            ValueError: the space is none that `spaces.observation_rows` returns.
        """
        super().__init__()
        self.space = space
        self.packed = space if isinstance(space, PackedRow) else None
        self.pixels_shape: tuple[int, ...] = ()
        self.channel_axis, self.brightest = 0, 255
        self.vector_size, self.mask_size = 0, 0
        self.is_one_hot = self.is_single = self.is_flat = False
        if self.packed is not None:
            self.pixels_shape = self.packed.pixels_shape
            self.channel_axis = self.packed.channel_axis
            self.brightest = self.packed.brightest
            self.vector_size, self.mask_size = self.packed.vector_size, self.packed.mask_size
        elif is_pixels(space):
            self.pixels_shape = with_channels(space.shape or ())
            self.channel_axis = channel_axis(space)
            self.brightest = brightest(space)
        elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            self.is_one_hot = True
            columns, values = one_hot_columns(space)
            self.is_single = isinstance(space, spaces.Discrete)
            self.vector_size = len(columns)
            self.register_buffer("columns", torch.tensor(columns), persistent=False)
            self.register_buffer("values", torch.tensor(values), persistent=False)
        elif isinstance(space, spaces.Box) and space.shape:
            self.is_flat = len(space.shape) == 1
            self.vector_size = math.prod(space.shape)
        else:
            raise ValueError(f"unsupported observation space {on_one_line(space)}")

    def make_normalizer(self, clip: float, eps: float) -> RunningNorm:
        """Returns a running normaliser of the vectors; ValueError if there are none."""
        if self.is_one_hot or not self.vector_size:
            raise ValueError(
                f"observation_normalization has no effect on {on_one_line(self.space)}; it is for "
                "vectors"
            )
        return RunningNorm((self.vector_size,), clip, eps)

    def read(self, rows: Tensor, normalizer: RunningNorm | None = None) -> Inputs:
        """Returns the parts of rows `[B, *O]`, the vector normalised if there is a normaliser."""
        inputs = self._parts(rows)
        if normalizer is None:
            return inputs
        return inputs._replace(vector=normalizer(inputs.vector))

    def _parts(self, rows: Tensor) -> Inputs:
        if self.is_flat:
            return Inputs(rows.float(), None, None)
        if self.is_one_hot:
            if self.is_single:
                return Inputs((rows.unsqueeze(1) == self.values).float(), None, None)
            chosen = rows.flatten(1).index_select(1, self.columns)
            return Inputs((chosen == self.values).float(), None, None)
        if self.packed is None:
            if not self.pixels_shape:
                return Inputs(rows.flatten(1).float(), None, None)
            return Inputs(None, self._channels_first(rows), None)
        pixels, values = None, rows
        if self.pixels_shape:
            size = math.prod(self.pixels_shape)
            pixels = self._channels_first(rows[:, :size])
            values = rows[:, self.packed.values_at :]
            if not values.shape[1]:
                return Inputs(None, pixels, None)
            if self.packed.is_bytes:
                # A view would do, but not every graph can hold one; the copy is small.
                values = torch.ops.aten.view_copy.dtype(values, torch.float32)
        vector = values[:, : self.vector_size] if self.vector_size else None
        mask = values[:, self.vector_size :] > 0.5 if self.mask_size else None
        return Inputs(vector, pixels, mask)

    def _channels_first(self, rows: Tensor) -> Tensor:
        images = rows.reshape(-1, *self.pixels_shape)
        return images.permute(0, 3, 1, 2) if self.channel_axis == 2 else images

    def channels_height_width(self) -> tuple[int, int, int]:
        """Returns the shape of one image, C first."""
        first, second, third = self.pixels_shape
        if self.channel_axis == 2:
            return third, first, second
        return first, second, third


class Pixels(nn.Module):
    """Convolutions over images `[B, C, H, W]`, flattened to `[B, F]`.

    The first layer takes the bytes as they are: dividing its weight by 255 is the same as dividing
    each image, for a thousandth of the work. `brightest` is 255, what else is scaled to 1, or 1.
    """

    brightest = 255

    def __init__(self, first: nn.Conv2d, others: nn.Module) -> None:
        """Holds the first layer and what follows it, up to the flattening."""
        super().__init__()
        self.first, self.others = first, others

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns features of images."""
        layer = self.first
        dtype = _compute_dtype(pixels.device.type)
        # Channels last: a quarter less time on a CPU, and what units for bfloat16 on a GPU read.
        fits = pixels.device.type == "cpu" or dtype == torch.bfloat16
        order = torch.channels_last if fits else torch.preserve_format
        images = pixels.to(dtype, memory_format=order)
        x = nn.functional.conv2d(
            images, layer.weight / self.brightest, layer.bias, layer.stride, layer.padding
        )
        return self.others(x).flatten(1)


class Trunk(nn.Module):
    """Features `[B, F]` of pixels and, beside them, a vector if there is one."""

    def __init__(self, pixels: Pixels, layers: nn.Module) -> None:
        """Holds the convolutions and the layers over their features and the vector."""
        super().__init__()
        self.pixels, self.layers = pixels, layers

    def forward(self, pixels: Tensor, vector: Tensor | None = None) -> Tensor:
        """Returns features of images `[B, C, H, W]` and vectors `[B, V]`."""
        features = self.pixels(pixels)
        if vector is not None:
            features = torch.cat([features, vector.to(features.dtype)], 1)
        return self.layers(features)


def features_of(trunk: nn.Module, inputs: Inputs) -> Tensor:
    """Returns features `[B, F]` of a trunk from `make_trunk`."""
    return trunk(inputs.vector) if inputs.pixels is None else trunk(inputs.pixels, inputs.vector)


def make_trunk(
    reader: Reader, hidden_sizes: Sequence[int], activation: str, ortho_init: bool, encoder: str
) -> tuple[nn.Module, int]:
    """Returns the layers from the parts of a row to features `[B, F]`, and F.

    Args:
        reader: says which parts there are.
        hidden_sizes: widths of the layers over the vector, or after the convolutions.
        activation: of these layers; the convolutions have ReLU.
        ortho_init: orthogonal initial weights.
        encoder: "nature", "impala", "minatar", or "auto": by the size of the images.

    Raises:
        ValueError: there are no images for an encoder that was asked for, or they are too small.
    """
    if not reader.pixels_shape:
        if encoder != "auto":
            raise ValueError(f"encoder={encoder} has no effect: the observations are no pixels")
        sizes = (reader.vector_size, *hidden_sizes)
        return mlp(sizes[0], hidden_sizes, activation, ortho_init), sizes[-1]
    channels, height, width = reader.channels_height_width()
    if encoder == "auto":
        encoder = "nature" if min(height, width) >= 36 else "minatar"
    make = {"nature": nature_cnn, "impala": impala_cnn, "minatar": minatar_cnn}[encoder]
    pixels = make(channels)
    pixels.brightest = reader.brightest
    if ortho_init:
        for layer in pixels.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.orthogonal_(layer.weight, math.sqrt(2))
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    try:
        with torch.no_grad():
            blank = torch.zeros(1, channels, height, width, dtype=torch.uint8)
            num_features = pixels(blank).shape[1]
    except RuntimeError as error:
        raise ValueError(
            f"images of {height} x {width} are too small for encoder={encoder}"
        ) from error
    sizes = (num_features + reader.vector_size, *hidden_sizes)
    layers = mlp(sizes[0], hidden_sizes, activation, ortho_init)
    return Trunk(pixels, layers), sizes[-1]


def nature_cnn(channels: int) -> Pixels:
    """The convolutions of Mnih et al. 2015 (doi:10.1038/nature14236), for 84 x 84 pixels."""
    others = nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
    )
    return Pixels(nn.Conv2d(channels, 32, 8, stride=4), others)


def minatar_cnn(channels: int) -> Pixels:
    """The convolution of Young and Tian 2019 (arXiv 1903.03176), for 10 x 10 pixels."""
    return Pixels(nn.Conv2d(channels, 16, 3), nn.ReLU())


def impala_cnn(channels: int) -> Pixels:
    """The residual network of Espeholt et al. 2018 (arXiv 1802.01561), 15 convolutions."""
    layers: list[nn.Module] = []
    for index, (wide_in, wide_out) in enumerate(((channels, 16), (16, 32), (32, 32))):
        if index:
            layers.append(nn.Conv2d(wide_in, wide_out, 3, padding=1))
        layers += [nn.MaxPool2d(3, stride=2, padding=1), _Residual(wide_out), _Residual(wide_out)]
    return Pixels(nn.Conv2d(channels, 16, 3, padding=1), nn.Sequential(*layers, nn.ReLU()))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _compute_dtype(device: str) -> torch.dtype:
    """The dtype of the convolutions; 8 bits of a byte survive in bfloat16 unharmed."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
