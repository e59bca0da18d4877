"""One step of an optimiser: loss, gradient `[P]`, sum over ranks, clipping, step; and the metrics.

The loss is a plain function of a minibatch, `loss(batch) -> (loss, metrics)`. What is weighted by
`batch.weights` in it adds up over ranks to the loss of the global minibatch. Nothing leaves the
device until `means`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor

from fastrl.engine.optimizer import FlatOptimizer
from fastrl.processes.pulse import PULSE
from fastrl.processes.ranks import Ranks

Loss = Callable[[Any], tuple[Tensor, tuple[Tensor, ...]]]
Gradient = Callable[[Any], tuple[Tensor, Tensor]]


class GradientStep:
    """Takes steps along the gradient of a loss and adds its metrics up."""

    def __init__(
        self,
        loss: Loss,
        optimizer: FlatOptimizer,
        metrics: Sequence[str],
        ranks: Ranks,
        autocast: Callable[[], AbstractContextManager[Any]],
        over_ranks: Literal["sum", "mean"] = "sum",
        metric_limits: Mapping[str, float] | None = None,
    ) -> None:
        """Puts the parts together.

        Args:
            loss: returns a scalar and its metrics, scalars.
            optimizer: of the parameters that are trained.
            metrics: what the loss's metrics are called, and at the end the gradient's norm.
            ranks: those that learn together.
            autocast: makes the context that forward passes run in.
            over_ranks: "sum" for losses weighted by the rows of all ranks, "mean" for means over as
                many rows on every rank.
            metric_limits: a step is not taken if one of these metrics of its minibatch is larger.
        """
        limits = metric_limits or {}
        self._limits = {list(metrics).index(name): x for name, x in limits.items()}
        self._loss, self.optimizer, self.names = loss, optimizer, tuple(metrics)
        self._ranks, self._autocast, self._over_ranks = ranks, autocast, over_ranks
        self.sums = torch.zeros(len(metrics), device=optimizer.flat.device)
        self.num_steps = 0
        self.gradient: Gradient = self.gradient_of_loss
        self._gradient_sum = torch.zeros_like(optimizer.flat)
        self._run: Callable[..., Any] = _unbuilt
        self._add: Callable[..., Any] = _unbuilt
        self._apply: Callable[..., Any] = _unbuilt

    def gradient_of_loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Returns the gradient `[P]` by autograd, and the metrics `[M - 1]`."""
        with self._autocast():
            loss, metrics = _loss_and_metrics(self._loss(batch))
        gradient = self.optimizer.gradient(loss)
        with torch.no_grad():
            return gradient, torch.stack([x.detach() for x in metrics])

    def use_loss(self) -> None:
        """From here on the gradient is that of the loss by autograd, whatever stood in for it."""
        self.gradient = self.gradient_of_loss

    # What is built: functions of tensors alone.

    def take(self, batch: Any) -> Tensor:
        """Takes one step; returns the sums of the metrics so far, `[M]`."""
        return self.apply(*self.exchange(*self.gradient(batch)))

    def exchange(self, gradient: Tensor, metrics: Tensor) -> tuple[Tensor, Tensor]:
        """Adds up or averages gradient and metrics over the ranks."""
        if self._ranks.is_alone:
            return gradient, metrics
        reduce = self._ranks.sum if self._over_ranks == "sum" else self._ranks.mean
        gradient, parts = reduce(gradient, metrics.unbind())
        return gradient, torch.stack(list(parts))

    @torch.no_grad()
    def apply(self, gradient: Tensor, metrics: Tensor) -> Tensor:
        """Clips the gradient and steps; returns the sums of the metrics so far, `[M]`."""
        if len(metrics) != len(self.names) - 1:
            raise ValueError(
                f"the loss returns {len(metrics)} metrics, but {len(self.names) - 1} are named: "
                f"{', '.join(self.names[:-1])}"
            )
        norm = self.optimizer.apply(gradient)
        return self.sums.add_(torch.cat([metrics, norm.unsqueeze(0)]))

    def add(self, batch: Any) -> Tensor:
        """Adds to the gradient of a step that is taken later, by `finish`."""
        gradient, metrics = self.gradient(batch)
        with torch.no_grad():
            self._gradient_sum.add_(gradient)
            return self.sums[:-1].add_(metrics)

    # What algorithms call

    def __call__(self, batch: Any) -> bool:
        """Takes one step on a minibatch, a NamedTuple of tensors, unless a metric is too large.

        Returns:
            Whether it was taken; metrics are added up either way.
        """
        PULSE.count += 1  # a long update does not hang
        self.num_steps += 1
        return self._run(*batch) is not False

    def accumulate(self, batch: Any) -> None:
        """Adds a piece of a minibatch to the gradient of the next step."""
        PULSE.count += 1
        self._add(*batch)

    def finish(self) -> None:
        """Takes one step along what was accumulated."""
        sums = self.sums[:-1].clone()
        gradient, metrics = self.exchange(self._gradient_sum, sums)
        self.sums.zero_()
        self._apply(gradient, metrics)
        self._gradient_sum.zero_()
        self.num_steps += 1

    def build(self, build: Callable[..., Any], example: Any, accumulates: bool) -> None:
        """Has the engine build what runs: as one function, or apart where ranks exchange between.

        Args:
            build: takes a function of tensors and an example of its arguments.
            example: a minibatch.
            accumulates: whether `accumulate` and `finish` are called in place of the step itself.
        """
        kind = type(example)

        def gradient(*fields: Tensor) -> tuple[Tensor, Tensor]:
            return self.gradient(kind(*fields))

        parts = self._gradient_sum, self.sums[:-1]
        if accumulates:
            self._add = build(lambda *fields: self.add(kind(*fields)), tuple(example))
            self._apply = build(self.apply, parts)
        elif self._ranks.is_alone and self.optimizer.is_static and not self._limits:
            self._run = build(lambda *fields: self.take(kind(*fields)), tuple(example))
        else:
            first = build(gradient, tuple(example))
            last = build(self.apply, parts) if self.optimizer.is_static else self.apply

            def run(*fields: Tensor) -> bool:
                reduced, metrics = self.exchange(*first(*fields))
                if any(float(metrics[index]) > limit for index, limit in self._limits.items()):
                    self.sums.add_(torch.cat([metrics, reduced.norm().unsqueeze(0)]))
                    return False
                last(reduced, metrics)
                return True

            self._run = run

    def clear(self) -> None:
        """Begins to add metrics up anew; layers may have been frozen or thawed meanwhile."""
        if len(self._gradient_sum) != len(self.optimizer.flat):
            self._gradient_sum = torch.zeros_like(self.optimizer.flat)
        self.sums.zero_()
        self.num_steps = 0

    def means(self) -> dict[str, float]:
        """Returns the metrics' means over the steps since `clear`: the one wait for the device."""
        return dict(zip(self.names, (self.sums / self.num_steps).tolist(), strict=True))

    def sum_of(self, name: str) -> float:
        """Returns the sum of one metric over the steps since `clear`."""
        return float(self.sums[self.names.index(name)])


def _unbuilt(*_: Tensor) -> None:
    raise AssertionError("the engine has not built this step")


def _loss_and_metrics(returned: Any) -> tuple[Tensor, list[Tensor]]:
    """Returns what a loss returned, if it is a pair of numbers in tensors: (loss, metrics)."""
    try:
        loss, metrics = returned
        loss, *numbers = loss, *metrics
    except (TypeError, ValueError):
        words = f"not {type(returned).__name__}"
    else:
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            words = f"but the loss is {_kind(loss)}"
        elif wrong := [x for x in numbers if not isinstance(x, Tensor) or x.dim()]:
            words = f"but a metric is {_kind(wrong[0])}"
        else:
            return loss, numbers
    raise ValueError(f"a loss returns (loss, metrics), tensors of one number each, {words}")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {[*value.shape]}"
    return f"{value!r}, no tensor"
