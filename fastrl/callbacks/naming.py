"""Callbacks by name, as `--callback` takes them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fastrl.callbacks.base import Callback
from fastrl.config.trust import is_part_of_python
from fastrl.envs.foreign import own_line
from fastrl.processes.errors import one_line


def callback_named(name: str) -> Callback:
    """Returns what `module:callable` makes: a class of callbacks, or a function that returns one.

    The module is imported, so a name in a file must be trusted (`config.trust`).

    Raises:
        ValueError: there is no such thing, it raised an error, or it is no callback.
    """
    module_name, _, qualname = name.partition(":")
    if is_part_of_python(module_name):  # and what it would run makes no callback
        raise ValueError(f"--callback {name}: {module_name} comes with Python")
    try:
        found: Any = import_module(module_name)
    except (Exception, SystemExit) as error:  # somebody's code may raise anything
        what = f"{type(error).__name__}: {one_line(error)}{own_line(error)}"
        raise ValueError(f"--callback {name}: importing {module_name} raised {what}") from error
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ValueError(f"--callback {name}: {module_name} has no callable {qualname!r}")
    if is_part_of_python(str(getattr(found, "__module__", None))):
        raise ValueError(f"--callback {name}: {found.__module__} comes with Python")
    if isinstance(found, type) and not issubclass(found, Callback):
        raise ValueError(f"--callback {name} is a class, but not a fastrl.Callback")
    try:
        callback = found()
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {one_line(error)}{own_line(error)}"
        raise ValueError(
            f"--callback {name} is called without arguments, which raised {what}; a function of "
            "yours can give some"
        ) from error
    if not isinstance(callback, Callback):
        kind = type(callback).__name__
        raise ValueError(f"--callback {name} returned a {kind}, not a fastrl.Callback")
    return callback
