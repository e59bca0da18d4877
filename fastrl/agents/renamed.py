"""Methods that had other names once: overriding them changes nothing now, so that it is refused."""

from __future__ import annotations

import inspect
from typing import Any


def refuse_old_hook(kind: Any) -> None:
    """Refuses an agent, or a class of agents, with an `evaluate` that takes a minibatch.

    What `loss` calls is named `evaluate_actions`, as in other libraries; `evaluate` plays episodes.

    Raises:
        ValueError: it has one.
    """
    method = getattr(kind, "evaluate", None)
    if method is None:
        return
    parameters = list(inspect.signature(method).parameters.values())
    if inspect.isfunction(method) and isinstance(kind, type):
        parameters = parameters[1:]  # without self
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    if any(x.kind in positional and x.default is x.empty for x in parameters):
        name = (kind if isinstance(kind, type) else type(kind)).__name__
        raise ValueError(
            f"{name}.evaluate takes a {parameters[0].name}, but the loss calls "
            "evaluate_actions(batch) now: rename it (evaluate plays episodes, and needs no "
            "arguments)"
        )
