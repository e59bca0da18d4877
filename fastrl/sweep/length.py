"""How long the runs of a search are, where nobody says it.

As long as the time allows, but no longer than the defaults take to learn nearly all that they
learn: settings that are better stand out while the defaults still lack something, and short runs
leave time for more trials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastrl.runs.metrics_table import TEST_RETURN, TRAIN_RETURN, MetricsTable
from fastrl.sweep.flags import of_trials, with_steps
from fastrl.sweep.measuring import measured
from fastrl.sweep.pool import TICK_SECONDS, Job, Pool, Running, warm
from fastrl.sweep.pruning import NUM_TESTS
from fastrl.sweep.request import Asked, base_command

NUM_WHOLE_RUNS = 60
"""That would fit into the time of the search, if none were stopped."""
_MOST_DOUBLINGS = 4
_MOST_SHORTER = 8  # than the default length
START_SECONDS = 3.0
"""That the imports of a run take, about."""
_SHARE_OF_TIME, _LEAST_SECONDS = 0.02, 10.0  # that finding out the speed may take
_FIRST_SEED, _FEWEST_SEEDS = 1, 2  # of the runs with the defaults
_NEARLY_ALL = 0.95  # of what the defaults gain over the whole length


def chosen_length(
    folder: Path, asked: Asked, pool: Pool, on_tick: Callable[[], None], say: Callable[[str], None]
) -> int:
    """Returns the steps of a run, found out by training with the defaults.

    Args:
        folder: of the sweep.
        asked: what was asked, with its minutes.
        pool: of the slots.
        on_tick: called several times a second.
        say: prints a line.

    Raises:
        ValueError: a run with the defaults failed; the message is its own.
    """
    assert asked.minutes is not None
    base = base_command(asked.algo, asked.flags)
    seconds = 60 * asked.minutes
    say("training with the defaults for some seconds, to see how fast that is")
    words = (*asked.flags, "--eval-episodes", "1", "--eval-every", "0", "--checkpoint-every", "0")
    job = Job(asked.algo, words, folder / "speed", _FIRST_SEED)
    rate = steps_per_second(pool, job, seconds, on_tick)
    default = base.config.total_timesteps
    length = length_for(default, rate, seconds, pool.num_slots)
    if asked.objective != "return":
        say(f"{rate:,.0f} steps/s: runs of {length:,} steps")
        return length
    say(f"{rate:,.0f} steps/s: at most {length:,} steps; how far the defaults come with them:")
    seeds = range(_FIRST_SEED, _FIRST_SEED + max(_FEWEST_SEEDS, pool.num_slots))
    with warm(pool, asked, base.config):
        while True:
            asked = replace(asked, total_timesteps=length)
            words = (*with_steps(asked, base.explicit), *of_trials(asked, base.explicit))
            where = folder / "length" / str(length)
            curve = curve_of(pool, [Job(asked.algo, words, where, x) for x in seeds], on_tick)
            if curve is None:
                say(f"it cannot be told: runs of {length:,} steps")
                return length
            start, tests = curve
            say(f"{length:,} steps: from {start:.1f} to {tests[-1]:.1f}")
            shorter = max(shortened(length, start, tests), default // _MOST_SHORTER)
            if shorter >= length:
                say(f"runs of {length:,} steps")
                return length
            length = shorter  # where tests lie closer together


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


def shortened(length: int, start: float, tests: Sequence[float]) -> int:
    """Returns the length, halved while the defaults had learned nearly all by its half.

    Args:
        length: that the defaults were tested over.
        start: their mean return before they learned.
        tests: their mean greedy returns, evenly over the length; the last at its end.
    """
    enough = start + _NEARLY_ALL * (tests[-1] - start)
    if not tests[-1] > start:  # they learned nothing yet
        return length
    count = len(tests)
    while count % 2 == 0 and min(tests[count // 2 - 1 :]) >= enough:
        count //= 2
    return length * count // len(tests)


def curve_of(
    pool: Pool, jobs: Sequence[Job], on_tick: Callable[[], None]
) -> tuple[float, list[float]] | None:
    """Makes whole runs with the defaults.

    Args:
        pool: of the slots.
        jobs: the runs, with several seeds.
        on_tick: called several times a second.

    Returns:
        The mean return before they learned, and those of the tests, over the runs; None if there is
        nothing to see: no tests, or a run that failed.
    """
    curves: list[list[float]] = []

    def on_end(ended: Running) -> list[Job]:
        run, folder = measured(ended), ended.process.folder()
        if run.mean_return is not None and folder is not None:
            table = MetricsTable(folder / "metrics.csv", {TRAIN_RETURN, TEST_RETURN})
            table.update()
            tests = table.curve(TEST_RETURN)[1][: NUM_TESTS - 1]
            curves.append([*table.curve(TRAIN_RETURN)[1][:1], *tests, run.mean_return])
        return []

    pool.work_through(jobs, on_end, on_tick)
    if len(curves) < len(jobs) or any(len(curve) != NUM_TESTS + 1 for curve in curves):
        return None
    start, *tests = np.mean(curves, 0).tolist()
    return start, tests
