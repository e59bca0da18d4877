"""What `configure_optimizers` returns, as the optimiser of a gradient step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastrl.engine.optimizer import FlatAdam, FlatOptimizer

_FORMS = (
    "an optimiser; a list with one; an optimiser and a scheduler, as two lists or as "
    '{"optimizer": ..., "lr_scheduler": ...}'
)


class TorchOptimizer(FlatOptimizer):
    """Any optimiser of torch's, over parameters that are views of one vector."""

    is_static = False

    def __init__(self, module: nn.Module, optimizer: Any, max_grad_norm: float) -> None:
        """Takes over the trained parameters of a module; the optimiser has all or some of them."""
        self.optimizer = optimizer
        super().__init__(module, 0.0, 0.0, max_grad_norm)

    @property
    def learning_rate(self) -> Tensor:
        """That of the first group; one that is assigned is for all groups."""
        self._learning_rate.fill_(self.optimizer.param_groups[0]["lr"])
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float | Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = float(rate)

    def reset(self) -> None:
        """Forgets the state: momenta, averages."""
        self.optimizer.state.clear()

    def _step(self, gradient: Tensor) -> None:
        start = gradient.storage_offset()  # it may be part of a larger gradient
        for parameter in self.parameters:
            place = parameter.shape, parameter.stride(), start + parameter.storage_offset()
            parameter.grad = gradient.as_strided(*place)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the optimiser's own state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it back."""
        self.optimizer.load_state_dict(state)


class ConfiguredRates:
    """What the user's optimiser and scheduler say: the learning rate, and Adam's other numbers."""

    def __init__(self, configured: Any, scheduler: Any) -> None:
        """Takes the optimiser that the user made, which holds the rate, and its scheduler."""
        self._configured, self._scheduler = configured, scheduler
        self._followed = self._numbers()
        # torch's schedulers warn unless their optimiser has stepped; another steps in its place.
        configured._opt_called = True

    def _numbers(self) -> dict[str, Any]:
        group = self._configured.param_groups[0]
        names = [x for x in ("betas", "eps", "weight_decay") if x in group]
        return {"lr": float(group["lr"]), **{name: group[name] for name in names}}

    def rate_of(self, optimizer: FlatOptimizer) -> float:
        """Returns the learning rate, of the first group of parameters."""
        rate, used = self._followed["lr"], float(optimizer.learning_rate)
        return rate if used == np.float32(rate) else used

    def advance(self, optimizer: FlatOptimizer) -> None:
        """Takes a step of the scheduler, after an update."""
        if self._scheduler is not None:
            self._scheduler.step()
            self.follow(optimizer)

    def follow(self, optimizer: FlatOptimizer) -> None:
        """Gives what was changed in the user's optimiser to the one that takes the steps.

        Raises:
            ValueError: Adam was given a weight decay, which it applies otherwise than this one.
        """
        if (now := self._numbers()) == self._followed:
            return
        self._followed = now
        if isinstance(optimizer, TorchOptimizer):  # which goes by its groups
            return
        optimizer.learning_rate = now["lr"]
        if isinstance(optimizer, FlatAdam):
            if now["weight_decay"]:
                raise ValueError(
                    "weight_decay of torch.optim.Adam cannot be set in the middle of a run; give "
                    "it from the beginning, or take AdamW"
                )
            optimizer.betas, optimizer.eps = tuple(now["betas"]), now["eps"]

    def state_dict(self) -> dict[str, Any]:
        """Returns the scheduler's state and the rates of all groups."""
        rates = [float(group["lr"]) for group in self._configured.param_groups]
        state = {} if self._scheduler is None else self._scheduler.state_dict()
        plain = {name: x for name, x in state.items() if type(x) in (int, float, bool, list)}
        return {"rates": rates, "scheduler": plain}

    def load_state_dict(self, state: dict[str, Any], optimizer: FlatOptimizer) -> None:
        """Takes both back."""
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        for group, rate in zip(self._configured.param_groups, state["rates"], strict=True):
            group["lr"] = rate
        self._followed = self._numbers()
        if not isinstance(optimizer, TorchOptimizer):  # which goes by its groups
            optimizer.learning_rate = self._followed["lr"]


def read_configured(configured: Any) -> tuple[Any, Any]:
    """Returns the optimiser and the scheduler, or None, that `configure_optimizers` returned.

    Raises:
        ValueError: it returned anything else.
    """
    optimizer, scheduler = configured, None
    if isinstance(configured, dict):
        optimizer, scheduler = configured.get("optimizer"), configured.get("lr_scheduler")
    elif isinstance(configured, list | tuple):
        parts = [x if isinstance(x, list | tuple) else [x] for x in configured]
        if all(isinstance(x, torch.optim.Optimizer) for x in configured):
            parts = [list(configured)]
        if len(parts) == 2 and not parts[1]:  # Lightning's way to say that there is no scheduler
            parts = parts[:1]
        if not 1 <= len(parts) <= 2 or any(len(part) != 1 for part in parts):
            kinds = ", ".join(type(x).__name__ for x in configured)
            raise ValueError(f"configure_optimizers must return {_FORMS}; not [{kinds}]")
        optimizer, scheduler = parts[0][0], parts[1][0] if len(parts) == 2 else None
    if isinstance(scheduler, dict):
        if scheduler.get("interval", "epoch") != "epoch" or scheduler.get("frequency", 1) != 1:
            raise ValueError("a scheduler takes one step per update: no other interval is offered")
        scheduler = scheduler.get("scheduler")
    if not isinstance(optimizer, torch.optim.Optimizer):
        kind = type(configured).__name__
        raise ValueError(f"configure_optimizers must return {_FORMS}; not a {kind}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("LBFGS asks for the loss several times a step; take another optimiser")
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ValueError("ReduceLROnPlateau has no metric to follow here; take another scheduler")
    return optimizer, scheduler


def flat_optimizer(module: nn.Module, optimizer: Any, max_grad_norm: float) -> FlatOptimizer:
    """Returns the optimiser of a gradient step: Adam as one operation, others as they are."""
    (group, *others) = optimizer.param_groups
    plain = torch.optim.Adam([nn.Parameter(torch.zeros(1))], 1.0).param_groups[0]
    own = {"params", "lr", "eps", "initial_lr"}
    is_plain = all(group.get(name) == x for name, x in plain.items() if name not in own)
    trained = {id(x) for x in module.parameters() if x.requires_grad}
    given = {id(x) for group in optimizer.param_groups for x in group["params"]}
    if not trained & given:
        raise ValueError(
            "the optimiser of configure_optimizers has none of the module's parameters that learn"
        )
    covers = trained <= {id(x) for x in group["params"]}
    is_number = isinstance(group["lr"], int | float)
    if type(optimizer) is torch.optim.Adam and is_plain and covers and is_number and not others:
        return FlatAdam(module, float(group["lr"]), group["eps"], max_grad_norm)
    return TorchOptimizer(module, optimizer, max_grad_norm)
