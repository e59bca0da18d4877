"""Callbacks by name, as `--callback` takes them."""

from __future__ import annotations

from fastrl.callbacks.base import Callback
from fastrl.config.callables import callable_in, imported
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
    said = f"--callback {name}"
    try:
        found = callable_in(imported(module_name, said), qualname, said)
    except ValueError as error:
        raise ValueError(f"{one_line(error)}{own_line(error.__cause__ or error)}") from error
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
