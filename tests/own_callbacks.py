"""Callbacks of somebody's own, in a module that --callback names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastrl import Callback


class Diary(Callback):
    """Writes down every call, with the environment steps; counts updates over all resumes."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.count = 0

    def on_fit_start(self, trainer: Any) -> None:
        self.calls.append(("start", trainer.env_steps))

    def on_rollout_end(self, trainer: Any) -> None:
        self.calls.append(("rollout", trainer.env_steps))

    def on_update_end(self, trainer: Any, metrics: dict[str, float]) -> None:
        self.calls.append(("update", trainer.env_steps))
        self.count += 1
        trainer.log("Diary/count", self.count)

    def on_evaluation_end(self, trainer: Any, result: Any) -> None:
        self.calls.append(("evaluation", trainer.env_steps))

    def on_checkpoint(self, trainer: Any, path: Path) -> None:
        self.calls.append(("checkpoint", path.name))

    def on_fit_end(self, trainer: Any) -> None:
        self.calls.append(("end", trainer.env_steps))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Raises(Callback):
    """Raises an error in a hook of choice."""

    def __init__(self, hook: str = "on_update_end", at: int = 2, rank: int = 0) -> None:
        self.hook, self.at, self.rank, self.count = hook, at, rank, 0

    def _maybe(self, hook: str, trainer: Any) -> None:
        self.count += hook == self.hook
        if hook == self.hook and self.count == self.at and trainer.rank == self.rank:
            raise ZeroDivisionError("of mine")

    def on_fit_start(self, trainer: Any) -> None:
        self._maybe("on_fit_start", trainer)

    def on_rollout_end(self, trainer: Any) -> None:
        self._maybe("on_rollout_end", trainer)

    def on_update_end(self, trainer: Any, metrics: dict[str, float]) -> None:
        self._maybe("on_update_end", trainer)

    def on_evaluation_end(self, trainer: Any, result: Any) -> None:
        self._maybe("on_evaluation_end", trainer)

    def on_checkpoint(self, trainer: Any, path: Path) -> None:
        self._maybe("on_checkpoint", trainer)

    def on_fit_end(self, trainer: Any) -> None:
        self._maybe("on_fit_end", trainer)


class Stops(Callback):
    """Stops on one rank, at some update."""

    def __init__(self, rank: int = 0, at: int = 2) -> None:
        self.rank, self.at = rank, at

    def on_update_end(self, trainer: Any, metrics: dict[str, float]) -> None:
        if trainer.rank == self.rank and trainer.updates == self.at:
            trainer.stop("enough")


def make_diary() -> Diary:
    """A function that returns a callback."""
    return Diary()


not_callable = 3
