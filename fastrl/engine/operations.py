"""What `recording.py` must know of ATen operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fastrl.kernels.adam import adam_step


def _named(*names: str) -> set[Any]:
    return {getattr(torch.ops.aten, name).default for name in names}


# These only return other strides over their argument's memory.
VIEWS = _named("t", "view", "permute", "unsqueeze") | {torch.ops.aten.squeeze.dim}
# These take a tensor for its shape and type alone.
FACTORIES = _named("ones_like", "zeros_like", "full_like", "new_ones", "new_zeros", "new_full")
# These take a number or a tensor.
ARITHMETIC = {
    getattr(torch.ops.aten, name)
    for name in ("add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_")
}


def is_alias(func: Any) -> bool:
    """Tells whether an operation returns one tensor over its argument's memory, changing none."""
    schema = func._schema
    is_one = len(schema.returns) == 1 and isinstance(schema.returns[0].type, torch.TensorType)
    return is_one and schema.returns[0].alias_info is not None and not schema.is_mutable


def depends_on_values(func: Any, args: Any) -> bool:
    """Tells whether what Python gets, a number or a shape, depends on the values of tensors."""
    if func is torch.ops.aten.index.Tensor:
        return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    tags = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape
    return any(tag in func.tags for tag in tags)


def is_untraceable(node: fx.Node) -> bool:
    """Tells whether tracing cannot take an operation in: it knows no list of booleans.

    Such are the backward passes of convolutions and of layer, batch and group norms.
    """
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(str(x.type) == "List[bool]" for x in schema.arguments)


def is_random(node: fx.Node) -> bool:
    """Tells whether a node draws from a generator."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def must_stay(node: fx.Node) -> bool:
    """Tells whether a node has an effect besides its result."""
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)


def _tanh(x: torch.Tensor) -> torch.Tensor:
    """Tanh as Eigen's quotient of polynomials, within 4e-7: an eighth of the work of Sleef's."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return torch.tanh(x)
    x = x.clamp(-_LARGEST, _LARGEST)
    square = x * x
    over, under = (_polynomial(square, coefficients) for coefficients in (_OVER, _UNDER))
    return x * over / under


def _polynomial(x: torch.Tensor, coefficients: tuple[float, ...]) -> torch.Tensor:
    result = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        result = result * x + coefficient
    return result


_LARGEST = 7.90531110763549805  # tanh of more is 1 in float32
_OVER = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_UNDER = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


def _addmm(bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.mm(x, weight) + bias


# What a compiler makes more of. A bias is added where the activation is, not copied to all rows for
# a matrix product to be added to; Adam's formula fuses with the clipping before it.
FOR_COMPILER = {
    torch.ops.aten.tanh.default: _tanh,
    torch.ops.aten.addmm.default: _addmm,
    torch.ops.fastrl.fused_adam_.default: adam_step,
}
