"""One run of a function that leaves nothing behind: what does it read, and is it static?"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastrl.engine.cuda_graphs import Function
from fastrl.engine.guards import PythonReads
from fastrl.engine.operations import depends_on_values


class NotStaticError(RuntimeError):
    """A function is not one fixed graph of operations."""


_READS = (
    "it reads a tensor's value in Python (.item(), float(), if, x[mask]), which a fixed graph "
    "cannot do; torch.where and tensors in place of numbers can"
)


def rehearse(function: Function, example: tuple[Tensor, ...]) -> int:
    """Runs a function on copies of its arguments, and puts back what it changed in place.

    Returns:
        How often it wrote to a tensor that is not one of its arguments.

    Raises:
        NotStaticError: it depends on a tensor's value in Python.
    """
    with torch.no_grad():
        arguments = [tensor.clone() for tensor in example]
    rehearsal = _Rehearsal(arguments)
    drawn = _draws()
    try:
        with rehearsal, _NoNumpy():
            function(*arguments)
    finally:
        rehearsal.undo()
    if drawn != _draws():
        raise NotStaticError("it draws from Python's or NumPy's generator; torch's can be recorded")
    return rehearsal.num_written


@contextmanager
def tried(function: Function) -> Iterator[PythonReads]:
    """Context in which a function of somebody's own is tried, and leaves nothing behind.

    What it changes in tensors and in Python, and what it draws, is put back. It may read tensors'
    values. Yields what it reads from Python.
    """
    reads, rehearsal = PythonReads(), _Rehearsal([], is_strict=False)
    try:
        with torch.random.fork_rng(), reads.watch(function), rehearsal:
            yield reads
    finally:
        rehearsal.undo()
        reads.restore()


@contextmanager
def buffers_kept(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Puts averages of batch norm back, whose operation does not say that it changes them."""
    before = [(x, x.clone()) for network in networks for x in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


class _Rehearsal(TorchDispatchMode):
    def __init__(self, arguments: list[Tensor], is_strict: bool = True) -> None:
        """Notes what is written to tensors beside the arguments; strict ones refuse to read any."""
        super().__init__()
        self._is_strict = is_strict
        self._drawn: dict[int, tuple[torch.Generator, Tensor]] = {}
        # By memory; kept, so that no other takes its place.
        self._made = {_memory(tensor): tensor for tensor in arguments}
        self.num_written = 0  # of tensors that this run did not make
        self._before: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spares importing torch.compile, most of a second, at the first operation."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._is_strict and depends_on_values(func, args):
            raise NotStaticError(_READS)
        for value in (*args, *(kwargs or {}).values()):
            if isinstance(value, torch.Generator):
                if self._is_strict:
                    raise NotStaticError(
                        "it draws from a generator of its own; torch's can be recorded"
                    )
                self._drawn.setdefault(id(value), (value, value.get_state()))
        if func._schema.is_mutable:
            self._keep((args, kwargs))
            for given, wanted in zip(args, func._schema.arguments, strict=False):
                if wanted.alias_info is not None and wanted.alias_info.is_write:
                    parts = [x for x in tree_leaves(given) if isinstance(x, Tensor)]
                    self.num_written += sum(_memory(x) not in self._made for x in parts)
        result = func(*args, **(kwargs or {}))
        if not func._schema.is_mutable:
            given = {_memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            for tensor in (result,) if isinstance(result, Tensor) else tree_leaves(result):
                if isinstance(tensor, Tensor) and _memory(tensor) not in given:  # else a view
                    self._made.setdefault(_memory(tensor), tensor)
        return result

    def _keep(self, arguments: Any) -> None:
        """Copies what an operation may change and this run did not make."""
        for tensor in tree_leaves(arguments):
            if isinstance(tensor, Tensor) and _memory(tensor) not in self._made:
                if _is_expanded(tensor):  # it can only be read
                    continue
                place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
                if place not in self._before:
                    self._before[place] = tensor.detach(), tensor.detach().clone()

    @torch.no_grad()
    def undo(self) -> None:
        for tensor, value in reversed(self._before.values()):
            tensor.copy_(value)
        for generator, state in self._drawn.values():
            generator.set_state(state)


class _NoNumpy(TorchFunctionMode):
    """Sees what hands numbers to Python without an operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            raise NotStaticError(_READS)
        return func(*args, **(kwargs or {}))


def _is_expanded(tensor: Tensor) -> bool:
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return any(size > 1 and stride == 0 for size, stride in sizes)


def _draws() -> tuple[Any, ...]:
    """Returns what changes when Python's or NumPy's global generator is drawn from."""
    state: Any = np.random.get_state()
    return random.getstate(), state[2], state[1][0]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
