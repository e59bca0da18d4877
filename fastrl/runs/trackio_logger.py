"""Trackio as one of Lightning's loggers; it keeps its data on this machine."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import trackio  # pyright: ignore[reportMissingImports]
from lightning.pytorch.loggers import Logger

# Of a notebook no page is embedded, and what the machine does is not logged.
_HOW: Any = {"resume": "allow", "embed": False, "auto_log_cpu": False, "auto_log_gpu": False}


class TrackioLogger(Logger):
    """Logs into a run of Trackio; `trackio show` opens the page.

    Args:
        project: the page that the run is on.
        run: its name; of a run that is there already, new rows are added to it.
    """

    def __init__(self, project: str, run: str) -> None:
        super().__init__()
        self._project, self._run = project, run
        self._experiment: Any = trackio.init(project, name=run, **_HOW)

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str:
        """Name of the run."""
        return self._run

    @property
    def experiment(self) -> Any:
        """The run."""
        return self._experiment

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Takes the settings of a run, whose rows show them."""
        self._experiment.config.update(params if isinstance(params, dict) else vars(params))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Logs a row."""
        self._experiment.log(metrics, step=step)

    def log_video(self, key: str, videos: list[str], step: int | None = None) -> None:
        """Logs video files."""
        for video in videos:
            self._experiment.log({key: trackio.Video(video)}, step=step)

    def finalize(self, status: str) -> None:
        """Sends what is left, and ends the run."""
        trackio.finish()
