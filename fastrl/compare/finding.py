"""The run folders that words on the command line mean."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from fastrl.runs.folder import CHECKPOINTS_NAME, expanded
from fastrl.runs.listing import find_run_folders, is_run_folder


def find_folders(words: Sequence[str]) -> list[Path]:
    """Returns the run folders that are meant, each once, in order.

    Args:
        words: run folders, their checkpoints or the folders of these, folders with runs somewhere
            below them, or patterns such as `logs/ppo/*`.

    Raises:
        ValueError: a word means no run.
    """
    found: dict[str, Path] = {}
    for word in words:
        for path in _meant(word):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _meant(word: str) -> list[Path]:
    path = expanded(word)
    if os.path.lexists(path):
        if folders := _at(path):
            return folders
        if path.is_dir():
            raise ValueError(f"{word} is no run folder, and there are none below it")
        raise ValueError(f"{word} belongs to no run; expected a run folder, or a folder of runs")
    if not glob.has_magic(word):
        raise ValueError(f"{word} does not exist; expected a run folder, or a folder of runs")
    matches = sorted(glob.glob(str(path), recursive=True))
    folders = [folder for match in matches for folder in _at(Path(match))]
    if not folders:
        what = f"the {len(matches)} paths that match hold no runs" if matches else "nothing matches"
        raise ValueError(f"{word}: {what}")
    return folders


def _at(path: Path) -> list[Path]:
    """Returns the run at a path, or that it belongs to, or those below it."""
    candidates = [path]
    if path.is_file() or path.name == CHECKPOINTS_NAME:
        candidates.append(path.parent)
    if path.is_file() and path.parent.name == CHECKPOINTS_NAME:
        candidates.append(path.parent.parent)
    for folder in candidates:
        if is_run_folder(folder):
            return [folder]
    return find_run_folders(path) if path.is_dir() else []
