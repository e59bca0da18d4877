"""Recording: one run of a function as a flat graph of ATen operations."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fastrl.engine.cuda_graphs import CapturedGraph, Function
from fastrl.engine.operations import (
    ARITHMETIC,
    FACTORIES,
    FOR_COMPILER,
    VIEWS,
    is_alias,
    is_random,
    is_untraceable,
    must_stay,
)
from fastrl.engine.torchscript import as_written, traced

logger = logging.getLogger("fastrl")

_EXCHANGE = "fastrl.sum_over_ranks"  # the name will do: a single process never imports it
# One C++ file, in place of one for each kernel and Python between them: 0.1 ms a call, and compiled
# sooner. Products and sums may round once in place of twice, which the polynomials of tanh gain by.
_CPU_OPTIONS = {"cpp_wrapper": True, "cpp.enable_floating_point_contract_flag": "fast"}


class Recording(TorchDispatchMode):
    """One run of a function as a flat graph of ATen operations, gradients included."""

    def __init__(
        self, function: Function, example: tuple[Tensor, ...], for_compiler: bool = False
    ) -> None:
        """Runs the function once; whatever it changed in place is put back.

        Args:
            function: takes tensors, returns a tensor, a tuple of tensors or None.
            example: its arguments; they are not changed.
            for_compiler: note what a compiler makes most of: plain operations, which fuse.
        """
        super().__init__()
        self._for_compiler = for_compiler
        self._bases: dict[tuple[int, torch.dtype], fx.Node] = {}
        self._graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._results: dict[fx.Node, Tensor] = {}
        self._places: dict[tuple[Any, ...], fx.Node] = {}
        self._numbers: dict[tuple[float, torch.dtype], Tensor] = {}
        self._alive: list[Tensor] = []  # ids and places name tensors only as long as these live
        self._captured: list[Tensor] = []
        self.sources: list[Tensor] = []
        """The tensors from outside, as their owners have them."""
        self._captured_ids: set[int] = set()
        self._changed: set[int] = set()
        self._before: list[tuple[Tensor, Tensor]] = []
        self._boundary = self._graph.create_node("placeholder", "boundary")
        inputs = tuple(tensor.clone() for tensor in example)
        for index, tensor in enumerate(inputs):
            with self._graph.inserting_before(self._boundary):
                self._name(tensor, self._graph.placeholder(f"input_{index}"))
        try:
            with self:
                result = function(*inputs)
        finally:
            with torch.no_grad():
                for tensor, value in self._before:
                    tensor.copy_(value)
        self._graph.output(tree_map_only(Tensor, self._node, result))
        if not for_compiler:  # that folds them itself
            self._fold_constants(result)
        self._graph.erase_node(self._boundary)
        self._graph.eliminate_dead_code(is_impure_node=must_stay)
        # No tensor here requires a gradient, but oneDNN's LSTM asks whether its backward follows.
        targets = [str(node.target) for node in self._graph.nodes]
        self._has_grad_mode = any("mkldnn_rnn_layer" in target for target in targets)
        self._example = (*inputs, *self._captured)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spares importing torch.compile, most of a second, at the first operation."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation and notes it."""
        kwargs = kwargs or {}
        if self._for_compiler and func in FOR_COMPILER and not kwargs:
            with self:
                return FOR_COMPILER[func](*args)
        if func is torch.ops.aten.detach.default:
            # Without autograd this is only another name for the same tensor.
            result = func(*args, **kwargs)
            self._name(result, self._node(args[0]))
            return result
        if not self._for_compiler and func in VIEWS and self._is_outside(args[0]):
            # A view of a weight stays one at every call: should it be used, it is captured in the
            # weight's place.
            view = func(*args, **kwargs)
            self.sources.append(args[0])
            self._alive.append(view)
            return view
        if is_alias(func):
            result = func(*args, **kwargs)
            node = self._places.get(_place(result))
            if node is not None:  # there already is a tensor of this shape at this very place
                self._name(result, node)
                return result
        noted_args, noted_kwargs = tree_map_only(Tensor, self._node, (args, kwargs))
        if func._schema.is_mutable:
            self._keep_before(func, args, kwargs)
        result = func(*args, **kwargs)
        if not self._for_compiler:
            func, noted_args = self._with_tensor_for_number(func, noted_args, result)
        node = self._note(func, noted_args, noted_kwargs)
        if isinstance(result, Tensor):
            self._name(result, node)
        else:
            parts = result if isinstance(result, tuple | list) else ()  # a profiler's mark has none
            for index, part in enumerate(parts):
                if part is not None:  # the gradient of the first layer's input
                    self._name(part, self._note(_item, (node, index)))
        return result

    def scripted(self) -> Function:
        """Returns the graph behind TorchScript's interpreter, or Python's where that is gone."""
        run = self._in_python()
        if any(map(is_untraceable, self._graph.nodes)):
            return self._bind(run)
        try:
            grad_mode = torch.set_grad_enabled(self._has_grad_mode)
            with grad_mode, warnings.catch_warnings(), self._undone():
                warnings.simplefilter("ignore")  # tracing is deprecated; see below for its end
                script = traced(run, self._example)
                return as_written(script, tuple(self._captured), self._has_grad_mode)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError) as error:
            logger.warning(
                "TorchScript is not to be had (%s): the recorded graph runs through Python", error
            )
            return self._bind(run)

    def _in_python(self) -> Function:
        """Returns the graph as a function of its inputs and of what it captured.

        An `fx.GraphModule` runs the same code, but Python keeps that code until the process ends.
        """
        code = self._graph.python_code("self")
        names = dict(code.globals)
        exec(compile(code.src, "<recorded>", "exec"), names)
        return partial(names["forward"], None)

    def compiled(self) -> Function:
        """Returns the graph compiled whole, for as many threads as are set now.

        The graph is flat and its shapes are known, so it goes to torch.compile's backend as it is:
        without Dynamo there is nothing to trace again, and no guard to look at in each call. On a
        GPU the kernels are replayed as one CUDA graph.
        """
        import torch._inductor

        is_on_gpu = self._example[0].is_cuda
        # Of the same shapes, but never of one memory: rows of a buffer are told apart by their
        # places, and these are other ones at every call.
        example: list[Any] = [_empty_like(tensor) for tensor in self._example]
        run: Any = torch._inductor.standalone_compile(
            fx.GraphModule({}, self._graph),
            example,
            dynamic_shapes="from_example_inputs",
            options={"config_patches": {} if is_on_gpu else _CPU_OPTIONS},
        )
        return self._replayed(run) if is_on_gpu else self._bind(run)

    def captured(self) -> Function:
        """Returns the graph as one CUDA graph; ranks exchange between graphs, not inside of one."""
        if self._exchanges:
            return self.scripted()
        return self._replayed(self._in_python())

    @property
    def _exchanges(self) -> bool:
        """Whether ranks exchange anything inside of the graph."""
        return any(str(node.target).startswith(_EXCHANGE) for node in self._graph.nodes)

    def _replayed(self, module: Function) -> Function:
        if self._exchanges:
            return self._bind(module)
        given = self._example[: len(self._example) - len(self._captured)]
        changed = [i for i, tensor in enumerate(given) if _memory(tensor) in self._changed]
        with torch.no_grad():
            return CapturedGraph(self._bind(module), given, changed, self._changing())

    def _note(self, target: Any, args: Any, kwargs: Any = None) -> fx.Node:
        return self._graph.call_function(target, args, kwargs)

    def _bind(self, module: Function) -> Function:
        captured, has_grad_mode = tuple(self._captured), self._has_grad_mode

        def call(*inputs: Tensor) -> Any:
            with torch.set_grad_enabled(has_grad_mode):
                return module(*inputs, *captured)

        return call

    def _node(self, tensor: Tensor) -> fx.Node:
        """Returns the node that made a tensor; one from outside becomes an input of the graph."""
        node = self._nodes.get(id(tensor))
        if node is None:
            self.sources.append(tensor)
            node = self._capture(tensor)
            self._captured_ids.add(id(tensor))
            self._name(tensor, node)
        return node

    def _capture(self, tensor: Tensor) -> fx.Node:
        """Makes a tensor an input of the graph.

        For a compiler, that is the memory it lies in, once, and the tensor a view of that: inputs
        that overlap, as weights do with the vector of all of them, would be copied at every call.
        """
        if not self._for_compiler:
            return self._placeholder(tensor)
        key = _memory(tensor), tensor.dtype
        if key not in self._bases:
            size = tensor.untyped_storage().nbytes() // tensor.itemsize
            if tensor.numel() == size and tensor.is_contiguous():
                self._bases[key] = self._placeholder(tensor)
                return self._bases[key]
            self._bases[key] = self._placeholder(tensor.detach().as_strided((size,), (1,), 0))
        place = (tensor.size(), tensor.stride(), tensor.storage_offset())
        return self._note(torch.ops.aten.as_strided.default, (self._bases[key], *place))

    def _placeholder(self, tensor: Tensor) -> fx.Node:
        with self._graph.inserting_before(self._boundary):
            node = self._graph.placeholder(f"captured_{len(self._captured)}")
        self._captured.append(tensor.detach())
        return node

    def _fold_constants(self, result: Any) -> None:
        """Takes as given what is made of shapes and numbers alone, such as where gradients begin.

        Not so what is changed later, and what the caller gets.
        """
        own = self._changed | {_memory(x) for x in tree_leaves(result) if isinstance(x, Tensor)}
        constants = {self._nodes[id(number)] for number in self._numbers.values()}
        for node in self._graph.nodes:
            inputs, made = node.all_input_nodes, self._results.get(node)
            is_made = node.target in FACTORIES or (inputs and constants.issuperset(inputs))
            if is_made and made is not None and _memory(made) not in own and not is_random(node):
                constants.add(node)
        for node in self._graph.nodes:
            is_known = node.op == "call_function" and node in constants
            if is_known and not constants.issuperset(node.users):
                node.replace_all_uses_with(self._capture(self._results[node]))

    def _with_tensor_for_number(self, func: Any, args: Any, result: Any) -> tuple[Any, Any]:
        """Turns `x + 1` into `x + one`: on a CPU each call would make that tensor anew."""
        packet = func.overloadpacket
        if packet not in ARITHMETIC or len(args) != 2 or not isinstance(args[1], int | float):
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
        self._results.setdefault(node, tensor)
        self._places.setdefault(_place(tensor), node)
        self._alive.append(tensor)

    def _keep_before(self, func: Any, args: Any, kwargs: Any) -> None:
        """Copies captured tensors that this operation is about to change, to be put back later.

        Several may share the memory, so whatever lies in it is kept; what was kept first is put
        back last.
        """
        changed = {_memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        self._changed |= changed
        for captured in self._captured:
            if _memory(captured) in changed and all(
                captured is not kept for kept, _ in self._before
            ):
                self._before.insert(0, (captured, captured.clone()))

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Puts captured tensors back after a run of the graph."""
        before = [(tensor, tensor.clone()) for tensor in self._changing()]
        try:
            yield
        finally:
            for tensor, value in before:
                tensor.copy_(value)

    def _changing(self) -> list[Tensor]:
        """Returns the captured tensors that the graph changes."""
        return [tensor for tensor in self._captured if _memory(tensor) in self._changed]


def _empty_like(tensor: Tensor) -> Tensor:
    kind = {"dtype": tensor.dtype, "device": tensor.device}
    return torch.empty_strided(tensor.shape, tensor.stride(), **kind)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Returns what two names of the same numbers share: memory, shape and type."""
    start = _memory(tensor), tensor.storage_offset(), tensor.dtype
    return (*start, tuple(tensor.shape), tensor.stride())


def _item(parts: Any, index: int) -> Any:
    return parts[index]
