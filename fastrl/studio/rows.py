"""The rows of the table of runs: plain values for the browser, and only those that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrl.runs.run import Run
from fastrl.studio.addresses import address_of
from fastrl.studio.encoding import encodable

Row = dict[str, Any]


@dataclass(frozen=True)
class Changes:
    """What a table that shows one set of rows needs, to show another."""

    add: list[Row]
    update: list[Row]
    remove: list[Row]

    def __bool__(self) -> bool:
        return bool(self.add or self.update or self.remove)

    def transaction(self) -> dict[str, Any]:
        """Returns them as AG Grid takes them: new rows come first."""
        named = {"add": self.add, "update": self.update, "remove": self.remove}
        return {**{name: rows for name, rows in named.items() if rows}, "addIndex": 0}


def row_of(run: Run, log_dir: Path) -> Row:
    """Returns the row of a run. Its keys are fixed; names that anybody may choose are values."""
    shown_return = run.train_return if run.state == "running" else run.test_return
    row = {
        "address": address_of(log_dir, run.path),
        "state": run.state,
        "detail": run.detail,
        "task": run.path.name if run.env_id == "?" else run.env_id,
        "algo": run.algo,
        "label": run.exp_name,
        "seed": run.seed,
        "return": run.train_return if shown_return is None else shown_return,
        "best": run.best_return,
        "progress": round(run.progress, 4),
        "steps": run.env_steps,
        "rate": run.steps_per_second,
        "seconds": run.wall_seconds,
        "left": run.seconds_left,
        "started": run.started,
    }
    return encodable(row)


def is_trial(row: Row) -> bool:
    """Returns whether a run is a trial of a sweep, of which there may be hundreds."""
    return row["address"].startswith("sweeps/")


def changes(shown: Mapping[str, Row], now: Sequence[Row]) -> Changes:
    """Returns what changed between the rows that are shown, by address, and those of now."""
    there = {row["address"] for row in now}
    return Changes(
        add=[row for row in now if row["address"] not in shown],
        update=[row for row in now if shown.get(row["address"], row) != row],
        remove=[{"address": address} for address in shown if address not in there],
    )


def counted(rows: Sequence[Row]) -> str:
    """Returns how many runs are in which state, in words."""
    states = [row["state"] for row in rows]
    order = ("running", "finished", "stopped", "failed", "damaged")
    parts = [f"{states.count(state):,} {state}" for state in order if state in states]
    return ", ".join(parts) or "no runs yet"
