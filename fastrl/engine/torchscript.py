"""TorchScript's interpreter for recorded graphs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from fastrl.engine.cuda_graphs import Function

_SIMPLIFICATIONS = ("constant_propagation", "constant_pooling", "cse", "dce")


def traced(run: Function, example: tuple[Tensor, ...]) -> Any:
    """Returns TorchScript's form of a function, which is freed with the last reference to it.

    What `torch.jit.trace` makes belongs to a list of the whole process and is never freed: about a
    MiB for each run.
    """
    # The empty names are of variables that Python knows tensors by: it asks for one at each.
    graph, _ = torch._C._create_graph_by_tracing(run, example, lambda tensor: "", True, False)
    for simplify in _SIMPLIFICATIONS:
        getattr(torch._C, f"_jit_pass_{simplify}")(graph)
    return torch._C._create_function_from_graph("recorded", graph)


def as_written(script: Any, captured: tuple[Tensor, ...], has_grad_mode: bool) -> Function:
    """Keeps TorchScript's optimiser out: it splits `addmm` into two operations that round twice.

    The function is called between bare switches, without the cost of `torch.no_grad()` in every
    call. Autograd, which has nothing to do here, is passed by: for operators that got their
    gradient from Python it costs some microseconds each.
    """
    get_optimize, get_grad = torch._C._get_graph_executor_optimize, torch.is_grad_enabled
    set_optimize, set_grad = torch._C._set_graph_executor_optimize, torch._C._set_grad_enabled
    below_autograd = nullcontext if has_grad_mode else torch._C._AutoDispatchBelowAutograd

    def call(*inputs: Tensor) -> Any:
        before, grad = get_optimize(), get_grad()
        set_optimize(False)
        set_grad(has_grad_mode)
        try:
            with below_autograd():
                return script(*inputs, *captured)
        finally:
            set_optimize(before)
            set_grad(grad)

    return call
