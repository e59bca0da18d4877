"""What must be known to read a comparison: what is left out, and what does not compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fastrl.compare.figures import GroupFigures, RunFigures
from fastrl.compare.groups import Measured
from fastrl.compare.tables import number
from fastrl.runs.run import Run

_MOST_LISTED = 8


def notes_on(
    figures: Sequence[GroupFigures],
    damaged: Sequence[Measured],
    target: float | None,
    shown: Callable[[Path], str],
) -> list[str]:
    """Returns the lines to print below a table.

    Args:
        figures: the groups.
        damaged: runs that could not be read, and are in no group.
        target: the return that was asked for.
        shown: returns a path as it is to be printed.
    """
    counted = [run for entry in figures for run in entry.counted]
    lines = [*_on_returns(figures, counted)]
    if target is not None:
        lines.append(
            f"reached: the mean return of the last 100 training episodes was {number(target)} or "
            "more; medians"
        )
        reached = [run for run in counted if run.seconds_to_target is not None]
        if not all(run.measured.table.has_wall_seconds for run in reached):
            lines.append("after seconds: of older runs, those of the training loop alone")
    if any(entry.counted and not entry.is_finished for entry in figures):
        lines.append("*: no run of this group is finished; figures so far")
    for entry in figures:
        seeds = [run.measured.run.seed for run in entry.counted]
        if twice := sorted({seed for seed in seeds if seed is not None and seeds.count(seed) > 1}):
            listed = ", ".join(map(str, twice))
            lines.append(
                f"{entry.group.label}: more than one run of seed {listed}, so not independent"
            )
    processors = {_processor(run.measured.run) for run in counted} - {None}
    if len(processors) > 1:
        lines.append("runs were on different processors: seconds and steps/s do not compare")
    left_out = [run.measured for entry in figures for run in entry.left_out]
    lines += _listed("left out", [*left_out, *damaged], shown)
    told = [measured for measured in _measured(counted) if measured.run.problems]
    lines += _listed("damaged in part", told, shown, with_problems=True)
    return lines


def state_in_words(run: Run) -> str:
    """Returns the state of a run with its steps, such as `running, 512 of 1,000 steps`."""
    if run.state == "damaged":
        return f"damaged: {run.detail}"
    if run.state == "finished":
        return "finished, but without a return"
    total = f" of {run.total_env_steps:,}" if run.total_env_steps else ""
    words = f" ({run.detail})" if run.detail and run.state == "failed" else ""
    return f"{run.state}{words}, {run.env_steps:,}{total} steps"


def _on_returns(figures: Sequence[GroupFigures], counted: Sequence[RunFigures]) -> list[str]:
    kinds = {entry.kind for entry in figures if entry.returns}
    numbers = [
        (run.measured.run.summary or {}).get("eval_episodes")
        for entry in figures
        if entry.kind == "greedy"
        for run in entry.counted
    ]
    episodes = sorted({x for x in numbers if isinstance(x, int) and x > 0})
    few = (
        f"{episodes[0]:,}"
        if len(episodes) == 1
        else f"{episodes[0]:,} to {episodes[-1]:,}"
        if episodes
        else ""
    )
    tests = f"greedy test of the final policy{f', {few} episodes' if few else ''}"
    training = "mean of the last 100 training episodes"
    lines = []
    if kinds == {"greedy"}:
        lines.append(f"return: {tests}; mean over the runs, and its 95 % interval")
    elif kinds == {"training"}:
        lines.append(f"return: {training}, since runs have no greedy test; mean over the runs")
    elif kinds:
        lines.append(f"of: greedy: {tests}; training: {training}, where runs have no test")
        lines.append("returns of different kinds do not compare")
    if counted:
        lines.append("IQM: mean of the middle half of the runs; steps/s and seconds: medians")
    return lines


def _listed(
    title: str,
    runs: Sequence[Measured],
    shown: Callable[[Path], str],
    with_problems: bool = False,
) -> list[str]:
    lines = []
    for measured in runs[:_MOST_LISTED]:
        run = measured.run
        words = "; ".join(run.problems) if with_problems else state_in_words(run)
        lines.append(f"{title}: {shown(run.path)}: {words}")
    if len(runs) > _MOST_LISTED:
        lines.append(f"{title}: {len(runs) - _MOST_LISTED:,} more; --list-runs shows them")
    return lines


def _measured(runs: Sequence[RunFigures]) -> list[Measured]:
    return [run.measured for run in runs]


def _processor(run: Run) -> str | None:
    machine = (run.summary or {}).get("machine")
    name = machine.get("cpu") if isinstance(machine, dict) else None
    return name if isinstance(name, str) else None
