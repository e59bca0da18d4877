"""Reading of a run's `metrics.csv` while it grows: each call reads new rows alone.

Imports no torch.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
from array import array
from collections.abc import Collection
from pathlib import Path

from fastrl.runs.logger import STEP_COLUMN
from fastrl.runs.plain_files import open_plain

TRAIN_RETURN = "Rewards/rew_avg_100"
TEST_RETURN = "Test/cumulative_reward"
STEPS_PER_SECOND = "Time/step_per_second"
WALL_SECONDS = "Time/wall_seconds"

_MOST_BYTES = 256 * 2**20
_MOST_COLUMNS = 2_000
_TAIL = 256  # bytes before the place where reading goes on, by which a replaced file is noticed


class MetricsTable:
    """The rows of a `metrics.csv` so far.

    The file may be replaced between two calls, by a wider one or, where a run was resumed, by one
    without its last rows: it is then read anew. A last row that is not complete is left for the
    next call. Rows that begin before an earlier one take the place of what comes after them.

    Args:
        path: the file; it need not exist yet.
        only: the columns to keep; None keeps all.
    """

    def __init__(self, path: str | Path, only: Collection[str] | None = None) -> None:
        self.path = Path(path)
        self._only = None if only is None else frozenset(only)
        self.generation = 0
        """Grows whenever rows that were returned before are gone, so that a reader starts anew."""
        self.num_damaged = 0
        """Rows that were left out: of another width than the header, or no numbers."""
        self._clear()

    @property
    def names(self) -> list[str]:
        """The metrics, in the order of the file."""
        return list(self._columns)

    @property
    def num_rows(self) -> int:
        """Complete rows so far."""
        return len(self.steps)

    def update(self) -> bool:
        """Reads what is new; returns whether anything changed.

        Raises:
            ValueError: the file is no table of metrics, or is a link or no regular file.
            OSError: it may not be read.
        """
        before = self.generation, self.num_rows, len(self._columns)
        try:
            descriptor, status = open_plain(self.path)
        except FileNotFoundError:
            self._restart()
            return before != (self.generation, self.num_rows, len(self._columns))
        try:
            if status.st_size > _MOST_BYTES:
                raise ValueError(f"{self.path.name} has more than {_MOST_BYTES:,} bytes")
            self._read(descriptor, status)
        finally:
            os.close(descriptor)
        return before != (self.generation, self.num_rows, len(self._columns))

    def column(self, name: str) -> array[float]:
        """Returns the values of a metric, `[num_rows]`, NaN where a row has none."""
        return self._columns[name] if name in self._columns else array("d", self._empty())

    def curve(self, name: str, x: str = "steps") -> tuple[list[float], list[float]]:
        """Returns a metric where it has a value.

        Args:
            name: of the metric; an unknown one has no points.
            x: "steps": environment steps; "seconds": seconds since the start of the run.

        Returns:
            Two lists of one length, x and values. Values may be infinite, or NaN where the file
            says so.

        Raises:
            ValueError: `x` is something else.
        """
        if x not in ("steps", "seconds"):
            raise ValueError(f"x is {x!r}; expected steps or seconds")
        places = self._points.get(name, array("q"))
        along = self.steps if x == "steps" else self.seconds()
        column = self.column(name)
        return [along[place] for place in places], [column[place] for place in places]

    def last(self, name: str) -> float | None:
        """Returns the latest value of a metric; None if it has none yet."""
        places = self._points.get(name)
        return self._columns[name][places[-1]] if places else None

    def seconds(self) -> list[float]:
        """Returns the seconds since the start of the run at each row, `[num_rows]`.

        Files of older versions do not have them: there it is the seconds of the training loop, in
        which start-up, tests and saving are left out. Rows before the first that has any are at 0.
        """
        found, rates = self.column(WALL_SECONDS), self.column(STEPS_PER_SECOND)
        seconds, latest = [], 0.0
        for step, wall, rate in zip(self.steps, found, rates, strict=True):
            if math.isfinite(wall):
                latest = max(latest, wall)
            elif math.isfinite(rate) and rate > 0:
                latest = max(latest, step / rate)
            seconds.append(latest)
        return seconds

    @property
    def has_wall_seconds(self) -> bool:
        """Whether `seconds` counts all seconds, not those of the training loop alone."""
        return bool(self._points.get(WALL_SECONDS))

    def _clear(self) -> None:
        self.steps = array("d")
        """Environment steps of each row, `[num_rows]`."""
        self._columns: dict[str, array[float]] = {}
        self._points: dict[str, array[int]] = {}  # rows in which a metric has a value
        self._places: list[tuple[str, int]] = []  # columns to keep, with their place in a row
        self._width = 0
        self._header = b""
        self._file_id: tuple[int, int] | None = None
        self._offset = 0
        self._tail = b""
        self.num_damaged = 0

    def _restart(self) -> None:
        if self.num_rows:
            self.generation += 1
        self._clear()

    def _read(self, descriptor: int, status: os.stat_result) -> None:
        file_id = status.st_dev, status.st_ino
        if not self._goes_on(descriptor, status, file_id):
            self._restart()
            self._file_id = file_id
        data = os.pread(descriptor, status.st_size - self._offset, self._offset)
        end = data.rfind(b"\n") + 1
        if not end:
            return
        lines = data[:end].decode("utf-8", "replace").split("\n")[:-1]
        if not self._width:
            self._take_header(lines.pop(0))
            self._header = data[: data.find(b"\n") + 1]
        if not self._take_block(lines):
            for line in lines:
                self._take_row(line)
        self._offset += end
        self._tail = (self._tail + data[:end])[-_TAIL:]

    def _goes_on(self, descriptor: int, status: os.stat_result, file_id: tuple[int, int]) -> bool:
        if file_id != self._file_id or status.st_size < self._offset:
            return False
        start = self._offset - len(self._tail)  # a new file may have got the number of an old one
        return (
            os.pread(descriptor, len(self._header), 0) == self._header
            and os.pread(descriptor, len(self._tail), start) == self._tail
        )

    def _take_header(self, line: str) -> None:
        names = _cells(line.rstrip("\r"))
        if names[:1] != [STEP_COLUMN]:
            raise ValueError(f"{self.path.name} has no first column {STEP_COLUMN}")
        if len(names) > _MOST_COLUMNS or len(set(names)) < len(names):
            raise ValueError(f"{self.path.name} has a column twice, or over {_MOST_COLUMNS:,}")
        self._width = len(names)
        for place, name in enumerate(names[1:], 1):
            if self._only is None or name in self._only:
                self._places.append((name, place))
                self._columns[name], self._points[name] = array("d"), array("q")

    def _take_block(self, lines: list[str]) -> bool:
        """Takes all rows at once, column by column, which is faster; False: something is odd."""
        rows = [line.split(",") for line in lines]
        if not all(len(row) == self._width for row in rows):
            return False
        cells = list(zip(*rows, strict=True)) or [()] * self._width
        try:
            steps = [*self.steps[-1:], *map(float, map(int, cells[0]))]
            values = [[float(x or "nan") for x in cells[place]] for _, place in self._places]
        except (ValueError, OverflowError):
            return False
        if any(later < step for step, later in itertools.pairwise(steps)):
            return False
        first = self.num_rows
        for (name, place), column in zip(self._places, values, strict=True):
            self._columns[name].extend(column)
            self._points[name].extend(row for row, x in enumerate(cells[place], first) if x)
        self.steps.extend(steps[bool(first) :])
        return True

    def _take_row(self, line: str) -> None:
        cells = _cells(line)
        try:
            if len(cells) != self._width:
                raise ValueError
            step = float(int(cells[0]))
            values = [float(cells[place] or "nan") for _, place in self._places]
        except (ValueError, OverflowError):
            self.num_damaged += bool(line.strip())
            return
        if self.steps and step < self.steps[-1]:
            self._drop_from(step)
        row = len(self.steps)
        self.steps.append(step)
        for (name, place), value in zip(self._places, values, strict=True):
            self._columns[name].append(value)
            if cells[place]:
                self._points[name].append(row)

    def _drop_from(self, step: float) -> None:
        """Drops the rows at and after a step: the run went back there."""
        self.generation += 1
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
        for name, column in self._columns.items():
            del column[len(self.steps) :]
            points = self._points[name]
            while points and points[-1] >= len(self.steps):
                points.pop()

    def _empty(self) -> list[float]:
        return [math.nan] * self.num_rows


def _cells(line: str) -> list[str]:
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # a cell is longer than any number or name
        return []
