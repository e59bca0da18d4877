"""How long the runs of a search are, where nobody says it: as long as the time allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from fastrl.runs.metrics_table import MetricsTable
from fastrl.sweep.pool import TICK_SECONDS, Job, Pool

NUM_WHOLE_RUNS = 60
"""That would fit into the time of the search, if none were stopped."""
_MOST_DOUBLINGS = 4
START_SECONDS = 3.0
"""That the imports of a run take, about."""
_SHARE_OF_TIME, _LEAST_SECONDS = 0.02, 10.0  # that finding it out may take


def length_for(default: int, steps_per_second: float, seconds: float, num_slots: int) -> int:
    """Returns the steps of a run: the default, doubled while enough whole runs fit.

    Args:
        default: that of the algorithm.
        steps_per_second: of the defaults, in one slot.
        seconds: that the search may take.
        num_slots: runs at a time.
    """
    room = seconds * num_slots / NUM_WHOLE_RUNS - START_SECONDS
    length = default
    for _ in range(_MOST_DOUBLINGS):
        if 2 * length > room * steps_per_second:
            break
        length *= 2
    return length


def steps_per_second(pool: Pool, job: Job, seconds: float, on_tick: Callable[[], None]) -> float:
    """Trains for a few seconds, and returns how fast that went.

    Args:
        pool: of the slots.
        job: a run with the defaults, of the default length.
        seconds: that the search may take.
        on_tick: called several times a second.

    Raises:
        ValueError: the run failed; the message is its own.
    """
    running = pool.start(job)
    most = max(_LEAST_SECONDS, _SHARE_OF_TIME * seconds)
    while running.process.poll() is None and running.process.elapsed < most:
        on_tick()
        time.sleep(TICK_SECONDS)
    status = running.process.poll()
    if status is None:
        pool.stop(running)
    else:
        pool.take_ended()
        if status != 0:
            raise ValueError(running.process.error())
    return rate_of(running.process.folder())


def rate_of(folder: Path | None) -> float:
    """Returns the latest steps per second that a run wrote; 0 if there are none yet."""
    if folder is None:
        return 0.0
    name = "Time/step_per_second"
    table = MetricsTable(folder / "metrics.csv", {name})
    table.update()
    return table.last(name) or 0.0
