"""A function in its fast form, which goes back to the function itself if that is another now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fastrl.engine.cuda_graphs import Function
from fastrl.engine.guards import PythonReads
from fastrl.engine.own_code import first_own
from fastrl.processes.ranks import Ranks

logger = logging.getLogger("fastrl")


class Built:
    """A function in its fast form, and as it was written, should what it read change."""

    def __init__(
        self,
        function: Function,
        fast: Function,
        reads: PythonReads,
        sources: Sequence[Tensor] = (),
    ) -> None:
        """Runs `fast` in place of `function` as long as nothing in `reads` changes.

        Nor the memory of `sources`, tensors that it reads: `x.data = ...` gives one another.
        """
        self.function, self.fast, self.reads = function, fast, reads
        self._places = [(tensor, tensor.data_ptr()) for tensor in sources]
        # Code of somebody's own may change a number between two steps of one update.
        self._looks_each_time = bool(first_own(reads.ran.items()))
        self.on_change: Callable[[], None] = lambda: None
        self._run = fast

    def changed(self) -> str | None:
        """Says what is another now than when it was built."""
        if any(tensor.data_ptr() != place for tensor, place in self._places):
            return "a tensor got other memory, by `x.data = ...` for `x.data.copy_(...)`"
        return self.reads.changed()

    def fall_back(self) -> None:
        """Runs the function itself from here on."""
        self.on_change()
        self.fast, self._run = None, self.function

    def __call__(self, *arguments: Tensor) -> Any:
        """Runs it."""
        if self._looks_each_time and self.fast is not None and (change := self.changed()):
            self.fall_back()
            tell(change)
        return self._run(*arguments)


def tell(change: str) -> None:
    """Says why a function runs as it is written from here on."""
    logger.warning(
        "eager from here on: %s; a number that changes belongs in a tensor, changed in place "
        "(self.beta.fill_(...))",
        change,
    )


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
