"""What a run that ended has reached, from its folder."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastrl.runs.logger import SUMMARY_NAME
from fastrl.runs.plain_files import MOST_SUMMARY, read_facts
from fastrl.sweep.pool import Running
from fastrl.sweep.trial import TrialRun


def measured(ended: Running) -> TrialRun:
    """Returns what came of a run: its greedy return and its seconds, or why it failed."""
    process, job = ended.process, ended.job
    folder, status = process.folder(), process.poll()
    seconds = _rounded(process.seconds)
    run = TrialRun(job.seed, relative_folder(ended), "failed", seconds=seconds)
    if status != 0 or folder is None:
        return replace(run, error=process.error())
    summary = summary_of(folder)
    if summary is None:
        return replace(run, error="it ended without a summary")
    mean_return = summary.get("eval_return_mean")
    if mean_return is None:
        mean_return = summary.get("train_return_mean")  # of a task that cannot be tested
    if not isinstance(mean_return, int | float) or not math.isfinite(mean_return):
        return replace(run, error="it ended without a return: no episode came to its end")
    return replace(
        run,
        state="complete",
        mean_return=float(mean_return),
        seconds_to_target=_rounded(summary.get("seconds_to_target")),
        steps=int(summary.get("total_env_steps", 0)),
    )


def relative_folder(running: Running) -> str:
    """Returns the run folder, relative to that of its trial; "" before there is one."""
    folder = running.process.folder()
    return "" if folder is None else str(folder.relative_to(running.job.folder.absolute()))


def summary_of(folder: Path) -> dict[str, Any] | None:
    """Returns the summary of a run; None if it has none that can be read."""
    try:
        return read_facts(folder / SUMMARY_NAME, MOST_SUMMARY)
    except (OSError, ValueError):
        return None


def _rounded(seconds: Any) -> float | None:
    return None if seconds is None else round(float(seconds), 2)
