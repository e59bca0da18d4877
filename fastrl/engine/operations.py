"""What `recording.py` must know of ATen operations."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


def _named(*names: str) -> set[Any]:
    return {getattr(torch.ops.aten, name).default for name in names}


# These only return other strides over their argument's memory.
VIEWS = _named("t", "view", "permute", "unsqueeze") | {torch.ops.aten.squeeze.dim}
# These take a tensor for its shape and type alone.
FACTORIES = _named("ones_like", "zeros_like", "full_like", "new_ones", "new_zeros", "new_full")
# These give Python a tensor's value.
READS_OF_VALUES = _named("_local_scalar_dense", "is_nonzero", "equal")
# Tracing knows no list of booleans. What Python costs is nothing beside these operations.
UNTRACEABLE = _named("convolution_backward")
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


def is_random(node: fx.Node) -> bool:
    """Tells whether a node draws from a generator."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def must_stay(node: fx.Node) -> bool:
    """Tells whether a node has an effect besides its result."""
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)
