"""A search from beginning to end: its length, the trials, the finalists, the confirmation."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastrl.config.search import range_from_dict
from fastrl.sweep import pruning
from fastrl.sweep.confirmation import (
    BEST,
    facts_of,
    num_seeds_that_fit,
    reserve,
    run_confirmation,
    run_final,
)
from fastrl.sweep.folder import BEST_NAME, SUMMARY_NAME, Clock, at_work, write_json
from fastrl.sweep.length import START_SECONDS, length_for, steps_per_second
from fastrl.sweep.pool import Job, Pool
from fastrl.sweep.preset import preset_of, write_preset
from fastrl.sweep.reading import importance
from fastrl.sweep.report import confirmation_in_words, table_of_trials, verdict
from fastrl.sweep.request import Asked, base_command
from fastrl.sweep.search import Search
from fastrl.sweep.space import Space, defaults_of
from fastrl.sweep.starting import first_trials
from fastrl.sweep.study import Study, check_package
from fastrl.sweep.trial import Trial, load_trials
from fastrl.sweep.trust import settings_flag

_VERDICTS = {
    "better": "on fresh seeds the best settings beat the {0}: the intervals are apart",
    "worse": "on fresh seeds the best settings are worse than the {0}: keep the {0}",
    "not told apart": "fresh seeds do not tell the best settings from the {0}",
}
EPISODES = 50
"""Greedy episodes per test of a trial."""
PROBE_SEED = 1
Say = Callable[[str], None]


def run_search(folder: Path, asked: Asked, say: Say) -> dict[str, Any]:
    """Searches, or goes on with a search, to its end; returns its `summary.json`.

    Args:
        folder: of the sweep, which this process owns; it has `sweep.yaml`.
        asked: what that says.
        say: prints a line.

    Raises:
        ValueError: no trial came to its end, or the first ones failed alike.
    """
    check_package()
    clock = Clock(folder)
    with at_work(folder, clock), Pool(asked.processes) as pool:
        clock.enter("search")
        asked = _with_length(folder, asked, pool, clock, say)
        return _Searching(folder, asked, pool, clock, say).run()


def _with_length(folder: Path, asked: Asked, pool: Pool, clock: Clock, say: Say) -> Asked:
    """Returns what was asked, with the steps of a run."""
    if asked.total_timesteps is not None:
        return asked
    assert asked.minutes is not None
    default = base_command(asked.algo, asked.flags).config.total_timesteps
    seconds = 60 * asked.minutes
    say("training with the defaults for some seconds, to see how fast that is")
    words = (*asked.flags, "--eval-episodes", "1", "--eval-every", "0", "--checkpoint-every", "0")
    job = Job(asked.algo, words, folder / "speed", PROBE_SEED)
    rate = steps_per_second(pool, job, seconds, clock.tick)
    length = length_for(default, rate, seconds, pool.num_slots)
    say(f"{rate:,.0f} steps/s: runs of {length:,} steps")
    asked = replace(asked, total_timesteps=length)
    asked.save(folder)
    return asked


class _Searching:
    def __init__(self, folder: Path, asked: Asked, pool: Pool, clock: Clock, say: Say) -> None:
        self._folder, self._asked, self._pool = folder, asked, pool
        self._clock, self._say, self._goal = clock, say, asked.goal
        self._base = base_command(asked.algo, asked.flags)
        self._otherwise = "preset" if self._base.preset_settings else "defaults"
        self._words = _with_steps(asked, self._base.explicit)
        in_common = base_command(asked.algo, self._words)
        ranges = {name: range_from_dict(found) for name, found in asked.search.items()}
        self._space = Space.of_ranges(type(in_common.config), ranges)
        self._study = Study(folder, self._space, self._goal.directions, PROBE_SEED)
        preset_first = self._goal.name == "seconds"  # what is slower than it is soon stopped
        base = self._base
        for name, settings in first_trials(
            asked.algo, base.config, base.preset_settings, self._space, preset_first
        ):
            self._study.suggest_first(name, settings)
        words = (*self._words, *self._trial_words())
        self._search = Search(
            folder, asked, words, in_common.config, self._space, self._study, clock, say
        )
        self._search.on_best(self._write_best)

    def _trial_words(self) -> tuple[str, ...]:
        """Returns the flags of trials that say what is tested and written."""
        given, words = self._base.explicit, []
        every = 0
        if self._goal.name != "seconds":  # whose tests would take of them
            assert self._asked.total_timesteps is not None
            every = max(1, self._asked.total_timesteps // pruning.NUM_TESTS)
        words += ["--eval-every", str(every)]
        if "eval_episodes" not in given:
            words += ["--eval-episodes", str(EPISODES)]
        if "logger" not in given:
            words += ["--logger", "csv"]
        return (*words, *_without_checkpoints(given))

    def run(self) -> dict[str, Any]:
        with self._warm():
            self._search.run(self._pool, self._end_of_search)
        ranked = self._search.complete
        if not ranked:
            raise ValueError(
                "no trial came to its end: give the sweep more --minutes, or its runs fewer "
                "--total-timesteps"
            )
        end = self._end_of_confirmation() - self._seconds_of_confirmation()
        with self._warm():
            candidates = run_final(
                self._pool, self._asked, self._words_of, ranked, self._clock, end, self._say
            )
        if not candidates:
            raise ValueError("the best trials failed with other seeds")
        best = self._goal.ranked(candidates, min(ranked, key=lambda trial: trial.number))[0]
        self._search.trials = {trial.number: trial for trial in load_trials(self._folder)[0]}
        self._write_best(best)
        return self._conclude(best, self._confirmation(best))

    def _warm(self) -> contextlib.AbstractContextManager[None]:
        """Context in which runs are spared their imports, if that changes nothing that counts."""
        config = self._base.config
        is_one = config.devices * config.num_nodes == 1 and config.vector == "sync"
        if self._goal.counts_seconds or not is_one:
            return contextlib.nullcontext()
        return self._pool.warm(self._asked.algo)

    def _seconds_of_a_run(self) -> float:
        """Returns how long a run of the confirmation takes: of the best, or of the defaults."""
        ranked = self._search.complete
        known = [*ranked[:1], *(trial for trial in ranked if trial.name)]
        seconds = [run.seconds for trial in known for run in trial.complete_runs if run.seconds]
        start = 0.0 if self._goal.counts_seconds else START_SECONDS  # which trials are spared
        return sum(seconds) / len(seconds) + start if seconds else 0.0

    def _end_of_search(self) -> float:
        left = reserve(self._asked, self._seconds_of_a_run(), self._pool.num_slots)
        return self._end_of_confirmation() - left

    def _end_of_confirmation(self) -> float:
        return math.inf if self._asked.minutes is None else 60 * self._asked.minutes

    def _seconds_of_confirmation(self) -> float:
        seconds, slots = self._seconds_of_a_run(), self._pool.num_slots
        alone = replace(self._asked, seeds=self._asked.seeds[:1], final_seeds=())
        return reserve(alone, seconds, slots)

    def _words_of(self, trial: Trial) -> tuple[str, ...]:
        return (*self._words, *self._trial_words(), *settings_flag(self._asked, trial))

    def _write_best(self, best: Trial) -> None:
        """Writes the preset file of the best trial so far."""
        num_seeds = len(best.complete_runs)
        remarks = [
            f"Trial {best.number} of: {self._asked.command}",
            f"Mean greedy return {best.value:.1f} over {num_seeds} seeds, of the search itself.",
        ]
        write_preset(self._folder / BEST_NAME, self._preset_of(best), remarks)

    def _preset_of(self, best: Trial) -> dict[str, Any]:
        words = (*self._words, *settings_flag(self._asked, best))
        return preset_of(self._asked.algo, words)

    def _confirmation(self, best: Trial) -> dict[str, dict[str, Any]]:
        """Trains the preset file, and what there is without it, with fresh seeds."""
        seconds, slots = self._seconds_of_a_run(), self._pool.num_slots
        num_seeds = num_seeds_that_fit(self._asked, seconds, slots)
        if not num_seeds:
            return {}
        if num_seeds < (wanted := len(self._asked.confirmation_seeds)):
            self._say(f"confirmation with {num_seeds} seeds: {wanted} would take half of the time")
        given = self._base.explicit
        quiet = ("--eval-every", "0", *_without_checkpoints(given))
        words = {
            BEST: (*self._words, *quiet, "--config", str(self._folder / BEST_NAME)),
            self._otherwise: (*self._words, *quiet),
        }
        folder = self._folder / "confirmation"
        folders = {BEST: folder / f"trial_{best.number:04d}"}
        folders[self._otherwise] = folder / self._otherwise
        trials = run_confirmation(
            self._pool, self._asked, folders, words, num_seeds, self._clock, self._say
        )
        return {name: facts_of(trial.runs) for name, trial in trials.items()}

    def _conclude(self, best: Trial, confirmation: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Writes the summary, and prints the table of trials and the confirmation."""
        trials, _ = load_trials(self._folder)
        config_class = type(self._base.config)
        ranked = self._goal.ranked(trials)
        ranked = [best, *(trial for trial in ranked if trial.number != best.number)]
        told = verdict(confirmation, self._goal) if confirmation else ""
        summary = {
            "algo": self._asked.algo,
            "env_id": self._asked.env_id,
            "objective": self._asked.objective,
            "total_timesteps": self._asked.total_timesteps,
            "num_trials": dict(Counter(trial.state for trial in trials)),
            "best": {
                "number": best.number,
                "name": best.name,
                "settings": best.settings,
                "value": best.value,
                "seconds": best.seconds,
                "seeds": [run.seed for run in best.complete_runs],
            },
            "preset": self._preset_of(best),
            "confirmation": confirmation,
            "verdict": told,
            "importance": importance(trials),
        }
        defaults = defaults_of(config_class, self._space.ranges)
        self._say("\n" + table_of_trials(ranked, defaults))
        for line in confirmation_in_words(confirmation):
            self._say(line)
        if told:
            self._say(_VERDICTS[told].format(self._otherwise))
        if told == "not told apart" and self._goal.name == "return":
            self._say("settings that get there sooner: --objective seconds --target-return R")
        summary["seconds"] = round(self._clock.seconds, 1)
        write_json(self._folder / SUMMARY_NAME, summary)
        self._clock.enter("finished")
        file = self._folder / BEST_NAME
        if told == "worse":
            self._say(f"the best settings of the search: {file}")
            return summary
        self._say(f"preset file: {file}")
        agent = f" --agent {self._base.agent}" if self._base.agent else ""
        self._say(f"train with it: python -m fastrl.{self._asked.algo}{agent} --preset {file}")
        return summary


def _with_steps(asked: Asked, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the flags in common, with the steps of a run."""
    if "total_timesteps" in given or "total_timesteps" in asked.search:
        return asked.flags
    return (*asked.flags, "--total-timesteps", str(asked.total_timesteps))


def _without_checkpoints(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the flag that saves no periodic checkpoints, unless the user wants some."""
    wants = {"checkpoint_every", "keep_checkpoints"} & {*given}
    return () if wants else ("--checkpoint-every", "0")
