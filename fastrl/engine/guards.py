"""What a function reads from Python while it runs: numbers and parts that a fixed graph freezes.

A recorded graph, a compiled graph and a native kernel see Python only once, when they are built.
`PythonReads` watches such a run and remembers the attributes, global variables and closure cells
that the function's code names. If one of them has another value later, the graph no longer says
what the function says, and the engine runs the function itself from then on.
"""

from __future__ import annotations

import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CellType, CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device)
_OPAQUE = (torch.Tensor, np.ndarray, type, ModuleType, FunctionType, MethodType, *_PLAIN)
_OF_CLASSES = (*_PLAIN, FunctionType, property)
_DEEPEST = 3  # attributes of attributes of attributes
_MISSING = object()
# Code that nobody changes while a run goes on: installed libraries, and how fastrl runs things.
_PACKAGE = Path(__file__).parent.parent
_OWN = tuple(str(_PACKAGE / name) for name in ("engine", "kernels", "processes"))
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


class Change(NamedTuple):
    """A value that is another than when it was read."""

    words: str
    """Such as "self.beta changed from 0.1 to 1.0"."""
    of_network: bool
    """Whether it is a module or a parameter of one."""


class PythonReads:
    """The values that a function's Python code read, and where to look them up again."""

    def __init__(self) -> None:
        """Knows of nothing until `watch`."""
        self._values: dict[tuple[int, str], tuple[Callable[..., Any], str, Any, str]] = {}
        self._seen: set[tuple[Any, ...]] = set()
        self._is_library: dict[CodeType, bool] = {}
        self._alive: list[Any] = []  # ids name objects only as long as these live

    @contextmanager
    def watch(self, function: Callable[..., Any]) -> Iterator[None]:
        """Notes what `function`, called in this block, and the functions that it calls read."""
        for name, cell in _cells(function):
            self._take(cell, partial(getattr, cell), "cell_contents", cell.cell_contents, name)
        if sys.getprofile() is not None:  # somebody measures this program; there is room for one
            yield
            return
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)

    def changed(self) -> Change | None:
        """Returns the first value that is another now."""
        for look_up, key, value, name in self._values.values():
            now = look_up(key, _MISSING)
            if now is not value and not _same(now, value):
                of_network = isinstance(value, nn.Module | nn.Parameter)
                return Change(f"{name} changed{_from_to(value, now)}", of_network)
        return None

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # Arguments are there at the call, other local variables at the return.
        if event not in ("call", "return") or self._skips(code):
            return
        owners = {name: x for name, x in frame.f_locals.items() if not isinstance(x, _OPAQUE)}
        key = (code, event, *map(id, owners.values()))
        if key in self._seen:
            return
        self._seen.add(key)
        names = set(code.co_names)
        for name in names & frame.f_globals.keys():
            value = frame.f_globals[name]
            self._take(frame.f_globals, frame.f_globals.get, name, value, name)
            owners.setdefault(name, value)
        for name, owner in owners.items():
            self._look_into(owner, names, name, 1)

    def _look_into(self, owner: Any, names: set[str], label: str, depth: int) -> None:
        """Notes the attributes of an object that the code names."""
        own = getattr(owner, "__dict__", None)
        if depth > _DEEPEST or isinstance(owner, _OPAQUE) or not isinstance(own, dict):
            return
        holders = [own]
        if isinstance(owner, nn.Module):
            holders += [owner._modules, owner._parameters, owner._buffers]
        for holder in holders:
            for key in names & holder.keys():
                value, name = holder[key], f"{label}.{key}"
                self._take(holder, holder.get, key, value, name)
                self._look_into(value, names, name, depth + 1)
        for kind in type(owner).__mro__[:-1]:
            for key in names & vars(kind).keys() - own.keys():
                value, name = vars(kind)[key], f"{label}.{key}"
                if isinstance(value, _OF_CLASSES) and kind is not nn.Module:
                    self._take(own, own.get, key, _MISSING, name)  # an instance may come to hide it
                    self._take(kind, vars(kind).get, key, value, name)

    def _take(
        self, holder: Any, look_up: Callable[..., Any], key: str, value: Any, name: str
    ) -> None:
        place = id(holder), key
        if place in self._values or isinstance(value, ModuleType):
            return
        self._alive.append(holder)
        self._values[place] = look_up, key, _kept(value), name

    def _skips(self, code: CodeType) -> bool:
        if code not in self._is_library:
            file = code.co_filename
            is_installed = file.startswith(("<frozen", *_LIBRARIES))
            is_ours = file.startswith(str(_PACKAGE))
            self._is_library[code] = file.startswith(_OWN) if is_ours else is_installed
        return self._is_library[code]


def _cells(function: Any) -> Iterator[tuple[str, CellType]]:
    function = inspect.unwrap(getattr(function, "__func__", getattr(function, "func", function)))
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
        try:
            cell.cell_contents  # noqa: B018
        except ValueError:  # empty yet
            continue
        yield name, cell


def _kept(value: Any) -> Any:
    """Returns what a value is compared with later: of small containers and arrays, a copy."""
    if isinstance(value, np.ndarray) and value.size <= 64:
        return value.copy()
    if isinstance(value, dict) and all(isinstance(x, _PLAIN) for x in value.values()):
        return dict(value)
    if isinstance(value, list) and all(isinstance(x, _PLAIN) for x in value):
        return list(value)
    return value


def _same(now: Any, before: Any) -> bool:
    if type(now) is not type(before):
        return False
    if isinstance(before, np.ndarray):
        return bool(np.array_equal(now, before))
    if isinstance(before, (*_PLAIN, tuple, list, dict, MethodType)):
        try:
            return bool(now == before)
        except (RuntimeError, ValueError):  # there are tensors inside
            return False
    return False


def _from_to(before: Any, now: Any) -> str:
    are_plain = isinstance(before, _PLAIN) and isinstance(now, _PLAIN)
    return f" from {before!r} to {now!r}" if are_plain else ""
