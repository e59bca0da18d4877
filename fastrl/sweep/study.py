"""What to try next: Optuna's sampler, behind the few calls that a search makes.

Optuna's journal in the folder of the sweep holds what was asked of the sampler and told to it. One
process writes it, the owner of the folder, so it needs no lock: that of a killed process would have
to be waited for.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastrl.processes.errors import how_to_install
from fastrl.sweep.space import Numbers, Space, Words

JOURNAL_NAME = "journal.log"
_NAME, _SETTINGS = "name", "settings"
_NUM_RANDOM = 10  # trials before the sampler learns from them


def check_package() -> None:
    """Raises ValueError if Optuna is not installed."""
    try:
        import optuna  # pyright: ignore[reportMissingImports] # noqa: F401
    except ImportError as error:
        raise ValueError(f"a search needs Optuna; {how_to_install('sweep')}") from error


class Study:
    """The trials of a search as the sampler knows them; opened again, it goes on.

    Args:
        folder: of the sweep.
        space: what is searched.
        directions: "maximize" or "minimize" for each value of a trial.
        seed: of the sampler. How many trials there are already changes what it draws, so that a
            search that goes on does not repeat its beginning.
    """

    def __init__(self, folder: Path, space: Space, directions: Sequence[str], seed: int) -> None:
        import optuna  # pyright: ignore[reportMissingImports]
        from optuna.storages import JournalStorage  # pyright: ignore[reportMissingImports]
        from optuna.storages.journal import (  # pyright: ignore[reportMissingImports]
            JournalFileBackend,
        )

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space = optuna, space
        self._distributions = {name: self._of(x) for name, x in space.parameters().items()}
        path = folder / JOURNAL_NAME
        _remove_cut_line(path)
        lock: Any = _NoLock()
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        settings: dict[str, Any] = {"directions": list(directions), "load_if_exists": True}
        self._study: Any = optuna.create_study(study_name="fastrl", storage=storage, **settings)
        num_trials = len(self._study.trials)
        self._study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=_NUM_RANDOM, seed=seed + num_trials
        )
        self._open: dict[int, Any] = {}

    def _of(self, parameter: Numbers | Words) -> Any:
        made = self._optuna.distributions
        if isinstance(parameter, Words):
            return made.CategoricalDistribution(parameter.choices)
        low, high, is_log, is_whole = parameter
        if is_whole:
            return made.IntDistribution(round(low), round(high), log=is_log)
        return made.FloatDistribution(low, high, log=is_log)

    @property
    def num_trials(self) -> int:
        """How many trials there are, those that wait included."""
        return len(self._study.trials)

    def suggest_first(self, name: str, settings: Mapping[str, Any]) -> None:
        """Puts named settings in line, unless they are or were already."""
        if all(trial.user_attrs.get(_NAME) != name for trial in self._study.trials):
            self._study.enqueue_trial(
                self._space.encoded(settings),
                user_attrs={_NAME: name, _SETTINGS: json.dumps(dict(settings))},
            )

    def ask(self) -> tuple[int, str, dict[str, Any]]:
        """Begins a trial; returns its number, its name and its settings."""
        trial = self._study.ask(self._distributions)
        return self._begun(trial)

    def unfinished(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Takes up the trials that were under way when the process before was ended."""
        optuna = self._optuna
        states = (optuna.trial.TrialState.RUNNING,)
        frozen = self._study.get_trials(deepcopy=False, states=states)
        return [
            self._begun(optuna.trial.Trial(self._study, trial._trial_id))
            for trial in frozen
            if trial.number not in self._open
        ]

    def _begun(self, trial: Any) -> tuple[int, str, dict[str, Any]]:
        for name, distribution in self._distributions.items():
            trial._suggest(name, distribution)  # what is known already stays
        self._open[trial.number] = trial
        name = trial.user_attrs.get(_NAME, "")
        if _SETTINGS in trial.user_attrs:  # which may lie outside the ranges
            return trial.number, name, json.loads(trial.user_attrs[_SETTINGS])
        return trial.number, name, self._space.decoded(trial.params)

    def report(self, number: int, step: int, value: float) -> None:
        """Tells a trial's greedy return after some of its tests."""
        if len(self._study.directions) == 1 and self._study.direction.name == "MAXIMIZE":
            with warnings.catch_warnings():  # a run that begins anew reports its steps again
                warnings.simplefilter("ignore")
                self._open[number].report(value, step)

    def tell(self, number: int, state: str, values: Sequence[float] | None = None) -> None:
        """Ends a trial: "complete" with its values, "pruned" or "failed"."""
        states = self._optuna.trial.TrialState
        known = {"complete": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}
        trial = self._open.pop(number)
        self._study.tell(trial, values if state == "complete" else None, state=known[state])


class _NoLock:
    """In place of the lock of Optuna's journal."""

    def acquire(self) -> bool:
        """Does nothing; returns True."""
        return True

    def release(self) -> None:
        """Does nothing."""


def _remove_cut_line(path: Path) -> None:
    """Removes a last line that a killed process, or a power failure, left incomplete."""
    if path.exists():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            with open(path, "r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)
