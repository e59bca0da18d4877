"""Recording: one run of a function as a flat graph of ATen operations."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fastrl.engine.cuda_graphs import CapturedGraph, Function
from fastrl.engine.operations import (
    ARITHMETIC,
    FACTORIES,
    UNTRACEABLE,
    VIEWS,
    is_alias,
    is_random,
    must_stay,
)

logger = logging.getLogger("fastrl")

_SIMPLIFICATIONS = ("inline", "constant_propagation", "constant_pooling", "cse", "dce")


class Recording(TorchDispatchMode):
    """One run of a function as a flat graph of ATen operations, gradients included."""

    running: ClassVar[Recording | None] = None
    """The recording that is under way."""

    def __init__(self, function: Function, example: tuple[Tensor, ...]) -> None:
        """Runs the function once; whatever it changed in place is put back."""
        super().__init__()
        self._graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._results: dict[fx.Node, Tensor] = {}
        self._places: dict[tuple[Any, ...], fx.Node] = {}
        self._numbers: dict[tuple[float, torch.dtype], Tensor] = {}
        self._alive: list[Tensor] = []  # ids and places name tensors only as long as these live
        self._captured: list[Tensor] = []
        self._captured_ids: set[int] = set()
        self._changed: set[int] = set()
        self._before: list[tuple[Tensor, Tensor]] = []
        self._parts: list[list[fx.Node]] = []
        self._part: list[fx.Node] | None = None
        self._boundary = self._graph.create_node("placeholder", "boundary")
        inputs = tuple(tensor.clone() for tensor in example)
        for index, tensor in enumerate(inputs):
            with self._graph.inserting_before(self._boundary):
                self._name(tensor, self._graph.placeholder(f"input_{index}"))
        with self:
            Recording.running = self
            try:
                result = function(*inputs)
            finally:
                Recording.running = None
        with torch.no_grad():
            for tensor, value in self._before:
                tensor.copy_(value)
        self._graph.output(tree_map_only(Tensor, self._node, result))
        self._fold_constants(result)
        self._graph.erase_node(self._boundary)
        self._graph.eliminate_dead_code(is_impure_node=must_stay)
        # No tensor here requires a gradient, but oneDNN's LSTM asks whether its backward follows.
        targets = [str(node.target) for node in self._graph.nodes]
        self._has_grad_mode = any("mkldnn_rnn_layer" in target for target in targets)
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
        if func in VIEWS and self._is_outside(args[0]):
            # A view of a weight stays one at every call: should it be used, it is captured in the
            # weight's place.
            view = func(*args, **kwargs)
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
        func, noted_args = self._with_tensor_for_number(func, noted_args, result)
        node = self._note(func, noted_args, noted_kwargs)
        if isinstance(result, Tensor):
            self._name(result, node)
        else:
            for index, part in enumerate(result or ()):
                if part is not None:  # the gradient of the first layer's input
                    self._name(part, self._note(_item, (node, index)))
        return result

    def scripted(self) -> Function:
        """Returns the graph behind TorchScript's interpreter, or Python's where that is gone."""
        if any(node.target in UNTRACEABLE for node in self._graph.nodes):
            return self._bind(self._module)
        try:
            grad_mode = torch.set_grad_enabled(self._has_grad_mode)
            with grad_mode, warnings.catch_warnings(), self._undone():
                warnings.simplefilter("ignore")  # tracing is deprecated; see below for its end
                module = self._forking() if self._parts else self._module
                script: Any = torch.jit.trace(module, self._example, check_trace=False)
                for simplify in _SIMPLIFICATIONS:
                    getattr(torch._C, f"_jit_pass_{simplify}")(script.graph)
                return _as_written(script, tuple(self._captured), self._has_grad_mode)
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

    def captured(self) -> Function:
        """Returns the graph as one CUDA graph; ranks exchange between graphs, not inside of one."""
        if any(str(node.target).startswith("fastrl.") for node in self._graph.nodes):
            return self.scripted()
        given = self._example[: len(self._example) - len(self._captured)]
        changed = [i for i, tensor in enumerate(given) if _memory(tensor) in self._changed]
        with torch.no_grad():
            return CapturedGraph(self._bind(self._module), given, changed, self._changing())

    @contextmanager
    def part(self) -> Iterator[None]:
        """Notes the operations of a block as some that may run beside those after the block."""
        assert self._part is None, "a part has no parts"
        self._part = []
        self._parts.append(self._part)
        places = dict(self._places)  # what follows must not wait for a view that was made in here
        try:
            yield
        finally:
            self._part, self._places = None, places

    def _note(self, target: Any, args: Any, kwargs: Any = None) -> fx.Node:
        node = self._graph.call_function(target, args, kwargs)
        if self._part is not None:
            self._part.append(node)
        return node

    def _forking(self) -> fx.GraphModule:
        """Returns the graph with each part behind one call that another thread works on."""
        graph, copies = fx.Graph(), {}
        output = graph.graph_copy(self._graph, copies)
        graph.output(output)
        forks = nn.Module()
        for index, part in enumerate(self._parts):
            nodes = [copies[node] for node in part if node in copies]
            if not nodes:  # all of them are constants
                continue
            inside = set(nodes)
            inputs = list(
                dict.fromkeys(x for n in nodes for x in n.all_input_nodes if x not in inside)
            )
            results = [node for node in nodes if any(user not in inside for user in node.users)]
            body, inner = fx.Graph(), {}
            for node in inputs:
                inner[node] = body.placeholder(node.name)
            for node in nodes:
                inner[node] = body.node_copy(node, inner.__getitem__)
            body.output(tuple(inner[node] for node in results))
            forks.add_module(f"part_{index}", _Fork(fx.GraphModule({}, body)))
            with graph.inserting_before(nodes[0]):
                future = graph.call_module(f"part_{index}", tuple(inputs))
            users = {user for node in results for user in node.users if user not in inside}
            with graph.inserting_before(next(node for node in graph.nodes if node in users)):
                done = graph.call_function(torch.jit.wait, (future,))
                for position, node in enumerate(results):
                    item = graph.call_function(_item, (done, position))
                    node.replace_all_uses_with(item, lambda user, inside=inside: user not in inside)
            for node in reversed(nodes):
                graph.erase_node(node)
        return fx.GraphModule(forks, graph)

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
            node = self._capture(tensor)
            self._captured_ids.add(id(tensor))
            self._name(tensor, node)
        return node

    def _capture(self, tensor: Tensor) -> fx.Node:
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


class _Fork(nn.Module):
    """Starts a module in another thread and returns at once, with a future of its results."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, *inputs: Tensor) -> Any:
        return torch.jit.fork(self.body, *inputs)


def _as_written(script: Any, captured: tuple[Tensor, ...], has_grad_mode: bool) -> Function:
    """Keeps TorchScript's optimiser out: it splits `addmm` into two operations that round twice.

    The method itself is called, between bare switches: the module's call and `torch.no_grad()` take
    a third of the time of a policy that acts on one row. Autograd, which has nothing to do here, is
    passed by: for operators that got their gradient from Python it costs some microseconds each.
    """
    forward = script._c._get_method("forward")
    get_optimize, get_grad = torch._C._get_graph_executor_optimize, torch.is_grad_enabled
    set_optimize, set_grad = torch._C._set_graph_executor_optimize, torch._C._set_grad_enabled
    below_autograd = nullcontext if has_grad_mode else torch._C._AutoDispatchBelowAutograd

    def call(*inputs: Tensor) -> Any:
        before, grad = get_optimize(), get_grad()
        set_optimize(False)
        set_grad(has_grad_mode)
        try:
            with below_autograd():
                return forward(*inputs, *captured)
        finally:
            set_optimize(before)
            set_grad(grad)

    return call


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Returns what two names of the same numbers share: memory, shape and type."""
    start = _memory(tensor), tensor.storage_offset(), tensor.dtype
    return (*start, tuple(tensor.shape), tensor.stride())


def _item(parts: Any, index: int) -> Any:
    return parts[index]
