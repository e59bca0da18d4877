"""Calls the hooks of a run's callbacks, in the order in which the callbacks were given."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastrl.callbacks.base import (
    HOOKS,
    Callback,
    CallbackError,
    check_callback,
    class_name,
    is_overridden,
)
from fastrl.callbacks.trainer import Trainer
from fastrl.envs.foreign import own_line
from fastrl.processes.errors import one_line
from fastrl.processes.pulse import PULSE
from fastrl.processes.signals import is_interrupt
from fastrl.runs.checkpoint import check_plain

_NOBODY, _STOP, _FAILURE = 0, 1, 2


class Hooks:
    """The callbacks of a run on one rank.

    What a callback raises does not end the run at once: `failure` keeps it, no hook is called any
    more, and the ranks learn of it when they next `agree`, so that the run can be saved.
    """

    def __init__(self, callbacks: Sequence[Callback], trainer: Trainer) -> None:
        """Takes callbacks that `check_callbacks` let through."""
        self.trainer = trainer
        self.failure: CallbackError | None = None
        self._is_elsewhere = False  # on another rank
        self._callbacks = list(callbacks)
        self._methods = {
            hook: [
                (type(callback).__name__, getattr(callback, hook))
                for callback in callbacks
                if is_overridden(callback, hook)
            ]
            for hook in HOOKS
        }

    def call(self, hook: str, *args: Any) -> None:
        """Calls a hook of all callbacks that have it."""
        methods = self._methods[hook]
        if not methods or self.failure:
            return
        with PULSE.unwatched():
            for name, method in methods:
                self.trainer.caller = name
                if not self._try(f"{name}.{hook}", method, self.trainer, *args):
                    return

    def fail(self, error: CallbackError) -> None:
        """Ends the run as if a callback had raised this."""
        self.failure = self.failure or error

    def on_update_end(self, metrics: dict[str, float]) -> dict[str, float]:
        """Calls that hook; returns the row of metrics, if one is due, with what was logged."""
        if metrics:
            self.trainer.metrics = dict(metrics)
        self.call("on_update_end", dict(metrics))
        return self.with_logged(metrics) if metrics else metrics

    def end(self, is_interrupted: bool) -> None:
        """Ends the run for the callbacks."""
        self.trainer.is_interrupted = is_interrupted
        self.call("on_fit_end")

    def with_logged(self, metrics: dict[str, float]) -> dict[str, float]:
        """Returns a row of metrics with what was logged since the row before."""
        logged = self.trainer.take_logged()
        if taken := sorted(logged.keys() & metrics.keys()):
            self.fail(
                CallbackError(f"a callback logs {taken[0]!r}, which {self.trainer.agent} logs too")
            )
        return metrics | logged

    def agree(self) -> bool:
        """Returns whether the run ends now because of a callback: of any rank, the same on all."""
        own = _FAILURE if self.failure else _STOP if self.trainer.should_stop else _NOBODY
        if self.trainer.num_ranks == 1:
            return own != _NOBODY
        asked = int(self.trainer.gather(own).max())
        if asked == _FAILURE and not self.failure:
            self.failure = CallbackError("a callback of another rank raised an error")
            self._is_elsewhere = True
        if asked == _STOP:
            self.trainer.stop("a callback of another rank")
        return asked != _NOBODY

    def raise_failure(self) -> None:
        """Raises what a callback raised; where it was another rank's, that one ends this rank."""
        if self.failure is None:
            return
        if self._is_elsewhere:
            self.trainer.gather(0)  # it never comes
        raise self.failure

    # Saving

    def state_dict(self) -> list[dict[str, Any]]:
        """Returns class and state of each callback, in order."""
        states = []
        for callback in self._callbacks:
            where = f"{type(callback).__name__}.state_dict"
            state = _called(where, callback.state_dict)
            if not isinstance(state, dict):
                raise CallbackError(f"{where} must return a dict, not {state!r}")
            try:
                check_plain(state)
            except TypeError as error:
                raise CallbackError(f"{where}: {one_line(error)}") from error
            states.append({"class": class_name(callback), "state": state})
        return states

    def load_state_dict(self, saved: Any) -> list[str]:
        """Gives each callback the state of the one in its place among those of its class.

        Returns:
            A line for each callback that a run had before and has no longer, or has now and had
            not before.

        Raises:
            ValueError: that is no list of states; a callback refused its own.
        """
        if not isinstance(saved, list) or not all(map(_is_entry, saved)):
            raise ValueError("its callbacks are not a list of classes and states")
        left, lines = list(saved), []
        for callback in self._callbacks:
            name = class_name(callback)
            entry = next((entry for entry in left if entry["class"] == name), None)
            if entry is None:
                lines.append(f"callback {name} is new in this run, and begins from nothing")
                continue
            left.remove(entry)
            where = f"{type(callback).__name__}.load_state_dict"
            _called(where, callback.load_state_dict, entry["state"])
        gone = [f"callback {entry['class']} of the run before is not given now" for entry in left]
        return lines + gone

    def _try(self, where: str, method: Callable[..., None], *args: Any) -> bool:
        try:
            _called(where, method, *args)
        except CallbackError as error:
            self.failure = error
        return self.failure is None


def check_callbacks(callbacks: Sequence[Any], devices: Any) -> list[Callback]:
    """Returns a run's callbacks.

    Args:
        callbacks: what the user gave.
        devices: of this rank; all must have the same callbacks.

    Raises:
        ValueError: one is no callback, has a hook that would never be called, is given twice, or
            another rank has others.
    """
    for callback in callbacks:
        check_callback(callback)
    for callback, count in Counter(map(id, callbacks)).items():
        if count > 1:
            twice = next(x for x in callbacks if id(x) == callback)
            raise ValueError(f"{type(twice).__name__} is given twice: {twice!r}")
    if not devices.is_alone:
        names = "\n".join(map(class_name, callbacks))
        digests = devices.gather(np.array([float(zlib.crc32(names.encode()))]))
        if (digests != digests[0]).any():
            raise ValueError("all ranks must have the same callbacks, in the same order")
    return list(callbacks)


def _called(where: str, method: Callable[..., Any], *args: Any) -> Any:
    """Calls a callback's code; whatever it raises becomes a CallbackError that says where."""
    try:
        return method(*args)
    except CallbackError:
        raise
    except BaseException as error:  # it may leave by sys.exit
        if is_interrupt(error):
            raise
        words = one_line(error)
        name = type(error).__name__
        words = "" if words == name else f": {words}"
        raise CallbackError(f"{where} raised {name}{words}{own_line(error)}") from error


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("class"), str)
        and isinstance(entry.get("state"), dict)
    )
