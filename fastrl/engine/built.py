"""A function in its fast form, which goes back to the function itself if that is another now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastrl.engine.cuda_graphs import Function
from fastrl.engine.guards import PythonReads


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
