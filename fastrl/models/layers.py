"""Layers, their initial weights, and all parameters of a model as one flat vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastrl.processes.machine import cpu_vendor


class _Tanh(torch.autograd.Function):
    """tanh as 2 sigmoid(2x) - 1, within 3e-7: in MKL on AMD three times as fast as its tanh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.sigmoid(x + x).mul_(2).sub_(1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(gradients[0], y)


class Tanh(nn.Module):
    """Hyperbolic tangent of a float tensor of any shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns tanh(x), of the shape of `x`."""
        if not self.training:  # an exported graph has the plain operation, for any number of rows
            return torch.tanh(x)
        if not _TANH_IS_SLOW or x.device.type != "cpu" or x.dtype != torch.float32:
            return torch.tanh(x)
        if x.numel() < _FEW:
            return torch.tanh(x)
        return _Tanh.apply(x)  # pyright: ignore[reportReturnType]


_TANH_IS_SLOW = torch.backends.mkl.is_available() and cpu_vendor() == "AuthenticAMD"
_FEW = 2048  # below this, one slow operation costs less than four fast ones

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": Tanh, "elu": nn.ELU}


def linear(in_features: int, out_features: int, gain: float | None = None) -> nn.Linear:
    """A linear layer whose weight lies in memory the way its gradient is computed fastest.

    Args:
        in_features: size of an input row.
        out_features: size of an output row.
        gain: orthogonal initial weights of this gain and zero biases; None keeps torch's default.
    """
    layer = nn.Linear(in_features, out_features)
    if gain is not None:
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    if in_features < out_features:
        # autograd multiplies (rows of input)^T by (rows of gradient) where the weight is stored
        # [in, out], and the reverse where it is stored [out, in]; the product whose left factor is
        # the narrow one is four times as fast in MKL.
        layer.weight.data = layer.weight.data.t().contiguous().t()
    return layer


def mlp(
    in_features: int, hidden_sizes: Sequence[int], activation: str, ortho_init: bool
) -> nn.Sequential:
    """A multilayer perceptron without a head: `[B, in_features]` to `[B, hidden_sizes[-1]]`."""
    gain = math.sqrt(2) if ortho_init else None
    layers: list[nn.Module] = []
    for size in hidden_sizes:
        layers += [linear(in_features, size, gain), ACTIVATIONS[activation]()]
        in_features = size
    return nn.Sequential(*layers)


def flatten_parameters(module: nn.Module) -> Tensor:
    """Moves all parameters into one vector `[P]` that they become views of, and returns it.

    A step of the optimiser, a norm or an all-reduce is then one operation. Call it again after the
    module moved to another device.
    """
    parameters = list(module.parameters())
    flat = torch.cat(
        [_in_memory_order(parameter.detach(), parameter).reshape(-1) for parameter in parameters]
    )
    offset = 0
    for parameter in parameters:
        piece = flat[offset : offset + parameter.numel()]
        parameter.data = torch.as_strided(piece, parameter.shape, parameter.stride())
        offset += parameter.numel()
    return flat


def flatten_gradients(gradients: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Gradients of `parameters` as one vector `[P]`, in the order of `flatten_parameters`.

    Those that already lie like that one behind the other are taken as one, and the vector may be
    their memory.
    """
    pairs = zip(gradients, parameters, strict=True)
    runs: list[list[Tensor]] = []
    for piece in (_in_memory_order(gradient, parameter) for gradient, parameter in pairs):
        if runs and _follows(piece, runs[-1][-1]):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    vectors = [
        run[0].as_strided((sum(piece.numel() for piece in run),), (1,))
        if len(run) > 1
        else run[0].reshape(-1)
        for run in runs
    ]
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors)


def _follows(second: Tensor, first: Tensor) -> bool:
    """Tells whether a tensor begins in memory where another one ends."""
    is_in_same = second.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
    end = first.storage_offset() + first.numel()
    are_dense = first.is_contiguous() and second.is_contiguous()
    return is_in_same and are_dense and second.storage_offset() == end


def _in_memory_order(tensor: Tensor, like: Tensor) -> Tensor:
    """Permutes the dimensions of `tensor` so that reading it walks through `like`'s memory."""
    order = sorted(range(like.dim()), key=lambda dim: (-like.stride(dim), dim))
    return tensor.permute(order)
