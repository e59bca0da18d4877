"""Where a run computes: one device in this process, or R ranks that Lightning Fabric joins.

What every rank does the same way is the seam of the algorithms: a gradient is summed over the ranks
between its computation and its application, weights of rows count the rows of all ranks, and
moments are merged. With one rank each of these returns its argument, and costs nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fastrl.config.run import RunConfig
from fastrl.ops.moments import Moments, merge
from fastrl.run.launch import end_ranks, ranks_have_met, start_ranks
from fastrl.run.mistakes import one_line

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from fastrl.run.watch import Watch

# Longest wait of a rank for the others, in the middle of a run: rank 0 tests the policy meanwhile.
# That a rank is gone or hangs is found out by the watch, within seconds.
_PATIENCE = timedelta(hours=2)


class Weighted(Protocol):
    """A minibatch: `weights` are 1/count on the rows that count and 0 elsewhere."""

    @property
    def weights(self) -> Tensor: ...  # noqa: D102
    @property
    def advantages(self) -> Tensor: ...  # noqa: D102


class Devices:
    """The device of this process, its place among the others, and what it does with them.

    Fabric owns device choice, precision and the process group. A single process at full precision
    needs none of these, and importing Fabric takes longer than solving CartPole; so `fabric` is
    None there.
    """

    def __init__(
        self, device: torch.device, fabric: Fabric | None = None, watch: Watch | None = None
    ) -> None:
        """Takes the place that Fabric gave this process, or the only one.

        Args:
            device: where this process trains.
            fabric: launched already; None for a single process.
            watch: over all ranks, if there are several.
        """
        self.device, self.fabric, self._watch = device, fabric, watch
        self.global_rank = fabric.global_rank if fabric else 0
        self.world_size = fabric.world_size if fabric else 1

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context that forward passes run in: Fabric's precision, or nothing."""
        return self.fabric.autocast() if self.fabric else nullcontext()

    @property
    def is_global_zero(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.global_rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other rank."""
        return self.world_size == 1

    def stream_seed(self, seed: int, restart: int = 0) -> int:
        """Returns the seed of this rank's own random stream; that of rank 0 is `seed` at first."""
        if self.is_global_zero and not restart:
            return seed
        key = repr((seed, self.global_rank, restart))
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    # The seam

    def sum(self, gradient: Tensor, metrics: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Sums a gradient `[P]` and metrics (scalars) over all ranks, in one all-reduce.

        For losses that are sums weighted by what `balance` made: the result is the gradient over
        the global minibatch.
        """
        if self.is_alone:
            return gradient, metrics
        from fastrl.run.collectives import sum_over_ranks

        with torch.no_grad():
            parts = [gradient, torch.stack(list(metrics))] if metrics else [gradient]
            total = sum_over_ranks(torch.cat(parts))
            return total[: len(gradient)], total[len(gradient) :].unbind()

    def mean(self, gradient: Tensor, metrics: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Averages a gradient `[P]` and metrics over all ranks, in one all-reduce.

        For losses that are means over as many rows on every rank.
        """
        if self.is_alone:
            return gradient, metrics
        gradient, metrics = self.sum(gradient, metrics)
        return gradient / self.world_size, [metric / self.world_size for metric in metrics]

    def balance(self, minibatches: Sequence[Weighted], normalize_advantages: bool) -> None:
        """Makes the minibatches of an epoch this rank's shares of global ones, in place.

        Weights become 1/count over the rows of all ranks, which may hold different numbers; so
        sums over the ranks of weighted sums are means over the global minibatch.

        Args:
            minibatches: as many on every rank.
            normalize_advantages: also give the advantages of each global minibatch mean 0 and
                standard deviation 1; with one rank the loss does that.
        """
        if self.is_alone:
            return
        from fastrl.run.collectives import sum_over_ranks

        weights = torch.stack([batch.weights for batch in minibatches]).flatten(1)
        advantages = torch.stack([batch.advantages for batch in minibatches]).flatten(1).double()
        rows = (weights > 0).double()
        masked = advantages * rows
        sums = torch.stack([rows.sum(1), masked.sum(1), (masked * advantages).sum(1)])
        count, total, squares = sum_over_ranks(sums)[..., None].unbind()
        count = count.clamp(min=1)
        mean = total / count
        spread = (squares / count - mean * mean).clamp(min=0).sqrt()
        normal = (advantages - mean) / (spread + 1e-8)
        for index, batch in enumerate(minibatches):
            batch.weights.copy_((rows[index] / count[index]).view_as(batch.weights))
            if normalize_advantages:
                batch.advantages.copy_(normal[index].view_as(batch.advantages))

    def merge(self, moments: Moments) -> Moments:
        """Returns the moments of the rows of all ranks, merged in one order."""
        if self.is_alone:
            return moments
        from fastrl.run.collectives import gather

        flat = [moments.count.double().reshape(1), moments.mean.reshape(-1)]
        parts = gather(torch.cat([*flat, moments.variance.reshape(-1)]))
        size, shape = moments.mean.numel(), moments.mean.shape
        merged = None
        for part in parts:
            count, mean = part[0].long(), part[1 : 1 + size].view(shape)
            one = Moments(count, mean, part[1 + size :].view(shape))
            merged = one if merged is None else merge(merged, one)
        assert merged is not None
        return merged

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Returns numbers `[K]` of all ranks, `[R, K]`."""
        if self.is_alone:
            return values[None]
        from fastrl.run.collectives import gather

        return gather(torch.from_numpy(values)).numpy()

    def gather_rows(self, x: Tensor) -> Tensor:
        """Returns `x` `[*]` of all ranks, `[R, *]`."""
        if self.is_alone:
            return x[None]
        from fastrl.run.collectives import gather

        return gather(x.view(torch.uint8) if x.dtype == torch.bool else x).view(x.dtype)

    def gather_states(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns what each rank gave, on rank 0; else, or if there is no other rank, []."""
        if self.is_alone:
            return []
        from fastrl.run.collectives import gather_states

        return gather_states(state)

    def broadcast(self, x: Tensor) -> None:
        """Overwrites `x` with that of rank 0."""
        if not self.is_alone:
            from fastrl.run.collectives import broadcast

            broadcast(x)

    # Failing together

    def watch_for_hanging(self, is_watched: bool) -> None:
        """From here on a rank that stands still hangs, or may do so."""
        if self._watch is not None:
            from fastrl.run.watch import PULSE

            PULSE.is_watched = is_watched

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Tells the other ranks how this one ended, so that one line says it for all."""
        if self._watch is None:
            return
        if error is None:
            self._watch.done()
            if self.is_global_zero:
                end_ranks()  # they are done too, and need not take their time to leave
            return
        from fastrl.run.collectives import have_failed

        if not have_failed():
            if isinstance(error, KeyboardInterrupt):
                self._watch.fail("interrupted", 130)
            elif isinstance(error, ValueError | OSError):
                self._watch.fail(one_line(error), 2)
            else:
                import traceback as printer

                printer.print_exception(error)
                self._watch.fail(f"{type(error).__name__}: {one_line(error)}", 1)
        self._watch.wait_for_verdict(10)  # it ends this process


def make_devices(config: RunConfig) -> Devices:
    """Returns where to train; with `torch_deterministic`, torch is told so for the whole process.

    With several ranks, the others are started if nothing else has started them, and are met.

    Raises:
        ValueError: the devices are not there, or a setting would have no effect.
        OSError: the ranks cannot meet.
    """
    num_ranks = config.devices * config.num_nodes
    if num_ranks == 1 and config.strategy != "auto":
        raise ValueError(
            f"strategy={config.strategy} has no effect on one device; leave it at auto"
        )
    start_ranks(config.devices, config.num_nodes)
    device = _device(config.accelerator, config.devices)
    if config.torch_deterministic:
        # cuBLAS reads this when it starts; torch refuses matrix products without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if num_ranks > 1:
        return _join(config, device)
    if config.precision != "32-true":
        from lightning.fabric import Fabric

        fabric = Fabric(accelerator=device.type, devices=1, precision=config.precision)
        fabric.launch()
        return Devices(fabric.device, fabric)
    return Devices(device)


def _join(config: RunConfig, device: torch.device) -> Devices:
    """Meets the other ranks, and has the watch look after them."""
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy

    from fastrl.run.watch import Watch

    # Fabric speaks of ranks and threads at level INFO, and warns of what we decided.
    for package in ("fabric", "pytorch"):  # the latter takes over the former's voice
        for name in ("distributed", "rank_zero"):
            logging.getLogger(f"lightning.{package}.utilities.{name}").setLevel(logging.ERROR)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    strategy = DDPStrategy(process_group_backend=backend, timeout=_PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fabric = Fabric(
                accelerator=device.type,
                devices=config.devices,
                num_nodes=config.num_nodes,
                strategy=strategy,
                precision=config.precision,
            )
            fabric.launch()
    except (RuntimeError, TypeError) as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise OSError(f"the ranks cannot meet at {address}: {one_line(error)[:300]}") from error
    from fastrl.run.collectives import broadcast

    watch = Watch(fabric.global_rank, fabric.world_size, config.rank_timeout)
    meeting = torch.zeros(2, dtype=torch.int64)
    host = os.environ["MASTER_ADDR"]
    if fabric.global_rank == 0:
        meeting[:] = torch.tensor(watch.open(host))
    broadcast(meeting)
    watch.join(host, *meeting.tolist())
    ranks_have_met()
    return Devices(fabric.device, fabric, watch)


def _device(accelerator: str, num_devices: int) -> torch.device:
    """Returns what to train on, of which this machine has enough."""
    available = ["cpu"]
    if torch.cuda.is_available():
        available = ["cuda", "gpu", *available]
    if accelerator == "auto":
        accelerator = available[0]
    if accelerator not in available:
        raise ValueError(
            f"accelerator {accelerator!r} is not here; this machine has {', '.join(available)}"
        )
    if accelerator == "cpu":
        return torch.device("cpu")
    if torch.cuda.device_count() < num_devices:
        raise ValueError(
            f"devices={num_devices}, but this machine has {torch.cuda.device_count()} GPUs"
        )
    return torch.device("cuda")
