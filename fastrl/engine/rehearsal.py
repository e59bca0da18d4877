"""One run of a function that leaves nothing behind: what does it read, and is it static?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastrl.engine.cuda_graphs import Function
from fastrl.engine.guards import GLOBAL_GENERATORS, PythonReads
from fastrl.engine.operations import depends_on_values
from fastrl.engine.snapshots import is_same, snapshot_of


class NotStaticError(RuntimeError):
    """A function is not one fixed graph of operations."""


_READS = (
    "it reads a tensor's value in Python (.item(), float(), if, x[mask]), which a fixed graph "
    "cannot do; torch.where and tensors in place of numbers can"
)
_GIVES_MEMORY = (
    "it gives a tensor other memory, `x.data = ...`, which a fixed graph cannot do; "
    "x.data.copy_(...) can"
)


def rehearse(function: Function, example: tuple[Tensor, ...]) -> int:
    """Runs a function on copies of its arguments, and puts back what it changed in place.

    Returns:
        How often it wrote to a tensor that is neither an argument nor of its own making.

    Raises:
        NotStaticError: it depends on a tensor's value in Python.
    """
    with torch.no_grad():
        arguments = [tensor.clone() for tensor in example]
    rehearsal = _Rehearsal(arguments)
    drawn = [snapshot_of(generator) for generator in GLOBAL_GENERATORS.values()]
    try:
        with rehearsal, _NoOperations():
            function(*arguments)
    finally:
        rehearsal.undo()
    if not all(map(is_same, GLOBAL_GENERATORS.values(), drawn)):
        raise NotStaticError("it draws from Python's or NumPy's generator; torch's can be recorded")
    return rehearsal.num_written


@contextmanager
def tried(function: Function) -> Iterator[PythonReads]:
    """Context in which a function of somebody's own is tried, and leaves nothing behind.

    What it changes in tensors, in Python's values and in generators is put back; an iterator that
    it advanced, and containers of more than 4,096 items, are not. It may read tensors' values.
    Yields what it reads from Python.
    """
    reads, rehearsal, others = PythonReads(), _Rehearsal([], is_strict=False), _NoOperations(False)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices), reads.watch(function), others, rehearsal:
            yield reads
    finally:
        others.undo()
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
        """Notes what is written to tensors beside the arguments.

        A strict one raises where the function reads a tensor's value in Python.
        """
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
            for index, wanted in enumerate(func._schema.arguments):
                if wanted.alias_info is not None and wanted.alias_info.is_write:
                    given = args[index] if index < len(args) else (kwargs or {}).get(wanted.name)
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


_SETS_DATA: Any = vars(torch._C.TensorBase)["data"].__set__


class _NoOperations(TorchFunctionMode):
    """Sees what is no operation: numbers handed to Python, and `x.data = ...`."""

    def __init__(self, is_strict: bool = True) -> None:
        """Strict ones refuse both."""
        super().__init__()
        self._is_strict = is_strict
        self._before: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._is_strict and func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            raise NotStaticError(_READS)
        if func == _SETS_DATA:
            if self._is_strict:
                raise NotStaticError(_GIVES_MEMORY)
            self._before.append((args[0], args[0].data))
        return func(*args, **(kwargs or {}))

    def undo(self) -> None:
        for tensor, data in reversed(self._before):
            tensor.data = data


def _is_expanded(tensor: Tensor) -> bool:
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return any(size > 1 and stride == 0 for size, stride in sizes)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
