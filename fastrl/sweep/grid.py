"""A grid: every combination of values with every seed, in folders named after what they override.

logs/sweeps/<time>/learning_rate=0.001/ppo/<time>/CartPole-v1_default_1/
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastrl.compare.figures import figures_of_group
from fastrl.compare.groups import Group, measure
from fastrl.compare.plotting import draw
from fastrl.compare.tables import as_csv, as_text
from fastrl.config.resume import spell
from fastrl.runs.folder import replaced_file, write_config
from fastrl.sweep.confirmation import facts_of
from fastrl.sweep.folder import SUMMARY_NAME, Clock, at_work, write_json
from fastrl.sweep.measuring import measured
from fastrl.sweep.pool import Job, Pool, Running
from fastrl.sweep.request import Asked, combinations, flags_of
from fastrl.sweep.trial import SETTINGS_NAME, Trial, TrialRun, load_trials

TABLE_NAME = "table.csv"
PLOT_NAME = "curves.png"
_LONGEST_NAME = 120  # characters of a folder
Say = Callable[[str], None]


def run_grid(folder: Path, asked: Asked, say: Say) -> None:
    """Trains every combination, or those that are left; then writes a table and a plot.

    A run that fails does not end the others.

    Args:
        folder: of the sweep, which this process owns; it has `sweep.yaml`.
        asked: what that says.
        say: prints a line.

    Raises:
        ValueError: every run failed; the message is that of the first.
    """
    clock = Clock(folder)
    with at_work(folder, clock), Pool(asked.processes) as pool:
        clock.enter("grid")
        trials = _trials_of(folder, asked)
        _train(pool, asked, trials, clock, say)
        _conclude(folder, list(trials.values()), clock, say)


def _trials_of(folder: Path, asked: Asked) -> dict[int, Trial]:
    """Returns the combinations, those of an earlier start as they were left."""
    known = {trial.number: trial for trial in load_trials(folder)[0]}
    trials: dict[int, Trial] = {}
    names: list[str] = []
    for number, settings in enumerate(combinations(asked.grid)):
        name = folder_name(settings)
        name = f"{number}_{name}" if name in names else name
        names.append(name)
        trial = known.get(number) or Trial(number, settings, folder=folder / name)
        trial = trials[number] = replace(trial, settings=settings)  # whatever its file says
        trial.save()
        write_config(trial.folder / SETTINGS_NAME, settings)
    return trials


def folder_name(settings: Mapping[str, Any]) -> str:
    """Returns what a combination overrides, as the name of a folder: `learning_rate=0.001`."""
    words = [f"{name}={spell(_frozen(value))}" for name, value in settings.items()]
    name = re.sub(r"[^A-Za-z0-9._,=+-]+", "-", ",".join(words))
    return name[:_LONGEST_NAME] or "seeds"


def _train(pool: Pool, asked: Asked, trials: dict[int, Trial], clock: Clock, say: Say) -> None:
    def on_start(started: Running) -> None:
        trial = trials[started.job.of_what]
        begun = trial.started or time.time()
        trial = replace(trial, state="running", started=begun)
        trials[trial.number] = trial.with_run(TrialRun(started.job.seed))
        trials[trial.number].save()

    def on_end(ended: Running) -> list[Job]:
        run = measured(ended)
        trial = trials[ended.job.of_what].with_run(run)
        if len([x for x in trial.runs if x.state in ("complete", "failed")]) == len(asked.seeds):
            failed = [x.error for x in trial.runs if x.state == "failed"]
            state = "complete" if trial.complete_runs else "failed"
            trial = replace(trial, state=state, note="; ".join(failed), ended=time.time())
        trials[trial.number] = trial
        trial.save()
        what = f"failed: {run.error}" if run.error else f"return {run.mean_return:.1f}"
        words = " ".join(flags_of(trial.settings))
        say(f"{words}{' ' if words else ''}--seed={run.seed}: {what}, {run.seconds:.1f} s")
        return []

    jobs = [
        Job(
            asked.algo,
            (*asked.flags, *flags_of(trial.settings)),
            trial.folder,
            seed,
            trial.number,
        )
        for trial in trials.values()
        for seed in asked.seeds
        if seed not in [run.seed for run in trial.complete_runs]
    ]
    pool.work_through(jobs, on_end, clock.tick, on_start)


def _conclude(folder: Path, trials: Sequence[Trial], clock: Clock, say: Say) -> None:
    """Writes the table, the plot and the summary.

    Raises:
        ValueError: every run failed.
    """
    groups = [_group_of(trial) for trial in trials if trial.complete_runs]
    if not groups:
        raise ValueError(f"every run failed: {trials[0].note}")
    figures = [figures_of_group(group) for group in groups]
    say("\n" + as_text(figures, None))
    with replaced_file(folder / TABLE_NAME) as file:
        file.write(as_csv(figures).encode())
    facts = [
        {"number": trial.number, "settings": trial.settings, **facts_of(trial.runs)}
        for trial in trials
    ]
    seconds = round(clock.seconds, 1)
    write_json(folder / SUMMARY_NAME, {"groups": facts, "seconds": seconds})
    say(f"table: {folder / TABLE_NAME}")
    try:
        draw(groups, folder / PLOT_NAME)
        say(f"plot: {folder / PLOT_NAME}")
    except ValueError as error:  # matplotlib is missing
        say(f"no plot: {error}")
    clock.enter("finished")


def _group_of(trial: Trial) -> Group:
    """Returns the complete runs of a combination, as tables and plots take them."""
    folders = [trial.folder / run.folder for run in trial.complete_runs]
    label = shlex.join(flags_of(trial.settings)) or "all seeds"
    return Group(label, tuple(measure(folder) for folder in folders), trial.settings)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
