"""Work on parts of a batch side by side: threads wait for each other once a batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from fastrl.engine.cuda_graphs import Function
from fastrl.engine.recording import Recording


def side_by_side(function: Function, arguments: Sequence[tuple[Tensor, ...]]) -> list[Any]:
    """Calls `function` once with each of some tuples of arguments and returns the results.

    In a recorded graph each call but the first has a thread to itself. The numbers are the same.

    Args:
        function: changes no tensor.
        arguments: of the first call, of the second and so on.
    """
    others = []
    for call in arguments[1:]:
        recording = Recording.running
        with nullcontext() if recording is None else recording.part():
            others.append(function(*call))
    return [function(*arguments[0]), *others]


def sum_over_parts(function: Function, rows: Sequence[Tensor], num_parts: int) -> Any:
    """Adds up the tensors that `function` makes of parts of the rows, worked on side by side.

    Args:
        function: takes tensors of some rows each, changes none, returns a tuple of tensors.
        rows: tensors `[B, ...]`.
        num_parts: how many parts of B / num_parts rows.
    """
    if num_parts == 1:
        return function(*rows)
    parts = zip(*(tensor.tensor_split(num_parts) for tensor in rows), strict=True)
    first, *others = side_by_side(function, list(parts))
    for other in others:
        first = tuple(total + more for total, more in zip(first, other, strict=True))
    return first
