"""Layers, their initial weights, and all parameters of a model as one flat vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

# Those that the kernels know.
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}


def activation_class(name: str) -> type[nn.Module]:
    """Returns the layer of an activation: a name in `ACTIVATIONS`, or of a class in `torch.nn`."""
    return ACTIVATIONS.get(name) or getattr(nn, name)


def linear(in_features: int, out_features: int, gain: float | None = None) -> nn.Linear:
    """A linear layer.

    Args:
        in_features: size of an input row.
        out_features: size of an output row.
        gain: orthogonal initial weights of this gain and zero biases; None keeps torch's default.
    """
    layer = nn.Linear(in_features, out_features)
    if gain is not None:
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return layer


def mlp(
    in_features: int, hidden_sizes: Sequence[int], activation: str, ortho_init: bool
) -> nn.Sequential:
    """A multilayer perceptron without a head: `[B, in_features]` to `[B, hidden_sizes[-1]]`."""
    gain = math.sqrt(2) if ortho_init else None
    layers: list[nn.Module] = []
    for size in hidden_sizes:
        layers += [linear(in_features, size, gain), activation_class(activation)()]
        in_features = size
    return nn.Sequential(*layers)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Leaves a module's parameters out of the gradients of a block, which saves time."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class evaluating:  # noqa: N801
    """Puts networks into evaluation mode for a block: dropout off, batch norm by its averages.

    As `Module.eval` does, at a tenth of its time, which counts where one observation is predicted.
    Afterwards every layer is in the mode that it was in.
    """

    def __init__(self, *networks: nn.Module) -> None:
        """Remembers which layers are in training mode."""
        parts: list[Any] = list(networks)
        for part in parts:  # which grows
            if part is not None and part._modules:
                parts += part._modules.values()
        self._training = [part for part in parts if part is not None and part.training]

    def __enter__(self) -> None:
        """Evaluation mode."""
        for part in self._training:
            _set_training(part, False)

    def __exit__(self, *_: object) -> None:
        """The mode of before."""
        for part in self._training:
            _set_training(part, True)


def _set_training(part: Any, is_training: bool) -> None:
    if isinstance(part, torch.jit.ScriptModule):  # which keeps it in C++
        part.training = is_training
    else:
        part.__dict__["training"] = is_training


def evaluated(function: Callable[..., Any], networks: Sequence[nn.Module]) -> Callable[..., Any]:
    """Returns a function that runs with networks in evaluation mode, as `predict` does.

    Acting, and evaluating the rows of a rollout, run like this; only the loss sees dropout.
    """

    @wraps(function)
    def run(*arguments: Tensor) -> Any:
        with evaluating(*networks):
            return function(*arguments)

    return run


def structure_of(network: nn.Module) -> list[str]:
    """Returns a line on each layer: its name and class; of torch's, what it was made with.

    Of fastrl's, what was changed since.
    """
    lines = []
    for name, part in network.named_modules():
        origin = type(part).__module__.partition(".")[0]
        told = part.extra_repr() if origin in ("torch", "fastrl") else ""
        made = f"({told})" if told or origin == "torch" else ""
        lines.append(f"{name or 'network'}: {type(part).__qualname__}{made}")
    return lines


def check_float32(named: Iterable[tuple[str, nn.Parameter]], what: str) -> None:
    """Raises ValueError for weights that are not float32, as after `policy.double()`.

    Args:
        named: the weights, by name.
        what: what is done with float32 alone, such as "trained".
    """
    for name, x in named:
        if x.dtype != torch.float32:
            raise ValueError(
                f"the weights {name} are {x.dtype}, and only float32 is {what}; float() makes them "
                "that, and precision=bf16-mixed computes in bfloat16"
            )


def flatten_parameters(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Moves parameters into one vector `[P]` that they become views of, and returns it.

    A step of the optimiser, a norm or an all-reduce is then one operation. Call it again after the
    parameters moved to another device.
    """
    if not parameters:
        return torch.empty(0)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    pieces = flat.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.data = piece.view(parameter.shape)
    return flat


def flatten_gradients(gradients: Sequence[Tensor]) -> Tensor:
    """Gradients of parameters as one vector `[P]`, in the order of `flatten_parameters`.

    Those that already lie one behind the other are taken as one, and the vector may be their
    memory.
    """
    runs: list[list[Tensor]] = []
    for piece in gradients:
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
    return vectors[0].contiguous() if len(vectors) == 1 else torch.cat(vectors)


def _follows(second: Tensor, first: Tensor) -> bool:
    """Tells whether a tensor begins in memory where another one ends."""
    is_in_same = second.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
    end = first.storage_offset() + first.numel()
    are_contiguous = first.is_contiguous() and second.is_contiguous()
    return is_in_same and are_contiguous and second.storage_offset() == end
