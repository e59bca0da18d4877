"""Whether `module:callable` leads to something, as far as can be told without importing it."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from fastrl.config.trust import NAMING_CODE, is_part_of_python

# In a module that has one of these, names may come about in ways that its text does not show.
_ROUNDABOUT = ("globals(", "setattr(", "sys.modules", "vars(", "exec(", "__getattr__")


def check_named_code(settings: dict[str, Any]) -> None:
    """Raises ValueError if a module that is named does not exist, or has no such name in it.

    Args:
        settings: plain values by name, and "agent" if there is one.
    """
    for setting in NAMING_CODE:
        values = settings.get(setting) or ()
        for value in (values,) if isinstance(values, str) else values:
            text = value.removeprefix("actor=").removeprefix("critic=")
            if ":" not in text:
                continue
            fault = _fault_of(text, is_env=setting == "env_id")
            if fault:
                raise ValueError(f"{setting} names {text}, but {fault}")


def _fault_of(text: str, *, is_env: bool) -> str:
    """Returns what is wrong with a `module:callable`; "" if nothing can be seen to be.

    Args:
        text: `module:callable`.
        is_env: it is an environment, and may also be `module:Id-v0`, registered by the module.
    """
    module, _, qualname = text.rpartition(":")
    if is_env and is_part_of_python(module):
        return f"{module} comes with Python and has no environments"
    loaded = sys.modules.get(module)
    spec = None if loaded is not None else _spec_of(module)
    if loaded is None and spec is None:
        return f"there is no module {module!r}"
    if is_env and not qualname.isidentifier():
        return ""  # the id of a task that the module registers
    name = qualname.partition(".")[0]
    if loaded is not None:
        names = set(dir(loaded))
    else:
        try:
            names = _names_of(spec)
        except (OSError, SyntaxError, ValueError) as error:
            return f"{module} cannot be read: {error}"
    if names is None or name in names:
        return ""
    near = difflib.get_close_matches(name, names, n=1)
    return f"{module} has no {name!r}" + (f"; did you mean {near[0]}?" if near else "")


def _spec_of(module: str) -> ModuleSpec | None:
    """Returns where a module is, without importing the packages that it is in."""
    spec, folders = None, None
    parts = module.split(".")
    for count, part in enumerate(parts, 1):
        name = ".".join(parts[:count])
        finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
        try:
            found = [find(name, folders) for find in finders if find is not None]
        except KeyError:  # a folder without __init__.py: the finder asks for the package it is in
            spec = ModuleSpec(name, None, is_package=True)
            places = [Path(folder, part) for folder in folders or sys.path]
            spec.submodule_search_locations = [str(place) for place in places if place.is_dir()]
            found = [spec]
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None:
            return None
        folders = spec.submodule_search_locations
        if folders is None and count < len(parts):
            return None
    return spec


def _names_of(spec: ModuleSpec | None) -> set[str] | None:
    """Returns the names that a module's text gives at its top level; None if more are possible."""
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    if origin is None or origin.suffix != ".py":
        return None
    text = importlib.util.decode_source(origin.read_bytes())
    tree = ast.parse(text)
    names = set(_stored_in(tree))
    return None if "*" in names or any(word in text for word in _ROUNDABOUT) else names


def _stored_in(node: ast.AST) -> Iterator[str]:
    """Yields the names that code sets when it runs, but not those inside its functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name
            # A function may set names of the module.
            for inner in ast.walk(child):
                yield from inner.names if isinstance(inner, ast.Global) else ()
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            for alias in child.names:
                yield alias.asname or alias.name.partition(".")[0]
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        if not isinstance(child, ast.Lambda):
            yield from _stored_in(child)
