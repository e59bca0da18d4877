"""What a system's process does around its training: read the work, time the loop, answer."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from time import perf_counter
from typing import Any


def read_work() -> dict[str, Any]:
    """Returns the fields of `works.Work` and the system's own options, from the first argument."""
    return json.loads(sys.argv[1])


class Stopwatch:
    """Times a training loop from iteration to iteration."""

    def __init__(self, work: dict[str, Any]) -> None:
        """Starts no clock yet.

        Args:
            work: its sizes say how many steps an iteration has and how many are warm-up.
        """
        self._work = work
        self._ticks: list[float] = []

    def tick(self) -> None:
        """Notes the time. To be called once per iteration, always at the same place in it."""
        self._ticks.append(perf_counter())

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second from the end of the warm-up to the last tick."""
        work, ticks = self._work, self._ticks
        num_intervals = work["warmup_updates"] + work["num_updates"]
        assert len(ticks) == num_intervals + 1, f"{len(ticks)} ticks, not {num_intervals + 1}"
        steps = work["num_updates"] * work["num_envs"] * work["num_steps"]
        return steps / (ticks[-1] - ticks[work["warmup_updates"]])

    def answer(
        self,
        packages: list[str],
        settings: dict[str, Any],
        num_parameters: int | None = None,
        train_return: float | None = None,
    ) -> None:
        """Prints the line that the parent reads: the last of this process's output.

        Args:
            packages: whose versions are told, the system's own first.
            settings: how the work was done where systems differ.
            num_parameters: trainable ones, to see that the networks are the same.
            train_return: mean return of the latest training episodes, to see that it learns.
        """
        is_loop = self._work["measure"] == "steps_per_second"
        line = {
            "steps_per_second": self.steps_per_second if is_loop else None,
            "num_parameters": num_parameters,
            "train_return": train_return,
            "settings": settings,
            "versions": {name: version(name) for name in [*packages, "torch", "numpy"]},
        }
        print(json.dumps(line), flush=True)
