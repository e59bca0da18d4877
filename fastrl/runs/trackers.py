"""Loggers of others: experiment trackers, by name or as Lightning's `Logger` objects.

They get the settings, the rows of metrics, videos and the numbers of the summary. Lightning is
imported only if one is named. A tracker that fails in the middle of a run is left out from then on,
with one line: the run, and our own files, go on.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from fastrl.config.run import LOGGERS
from fastrl.processes.errors import how_to_install, one_line
from fastrl.processes.signals import is_interrupt
from fastrl.runs.folder import replaced_file
from fastrl.runs.plain_files import read_facts
from fastrl.runs.silence import trackers_silent

FILES, TRACKERS = LOGGERS[:2], LOGGERS[2:]
"""What a run writes by itself; trackers, each with a package of the same name."""
IDS_NAME = "loggers.json"  # in the run folder: by which a resumed run finds its tracker's run

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_METHODS = ("log_metrics", "log_hyperparams", "finalize")
_MOST_BYTES = 10_000  # of the ids
_PROJECT = "fastrl"

_log = logging.getLogger("fastrl")


class _Tracker(NamedTuple):
    name: str
    logger: Any
    is_named: bool  # made here, so that it is closed here


def files_to_write(names: Sequence[str]) -> tuple[str, ...]:
    """Returns which of our own files a run writes: both, unless one is named."""
    return tuple(name for name in FILES if name in names) or FILES


def check_loggers(names: Sequence[str], given: Any) -> None:
    """Raises ValueError if a named tracker's package is missing, or an object is no logger."""
    if not isinstance(given, list | tuple):
        raise ValueError(f"loggers must be a list of Lightning's loggers, not {given!r}")
    for name in names:
        if name in TRACKERS:
            _import(name)
    for logger in given:
        lacking = [x for x in _METHODS if not callable(getattr(logger, x, None))]
        if isinstance(logger, type | str) or lacking:
            hint = "; names go to the setting logger" if isinstance(logger, str) else ""
            raise ValueError(f"a logger must be an object of Lightning's, not {logger!r}{hint}")


class Trackers:
    """The trackers of a run."""

    def __init__(
        self,
        names: Sequence[str],
        given: Sequence[Any],
        folder: Path,
        is_resumed: bool,
        is_silent: bool = False,
    ) -> None:
        """Opens the named trackers, a resumed run's in the run that they had before.

        Args:
            names: of the setting `logger`.
            given: objects of the caller's.
            folder: of the run.
            is_resumed: whether it goes on with an earlier one.
            is_silent: keep back what the named trackers print by themselves.

        Raises:
            ValueError: one cannot be opened.
        """
        self._folder, self._is_resumed = folder, is_resumed
        self._quietly = trackers_silent if is_silent else nullcontext
        ids = _read_ids(folder) if is_resumed else {}
        title = "_".join((folder.name, folder.parent.name))
        self._trackers: list[_Tracker] = []
        for name in [name for name in names if name in TRACKERS]:
            try:
                with self._quietly():
                    logger, ids[name] = _OPENERS[name](title, folder, ids.get(name))
            except Exception as error:
                raise ValueError(f"--logger {name}: {one_line(error)}") from error
            self._trackers.append(_Tracker(name, logger, True))
        if self._trackers:
            with replaced_file(folder / IDS_NAME) as file:
                file.write(json.dumps(ids, indent=2).encode() + b"\n")
        self._trackers += [_Tracker(type(x).__name__, x, False) for x in given]

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Passes the settings on; a resumed run's parameters are fixed in MLflow."""

        def tell(tracker: _Tracker) -> None:
            if not (self._is_resumed and type(tracker.logger).__name__ == "MLFlowLogger"):
                tracker.logger.log_hyperparams(dict(settings))

        self._each(tell)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Passes a row of metrics on."""
        self._each(lambda tracker: tracker.logger.log_metrics(dict(metrics), step))

    def log_video(self, path: Path, step: int) -> None:
        """Passes a video on to those that take files; the others are named in a line."""

        def tell(tracker: _Tracker) -> None:
            logger = tracker.logger
            if callable(getattr(logger, "log_video", None)):
                logger.log_video("video", [str(path)], step=step)
            elif callable(getattr(logger.experiment, "log_artifact", None)):
                logger.experiment.log_artifact(logger.run_id, str(path), "videos")
            else:
                _log.warning("%s takes no videos; they are in videos/", tracker.name)

        self._each(tell)

    def end(self, summary: Mapping[str, Any], step: int) -> None:
        """Passes the numbers of the summary on, as `Summary/...`, and closes the trackers."""
        numbers = _numbers_of(summary, "Summary")
        self._each(lambda tracker: tracker.logger.log_metrics(numbers, step))
        self.close("success")

    def close(self, status: str) -> None:
        """Closes the trackers; a second call does nothing.

        Args:
            status: "success" or "failed".
        """

        def close(tracker: _Tracker) -> None:
            tracker.logger.finalize(status)
            if tracker.name == "wandb" and tracker.is_named:
                tracker.logger.experiment.finish(exit_code=int(status != "success"))

        self._each(close)
        self._trackers = []

    def _each(self, tell: Callable[[_Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                with self._quietly() if tracker.is_named else nullcontext():
                    tell(tracker)
            except Exception as error:
                if is_interrupt(error):
                    raise
                kind, words = type(error).__name__, one_line(error)
                line = "the logger %s raised %s and is left out from now on: %s"
                _log.warning(line, tracker.name, kind, words)
                self._trackers.remove(tracker)


def _open_wandb(title: str, folder: Path, run_id: str | None) -> tuple[Any, str]:
    from lightning.pytorch.loggers import WandbLogger

    run_id = run_id or secrets.token_hex(4)
    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    logger = WandbLogger(name=title, project=project, save_dir=folder, id=run_id, resume="allow")
    return logger, logger.experiment.id


def _open_mlflow(title: str, folder: Path, run_id: str | None) -> tuple[Any, str]:
    from lightning.pytorch.loggers import MLFlowLogger

    # Beside the folders of all algorithms, so that one page shows all runs.
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.parents[2] / 'mlflow.db'}")
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
    logger = MLFlowLogger(experiment, run_name=title, tracking_uri=uri, run_id=run_id)
    found = logger.run_id
    assert found is not None
    return logger, found


def _open_trackio(title: str, folder: Path, name: str | None) -> tuple[Any, str]:
    from fastrl.runs.trackio_logger import TrackioLogger

    logger = TrackioLogger(os.environ.get("TRACKIO_PROJECT", _PROJECT), name or title)
    return logger, logger.version


_OPENERS = {"wandb": _open_wandb, "mlflow": _open_mlflow, "trackio": _open_trackio}


def _import(name: str) -> None:
    """Imports the package of a tracker; ValueError if it is not installed."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"--logger {name}: {error}; {how_to_install('loggers')}") from error


def _read_ids(folder: Path) -> dict[str, str]:
    """Returns the ids of a run's trackers; {} if it had none."""
    try:
        ids = read_facts(folder / IDS_NAME, _MOST_BYTES)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{folder / IDS_NAME} is damaged: {one_line(error)}") from error
    if not all(isinstance(x, str) and _ID.fullmatch(x) for x in ids.values()):
        raise ValueError(f"{folder / IDS_NAME} is damaged: its ids are not names of runs")
    return ids


def _numbers_of(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Returns the numbers in nested mappings, by the path to each."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            numbers |= _numbers_of(value, f"{prefix}/{name}")
        elif isinstance(value, int | float):
            numbers[f"{prefix}/{name}"] = float(value)
    return numbers
