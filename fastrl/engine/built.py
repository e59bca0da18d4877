"""A function in its fast form, which goes back to the function itself if that is another now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastrl.engine.cuda_graphs import Function
from fastrl.engine.guards import PythonReads
from fastrl.processes.ranks import Ranks


class Built:
    """A function in its fast form, and as it was written, should what it read change."""

    def __init__(self, function: Function, fast: Function, reads: PythonReads) -> None:
        """Runs `fast` in place of `function` as long as nothing in `reads` changes."""
        self.function, self.fast, self.reads = function, fast, reads
        self.on_change: Callable[[], None] = lambda: None
        self._run = fast

    def fall_back(self) -> None:
        """Runs the function itself from here on."""
        self.on_change()
        self.fast, self._run = None, self.function

    def __call__(self, *arguments: Tensor) -> Any:
        """Runs it."""
        return self._run(*arguments)


def agreed(made: Function, notes: list[str], ranks: Ranks) -> Function:
    """Has every rank run a function itself if one of them has to; for the reason in its last note.

    Args:
        made: a `Built`, or the function itself where it could not be built.
        notes: why something runs more slowly than it might.
        ranks: that all built the same.
    """
    is_built = isinstance(made, Built)
    note = ranks.agree("" if is_built else notes[-1])
    if note and is_built:
        made.fall_back()
        notes.append(note)
    return made
