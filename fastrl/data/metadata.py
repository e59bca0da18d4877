"""The files of a dataset of Minari's, and what its metadata.json says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fastrl.processes.errors import one_line
from fastrl.runs.plain_files import read_facts

_MOST_BYTES = 2**26
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
        metadata = read_facts(path, _MOST_BYTES)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error
    counts = "total_episodes", "total_steps"
    if not all(
        isinstance(metadata.get(name), int | float) and 0 <= metadata[name] < math.inf
        for name in counts
    ):
        raise ValueError(f"{path} is damaged: it lacks {' or '.join(counts)}")
    return metadata
