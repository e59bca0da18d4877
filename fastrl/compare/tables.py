"""Figures of groups as a table for a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from fastrl.compare.figures import GroupFigures, as_dict, figures_of
from fastrl.compare.groups import Measured

Row = tuple[str, ...]

_NARROWEST_LABEL = 16
_CSV_COLUMNS = (
    "label", "algo", "env_id", "seeds", "finished", "return_kind", "mean", "interval_low",
    "interval_high", "iqm", "iqm_interval_low", "iqm_interval_high", "worst", "best", "steps",
    "steps_per_second", "seconds", "num_reached", "steps_to_target", "seconds_to_target",
)  # fmt: skip


def as_text(figures: Sequence[GroupFigures], target: float | None, width: int = 100) -> str:
    """Returns tables of returns and speed and, with a target, of the way to it.

    Labels that would make a table wider than `width` columns become letters, explained below it.

    Args:
        figures: the groups, in the order of the rows.
        target: the return that was asked for.
        width: characters of a line.
    """
    titles, rows = _main_rows(figures)
    labels = [entry.group.label for entry in figures]
    tables = [(titles, rows)]
    if target is not None:
        tables.append(_target_rows(figures, target))
    legend: list[str] = []
    room = width - max(sum(_widths([titles, *rows])) + 2 * len(titles) for titles, rows in tables)
    if max(map(len, labels), default=0) > max(room, _NARROWEST_LABEL):
        letters = [_letter(number) for number in range(len(labels))]
        for letter, label in zip(letters, labels, strict=True):
            lines = textwrap.wrap(
                label, width, initial_indent=f"{letter}: ", subsequent_indent="   "
            )
            legend += lines
        labels = letters
    blocks = [_aligned([("group", *titles), *_labelled(labels, rows)]) for titles, rows in tables]
    if legend:
        blocks.append("\n".join(legend))
    return "\n\n".join(blocks)


def as_markdown(figures: Sequence[GroupFigures], target: float | None) -> str:
    """Returns the same tables in Markdown, with whole labels; arguments as `as_text`."""
    labels = [entry.group.label.replace("\\", "\\\\").replace("|", "\\|") for entry in figures]
    tables = [_main_rows(figures)]
    if target is not None:
        tables.append(_target_rows(figures, target))
    blocks = []
    for titles, rows in tables:
        lines = ["group", *titles], ["---", *["---:"] * len(titles)], *_labelled(labels, rows)
        blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    return "\n\n".join(blocks)


def as_csv(figures: Sequence[GroupFigures]) -> str:
    """Returns a row of numbers for each group, with a column for each setting that differs."""
    differing = list(dict.fromkeys(name for entry in figures for name in entry.group.settings))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_CSV_COLUMNS, *differing])
    for entry in figures:
        values = as_dict(entry)
        values["seeds"] = " ".join(str(seed) for seed in values["seeds"])
        for name in ("interval", "iqm_interval"):
            values[f"{name}_low"], values[f"{name}_high"] = values[name] or (None, None)
        settings = [values["settings"].get(name) for name in differing]
        writer.writerow([_safe(values[name]) for name in _CSV_COLUMNS] + [*map(_safe, settings)])
    return text.getvalue()


def as_json(
    figures: Sequence[GroupFigures], damaged: Sequence[Measured], target: float | None
) -> str:
    """Returns the figures of groups and of their runs, and the damaged ones, as a line of JSON."""
    values = {
        "target_return": target,
        "groups": [as_dict(entry) for entry in figures],
        "damaged": [
            {"path": str(measured.run.path), "problems": list(measured.run.problems)}
            for measured in damaged
        ],
    }
    return json.dumps(values, default=str)


def runs_as_text(
    figures: Sequence[GroupFigures], damaged: Sequence[Measured], shown: Callable[[Path], str]
) -> str:
    """Returns a table of single runs.

    Args:
        figures: their groups.
        damaged: those in no group.
        shown: returns a path as it is to be printed.
    """
    rows: list[Row] = [
        ("seed", "state", "greedy", "training", "steps", "steps/s", "seconds", "run")
    ]
    listed = [run for entry in figures for run in (*entry.counted, *entry.left_out)]
    for entry in [*listed, *map(figures_of, damaged)]:
        run = entry.measured.run
        rows.append(
            (
                "-" if run.seed is None else str(run.seed),
                run.state,
                number(entry.greedy_return),
                number(entry.training_return),
                f"{entry.steps:,}",
                number(entry.steps_per_second, 0),
                _seconds(entry.seconds),
                shown(run.path),
            )
        )
    widths = _widths(rows)
    return "\n".join(
        "  ".join(
            [
                *(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)),
                row[-1],
            ]
        )
        for row in rows
    )


def number(value: float | None, digits: int = 1) -> str:
    """Returns a number as it is shown, with about three significant digits; "-" for none.

    Args:
        value: the number; infinite ones and NaN count as none.
        digits: 0: as a whole number.
    """
    if value is None or not math.isfinite(value):
        return "-"
    if digits:
        size = abs(value)
        digits = 0 if size >= 10_000 else 1 if size >= 10 or not size else 2 if size >= 1 else 3
    return f"{value:,.{digits}f}"


def _main_rows(figures: Sequence[GroupFigures]) -> tuple[Row, list[Row]]:
    """Returns titles and rows, without the labels."""
    kinds = {entry.kind for entry in figures}
    titles = ("runs", "return", "95 %", "IQM", "worst", "best", "steps", "steps/s", "seconds")
    rows = []
    for entry in figures:
        row = (
            _count(entry),
            number(entry.mean),
            _interval(entry.interval),
            number(entry.iqm),
            number(entry.worst),
            number(entry.best),
            _short(entry.steps),
            number(entry.steps_per_second, 0),
            _seconds(entry.seconds),
        )
        rows.append((*row, entry.kind) if len(kinds) > 1 else row)
    return (*titles, "of") if len(kinds) > 1 else titles, rows


def _target_rows(figures: Sequence[GroupFigures], target: float) -> tuple[Row, list[Row]]:
    titles = (f"reached {number(target)}", "after steps", "after seconds")
    rows: list[Row] = [
        ("-", "-", "-")  # no metrics say it
        if entry.num_reached is None
        else (
            f"{entry.num_reached} of {entry.num_told}",
            _until(entry.steps_to_target),
            "never"
            if entry.seconds_to_target in (None, math.inf)
            else _seconds(entry.seconds_to_target),
        )
        for entry in figures
    ]
    return titles, rows


def _count(entry: GroupFigures) -> str:
    """Returns how many runs the figures are of; a star: they are not finished."""
    return f"{len(entry.counted)}{'' if entry.is_finished or not entry.counted else '*'}"


def _interval(ends: tuple[float, float] | None) -> str:
    return f"{number(ends[0])} to {number(ends[1])}" if ends else "-"


def _until(value: float | None) -> str:
    return "never" if value is None or math.isinf(value) else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return number(value, 0) if value is None or value >= 100 else f"{value:.1f}"


def _short(steps: int) -> str:
    """Returns 300k for 300,032 and 1.5M for 1,500,000."""
    if steps < 10_000:
        return f"{steps:,}"
    return f"{steps / 1e3:.0f}k" if steps < 999_500 else f"{steps / 1e6:.3g}M"


def _labelled(labels: Sequence[str], rows: Sequence[Row]) -> list[Row]:
    return [(label, *row) for label, row in zip(labels, rows, strict=True)]


def _widths(rows: Sequence[Row]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _aligned(rows: Sequence[Row]) -> str:
    """Returns rows as lines: the first column to the left, all others to the right."""
    widths = _widths(rows)
    lines = []
    for first, *cells in rows:
        numbers = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *numbers]).rstrip())
    return "\n".join(lines)


def _letter(number: int) -> str:
    """Returns A to Z, then AA, AB and so on."""
    tens, ones = divmod(number, 26)
    return (_letter(tens - 1) if tens else "") + chr(ord("A") + ones)


def _safe(value: object) -> object:
    """Returns a value that a spreadsheet does not take for a formula."""
    is_formula = isinstance(value, str) and value[:1] in "=+-@\t\r" and bool(value)
    return f"'{value}" if is_formula else value
