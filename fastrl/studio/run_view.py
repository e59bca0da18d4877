"""A run as its page sees it: its folder, read again and again, new rows alone."""

from __future__ import annotations

import os
from pathlib import Path

from fastrl.runs.metrics_table import MetricsTable
from fastrl.runs.reading import read_run
from fastrl.runs.run import Run
from fastrl.studio.desk import Desk

_MOST_OUTPUT = 65_536  # bytes of the end of what a process printed


class RunView:
    """One run, for one page; not for several threads at once.

    Args:
        desk: whose run it is.
        address: of the run.

    Raises:
        ValueError: there is no run at this address.
    """

    def __init__(self, desk: Desk, address: str) -> None:
        self.desk, self.address = desk, address
        self.folder: Path = desk.folder(address)
        self.table = MetricsTable(self.folder / "metrics.csv")

    def read(self) -> Run:
        """Reads what is new; returns the run as it is now, damaged or not."""
        return read_run(self.folder, self.table)

    def output(self) -> str:
        """Returns the end of what the run's latest process printed; "" if it is not known."""
        jobs = self.desk.jobs_of(self.address)
        return tail(self.desk.jobs.output_of(jobs[-1].job)) if jobs else ""


def tail(path: Path, most: int = _MOST_OUTPUT) -> str:
    """Returns the end of a text file from the start of a line; "" if there is no such file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            data = file.read(most)
    except OSError:
        return ""
    if size > most:
        data = data[data.find(b"\n") + 1 :]
    lines = data.decode("utf-8", "replace").split("\n")
    # A live line overwrites itself: the last words of each line are what a terminal shows.
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
