"""What `configure_optimizers` returns, as the optimiser of a gradient step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastrl.engine.optimizer import FlatAdam, FlatOptimizer
from fastrl.runs.fitting import check_fits

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


class ConfiguredOptimizer:
    """What the user's optimiser and scheduler say: the learning rate, and Adam's other numbers."""

    def __init__(self, configured: Any, scheduler: Any) -> None:
        """Takes the optimiser that the user made, which holds the rate, and its scheduler."""
        self._configured, self._scheduler = configured, scheduler
        self._followed = self._numbers()
        # torch's schedulers warn unless their optimiser has stepped; another steps in its place.
        configured._opt_called = True

    def _numbers(self) -> dict[str, Any]:
        """Returns the numbers of the first group of parameters."""
        return self._numbers_of_groups()[0]

    def _numbers_of_groups(self) -> list[dict[str, Any]]:
        names = "lr", "betas", "eps", "weight_decay"
        return [
            {name: _plain_number(group[name]) for name in names if name in group}
            for group in self._configured.param_groups
        ]

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
        if (now := self._numbers()) != self._followed:
            self._followed = now
            self._hand_to(optimizer)

    def _hand_to(self, optimizer: FlatOptimizer) -> None:
        if isinstance(optimizer, TorchOptimizer):  # which goes by its groups
            return
        now = self._followed
        optimizer.learning_rate = now["lr"]
        if isinstance(optimizer, FlatAdam):
            if now["weight_decay"]:
                raise ValueError(
                    "weight_decay of torch.optim.Adam cannot be set in the middle of a run; give "
                    "it from the beginning, or take AdamW"
                )
            optimizer.betas, optimizer.eps = now["betas"], now["eps"]

    def state_dict(self) -> dict[str, Any]:
        """Returns the numbers of all groups and the scheduler's state."""
        state = {} if self._scheduler is None else self._scheduler.state_dict()
        # A list that cannot be saved is an error of its own: it may hold whole schedulers.
        plain = {name: x for name, x in state.items() if type(x) is list or _can_be_saved(x)}
        return {"groups": self._numbers_of_groups(), "scheduler": plain}

    def check(self, state: Any) -> None:
        """Raises ValueError if a state is of other groups, or of another scheduler."""
        own, saved = self.state_dict(), state if isinstance(state, dict) else {}
        scheduler = saved.get("scheduler")
        there = scheduler if isinstance(scheduler, dict) else {}
        # Older files have numbers and lists alone; and what is None now may be set later.
        expected: dict[str, Any] = {
            name: x
            for name, x in own["scheduler"].items()
            if type(x) in (int, float, bool, list) or (name in there and x is not None)
        }
        if "rates" in saved and "groups" not in saved:
            groups = {"rates": [1.0 for _ in own["groups"]]}
        else:
            groups = {"groups": own["groups"]}
        check_fits(state, {**groups, "scheduler": expected}, "schedule")

    def load_state_dict(self, state: dict[str, Any], optimizer: FlatOptimizer) -> None:
        """Takes it back, and gives the numbers to the optimiser that takes the steps."""
        if self._scheduler is not None:
            # What could not be saved, such as a function, stays as the user made it.
            self._scheduler.load_state_dict({**self._scheduler.state_dict(), **state["scheduler"]})
        # Older files have the learning rates alone.
        saved = state.get("groups") or [{"lr": rate} for rate in state["rates"]]
        before = self._numbers_of_groups()
        for group, now, numbers in zip(self._configured.param_groups, before, saved, strict=True):
            # A number that is the same may be a tensor in the group, and stays one.
            group.update({name: x for name, x in numbers.items() if now[name] != x})
        self._followed = self._numbers()
        self._hand_to(optimizer)


def _plain_number(value: Any) -> Any:
    """Returns a number of a group, or a tuple of some, as a checkpoint may hold it."""
    if isinstance(value, list | tuple):
        return tuple(_plain_number(x) for x in value)
    return None if value is None else float(value)


def _can_be_saved(value: Any) -> bool:
    """Tells whether a part of a scheduler's state is made of what a checkpoint may hold."""
    if type(value) is dict:
        return all(type(name) in (str, int) and _can_be_saved(x) for name, x in value.items())
    if type(value) in (list, tuple):
        return all(_can_be_saved(x) for x in value)
    return value is None or type(value) in (int, float, bool, str)


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
