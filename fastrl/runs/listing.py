"""All runs below a folder, fast enough for a page that asks several times a second.

    for run in find_runs("logs"):
        print(run.path, run.state, run.env_steps, run.test_return)

Imports no torch.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fastrl.runs.folder import CHECKPOINTS_NAME, CONFIG_NAME, VIDEOS_NAME, expanded
from fastrl.runs.logger import METRICS_NAME, SUMMARY_NAME
from fastrl.runs.metrics_table import MetricsTable
from fastrl.runs.owner import PROCESS_NAME, is_owned
from fastrl.runs.reading import LISTED_METRICS, read_run
from fastrl.runs.run import Run

_FILES = (CONFIG_NAME, METRICS_NAME, SUMMARY_NAME, PROCESS_NAME)
_FOLDERS = (CHECKPOINTS_NAME, VIDEOS_NAME)
_DEEPEST = 8  # folders below the one that is searched
_MOST_FOLDERS = 100_000
_SETTLED_SECONDS = 2.0  # a folder may change twice within one tick of the file system's clock

_Mark = tuple[int, int, int]  # changes when a file does


def find_runs(log_dir: str | Path) -> list[Run]:
    """Returns the runs in a folder and below it, newest first.

    Links below `log_dir` are not followed, and names that begin with a dot are passed over. A
    second call reads only what has changed; a run that has not is the same object. Safe to call
    from several threads.

    Args:
        log_dir: the folder; one that does not exist has no runs.

    Raises:
        ValueError: `log_dir` is not a folder.
    """
    return _listing_of(os.path.realpath(expanded(log_dir))).runs()


def find_run_folders(folder: str | Path) -> list[Path]:
    """Returns the paths of the runs that `find_runs` finds, in order, without reading them."""
    listing = _listing_of(os.path.realpath(expanded(folder)))
    return sorted(map(Path, listing.folders()))


def is_run_folder(path: Path) -> bool:
    """Returns whether a folder looks like that of a run, whole or not."""
    try:
        with os.scandir(path) as entries:
            return _is_run({entry.name for entry in entries})
    except OSError:
        return False


@lru_cache(maxsize=64)
def _listing_of(path: str) -> Listing:
    return Listing(Path(path))


@dataclass
class _Known:
    """What was read of a run."""

    marks: tuple[_Mark | None, ...]
    was_owned: bool | None
    run: Run
    table: MetricsTable


class Listing:
    """The runs below a folder; keeps what it has read.

    Args:
        path: the folder, without links in it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._runs: dict[str, _Known] = {}
        self._folders: dict[str, tuple[_Mark, bool, list[str]]] = {}

    def runs(self) -> list[Run]:
        """Returns the runs as they are now, newest first; errors as `find_runs`."""
        with self._lock:
            if self._path.exists() and not self._path.is_dir():
                raise ValueError(f"{self._path} is not a folder")
            paths = self._find()
            for gone in self._runs.keys() - set(paths):
                del self._runs[gone]
            runs = [self._read(path) for path in paths]
        return sorted(runs, key=lambda run: (-(run.started or 0.0), str(run.path)))

    def folders(self) -> list[str]:
        """Returns the paths of the runs as they are now."""
        with self._lock:
            return self._find()

    def _find(self) -> list[str]:
        """Returns the paths of run folders; a folder that has not changed is not read again."""
        found: list[str] = []
        seen: dict[str, tuple[_Mark, bool, list[str]]] = {}
        waiting = [(str(self._path), 0)]
        while waiting and len(seen) < _MOST_FOLDERS:
            path, depth = waiting.pop()
            mark = _mark(path)
            if mark is None:
                continue
            known = self._folders.get(path)
            if known is None or known[0] != mark or not _is_settled(mark):
                known = mark, *_look_into(path)
            seen[path] = known
            if known[1]:
                found.append(path)
            elif depth < _DEEPEST:
                waiting += [(f"{path}/{name}", depth + 1) for name in known[2]]
        self._folders = seen
        return found

    def _read(self, path: str) -> Run:
        marks = *(_mark(f"{path}/{name}") for name in _FILES), *_folder_marks(path)
        known = self._runs.get(path)
        has_process, has_summary = marks[3] is not None, marks[2] is not None
        owned = is_owned(Path(path)) if has_process or not has_summary else False
        if known and known.marks == marks and owned is not None and known.was_owned == owned:
            return known.run
        table = known.table if known else MetricsTable(f"{path}/{METRICS_NAME}", LISTED_METRICS)
        run = read_run(Path(path), table)
        self._runs[path] = _Known(marks, owned, run, table)
        return run


def _look_into(path: str) -> tuple[bool, list[str]]:
    """Returns whether a folder is that of a run, and the names of the folders in it."""
    names: set[str] = set()
    folders: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                names.add(entry.name)
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
    except OSError:
        return False, []
    return _is_run(names), folders


def _is_run(names: set[str]) -> bool:
    others = {CHECKPOINTS_NAME, METRICS_NAME, SUMMARY_NAME, PROCESS_NAME} & names
    if CONFIG_NAME in names:  # which many other programs write, too
        return bool(others)
    return CHECKPOINTS_NAME in names and bool({SUMMARY_NAME, PROCESS_NAME} & names)


def _folder_marks(path: str) -> list[_Mark | None]:
    marks = [_mark(f"{path}/{name}") for name in _FOLDERS]
    return [
        mark if mark is None or _is_settled(mark) else (*mark[:2], time.monotonic_ns())
        for mark in marks
    ]


def _is_settled(mark: _Mark) -> bool:
    return abs(time.time() - mark[0] / 1e9) > _SETTLED_SECONDS


def _mark(path: str) -> _Mark | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
