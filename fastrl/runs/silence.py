"""What experiment trackers print by themselves, kept back where a run prints nothing."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Loggers of others, and the least level of theirs that is no mere information.
_LEVELS = {
    "mlflow": logging.WARNING,
    "alembic": logging.WARNING,
    "lightning.pytorch.loggers.mlflow": logging.ERROR,  # warns of making a new experiment
}
_VARIABLES = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "WANDB_SILENT": "true"}


@contextmanager
def trackers_silent() -> Iterator[None]:
    """Keeps back what MLflow, Weights & Biases and Trackio say, but for warnings and errors."""
    loggers = {name: logging.getLogger(name) for name in _LEVELS}
    levels = {name: logger.level for name, logger in loggers.items()}
    added = {name: value for name, value in _VARIABLES.items() if name not in os.environ}
    for name, logger in loggers.items():
        logger.setLevel(max(_LEVELS[name], levels[name]))
    os.environ.update(added)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
        for name in added:
            os.environ.pop(name, None)
