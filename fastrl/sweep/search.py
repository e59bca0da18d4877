"""The search: trials side by side, stopped where they fall behind, more seeds for the leaders."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastrl.runs.folder import write_config
from fastrl.runs.metrics_table import TEST_RETURN, MetricsTable
from fastrl.sweep import pruning
from fastrl.sweep.folder import Clock
from fastrl.sweep.measuring import measured, relative_folder
from fastrl.sweep.pool import TICK_SECONDS, Job, Pool, Running
from fastrl.sweep.request import Asked
from fastrl.sweep.space import Space, defaults_of
from fastrl.sweep.study import Study
from fastrl.sweep.trial import (
    SETTINGS_NAME,
    Trial,
    TrialRun,
    folder_of,
    load_trials,
    next_seed,
)
from fastrl.sweep.trust import settings_flag

FEWEST_FAILURES = 3
"""If so many trials fail alike before any does not, the search ends with their error."""
_REFUSED = re.compile(r"(\w+)(?:=\S+)? (?:has no effect|is not offered)")
_FEWEST_COMPLETE = 5  # trials, before leaders are told apart
Say = Callable[[str], None]


class Search:
    """Trials until the time or their number is used up; goes on where an earlier one stopped.

    Args:
        folder: of the sweep.
        asked: what was asked.
        words: the command line that all trials have in common.
        config: its settings.
        space: what is searched.
        study: what suggests trials.
        clock: of the sweep.
        say: prints a line.
    """

    def __init__(
        self,
        folder: Path,
        asked: Asked,
        words: tuple[str, ...],
        config: Any,
        space: Space,
        study: Study,
        clock: Clock,
        say: Say,
    ) -> None:
        self._folder, self._asked, self._words, self._say = folder, asked, words, say
        self._config, self._space, self._study, self._clock = config, space, study, clock
        self._goal = asked.goal
        self._tables: dict[Path, MetricsTable] = {}
        trials, faults = load_trials(folder)
        for fault in faults:
            say(f"warning: {fault}")
        self.trials = {trial.number: trial for trial in trials}
        self._idle: dict[str, Any] = {}  # settings that this task refuses, at their defaults
        for trial in trials:
            self._learn_what_is_refused(trial)
        self._on_best: Callable[[Trial], None] = lambda trial: None

    def on_best(self, call: Callable[[Trial], None]) -> None:
        """Sets what is called with each trial that is better than all before it."""
        self._on_best = call

    @property
    def complete(self) -> list[Trial]:
        """The complete trials, the best first."""
        return self._goal.ranked(list(self.trials.values()))

    def run(self, pool: Pool, end: Callable[[], float]) -> None:
        """Searches.

        Args:
            pool: of the slots for runs.
            end: returns the seconds of the sweep's clock at which the search is to end.

        Raises:
            ValueError: the first trials fail, all in the same way.
        """
        self._clock.enter("search")
        waiting = self._taken_up()
        while not self._is_over(end) or (not self.complete and pool.running):
            while pool.has_room and not self._is_over(end) and self._may_begin(pool):
                trial = waiting.pop(0) if waiting else self._new_trial()
                self._go_on(pool, trial)
            for ended in pool.take_ended():
                self._take(pool, ended)
            for running in pool.running:
                if reason := self._reason_to_stop(running):
                    pool.stop(running)
                    self._cut(running, reason)
            self._clock.tick()
            time.sleep(TICK_SECONDS)
        for running in pool.running:
            pool.stop(running)
            waiting.append(self.trials[running.job.of_what])
        for trial in waiting:
            self._keep(replace(trial, runs=tuple(trial.complete_runs)))
            is_done = bool(trial.complete_runs)
            note = "" if is_done else "the time of the search was over"
            self._end(trial.number, "complete" if is_done else "pruned", note)

    def _is_over(self, end: Callable[[], float]) -> bool:
        if self._asked.trials is not None:
            over = sum(trial.is_over for trial in self.trials.values())
            if over >= self._asked.trials:
                return True
        return self._clock.seconds >= end()

    def _may_begin(self, pool: Pool) -> bool:
        """Returns whether another trial may begin, where their number is limited."""
        if self._asked.trials is None:
            return True
        over = sum(trial.is_over for trial in self.trials.values())
        return over + len(pool.running) < self._asked.trials

    def _taken_up(self) -> list[Trial]:
        """Returns the trials that were under way when the sweep was ended; none is lost."""
        waiting = []
        for number, name, settings in self._study.unfinished():
            trial = self.trials.get(number) or self._made(number, name, settings)
            if trial.is_over:  # it ended, and then so did the sweep, before the study was told
                self._tell(trial)
            elif trial.complete_runs and not self._gets_more_seeds(trial):
                self._end(number, "complete", "")
            else:
                self._say(f"trial {number} was under way; it goes on")
                waiting.append(trial)
        return waiting

    def _new_trial(self) -> Trial:
        return self._made(*self._study.ask())

    def _made(self, number: int, name: str, settings: dict[str, Any]) -> Trial:
        settings = self._space.fitted({**settings, **self._idle}, self._config)
        folder = folder_of(self._folder, number)
        trial = Trial(number, settings, name, "running", started=time.time(), folder=folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder / SETTINGS_NAME, settings)
        self._keep(trial)
        return trial

    def _go_on(self, pool: Pool, trial: Trial) -> None:
        """Starts the next seed of a trial."""
        seed = next_seed(trial, self._asked.seeds)
        assert seed is not None
        words = (*self._words, *settings_flag(self._asked, trial))
        job = Job(self._asked.algo, words, trial.folder, seed, trial.number)
        pool.start(job)
        if not trial.complete_runs:
            trial = replace(trial, tests=(), value=None)  # of a run that was under way, if any
        self._keep(trial.with_run(TrialRun(seed)))

    def _keep(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        trial.save()

    def _take(self, pool: Pool, ended: Running) -> None:
        """Takes in a run that ended: the trial gets another seed, or is over."""
        run = measured(ended)
        trial = self.trials[ended.job.of_what].with_run(run)
        self._keep(trial)
        if run.state == "failed":
            self._end(trial.number, "failed", run.error)
            self._learn_what_is_refused(self.trials[trial.number])
        elif self._gets_more_seeds(trial):
            self._go_on(pool, trial)
        else:
            self._end(trial.number, "complete", "")

    def _learn_what_is_refused(self, trial: Trial) -> None:
        """Leaves a setting at its default from now on if a trial failed because of it alone."""
        found = _REFUSED.match(trial.note)
        name = found[1] if found else ""
        if trial.state == "failed" and name in self._space.ranges and name not in self._idle:
            self._idle |= defaults_of(type(self._config), [name])
            self._say(f"{name} stays at its default, since this task refuses another value")

    def _gets_more_seeds(self, trial: Trial) -> bool:
        """Returns whether a trial leads, with seeds left to run."""
        others = [other for other in self.complete if other.number != trial.number]
        if next_seed(trial, self._asked.seeds) is None or len(others) < _FEWEST_COMPLETE:
            return False
        ranked = self._goal.ranked([*others, replace(trial, state="complete")])
        return trial.number in [leader.number for leader in ranked[: pruning.NUM_LEADERS]]

    def _reason_to_stop(self, running: Running) -> str:
        """Returns why a run is not worth going on with; "" if it is."""
        trial = self._with_folder(running)
        if too_slow := self._too_slow(running, trial):
            return too_slow
        if trial.complete_runs:  # a leader, with its next seed
            return ""
        tests = self._tests_of(running)
        if len(tests) <= len(trial.tests):
            return ""
        for count in range(len(trial.tests) + 1, len(tests) + 1):
            self._study.report(trial.number, count, tests[count - 1])
        trial = replace(trial, tests=tuple(tests), value=tests[-1])
        self._keep(trial)
        if self._goal.name == "seconds":
            return ""  # how early a return is reached is seen by the clock
        for count in pruning.RUNGS:
            if count <= len(tests):
                others = [x.tests for x in self.trials.values() if x.number != trial.number]
                known = [other[count - 1] for other in others if len(other) >= count]
                if pruning.is_behind(tests[count - 1], known):
                    share = 100 * count / pruning.NUM_TESTS
                    return f"return {tests[count - 1]:.1f} after {share:g} % of the steps"
        return ""

    def _with_folder(self, running: Running) -> Trial:
        """Returns the trial of a run, with the run's folder once there is one."""
        trial = self.trials[running.job.of_what]
        run = next((run for run in trial.runs if run.seed == running.job.seed), None)
        if run is not None and not run.folder and (folder := relative_folder(running)):
            trial = trial.with_run(replace(run, folder=folder))
            self._keep(trial)
        return trial

    def _tests_of(self, running: Running) -> list[float]:
        """Returns the greedy returns of a run so far, before its last."""
        folder = running.process.folder()
        if folder is None:
            return []
        table = self._tables.get(folder)
        if table is None:
            table = self._tables[folder] = MetricsTable(folder / "metrics.csv", {TEST_RETURN})
        table.update()
        return table.curve(TEST_RETURN)[1][: pruning.NUM_TESTS - 1]

    def _too_slow(self, running: Running, trial: Trial) -> str:
        """Returns why a run takes too long; "" if it does not."""
        elapsed = running.process.elapsed
        if self._goal.name == "seconds":
            best = next((x for x in self.complete if not self._goal.misses(x)), None)
            patience = 2 if trial.complete_runs else 1  # a seed of a leader may be unlucky
            slowest = patience * pruning.SLOWEST_TO_TARGET
            if best and best.seconds and elapsed > slowest * best.seconds:
                return f"the target was not reached in {elapsed:.1f} s"
        named = [x.complete_runs[0] for x in self.complete if x.name and x.complete_runs]
        slowest = pruning.SLOWEST * max((run.seconds or 0.0 for run in named), default=0.0)
        if not trial.name and 0 < slowest < elapsed:
            return f"too slow: not over after {elapsed:.1f} s"
        return ""

    def _cut(self, running: Running, reason: str) -> None:
        """Ends a trial whose run was stopped; a leader keeps what its other seeds reached."""
        trial = self.trials[running.job.of_what]
        seconds = round(running.process.elapsed, 2)
        folder = relative_folder(running)
        run = TrialRun(running.job.seed, folder, "pruned", seconds=seconds, error=reason)
        self._keep(trial.with_run(run))
        self._end(trial.number, "complete" if trial.complete_runs else "pruned", reason)

    def _end(self, number: int, state: Any, note: str) -> None:
        """Ends a trial; its file first, so that it is known whatever happens then."""
        before = self.complete
        trial = replace(self.trials[number], state=state, note=note, ended=time.time())
        self._keep(trial)
        self._tell(trial)
        is_best = self.complete[:1] == [trial]
        self._say(f"{_line(trial)}{'  (best so far)' if is_best else ''}")
        if is_best and before[:1] != [trial]:
            self._on_best(trial)
        self._check_failures()

    def _tell(self, trial: Trial) -> None:
        is_complete = trial.state == "complete"
        self._study.tell(
            trial.number, trial.state, self._goal.values_of(trial) if is_complete else None
        )

    def _check_failures(self) -> None:
        """Raises ValueError if nothing but failures came so far, all of them alike."""
        over = [trial for trial in self.trials.values() if trial.is_over]
        notes = {trial.note for trial in over}
        are_failures = all(trial.state == "failed" for trial in over)
        if len(over) >= FEWEST_FAILURES and len(notes) == 1 and are_failures:
            raise ValueError(f"the first {len(over)} trials failed alike: {notes.pop()}")


def _line(trial: Trial) -> str:
    name = f" ({trial.name})" if trial.name else ""
    words = f"trial {trial.number}{name}: {trial.state}"
    if trial.state == "complete" and trial.value is not None:
        num_seeds = len(trial.complete_runs)
        seeds = f" over {num_seeds} seeds" if num_seeds > 1 else ""
        words = f"trial {trial.number}{name}: return {trial.value:.1f}{seeds}, {trial.seconds} s"
    return f"{words}: {trial.note}" if trial.note else words
