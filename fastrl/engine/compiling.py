"""A function of tensors as a recorded or compiled graph. No other file records or compiles.

Acting and updates are small: on a CPU most of their time goes into Python, autograd bookkeeping and
dispatch. A `Recording` takes all three out. It runs the function once, notes every ATen operation
that reached the dispatcher (those of the backward pass among them), and leaves a flat graph without
Python or autograd. TorchScript then replays that graph operation by operation: the same kernels in
the same order, so the numbers are those of eager, to the bit, and there is no compiler to wait for.
On a GPU the flat graph becomes a CUDA graph. `torch.compile` turns the same graph into fused
kernels: faster still on some machines, after some seconds of compiling.
"""

from __future__ import annotations

from torch import Tensor

from fastrl.engine.cuda_graphs import Function
from fastrl.engine.recording import Recording


def build(
    function: Function,
    example: tuple[Tensor, ...],
    mode: str,
    sources: list[Tensor] | None = None,
) -> Function:
    """Returns `function` in the form that `mode` asks for.

    The function must be static: same shapes at every call, no Python decision that depends on a
    tensor's value. It may read and change tensors that it closes over (weights, optimiser state);
    these keep their storage.

    Args:
        function: takes tensors, returns a tensor, a tuple of tensors or None.
        example: arguments of the shapes and types that it will be called with; they are not
            changed.
        mode: "recorded" or "compile".
        sources: is filled with the tensors from outside that were found.
    """
    recording = Recording(function, example, for_compiler=mode == "compile")
    if sources is not None:
        sources += recording.sources
    if mode == "compile":
        return recording.compiled()
    return recording.captured() if example[0].is_cuda else recording.scripted()
