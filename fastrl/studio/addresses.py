"""Addresses: paths below the log folder, as they stand in a URL, and the files behind them.

An address is what the browser sends, so it may be anybody's text. It becomes a path only here, and
only if it stays below the log folder: no `..`, no absolute path, no hidden name, no symbolic link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from fastrl.processes.errors import one_line

_MOST_CHARACTERS = 1000


def address_of(log_dir: Path, path: Path) -> str:
    """Returns the address of a file or folder below the log folder, with `/` between its parts."""
    return path.relative_to(log_dir).as_posix()


def is_address(address: str) -> bool:
    """Returns whether a text may be an address; the name of a folder may be bytes of any kind."""
    parts = address.split("/")
    is_plain = all(part and part[0] != "." and "\\" not in part for part in parts)
    return is_plain and address.isprintable() and len(address) <= _MOST_CHARACTERS


def left_out(what: str, addresses: Sequence[str]) -> str:
    """Returns a line on what is not shown, since it can have no address; "" if there is none."""
    if not addresses:
        return ""
    count = f"1 {what} is" if len(addresses) == 1 else f"{len(addresses):,} {what}s are"
    first = one_line(ValueError(addresses[0]))  # which writes what cannot be printed as escapes
    return f"{count} left out, as a page cannot have such a name in its address: {first}"


def path_of(log_dir: Path, address: str) -> Path:
    """Returns the path of an address, whose parts all exist.

    Args:
        log_dir: the log folder; may itself be reached by a link.
        address: text from a URL, already decoded.

    Raises:
        ValueError: the address leaves the log folder, goes through a link, or leads nowhere.
    """
    if not is_address(address):
        raise ValueError("this is not the address of anything in the log folder")
    path = log_dir
    for part in address.split("/"):
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise ValueError("there is nothing at this address in the log folder") from error
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise ValueError("this address leads through a link or a device, which is not served")
    return path


def plain_folder(root: Path, *names: str) -> Path:
    """Returns a folder below `root`, made if it does not exist, that no link leads to.

    Raises:
        ValueError: a part of it is a link or a file.
        OSError: it cannot be made.
    """
    folder = root
    for name in names:
        folder = folder / name
        folder.mkdir(exist_ok=True) if not folder.is_symlink() else None
        if folder.is_symlink() or not folder.is_dir():
            raise ValueError(f"{folder} is a link or a file; expected a folder")
    return folder


def page_of_run(address: str) -> str:
    """Returns the URL of the page of a run."""
    return f"/run/{quote(address)}"


def url_of_file(address: str) -> str:
    """Returns the URL of a file below the log folder, to show or to download."""
    return f"/files/{quote(os.fsencode(address))}"  # its last part is any file name
