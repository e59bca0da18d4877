"""What is compared: returns, steps and seconds of each run, and their statistics over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np

from fastrl.compare.groups import Group, Measured
from fastrl.ops.intervals import bootstrap_interval, interquartile_mean
from fastrl.runs.metrics_table import TRAIN_RETURN
from fastrl.runs.reading import number_in

Kind = Literal["greedy", "training"]


@dataclass(frozen=True, eq=False)
class RunFigures:
    """The figures of a run; None where it does not say them."""

    measured: Measured
    greedy_return: float | None
    """Mean return of the last greedy test."""
    training_return: float | None
    """Mean return of the last 100 training episodes."""
    steps: int
    seconds: float | None
    """Of the whole process, all of its restarts together."""
    steps_per_second: float | None
    """Of the training loop."""
    steps_to_target: float | None
    """Environment steps at which the target return was reached."""
    seconds_to_target: float | None

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return self.measured.run.state == "finished"

    def last_return(self, kind: Kind) -> float | None:
        """Returns one of the two returns."""
        return self.greedy_return if kind == "greedy" else self.training_return


@dataclass(frozen=True, eq=False)
class GroupFigures:
    """The figures of a group; None where no run says them."""

    group: Group
    kind: Kind
    """Of which return they are: of greedy tests or, if a run had none, of training episodes."""
    counted: tuple[RunFigures, ...]
    """The runs they are of: those that are finished; if none is, all."""
    left_out: tuple[RunFigures, ...]
    """Runs that are not finished, while others are, and those without a return."""
    returns: tuple[float, ...]
    """Of the runs that are counted."""
    mean: float | None
    interval: tuple[float, float] | None
    """95 % bootstrap interval of the mean; None for a single run."""
    iqm: float | None
    """Interquartile mean."""
    iqm_interval: tuple[float, float] | None
    best: float | None
    worst: float | None
    steps: int
    """Most steps of a run."""
    steps_per_second: float | None
    """Median over the runs, as are the next two."""
    seconds: float | None
    steps_to_target: float | None
    """Infinite if half of the runs did not reach the target."""
    seconds_to_target: float | None
    num_told: int
    """Runs whose metrics say when they reached a return."""
    num_reached: int | None
    """How many runs reached the target; None if none was asked for."""

    @property
    def is_finished(self) -> bool:
        """Whether the figures are those of finished runs."""
        return bool(self.counted) and all(run.is_finished for run in self.counted)


def figures_of(measured: Measured, target: float | None = None) -> RunFigures:
    """Returns the figures of a run.

    Args:
        measured: the run.
        target: a return; the steps and seconds to it are those of the first row of metrics whose
            mean return of the last 100 training episodes (fewer, at the start) reaches it; without
            such a row, those of the summary, if the run ended at a target that is as high.
    """
    run, table = measured.run, measured.table
    steps_to, seconds_to = None, None
    if target is not None:
        along, returns = table.curve(TRAIN_RETURN)
        reached = next((i for i, value in enumerate(returns) if value >= target), None)
        if reached is not None:
            steps_to = along[reached]
            seconds_to = table.curve(TRAIN_RETURN, "seconds")[0][reached]
        elif number_in(run.summary, "steps_to_target") is not None:
            # The run ended at its own target, which it looked for more often than it wrote rows.
            ended_at = number_in(run.summary, "target_return")
            if ended_at is not None and ended_at >= target:
                steps_to = number_in(run.summary, "steps_to_target")
                seconds_to = number_in(run.summary, "seconds_to_target")
    greedy = number_in(run.summary, "eval_return_mean")
    training = number_in(run.summary, "train_return_mean")
    return RunFigures(
        measured=measured,
        greedy_return=run.test_return if greedy is None else greedy,
        training_return=run.train_return if training is None else training,
        steps=run.env_steps,
        seconds=run.wall_seconds,
        steps_per_second=run.steps_per_second,
        steps_to_target=steps_to,
        seconds_to_target=seconds_to,
    )


def figures_of_group(group: Group, target: float | None = None) -> GroupFigures:
    """Returns the figures of a group; arguments as of `figures_of`."""
    runs = [figures_of(measured, target) for measured in group.runs]
    counted = [run for run in runs if run.is_finished] or runs
    kind: Kind = "greedy"
    if any(run.greedy_return is None for run in counted):
        kind = "training"
    if kind == "training" and all(run.training_return is None for run in counted):
        kind = "greedy"  # there are none at all, or some tests before an episode ended
    counted = [run for run in counted if run.last_return(kind) is not None]
    left_out = [run for run in runs if run not in counted]
    returns = [x for run in counted if (x := run.last_return(kind)) is not None]
    values = np.array(returns, dtype=np.float64)
    several = len(returns) > 1
    reached = [run for run in counted if run.steps_to_target is not None]
    told = [run for run in counted if run in reached or run.measured.table.curve(TRAIN_RETURN)[0]]
    return GroupFigures(
        group=group,
        kind=kind,
        counted=tuple(counted),
        left_out=tuple(left_out),
        returns=tuple(returns),
        mean=float(values.mean()) if returns else None,
        interval=bootstrap_interval(values) if several else None,
        iqm=float(interquartile_mean(values)) if returns else None,
        iqm_interval=bootstrap_interval(values, statistic=interquartile_mean) if several else None,
        best=max(returns, default=None),
        worst=min(returns, default=None),
        steps=max((run.steps for run in counted), default=0),
        steps_per_second=_median([run.steps_per_second for run in counted]),
        seconds=_median([run.seconds for run in counted]),
        steps_to_target=_median_reached([run.steps_to_target for run in told]),
        seconds_to_target=_median_reached([run.seconds_to_target for run in told]),
        num_told=len(told),
        num_reached=None if target is None or not told else len(reached),
    )


def best_first(figures: Sequence[GroupFigures]) -> list[GroupFigures]:
    """Returns groups by task, within a task those of the highest mean first."""
    tasks = list(dict.fromkeys(entry.group.env_id for entry in figures))
    return sorted(
        figures,
        key=lambda entry: (
            tasks.index(entry.group.env_id),
            math.inf if entry.mean is None else -entry.mean,
        ),
    )


def as_dict(figures: GroupFigures) -> dict[str, Any]:
    """Returns the figures of a group, and of each run in it, as plain values."""
    group = figures.group
    return {
        "label": group.label,
        "algo": group.algo,
        "env_id": group.env_id,
        "settings": dict(group.settings),
        "seeds": [run.measured.run.seed for run in figures.counted],
        "finished": figures.is_finished,
        "return_kind": figures.kind,
        "returns": list(figures.returns),
        "mean": figures.mean,
        "interval": list(figures.interval) if figures.interval else None,
        "iqm": figures.iqm,
        "iqm_interval": list(figures.iqm_interval) if figures.iqm_interval else None,
        "best": figures.best,
        "worst": figures.worst,
        "steps": figures.steps,
        "steps_per_second": figures.steps_per_second,
        "seconds": figures.seconds,
        "num_reached": figures.num_reached,
        "steps_to_target": _finite(figures.steps_to_target),
        "seconds_to_target": _finite(figures.seconds_to_target),
        "runs": [_run_as_dict(run, run in figures.counted) for run in _by_seed(figures)],
    }


def _by_seed(figures: GroupFigures) -> list[RunFigures]:
    runs = [*figures.counted, *figures.left_out]
    return sorted(runs, key=lambda run: (run.measured.run.seed or 0, run.measured.run.path))


def _run_as_dict(figures: RunFigures, is_counted: bool) -> dict[str, Any]:
    run = figures.measured.run
    return {
        "path": str(run.path),
        "seed": run.seed,
        "state": run.state,
        "detail": run.detail,
        "counted": is_counted,
        "greedy_return": figures.greedy_return,
        "training_return": figures.training_return,
        "best_return": run.best_return,
        "steps": figures.steps,
        "total_steps": run.total_env_steps,
        "steps_per_second": figures.steps_per_second,
        "seconds": figures.seconds,
        "steps_to_target": figures.steps_to_target,
        "seconds_to_target": figures.seconds_to_target,
        "problems": list(run.problems),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _median_reached(values: Sequence[float | None]) -> float | None:
    """Returns the median, where runs that did not reach the target take for ever."""
    if all(value is None for value in values):
        return None
    return median(math.inf if value is None else value for value in values)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
