"""How an algorithm's functions run on this machine; nothing in an algorithm depends on it.

A function that runs once a step, a rollout or a minibatch is handed to the engine when a run
begins, with an example of its arguments, and comes back in the form that is fastest here:

- **eager**: the function itself.
- **recorded**: the operations of one run of it, gradients included, as one flat graph; replayed by
  TorchScript on a CPU and as a CUDA graph on a GPU. Same operations, same numbers to the bit.
- **compile**: the same graph through torch.compile.
- **native**: recorded, with networks and objective in the C++ extension's kernels where
  `engine/probe.py` has seen these give what the function itself gives.

Functions are static: the same shapes at every call, no Python that depends on a tensor's value.
They may read and change tensors that live as long as the run: weights, optimiser state,
coefficients. A number that changes belongs in such a tensor; if a number in Python changes, the
engine notices at the next update, in your own code at the next call, and runs the function
itself from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastrl.config.run import RunConfig
from fastrl.engine.built import Built, Teller, agreed
from fastrl.engine.claim import Claim
from fastrl.engine.compiling import Function, build
from fastrl.engine.gradient_step import GradientStep, Loss
from fastrl.engine.guards import PythonReads
from fastrl.engine.layout import Layout
from fastrl.engine.modes import building
from fastrl.engine.native import Twin, built_with, why_no_kernels
from fastrl.engine.native_acting import NativeActing
from fastrl.engine.objective import ClippedObjective
from fastrl.engine.optimizer import FlatOptimizer, FlatParameters, checked_flat
from fastrl.engine.proving import acts_alike, proven_twins, why_not_objective
from fastrl.engine.rehearsal import NotStaticError, buffers_kept, rehearse
from fastrl.engine.threads import matmul_precision, num_threads, update_threads
from fastrl.engine.ways import WAYS, Situation, choose, why_not_static
from fastrl.envs.foreign import own_line
from fastrl.kernels.extension import worker_threads
from fastrl.models.layers import evaluated
from fastrl.processes.devices import Devices

Trained = Sequence[tuple[FlatParameters, nn.Module]]

# Rows, and numbers in them, that pass networks at once on a CPU: they stay in the second cache.
_CHUNK, _CHUNK_NUMBERS = 2048, 2**23


class Engine:
    """Builds the functions of one agent, and sets threads and precision while they run."""

    def __init__(self, config: RunConfig, devices: Devices) -> None:
        """Chooses nothing yet: that takes the networks, see `prepare`."""
        self._config, self._devices = config, devices
        self._way = WAYS[-1]
        self._twins: list[Twin] = []
        self._built: list[Built] = []
        self._networks: list[nn.Module] = []
        self._layout = Layout([])
        self._of_layers = PythonReads()
        self._trained: Callable[[], Trained] = list
        self._torch_threads = self._pool_threads = 1
        self._tell = Teller()
        self.notes: list[str] = []
        """Why something runs more slowly than it might."""
        self.claim = Claim()

    @num_threads(1)
    def prepare(self, trained: Callable[[], Trained], num_rows: int, width: int) -> None:
        """Looks at the networks as they are when a run begins, and chooses how they run.

        Args:
            trained: returns all networks, each with the vector that its parameters are part of;
                layers and weights that were replaced are taken over here.
            num_rows: rows of a minibatch.
            width: numbers that the widest layer takes or makes of a row.

        Raises:
            ValueError: an engine was asked for by name and cannot serve.
        """
        config, device = self._config, self._devices.device
        for parameters, module in trained():
            checked_flat(parameters).adopt(module)
            if not module.training:  # a part of it alone may be meant to stay in that mode
                module.train()
        self._trained, self._networks = trained, [module for _, module in trained()]
        self._layout = Layout(self._networks)
        self._built, self._twins, self._tell = [], [], Teller()
        self.notes, self._of_layers = [], PythonReads()
        self._of_layers.take_settings(self._networks, [parameters for parameters, _ in trained()])
        reasons = why_no_kernels(device, config.precision) + why_not_static(self._networks)
        for_compiler = config.engine == "compile"
        if config.engine in ("auto", "native", "compile") and not reasons:
            self._twins, reasons = proven_twins(self._networks, for_compiler)
        threads = config.num_threads or update_threads(num_rows, width)
        if config.engine == "auto" and reasons and threads > 1:
            # Torch has to work too, and its threads and the kernels' would fight for the cores.
            self._twins = [twin for twin in self._twins if not twin.shares_work]
        against = [] if self._twins else reasons or ["there are no kernels for such networks"]
        situation = Situation(device, self._networks, against, self._on_cpu and not self._twins)
        self._way, self.notes = choose(config.engine, situation, self._devices.agree)
        if self._way.name == "native":
            self.notes = reasons
        elif not for_compiler:
            self._twins = []
        # The kernels share their work among threads of their own; torch's are for what is left.
        shares = [twin.shares_work for twin in self._twins]
        self._pool_threads = threads if any(shares) else 1
        leaves_nothing = bool(shares) and all(shares) and not reasons
        self._torch_threads = 1 if leaves_nothing or not self._on_cpu else threads

    # Building

    def build(self, function: Function, example: tuple[Tensor, ...]) -> Function:
        """Returns a function of tensors in the form that runs fastest, the same on every rank.

        Args:
            function: takes tensors; returns tensors or None. It may sum over ranks.
            example: arguments of the shapes and types that it will be called with; not changed.
        """
        with self._devices.apart():
            built = self._build(function, example)
        return built if self._way.name == "eager" else agreed(built, self.notes, self._devices)

    @building()
    def _build(
        self,
        function: Function,
        example: tuple[Tensor, ...],
        reads: PythonReads | None = None,
        threads: int | None = None,
    ) -> Function:
        if self._way.name == "eager":
            return function
        reads = reads or PythonReads(self._networks)
        mode = "compile" if self._way.name == "compile" else "recorded"
        with buffers_kept(self._networks):
            try:
                rehearse(self._watched(function, reads), example)
            except NotStaticError as error:
                reads.restore()
                return self._as_it_is(function, f"{error}{own_line(error)}")
            change = reads.changed()
            reads.restore()
            if change is not None:
                return self._as_it_is(function, f"{change} while it ran")
            # Compiled code knows how many threads it will have.
            sources: list[Tensor] = []
            make = partial(build, function, example, mode, sources)
            with num_threads(threads or self._torch_threads):
                fast = built_with(self._twins, make, self.notes)
        self._built.append(Built(function, fast, reads, sources, self._tell))
        return self._built[-1]

    @staticmethod
    def _watched(function: Function, reads: PythonReads) -> Function:
        def run(*arguments: Tensor) -> Any:
            with reads.watch(function):
                return function(*arguments)

        return run

    def _as_it_is(self, function: Function, reason: str) -> Function:
        if self._config.engine not in ("auto", "native"):
            raise ValueError(f"engine={self._config.engine} cannot run this: {reason}")
        self.notes.append(f"eager: {reason}")
        return function

    def act(
        self, draw: Function, rows: Sequence[tuple[Tensor, ...]], policy: Any = None
    ) -> Callable[[int], np.ndarray]:
        """Returns a function of the step t that acts on a pool's rows, in evaluation mode.

        Args:
            draw: takes observations, noise, and what it fills, first of all the stored actions;
                returns what the environments take.
            rows: the arguments of `draw` for each step.
            policy: whose actions `draw` draws, if a kernel may do so.
        """
        draw = evaluated(draw, self._networks)
        run = self._native_acting(draw, rows[0], policy)
        run = run or self._build(draw, self._here(rows[0]), threads=1)
        if self._on_cpu:
            return lambda t: run(*rows[t]).numpy()
        return lambda t: run(*self._here(rows[t])).cpu().numpy()

    def _here(self, row: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.to(self._devices.device, non_blocking=True) for x in row)

    @building()
    def _native_acting(
        self, draw: Function, row: tuple[Tensor, ...], policy: Any
    ) -> Function | None:
        has_twin = any(twin.module is policy for twin in self._twins)
        if not has_twin or NativeActing.why_not(policy):
            return None
        reads = PythonReads(self._networks)
        if not acts_alike(draw, row, policy, reads):
            self.notes.append("acting: the kernel does not draw what `draw_actions` draws")
            return None
        native = NativeActing(policy, len(row[0]))
        self._built.append(Built(draw, native, reads, native.sources, self._tell))
        return self._built[-1]

    def over_rows(
        self, name: str, function: Function, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Callable[[], None]:
        """Returns a call that fills `outputs` `[R, *]` with what `function` makes of `inputs`.

        In evaluation mode, as it was acted; on a CPU in pieces that stay in the cache. `name` is
        the function's, for messages.
        """
        function = evaluated(function, self._networks)
        num_inputs, num_rows = len(inputs), len(inputs[0])
        size = max(1, inputs[0][0].numel())
        chunk = max(1, min(_CHUNK, _CHUNK_NUMBERS // size)) if self._on_cpu else num_rows

        @torch.no_grad()
        def fill(*tensors: Tensor) -> Tensor:
            with self._devices.autocast():
                results = function(*tensors[:num_inputs])
            for output, result in zip(tensors[num_inputs:], results, strict=True):
                if result.shape != output.shape:
                    raise ValueError(f"{name} returns {[*result.shape]}, not {[*output.shape]}")
                output.copy_(result)
            return tensors[-1]

        pieces = list(zip(*(x.split(chunk) for x in (*inputs, *outputs)), strict=True))
        built = {len(piece[0]): piece for piece in pieces}  # the last one may be shorter
        runs = {num: self._build(fill, piece) for num, piece in built.items()}

        def run() -> None:
            for piece in pieces:
                runs[len(piece[0])](*piece)

        return run

    @building()
    def gradient_step(
        self,
        loss: Loss,
        optimizer: FlatOptimizer,
        metrics: Sequence[str],
        example: Any = None,
        *,
        twin: ClippedObjective | None = None,
        accumulates: bool = False,
        **joined: Any,
    ) -> GradientStep:
        """Makes of a loss a step of an optimiser.

        Args:
            loss: `loss(batch) -> (loss, metrics)`, weighted by `batch.weights`.
            optimizer: of the parameters that are trained.
            metrics: names of the loss's metrics, and last of the gradient's norm.
            example: a minibatch; None if the step is part of a function that is built itself.
            twin: what may compute the loss's gradient, once it has shown that it does.
            accumulates: the gradient is summed up over pieces of a minibatch.
            **joined: how ranks join, and which steps are not taken: see `GradientStep`.
        """
        parts = loss, optimizer, metrics, self._devices, self._devices.autocast
        step = GradientStep(*parts, **joined)
        if example is None:
            return step
        reads = PythonReads(self._networks)
        if twin is not None and twin.fits and self._way.name == "native":
            if reasons := why_not_objective(twin, step, loss, example, self._networks, reads):
                self.notes += reasons
            else:
                step.gradient = lambda batch: twin.gradient(batch, optimizer)
        step.build(partial(self._build_watching, reads, step), example, accumulates)
        return step

    def _build_watching(
        self, reads: PythonReads, step: GradientStep, function: Function, example: Any
    ) -> Function:
        """Builds a part of a step; if it has to run as it is, so does the loss in it."""
        built = self._build(function, example, reads)
        if isinstance(built, Built):
            built.on_change = step.use_loss
        elif self._way.name != "eager":
            step.use_loss()
        return built

    # Running

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Surrounds what follows a rollout: threads, precision of products; looks for changes."""
        self.check()
        precision = matmul_precision(getattr(self._config, "matmul_precision", "highest"))
        threads = num_threads(self._torch_threads), worker_threads(self._pool_threads)
        # An environment with a model of its own may have switched gradients off.
        with threads[0], threads[1], precision, torch.enable_grad():
            yield

    def check(self) -> None:
        """Goes back to the Python functions whose values have changed since they were built.

        Raises:
            ValueError: layers or weights were replaced in the middle of a run.
        """
        trained = self._trained()
        is_same = self._layout.is_of([module for _, module in trained])
        if not is_same or not all(parameters.are_in_place() for parameters, _ in trained):
            raise ValueError(
                "weights, layers or hooks were replaced while the agent trains; copy weights with "
                "parameter.data.copy_(...), freeze with agent.freeze(...), replace before `learn`"
            )
        fast = [built for built in self._built if built.fast is not None]
        # A dropout's rate, `eval()`; and with one vector of weights, all that steps along it moves.
        change_of_all = self._of_layers.changed() if fast else None
        change_of_all = change_of_all or next(filter(None, (x.moved() for x in fast)), None)
        changes = [change_of_all or built.changed_reads() for built in fast]
        for built, change in zip(fast, changes, strict=True):
            if change:
                built.fall_back()
                self._tell(change)

    @property
    def _on_cpu(self) -> bool:
        return self._devices.device.type == "cpu"

    def describe(self) -> str:
        """Says in a line how the update runs, and why not faster."""
        threads = max(self._torch_threads, self._pool_threads)
        words = self._way.words
        if not self._on_cpu:
            words += f" on {torch.cuda.get_device_name(self._devices.device)}"
        elif threads > 1:
            words += f", {threads} threads"
        notes = "; ".join(dict.fromkeys(self.notes))
        return f"engine: {words}{f' ({notes})' if notes else ''}"
