"""The trash: `<log_dir>/.trash/` keeps deleted runs under their addresses, to be restored.

Nothing is ever removed from the disk here. Who needs the space deletes that folder by hand.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from fastrl.runs.folder import owned
from fastrl.studio.addresses import address_of, path_of, plain_folder

TRASH_NAME = ".trash"


def trash(log_dir: Path, folder: Path) -> Path:
    """Moves the folder of a run to the trash; returns where it is now.

    Raises:
        ValueError: a process writes the folder.
        OSError: it cannot be moved.
    """
    *parents, name = folder.relative_to(log_dir).parts
    target = plain_folder(log_dir, TRASH_NAME, *parents) / name
    free, attempt = target, 0
    with owned(folder):
        while free.exists():  # a run of this name was deleted before
            attempt += 1
            free = target.with_name(f"{target.name}~{attempt}")
        os.rename(folder, free)
    with contextlib.suppress(OSError):  # others are in it
        folder.parent.rmdir()
    return free


def restore(log_dir: Path, address: str) -> str:
    """Moves a run from the trash back to where it was; returns its address.

    Args:
        log_dir: the log folder.
        address: of the run, below the trash.

    Raises:
        ValueError: there is no such run in the trash, or another one took its place.
    """
    root = plain_folder(log_dir, TRASH_NAME)
    folder = path_of(root, address)
    name, mark, number = folder.name.rpartition("~")
    was_second = bool(mark) and number.isdecimal()  # of its name in the trash
    target = (log_dir / address).with_name(name if was_second else folder.name)
    if target.exists() or target.is_symlink():
        raise ValueError(f"there is a run at {address_of(log_dir, target)} already")
    plain_folder(log_dir, *target.relative_to(log_dir).parts[:-1])
    os.rename(folder, target)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
    return address_of(log_dir, target)
