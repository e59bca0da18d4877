"""How a hot function runs: eager, recorded or compiled. No other file records or compiles.

`act` and `update` are small: on a CPU most of their time goes into Python, autograd bookkeeping and
dispatch. A `Recording` takes all three out. It runs the function once, notes every ATen operation
that reached the dispatcher (those of the backward pass among them), and leaves a flat graph without
Python or autograd. TorchScript then replays that graph operation by operation: the same kernels in
the same order, so the numbers are those of eager, to the bit, and there is no compiler to wait for.
`torch.compile` turns the same graph into fused kernels: faster still on some machines, after some
seconds of compiling.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fastrl.machine import available_cores

Function = Callable[..., Any]

logger = logging.getLogger("fastrl")


def build(function: Function, example: tuple[Tensor, ...], mode: str) -> Function:
    """Returns `function` in the form that `mode` asks for.

    The function must be static: same shapes at every call, no Python decision that depends on a
    tensor's value. It may read and change tensors that it closes over (weights, optimiser state);
    these keep their storage.

    Args:
        function: takes tensors, returns a tensor, a tuple of tensors or None.
        example: arguments of the shapes and types that it will be called with; they are not
            changed.
        mode: "off" for eager, "auto" for recorded, "on" for torch.compile.
    """
    if mode == "off":
        return function
    recording = Recording(function, example)
    return recording.compiled() if mode == "on" else recording.scripted()


class Recording(TorchDispatchMode):
    """One run of a function as a flat graph of ATen operations, gradients included."""

    def __init__(self, function: Function, example: tuple[Tensor, ...]) -> None:
        """Runs the function once; whatever it changed in place is put back."""
        super().__init__()
        self._graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._places: dict[tuple[Any, ...], fx.Node] = {}
        self._numbers: dict[tuple[float, torch.dtype], Tensor] = {}
        self._alive: list[Tensor] = []  # ids and places name tensors only as long as these live
        self._captured: list[Tensor] = []
        self._captured_ids: set[int] = set()
        self._before: list[tuple[Tensor, Tensor]] = []
        self._boundary = self._graph.create_node("placeholder", "boundary")
        inputs = tuple(tensor.clone() for tensor in example)
        for index, tensor in enumerate(inputs):
            with self._graph.inserting_before(self._boundary):
                self._name(tensor, self._graph.placeholder(f"input_{index}"))
        with self:
            result = function(*inputs)
        with torch.no_grad():
            for tensor, value in self._before:
                tensor.copy_(value)
        self._graph.output(tree_map_only(Tensor, self._node, result))
        self._graph.erase_node(self._boundary)
        self._graph.eliminate_dead_code(is_impure_node=_must_stay)
        self._module = fx.GraphModule({}, self._graph)
        self._example = (*inputs, *self._captured)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spares importing torch.compile, most of a second, at the first operation."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation and notes it."""
        kwargs = kwargs or {}
        if func is torch.ops.aten.detach.default:
            # Without autograd this is only another name for the same tensor.
            result = func(*args, **kwargs)
            self._name(result, self._node(args[0]))
            return result
        if _is_view(func) and self._is_outside(args[0]):
            # A view of a weight stays one at every call: should it be used, it is captured in the
            # weight's place.
            view = func(*args, **kwargs)
            self._alive.append(view)
            return view
        if _is_alias(func):
            result = func(*args, **kwargs)
            node = self._places.get(_place(result))
            if node is not None:  # there already is a tensor of this shape at this very place
                self._name(result, node)
                return result
        noted_args, noted_kwargs = tree_map_only(Tensor, self._node, (args, kwargs))
        if func._schema.is_mutable:
            self._keep_before(func, args, kwargs)
        result = func(*args, **kwargs)
        func, noted_args = self._with_tensor_for_number(func, noted_args, result)
        node = self._graph.call_function(func, noted_args, noted_kwargs)
        if isinstance(result, Tensor):
            self._name(result, node)
        else:
            for index, part in enumerate(result or ()):
                self._name(part, self._graph.call_function(_item, (node, index)))
        return result

    def scripted(self) -> Function:
        """Returns the graph behind TorchScript's interpreter, or Python's where that is gone."""
        try:
            with torch.no_grad(), warnings.catch_warnings(), self._undone():
                warnings.simplefilter("ignore")  # tracing is deprecated; see below for its end
                script: Any = torch.jit.trace(self._module, self._example, check_trace=False)
                for simplify in (
                    "inline",
                    "constant_propagation",
                    "constant_pooling",
                    "cse",
                    "dce",
                ):
                    getattr(torch._C, f"_jit_pass_{simplify}")(script.graph)
                return self._bind(_as_written(script))
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError) as error:
            logger.warning(
                "TorchScript is not to be had (%s): the recorded graph runs through Python", error
            )
            return self._bind(self._module)

    def compiled(self) -> Function:
        """Returns the graph compiled whole; it raises rather than break the graph."""
        return self._bind(torch.compile(self._module, fullgraph=True, dynamic=False))

    def _bind(self, module: Function) -> Function:
        captured = tuple(self._captured)

        def call(*inputs: Tensor) -> Any:
            with torch.no_grad():
                return module(*inputs, *captured)

        return call

    def _node(self, tensor: Tensor) -> fx.Node:
        """Returns the node that made a tensor; one from outside becomes an input of the graph."""
        node = self._nodes.get(id(tensor))
        if node is None:
            with self._graph.inserting_before(self._boundary):
                node = self._graph.placeholder(f"captured_{len(self._captured)}")
            self._captured.append(tensor.detach())
            self._captured_ids.add(id(tensor))
            self._name(tensor, node)
        return node

    def _with_tensor_for_number(self, func: Any, args: Any, result: Any) -> tuple[Any, Any]:
        """Turns `x + 1` into `x + one`: on a CPU each call would make that tensor anew."""
        packet = func.overloadpacket
        if packet not in _ARITHMETIC or len(args) != 2 or not isinstance(args[1], int | float):
            return func, args
        if result.device.type != "cpu" or not result.is_floating_point():
            return func, args
        key = float(args[1]), result.dtype
        if key not in self._numbers:
            self._numbers[key] = torch.tensor(args[1], dtype=result.dtype)
        return packet.Tensor, (args[0], self._node(self._numbers[key]))

    def _is_outside(self, tensor: Tensor) -> bool:
        return id(tensor) in self._captured_ids or id(tensor) not in self._nodes

    def _name(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._places.setdefault(_place(tensor), node)
        self._alive.append(tensor)

    def _keep_before(self, func: Any, args: Any, kwargs: Any) -> None:
        """Copies captured tensors that this operation is about to change, to be put back later.

        Several may share the memory, so whatever lies in it is kept; what was kept first is put
        back last.
        """
        changed = {_memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for captured in self._captured:
            if _memory(captured) in changed and all(
                captured is not kept for kept, _ in self._before
            ):
                self._before.insert(0, (captured, captured.clone()))

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Puts captured tensors back after a run of the graph."""
        before = [tensor.clone() for tensor in self._captured]
        try:
            yield
        finally:
            for tensor, value in zip(self._captured, before, strict=True):
                tensor.copy_(value)


def _as_written(script: Function) -> Function:
    """Keeps TorchScript's optimiser out: it splits `addmm` into two operations that round twice."""
    get_optimize = torch._C._get_graph_executor_optimize
    set_optimize = torch._C._set_graph_executor_optimize

    def call(*inputs: Tensor) -> Any:
        before = get_optimize()
        set_optimize(False)
        try:
            return script(*inputs)
        finally:
            set_optimize(before)

    return call


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Returns what two names of the same numbers share: memory, shape and type."""
    start = _memory(tensor), tensor.storage_offset(), tensor.dtype
    return (*start, tuple(tensor.shape), tensor.stride())


def _is_alias(func: Any) -> bool:
    """Tells whether an operation returns one tensor over its argument's memory, changing none."""
    schema = func._schema
    is_one = len(schema.returns) == 1 and isinstance(schema.returns[0].type, torch.TensorType)
    return is_one and schema.returns[0].alias_info is not None and not schema.is_mutable


def _is_view(func: Any) -> bool:
    """Tells whether an operation only returns other strides over its argument's memory."""
    return func in (
        torch.ops.aten.t.default,
        torch.ops.aten.view.default,
        torch.ops.aten.permute.default,
    )


_ARITHMETIC = {
    getattr(torch.ops.aten, name)
    for name in ("add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_")
}


def _item(parts: Any, index: int) -> Any:
    return parts[index]


def _must_stay(node: fx.Node) -> bool:
    """Tells whether a node has an effect besides its result."""
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)


def update_threads(batch_size: int, width: int) -> int:
    """Returns how many threads are fastest for `batch_size` rows through layers of `width`.

    A second thread has to be woken, or kept spinning, for every operation. That pays for large ones
    on a machine with nothing else to do; where another process wants the core, it costs many times
    what it gains.
    """
    return available_cores() if batch_size * width >= 2048 * 64 else 1


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Runs a block with this many intra-operation threads."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed blocks for the next allocation.

    By default it hands blocks of some hundred KiB back to the kernel at once and gets them anew,
    page by page, for every intermediate result: about 1,100 page faults, a third of the time, in
    one update of 2,048 rows through two layers of 64.

    Returns:
        Whether the allocator took the advice; False where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    advice: Iterable[tuple[int, int]] = (
        (mmap_threshold, 1 << 30),
        (trim_threshold, 1 << 30),
        (top_pad, 1 << 26),
    )
    return all(mallopt(name, value) for name, value in advice)
