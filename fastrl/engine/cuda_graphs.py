"""A recorded graph as one CUDA graph: one launch in place of one for each operation.

Small networks keep a GPU waiting for launches. A CUDA graph reads and writes fixed addresses, so it
has tensors of its own for what it is given; weights and optimiser state keep their places anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]

_NUM_WARM_UPS = 3  # before capture: libraries choose kernels and reserve their workspaces


class CapturedGraph:
    """A function of tensors, captured once and replayed at every call.

    What it returns is overwritten by the next call.
    """

    def __init__(
        self,
        function: Function,
        example: Sequence[Tensor],
        changed: Sequence[int],
        state: Sequence[Tensor],
    ) -> None:
        """Captures the function.

        Args:
            function: takes tensors of the shapes of `example`, on one CUDA device.
            example: arguments; they are not changed.
            changed: positions of the arguments that the function changes in place.
            state: every other tensor that it changes in place; put back after the warm-up.
        """
        self._arguments = [tensor.clone() for tensor in example]
        self._changed = tuple(changed)
        before = [tensor.clone() for tensor in state]
        self._graph, self._results = _capture(function, self._arguments)
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)

    def __call__(self, *given: Tensor) -> Any:
        """Replays the graph on these tensors."""
        for own, tensor in zip(self._arguments, given, strict=True):
            own.copy_(tensor, non_blocking=True)
        self._graph.replay()
        for position in self._changed:
            given[position].copy_(self._arguments[position], non_blocking=True)
        return self._results


def _capture(function: Function, arguments: Sequence[Tensor]) -> tuple[Any, Any]:
    """Returns a CUDA graph and the tensors that each replay of it fills."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_NUM_WARM_UPS):
            function(*arguments)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function(*arguments)
    return graph, results
