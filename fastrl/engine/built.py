"""A function in its fast form, which gives way to the function itself when what it read changes."""

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

_MOVED = (
    "layers were frozen or thawed, or a tensor got other memory: by `x.data = ...`, or on its way "
    "to another process (x.data.copy_(...) and x.clone() leave it where it is)"
)
_IN_A_TENSOR = "a number that changes belongs in a tensor, changed in place (self.beta.fill_(...))"


class Teller:
    """Says why something runs more slowly from here on, each reason once in a run."""

    def __init__(self) -> None:
        """Has told nothing."""
        self._told: set[str] = set()

    def __call__(self, change: str) -> None:
        """Tells it."""
        if change not in self._told:
            logger.warning("eager from here on: %s", change)
        self._told.add(change)


class Built:
    """A function in its fast form, and as it was written, should what it read change."""

    def __init__(
        self,
        function: Function,
        fast: Function,
        reads: PythonReads,
        sources: Sequence[Tensor],
        tell: Teller,
    ) -> None:
        """Runs `fast` in place of `function` until something in `reads` changes.

        Or until a tensor of `sources` gets other memory, by `x.data = ...` or by `freeze`.
        """
        self.function, self.fast, self.reads, self._tell = function, fast, reads, tell
        self._sources, self._places = [*sources], [*map(Tensor.data_ptr, sources)]
        # Code of somebody's own may change a number between two steps of one update.
        self._looks_each_time = bool(first_own(reads.ran))
        self.on_change: Callable[[], None] = lambda: None
        self._run = fast

    def changed(self) -> str | None:
        """Says what has changed since it was built; None if nothing has."""
        return self.moved() or self.changed_reads()

    def changed_reads(self) -> str | None:
        """Says which number or word that it read has changed since."""
        change = self.reads.changed()
        return change and f"{change}; {_IN_A_TENSOR}"

    def moved(self) -> str | None:
        """Says so if a tensor that it reads or writes to lies elsewhere now."""
        return None if [*map(Tensor.data_ptr, self._sources)] == self._places else _MOVED

    def fall_back(self) -> None:
        """Runs the function itself from here on."""
        self.on_change()
        self.fast, self._run = None, self.function

    def __call__(self, *arguments: Tensor) -> Any:
        """Runs it."""
        look = self.changed if self._looks_each_time else self.moved
        if self.fast is not None and (change := look()):
            self.fall_back()
            self._tell(change)
        return self._run(*arguments)


def agreed(made: Function, notes: list[str], ranks: Ranks) -> Function:
    """Makes all ranks run a function itself if one of them could not build it.

    The reason is the last note of that rank.

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
