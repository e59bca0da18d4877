"""The end of a search: more seeds for finalists, and the best against preset or defaults."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastrl.ops.intervals import bootstrap_interval, interquartile_mean
from fastrl.sweep.folder import Clock
from fastrl.sweep.measuring import measured
from fastrl.sweep.pool import Job, Pool, Running
from fastrl.sweep.request import Asked
from fastrl.sweep.trial import Trial, TrialRun

NUM_FINALISTS, MOST_FINALISTS = 4, 8
HALVED_AFTER = 5  # seeds
_FEWEST_SEEDS = 2
_MOST_OF_TIME = 0.5  # that the confirmation may take, at most
_FINAL_SHARE = 0.25  # of the time, for the finalists
_SLACK = 1.15  # runs of good settings may take longer than those so far
BEST = "best"
Say = Callable[[str], None]


def num_seeds_that_fit(asked: Asked, seconds_of_a_run: float, num_slots: int) -> int:
    """Returns how many of the confirmation's seeds fit into half of the time; at least two.

    Args:
        asked: what was asked.
        seconds_of_a_run: what a whole run takes.
        num_slots: runs at a time.
    """
    num_seeds = len(asked.confirmation_seeds)
    if asked.minutes is None or not num_seeds:
        return num_seeds
    room = _MOST_OF_TIME * 60 * asked.minutes
    fewest = min(num_seeds, _FEWEST_SEEDS)
    for count in range(num_seeds, fewest, -1):
        if seconds_of(2 * count, seconds_of_a_run, num_slots) <= room:
            return count
    return fewest


def seconds_of(num_runs: int, seconds_of_a_run: float, num_slots: int) -> float:
    """Returns about how long runs take that share slots."""
    return math.ceil(num_runs / num_slots) * seconds_of_a_run * _SLACK


def reserve(asked: Asked, seconds_of_a_run: float, num_slots: int) -> float:
    """Returns the seconds that a search leaves to its finalists and the confirmation."""
    count = num_seeds_that_fit(asked, seconds_of_a_run, num_slots)
    num_more = NUM_FINALISTS * (len(asked.seeds) - 1) // 2  # some have all their seeds already
    most, few = len(asked.final_seeds), len(asked.seeds)
    num_more += MOST_FINALISTS * max(0, min(most, HALVED_AFTER) - few)
    num_more += NUM_FINALISTS * max(0, most - max(few, HALVED_AFTER))
    final = seconds_of(num_more, seconds_of_a_run, num_slots)
    if asked.minutes is not None:
        final = min(final, _FINAL_SHARE * 60 * asked.minutes)
    return seconds_of(2 * count, seconds_of_a_run, num_slots) + final


def run_final(
    pool: Pool,
    asked: Asked,
    words_of: Callable[[Trial], tuple[str, ...]],
    ranked: Sequence[Trial],
    clock: Clock,
    end: float,
    say: Say,
) -> list[Trial]:
    """Gives the best trials further seeds, one after the other; four of eight only get a few.

    The best of many trials with a few seeds each owes much to luck.

    Args:
        pool: of the slots.
        asked: what was asked.
        words_of: returns the command line of a trial.
        ranked: the complete trials, the best first.
        clock: of the sweep.
        end: seconds of the clock at which the last seed is to have ended.
        say: prints a line.

    Returns:
        The trials to choose from: those with as many seeds as the finalists have.
    """
    clock.enter("final")
    trials = {trial.number: trial for trial in ranked}
    seeds = asked.final_seeds or asked.seeds

    def on_end(ended: Running) -> list[Job]:
        number, run = ended.job.of_what, measured(ended)
        if run.state == "failed":  # another seed did not
            say(f"trial {number}, seed {run.seed}: failed: {run.error}")
            trials[number] = replace(trials[number], state="failed", note=run.error)
        else:
            trial = trials[number] = trials[number].with_run(run)
            mean = f"mean {trial.value:.1f} over {len(trial.complete_runs)} seeds"
            say(f"trial {number}, seed {run.seed}: return {run.mean_return:.1f}; {mean}")
        trials[number].save()
        return []

    def lacking(numbers: Sequence[int], some: Sequence[int]) -> list[Job]:
        """Returns the runs that trials lack of some seeds."""
        return [
            Job(asked.algo, words_of(trials[number]), trials[number].folder, seed, number)
            for seed in some
            for number in numbers
            if seed not in {run.seed for run in trials[number].complete_runs}
        ]

    def have_room(jobs: Sequence[Job]) -> bool:
        known = [run.seconds for job in jobs for run in trials[job.of_what].complete_runs]
        seconds = [x for x in known if x is not None]
        mean = sum(seconds) / max(1, len(seconds))
        return clock.seconds + seconds_of(len(jobs), mean, pool.num_slots) <= end

    numbers = [trial.number for trial in ranked]
    finalists = numbers[:NUM_FINALISTS]
    if len(seeds) > len(asked.seeds) and have_room(lacking(numbers[:MOST_FINALISTS], asked.seeds)):
        finalists = numbers[:MOST_FINALISTS]
    num_known = max(len(trials[number].complete_runs) for number in finalists)
    enough = min(len(asked.seeds), num_known)
    first = min(ranked, key=lambda trial: trial.number)
    for count, seed in enumerate(seeds):
        if count == HALVED_AFTER:
            best = asked.goal.ranked([trials[number] for number in finalists], first)
            finalists = [trial.number for trial in best[:NUM_FINALISTS]]
        if not have_room(jobs := lacking(finalists, [seed])):
            break
        pool.work_through(jobs, on_end, clock.tick)
        finalists = [number for number in finalists if trials[number].state == "complete"]
        reaching = [number for number in finalists if not asked.goal.misses(trials[number])]
        finalists = reaching or finalists  # a run that misses its target trains on to its end
        enough = max(enough, count + 1)
    whole = [trial for trial in trials.values() if trial.state == "complete"]
    return [trial for trial in whole if len(trial.complete_runs) >= enough] or whole


def run_confirmation(
    pool: Pool,
    asked: Asked,
    folders: dict[str, Path],
    words: dict[str, tuple[str, ...]],
    num_seeds: int,
    clock: Clock,
    say: Say,
) -> dict[str, Trial]:
    """Trains the best settings, and the preset or the defaults, with seeds that no trial had.

    Runs of an earlier start of the sweep that came to their end are not made again.

    Args:
        pool: of the slots.
        asked: what was asked.
        folders: of each side.
        words: the command lines, by name: "best" and "preset" or "defaults".
        num_seeds: of each.
        clock: of the sweep.
        say: prints a line.

    Returns:
        The trials, by name; "failed" if one of its runs is.
    """
    clock.enter("confirmation")
    seeds = asked.confirmation_seeds[:num_seeds]
    trials: dict[str, Trial] = {}
    for number, (name, folder) in enumerate(folders.items()):
        trials[name] = Trial(number, {}, name, "running", folder=folder)
        with contextlib.suppress(ValueError):  # there is none yet
            trials[name] = replace(Trial.load(folder), state="running")
    for trial in trials.values():
        trial.save()

    def on_end(ended: Running) -> list[Job]:
        name, run = ended.job.of_what, measured(ended)
        trials[name] = trials[name].with_run(run)
        trials[name].save()
        what = f"return {run.mean_return:.1f}" if run.error == "" else f"failed: {run.error}"
        say(f"confirmation, {name}, seed {run.seed}: {what}, {run.seconds} s")
        return []

    jobs = [
        Job(asked.algo, words[name], trial.folder, seed, name)
        for seed in seeds
        for name, trial in trials.items()
        if seed not in [run.seed for run in trial.complete_runs]
    ]
    pool.work_through(jobs, on_end, clock.tick)
    for name, trial in trials.items():
        is_whole = len(trial.complete_runs) == len(seeds)
        note = next((run.error for run in trial.runs if run.error), "")
        trials[name] = replace(trial, state="complete" if is_whole else "failed", note=note)
        trials[name].save()
    return trials


def facts_of(runs: Sequence[TrialRun]) -> dict[str, Any]:
    """Returns what runs with several seeds reached, for `summary.json` and tables.

    `interval` is the 95 % bootstrap interval of the mean return, None for one seed; `iqm` the
    interquartile mean; `seconds_interval` that of the seconds to the target, if all reached it.
    """
    runs = [run for run in runs if run.state == "complete"]
    returns = np.array([run.mean_return for run in runs], np.float64)
    if not len(returns):
        return {"seeds": [], "returns": []}
    to_target = [run.seconds_to_target for run in runs]
    reached = np.array([x for x in to_target if x is not None], np.float64)
    return {
        "seeds": [run.seed for run in runs],
        "returns": returns.tolist(),
        "mean": float(returns.mean()),
        "iqm": float(interquartile_mean(returns)),
        "interval": _interval(returns),
        "worst": float(returns.min()),
        "seconds": [run.seconds for run in runs],
        "seconds_to_target": to_target if len(reached) else None,
        "seconds_interval": _interval(reached) if len(reached) == len(runs) else None,
    }


def _interval(values: np.ndarray) -> list[float] | None:
    low, high = bootstrap_interval(values)
    return None if math.isnan(low) else [low, high]
