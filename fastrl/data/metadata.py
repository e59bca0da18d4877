"""The files of a dataset of Minari's, and what its metadata.json says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

METADATA_NAME, MAIN_NAME = "metadata.json", "main_data.hdf5"


def is_empty(folder: Path) -> bool:
    """Returns whether there is nothing, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def read_metadata(folder: Path) -> dict[str, Any]:
    """Returns the metadata of a dataset of anybody's.

    Raises:
        ValueError: the folder is not there or has no dataset, or its metadata are damaged.
    """
    path = folder / METADATA_NAME
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected that of a Minari dataset")
    if not path.is_file():
        inside = " (it is in the folder data)" if (folder / "data" / METADATA_NAME).exists() else ""
        raise ValueError(f"{folder} has no dataset: it lacks {METADATA_NAME}{inside}")
    try:
        metadata = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is not JSON") from error
    counts = "total_episodes", "total_steps"
    if not isinstance(metadata, dict) or not all(
        isinstance(metadata.get(name), int | float) and math.isfinite(metadata[name])
        for name in counts
    ):
        raise ValueError(f"{path} is damaged: it lacks {' or '.join(counts)}")
    return metadata
