"""What a run folder says about its run, read without torch and whatever state it is in."""

from __future__ import annotations

import contextlib
import math
import re
import stat
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from fastrl.processes.errors import one_line
from fastrl.runs.folder import CHECKPOINTS_NAME, CONFIG_NAME, LABELS, VIDEOS_NAME
from fastrl.runs.logger import METRICS_NAME, SUMMARY_NAME
from fastrl.runs.metrics_table import (
    STEPS_PER_SECOND,
    TEST_RETURN,
    TRAIN_RETURN,
    WALL_SECONDS,
    MetricsTable,
)
from fastrl.runs.owner import PROCESS_NAME, Process, is_owned, read_process
from fastrl.runs.plain_files import MOST_SUMMARY, read_facts, read_settings
from fastrl.runs.run import Run, SavedFile, State

LISTED_METRICS = (TRAIN_RETURN, TEST_RETURN, STEPS_PER_SECOND, WALL_SECONDS)
_MOST_FILES = 10_000  # in checkpoints/ or videos/
_LARGEST = 10**300  # number that a foreign file may say
_MOST_TOLD = 200  # characters
_SILENT_SECONDS = 300.0  # after which a run that cannot be asked counts as ended
_ROWS_OF_RATE = 20
_TIME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
_STEPS = re.compile(r"step_(\d{12,})")


def read_run(path: Path, table: MetricsTable) -> Run:
    """Reads a run folder.

    Nothing in the folder raises an error: what cannot be read is named in `problems`. Links are
    not followed.

    Args:
        path: the folder.
        table: reads its `metrics.csv`; what it has read already is not read again.
    """
    reader = _Reader(path)
    config = reader.read(lambda: read_settings(path / CONFIG_NAME), CONFIG_NAME) or {}
    summary = reader.read(
        lambda: read_facts(path / SUMMARY_NAME, MOST_SUMMARY), SUMMARY_NAME, may_lack=True
    )
    process = reader.read(lambda: read_process(path), PROCESS_NAME, may_lack=True)
    reader.read(table.update, METRICS_NAME, may_lack=True)
    if table.num_damaged:
        reader.problems.append(f"{METRICS_NAME}: {table.num_damaged:,} damaged rows are left out")
    labels = {name: value for name, value in config.items() if name in LABELS}
    settings = {name: value for name, value in config.items() if name not in LABELS}
    if config and not labels.get("algo"):
        reader.problems.append(f"{CONFIG_NAME} does not name an algorithm")
        reader.is_damaged = True
    updated = _mtime(path / METRICS_NAME)
    env_steps = int(table.steps[-1]) if table.num_rows else 0
    summary_steps = _whole(summary, "total_env_steps")
    if summary is not None and summary_steps is not None and env_steps > summary_steps:
        summary = None  # the run was resumed, and went on
    if summary is not None and process is not None:
        written = _mtime(path / SUMMARY_NAME)
        if written is None or written < process.started:
            summary = None
    state, detail = _state(path, reader, summary, process, updated)
    is_running = state == "running"
    checkpoints = reader.saved(CHECKPOINTS_NAME, ".pt")
    ended = None if is_running else _ended(path, summary, updated, checkpoints)
    rate = number_in(summary, "steps_per_second") or _finite(table.last(STEPS_PER_SECOND))
    wall = number_in(summary, "wall_seconds")
    if wall is None and table.num_rows:  # else it is not worked out, row by row
        wall = table.seconds()[-1]
    env_steps = max(env_steps, summary_steps or 0) if summary else env_steps
    total = _total_env_steps(settings)
    test_returns, train_returns = table.column(TEST_RETURN), table.column(TRAIN_RETURN)
    found = [x for x in test_returns if math.isfinite(x)]
    found = found or [x for x in train_returns if math.isfinite(x)]
    return Run(
        path=path,
        state=state,
        detail=detail,
        problems=tuple(reader.problems),
        settings=settings,
        labels=labels,
        summary=summary,
        process=process if is_running else None,
        started=_started(path, process),
        ended=ended,
        updated=updated,
        env_steps=env_steps,
        total_env_steps=total,
        steps_per_second=rate,
        seconds_left=_seconds_left(table, total) if is_running else None,
        wall_seconds=wall,
        train_return=_finite(table.last(TRAIN_RETURN)),
        test_return=_finite(table.last(TEST_RETURN)),
        best_return=max(found, default=None),
        checkpoints=checkpoints,
        videos=reader.saved(VIDEOS_NAME, ".mp4", ".gif"),
    )


class _Reader:
    """Reads the parts of a folder, and keeps what was wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.problems: list[str] = []
        self.is_damaged = False

    def read(self, work: Any, name: str, may_lack: bool = False) -> Any:
        """Returns what `work` does; None if it fails, and keeps why."""
        try:
            return work()
        except FileNotFoundError:
            if not may_lack:
                gone = "the folder is no longer there: it was moved or deleted"
                self.problems.append(f"{name} is missing" if self._path.exists() else gone)
                self.is_damaged = True
        except (ValueError, OSError, RecursionError) as error:
            told = error.strerror if isinstance(error, OSError) and error.strerror else None
            self.problems.append(f"{name}: {told or one_line(error)}")
            self.is_damaged = self.is_damaged or name != PROCESS_NAME
        return None

    def saved(self, folder: str, *suffixes: str) -> tuple[SavedFile, ...]:
        """Returns the regular files of a folder of the run with one of these suffixes."""
        found = []
        try:
            if (self._path / folder).is_symlink():
                raise ValueError("it is a link, which is not followed")
            for entry in sorted((self._path / folder).iterdir())[:_MOST_FILES]:
                if entry.suffix in suffixes and not entry.name.startswith("."):
                    with contextlib.suppress(OSError):  # removed meanwhile
                        status = entry.lstat()
                        if stat.S_ISREG(status.st_mode):
                            steps = _STEPS.match(entry.name)
                            number = int(steps[1]) if steps else None
                            found.append(SavedFile(entry, number, status.st_size, status.st_mtime))
        except FileNotFoundError:
            pass
        except (ValueError, OSError) as error:
            self.problems.append(f"{folder}/: {one_line(error)}")
        return tuple(found)


def _state(
    path: Path,
    reader: _Reader,
    summary: dict[str, Any] | None,
    process: Process | None,
    updated: float | None,
) -> tuple[State, str]:
    """Returns the state of a run and a few words on it."""
    if process is not None or summary is None:
        owned = is_owned(path)
        if owned is None and process is not None:
            owned, words = _is_heard_of(path, process, updated)
            if owned and words:
                return "running", words
        if owned:
            return "running", f"process {process.pid}" if process else ""
    if reader.is_damaged:
        return "damaged", reader.problems[0]
    if summary is None:
        return "failed", "killed" if process else "ended by an error, or killed"
    if summary.get("interrupted"):
        return "stopped", "by a signal, after saving"
    reason = str(summary.get("stop_reason") or "")[:_MOST_TOLD]
    return "finished", one_line(ValueError(reason)) if reason.strip() else ""


def _is_heard_of(path: Path, process: Process, updated: float | None) -> tuple[bool, str]:
    """Returns whether a process on a file system without locks seems to write, and why so."""
    if process.is_local:
        return process.is_alive, ""
    heard = max(process.started, updated or 0.0, _mtime(path / CHECKPOINTS_NAME) or 0.0)
    silent = time.time() - heard
    return silent < _SILENT_SECONDS, f"on {process.host}, last heard of {max(0, silent):.0f} s ago"


def _total_env_steps(settings: dict[str, Any]) -> int | None:
    """Returns the steps at which a run ends: `total_timesteps` in whole rollouts."""
    total = settings.get("total_timesteps")
    if not isinstance(total, int) or not 1 <= total <= _LARGEST:
        return None
    is_decoupled = settings.get("decoupled") is True
    names = ["num_players"] if is_decoupled else ["devices", "num_nodes"]
    steps = 1
    for name in ("num_envs", "num_steps", *names):
        size = settings.get(name, 1)
        steps *= size if isinstance(size, int) and size > 0 else 1
    return total // steps * steps or total


def _seconds_left(table: MetricsTable, total: int | None) -> float | None:
    """Estimates it from the latest rows: the first may have waited for a compiler."""
    if total is None or table.num_rows < 2:
        return None
    seconds = table.seconds()
    first = max(0, table.num_rows - _ROWS_OF_RATE)
    steps = table.steps[-1] - table.steps[first]
    passed = seconds[-1] - seconds[first]
    if steps <= 0 or passed <= 0:
        return None
    return max(0.0, total - table.steps[-1]) * passed / steps


def _started(path: Path, process: Process | None) -> float | None:
    """Returns when a run began, by the name of the folder of its start."""
    for parent in (path.parent, path.parent.parent, path):
        if found := _TIME.match(parent.name):
            with contextlib.suppress(ValueError, OverflowError, OSError):
                return datetime.strptime(found[0], "%Y-%m-%d_%H-%M-%S").timestamp()
    times = [process.started] if process else []
    for name in (CONFIG_NAME, METRICS_NAME):
        times += [at] if (at := _mtime(path / name)) else []
    return min(times, default=None)


def _ended(
    path: Path,
    summary: dict[str, Any] | None,
    updated: float | None,
    checkpoints: tuple[SavedFile, ...],
) -> float | None:
    if summary is not None:
        return _mtime(path / SUMMARY_NAME)
    times = [file.written for file in checkpoints]
    return max([*times, updated] if updated else times, default=None)


def _mtime(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except OSError:
        return None


def number_in(values: dict[str, Any] | None, name: str) -> float | None:
    """Returns a finite number of a summary; None if it has none of this name."""
    value = (values or {}).get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST:
        return None
    return _finite(float(value))


def _whole(values: dict[str, Any] | None, name: str) -> int | None:
    value = number_in(values, name)
    return None if value is None else int(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
