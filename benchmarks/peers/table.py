"""Medians, spreads and ratios of measurements that were taken in rounds, and the table of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Literal

Measure = Literal["steps_per_second", "seconds"]


@dataclass(frozen=True)
class Series:
    """One system's measurements, in the order of the rounds."""

    system: str
    """Name and version, as the table shows it."""
    values: tuple[float, ...]
    """Steps per second, or seconds; all above 0."""
    notes: str = ""
    """How the system did the work."""


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of some values."""

    median: float
    low: float
    high: float


def spread(values: tuple[float, ...]) -> Spread:
    """Returns median, least and greatest.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("there are no values to take a median of")
    return Spread(median(values), min(values), max(values))


def times_faster(ours: Series, theirs: Series, measure: Measure) -> Spread:
    """Returns how many times faster ours is: above 1 where ours wins.

    The middle is the ratio of the two medians. Low and high are those of the rounds, in which ours
    and theirs ran one after the other: a machine that slows down for a while slows both.

    Raises:
        ValueError: different numbers of rounds, or a value that is not above 0.
    """
    if len(ours.values) != len(theirs.values):
        raise ValueError(
            f"{ours.system} has {len(ours.values)} rounds and {theirs.system} {len(theirs.values)}"
        )
    for series in (ours, theirs):
        if min(series.values, default=0) <= 0:
            raise ValueError(f"{series.system}: values must be above 0, not {series.values}")
    rounds = [
        _ratio(our, their, measure) for our, their in zip(ours.values, theirs.values, strict=True)
    ]
    middle = _ratio(median(ours.values), median(theirs.values), measure)
    return Spread(middle, min(rounds), max(rounds))


def _ratio(ours: float, theirs: float, measure: Measure) -> float:
    return ours / theirs if measure == "steps_per_second" else theirs / ours


def markdown(title: str, series: list[Series], measure: Measure) -> str:
    """Returns a table with one row per system, the first being ours."""
    ours, *peers = series
    unit = "steps/s" if measure == "steps_per_second" else "seconds"
    lines = [
        f"**{title}**",
        "",
        f"| | {unit} | least - most | {ours.system.split()[0]} is faster by | how |",
        "|---|---:|---:|---:|---|",
    ]
    for row in [ours, *peers]:
        values = spread(row.values)
        numbers = f"{_number(values.median, measure)} | {_between(values, measure)}"
        faster = ""
        if row is not ours:
            ratio = times_faster(ours, row, measure)
            faster = f"{ratio.median:.2f}x ({ratio.low:.2f} - {ratio.high:.2f})"
        lines.append(f"| {row.system} | {numbers} | {faster} | {row.notes} |")
    return "\n".join(lines)


def _between(values: Spread, measure: Measure) -> str:
    return f"{_number(values.low, measure)} - {_number(values.high, measure)}"


def _number(value: float, measure: Measure) -> str:
    return f"{value:,.0f}" if measure == "steps_per_second" else f"{value:.1f}"
