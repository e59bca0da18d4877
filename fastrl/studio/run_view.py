"""A run as its page sees it: its folder, read again and again, new rows alone."""

from __future__ import annotations

from pathlib import Path

from fastrl.runs.metrics_table import MetricsTable
from fastrl.runs.reading import read_run
from fastrl.runs.run import Run
from fastrl.studio.desk import Desk


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
        return self.desk.jobs.printed(jobs[-1].job) if jobs else ""
