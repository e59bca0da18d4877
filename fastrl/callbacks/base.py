"""The base class of callbacks, and the checks that every hook somebody wrote will be called."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

from fastrl.callbacks.trainer import Trainer

HOOKS = (
    "on_fit_start",
    "on_rollout_end",
    "on_update_end",
    "on_evaluation_end",
    "on_checkpoint",
    "on_fit_end",
)
"""The methods that a run calls, in the order of a run."""

_ARGUMENTS = {"on_update_end": ("metrics",), "on_evaluation_end": ("result",)}
_ARGUMENTS["on_checkpoint"] = ("path",)


class CallbackError(ValueError):
    """A callback raised an error; the message names its class, hook, file and line."""


class Callback:
    """Base class of callbacks; override the hooks that you need.

    With several ranks each has its own callbacks. `on_evaluation_end` and `on_checkpoint` are
    called on rank 0 alone, which evaluates and saves; the other hooks on every rank. In a decoupled
    run the players are these ranks, and trainers call nothing.
    """

    def on_fit_start(self, trainer: Trainer) -> None:
        """Called once, before the first rollout; of a resumed run after `load_state_dict`."""

    def on_rollout_end(self, trainer: Trainer) -> None:
        """Called after each rollout, which is in `trainer.rollout`, before learning from it."""

    def on_update_end(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Called after each update.

        Args:
            trainer: the run.
            metrics: a copy of the row of metrics that is about to be written, by the names in
                docs/metrics.md; empty after an update for which none is due.
        """

    def on_evaluation_end(self, trainer: Trainer, result: Any) -> None:
        """Called on rank 0 after each evaluation, the one at the end of the run included.

        Args:
            trainer: the run.
            result: its `returns` and `lengths` `[E]` of E episodes, `mean` and `std`.
        """

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """Called on rank 0 after each checkpoint of the run was written, to `path`."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Called once at the end of a run that no error ended, on rank 0 after its evaluation."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run goes on with: tensors, numbers, texts, lists and dicts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned, on every rank that of rank 0."""


def check_callback(callback: Any) -> None:
    """Raises ValueError if this is no callback, or one with a hook that would not be called."""
    name = type(callback).__name__
    if isinstance(callback, type) and issubclass(callback, Callback):
        raise ValueError(f"callbacks are objects: give {callback.__name__}(), not the class")
    if not isinstance(callback, Callback):
        raise ValueError(f"a callback must be a fastrl.Callback, not {name}: {callback!r}")
    for hook in dir(callback):
        if not hook.startswith("on_") or not callable(getattr(callback, hook)):
            continue
        if hook not in HOOKS:
            near = difflib.get_close_matches(hook, HOOKS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"{name}.{hook} would never be called; {hint}the hooks are {', '.join(HOOKS)}"
            )
        _check_arguments(name, hook, getattr(callback, hook))


def is_overridden(callback: Callback, method: str) -> bool:
    """Returns whether a callback has its own form of a method of `Callback`."""
    own = getattr(callback, method)
    return getattr(own, "__func__", own) is not getattr(Callback, method)


def class_name(callback: Callback) -> str:
    """Returns `module:Class`, by which a checkpoint knows a callback."""
    kind = type(callback)
    return f"{kind.__module__}:{kind.__qualname__}"


def _check_arguments(name: str, hook: str, method: Any) -> None:
    expected = ("trainer", *_ARGUMENTS.get(hook, ()))
    try:
        inspect.signature(method).bind(*expected)
    except TypeError as error:
        takes = ", ".join(("self", *expected))
        raise ValueError(f"{name}.{hook} must take ({takes}): {error}") from error
    except ValueError:  # of compiled code, which shows no signature
        pass
