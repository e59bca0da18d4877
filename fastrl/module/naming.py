"""Modules by name: what `module:callable` makes, for commands, which have no object."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from fastrl.config.callables import callable_in, imported
from fastrl.module.agent_module import LightningAgentModule
from fastrl.processes.errors import one_line


def made(name: str) -> Any:
    """Returns the module that `module:callable` makes; the user gave the name.

    Raises:
        ValueError: there is no such callable, it raised an error, or it makes something else.
    """
    place, colon, qualname = name.partition(":")
    if not (place and colon and qualname):
        raise ValueError(f"--agent must be module:callable, not {name!r}")
    make = callable_in(imported(place, name), qualname, name)
    try:
        module = make()
    except (Exception, SystemExit) as error:  # somebody's code may raise anything
        *_, last = traceback.extract_tb(sys.exc_info()[2])
        where = f"{last.filename}:{last.lineno}"
        raise ValueError(
            f"{name}() raised {type(error).__name__}: {one_line(error)} ({where})"
        ) from error
    if not isinstance(module, LightningAgentModule):
        raise ValueError(f"{name}() returned {type(module).__name__}, not a LightningAgentModule")
    return module
