"""A trial: settings, the runs that were made with them, and what came of it; `trial.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Self, get_type_hints

from fastrl.config.values import as_kind
from fastrl.runs.folder import replaced_file
from fastrl.runs.plain_files import read_facts

TRIAL_NAME = "trial.json"
SETTINGS_NAME = "settings.yaml"
_MOST_BYTES = 10_000_000

State = Literal["waiting", "running", "complete", "pruned", "failed"]
STATES = ("waiting", "running", "complete", "pruned", "failed")


@dataclass(frozen=True)
class TrialRun:
    """A run of a trial, with one seed."""

    seed: int
    folder: str = ""
    """The run folder, relative to that of the trial; "" before there is one."""
    state: State = "running"
    mean_return: float | None = None
    """Mean return of the last greedy test."""
    seconds: float | None = None
    """Wall time of the process, start-up and tests included."""
    seconds_to_target: float | None = None
    """Until the target return was reached; None if it was not, or there is none."""
    steps: int = 0
    error: str = ""


@dataclass(frozen=True)
class Trial:
    """Settings and their runs."""

    number: int
    settings: dict[str, Any]
    """What this trial has of its own, by name; the rest is the same for all."""
    name: str = ""
    """"defaults" or "preset" if the settings are theirs."""
    state: State = "waiting"
    runs: tuple[TrialRun, ...] = ()
    value: float | None = None
    """Mean over the seeds of the greedy return; of a pruned trial, the last test's."""
    seconds: float | None = None
    """Mean over the seeds of the seconds: to the target, if that is what counts."""
    note: str = ""
    """Why it was pruned, or the line of its error."""
    started: float | None = None
    """When it began, in seconds since 1970."""
    ended: float | None = None
    tests: tuple[float, ...] = field(default=())
    """Greedy returns of the first seed at the points where trials are compared."""
    folder: Path = field(default=Path(), compare=False)
    """Where it was read from or is written to; not part of the file."""

    @property
    def complete_runs(self) -> list[TrialRun]:
        """The runs that came to their end, in the order of the seeds."""
        return [run for run in self.runs if run.state == "complete"]

    def with_run(self, run: TrialRun) -> Trial:
        """Returns the trial with a run added, or in place of the one with its seed."""
        others = [other for other in self.runs if other.seed != run.seed]
        return self._measured(replace(self, runs=(*others, run)))

    @staticmethod
    def _measured(trial: Trial) -> Trial:
        runs = trial.complete_runs
        returns = [run.mean_return for run in runs if run.mean_return is not None]
        to_target = [run.seconds_to_target for run in runs]
        seconds = [run.seconds for run in runs if run.seconds is not None]
        if to_target and None not in to_target:
            seconds = [x for x in to_target if x is not None]
        return replace(
            trial,
            value=fmean(returns) if returns else trial.value,
            seconds=round(fmean(seconds), 2) if seconds else trial.seconds,
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("complete", "pruned", "failed")

    def save(self) -> None:
        """Writes `trial.json` into the trial's folder, atomically."""
        values = asdict(self)
        del values["folder"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with replaced_file(self.folder / TRIAL_NAME) as file:
            file.write(json.dumps(values, indent=1).encode() + b"\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the trial of a folder.

        Raises:
            ValueError: its file is missing or damaged.
        """
        path = folder / TRIAL_NAME
        try:
            return cls._from_dict(read_facts(path, _MOST_BYTES), folder)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    @classmethod
    def _from_dict(cls, values: Mapping[str, Any], folder: Path) -> Self:
        runs = tuple(TrialRun(**_typed(_KINDS_OF_RUN, run)) for run in values.get("runs", ()))
        tests = tuple(as_kind(float, x) for x in values.get("tests", ()))
        own = _typed(_KINDS, values)
        trial = cls(**own, settings=values["settings"], runs=runs, tests=tests, folder=folder)
        if not isinstance(trial.settings, dict):
            raise ValueError(f"settings {trial.settings!r}")
        if {trial.state, *(run.state for run in runs)} - {*STATES}:
            raise ValueError(f"state {trial.state!r}, or that of a run")
        return trial


_KINDS_OF_RUN = get_type_hints(TrialRun)
_KINDS = get_type_hints(Trial)
for _name in ("settings", "runs", "tests", "folder"):  # which are read one by one
    del _KINDS[_name]


def _typed(kinds: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that are known, as the types of their fields."""
    return {name: as_kind(kinds[name], x) for name, x in values.items() if name in kinds}


def folder_of(sweep: Path, number: int) -> Path:
    """Returns the folder of a trial of a search."""
    return sweep / "trials" / f"{number:04d}"


def load_trials(sweep: Path) -> tuple[list[Trial], list[str]]:
    """Returns the trials of a sweep in the order of their numbers, and what could not be read.

    Args:
        sweep: folder of the sweep: of a search, with `trials/`, or of a grid.
    """
    root = sweep / "trials"
    root = root if root.is_dir() else sweep
    trials: list[Trial] = []
    faults: list[str] = []
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if (folder / TRIAL_NAME).exists() and not folder.is_symlink():
            try:
                trials.append(Trial.load(folder))
            except ValueError as error:
                faults.append(str(error))
    return sorted(trials, key=lambda trial: trial.number), faults


def next_seed(trial: Trial, seeds: Sequence[int]) -> int | None:
    """Returns the first of the seeds that the trial has no complete run of; None if it has all."""
    done = {run.seed for run in trial.complete_runs}
    return next((seed for seed in seeds if seed not in done), None)
