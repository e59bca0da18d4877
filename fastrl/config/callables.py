"""What `module:callable` leads to. The name must be the user's, or trusted (`config.trust`)."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def imported(module_name: str, said: str) -> Any:
    """Imports the user's module.

    Args:
        module_name: of the module.
        said: what names it, for errors.

    Raises:
        ValueError: importing it raised an error.
    """
    try:
        return import_module(module_name)
    except (Exception, SystemExit) as error:  # somebody's code may raise anything
        words = " ".join(str(error).split())
        raise ValueError(
            f"{said}: importing {module_name} raised {type(error).__name__}: {words}"
        ) from error


def callable_in(module: Any, qualname: str, said: str) -> Any:
    """Returns what a dotted name leads to in a module; ValueError unless it can be called."""
    found = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ValueError(f"{said}: {module.__name__} has no callable {qualname!r}")
    return found
