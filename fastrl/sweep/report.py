"""What a sweep prints at its end: tables, and the confirmation in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastrl.config.resume import spell
from fastrl.sweep.objective import Objective
from fastrl.sweep.trial import Trial

_MOST_ROWS = 10


def table(rows: Sequence[Sequence[str]], num_right: int) -> str:
    """Returns rows as a table.

    Args:
        rows: the titles first.
        num_right: how many columns, from the first, are numbers, which end at one place.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if place < num_right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def table_of_trials(ranked: Sequence[Trial], defaults: Mapping[str, Any]) -> str:
    """Returns the best trials with the settings in which they differ from the defaults.

    Args:
        ranked: the complete trials, the best first.
        defaults: of the settings that were searched.
    """
    rows = [("trial", "return", "seeds", "seconds", "settings that differ from the defaults")]
    for trial in ranked[:_MOST_ROWS]:
        assert trial.value is not None and trial.seconds is not None
        words = _changes(trial.settings, defaults) or "none"
        name = f"({trial.name}) " if trial.name else ""
        numbers = (f"{trial.value:,.1f}", str(len(trial.complete_runs)), f"{trial.seconds:.1f}")
        rows.append((str(trial.number), *numbers, name + words))
    return table(rows, 4)


def _changes(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    changed = {name: x for name, x in settings.items() if x != defaults.get(name)}
    return " ".join(f"{name}={spell(_frozen(value))}" for name, value in changed.items())


def confirmation_in_words(confirmation: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the lines on a confirmation: each side, and whether their intervals are apart."""
    lines = []
    for name, facts in confirmation.items():
        if not facts["returns"]:
            lines.append(f"{name}: no run came to its end")
            continue
        seeds = f"{len(facts['seeds'])} fresh seeds"
        line = f"{name}: return {facts['mean']:,.1f} over {seeds}"
        if facts["interval"] is not None:
            low, high = facts["interval"]
            line += f", 95 % interval {low:,.1f} to {high:,.1f}, IQM {facts['iqm']:,.1f}"
        line += f", worst {facts['worst']:,.1f}"
        if facts["seconds_to_target"]:
            reached = [x for x in facts["seconds_to_target"] if x is not None]
            of_all = len(facts["seconds_to_target"])
            mean = sum(reached) / len(reached)
            line += f"; target reached by {len(reached)} of {of_all}, after {mean:.1f} s on average"
            if facts["seconds_interval"] is not None:
                low, high = facts["seconds_interval"]
                line += f", 95 % interval {low:.1f} to {high:.1f} s"
        lines.append(line)
    return lines


def verdict(confirmation: Mapping[str, Mapping[str, Any]], goal: Objective) -> str:
    """Returns "better" or "worse" if the intervals of both sides are apart, or "not told apart".

    Args:
        confirmation: "best", then "preset" or "defaults", as of `facts_of`.
        goal: what was optimised; if it is seconds, those to the target are compared.
    """
    name = "seconds_interval" if goal.name == "seconds" else "interval"
    best, other = (facts.get(name) for facts in confirmation.values())
    if not best or not other:
        return "not told apart"
    is_above, is_below = best[0] > other[1], best[1] < other[0]
    if not (is_above or is_below):
        return "not told apart"
    return "better" if is_above != (goal.name == "seconds") else "worse"


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
