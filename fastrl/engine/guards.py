"""What a function reads from Python while it runs: numbers and parts that a fixed graph freezes.

A recorded graph, a compiled graph and a native kernel see Python only once, when they are built.
`PythonReads` watches such a run and remembers the attributes, global variables and closure cells
that the function's code names. If one of them has another value later, the graph no longer says
what the function says, and the engine runs the function itself from then on.
"""

from __future__ import annotations

import copy
import dis
import gc
import inspect
import pickle
import random
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import IOBase
from pathlib import Path
from types import CodeType, FrameType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device)
_CONTAINERS = (list, tuple, set, deque)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)
_OPAQUE = (torch.Tensor, np.ndarray, MethodType, *_GENERATORS, *_PLAIN)
_OF_CLASSES = (*_PLAIN, *_CONTAINERS, *_GENERATORS, dict, np.ndarray, FunctionType, property)
_CHANGEABLE = (list, set, deque, dict)
_LARGEST = 4096  # numbers of a container or array that are compared
_MOST_OBJECTS = 64  # of a container, that are looked into
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
_DEEPEST = 3  # attributes of attributes of attributes
_MISSING = object()
# Code that nobody changes while a run goes on: installed libraries, and how fastrl runs things.
_PACKAGE = Path(__file__).parent.parent
_OWN = tuple(str(_PACKAGE / name) for name in ("engine", "kernels", "processes"))
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


class _Read(NamedTuple):
    look_up: Callable[..., Any]
    key: str
    value: Any
    name: str
    holder: Any


class _Drawn(NamedTuple):
    """How far a generator has been drawn from."""

    state: bytes


class PythonReads:
    """The values that a function's Python code read, and where to look them up again."""

    def __init__(self) -> None:
        """Knows of nothing until `watch`."""
        self._values: dict[tuple[int, str], _Read] = {}
        self._seen: set[tuple[Any, ...]] = set()
        self._is_library: dict[CodeType, bool] = {}
        self._alive: list[Any] = []  # ids name objects only as long as these live

    @contextmanager
    def watch(self, function: Callable[..., Any]) -> Iterator[None]:
        """Notes what `function`, called in this block, and the functions that it calls read."""
        self._take_cells(inspect.unwrap(getattr(function, "__func__", function)))
        profiler: Any = sys.getprofile()  # somebody measures; there is room for one
        is_builtin = hasattr(profiler, "disable")  # cProfile's, which goes by its own switch
        if is_builtin:
            profiler.disable()
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None if is_builtin else profiler)
            if is_builtin:
                profiler.enable()

    def take_settings(self, networks: Sequence[nn.Module]) -> None:
        """Notes the numbers and words that layers have as attributes, a library's layers too."""
        for network in networks:
            for name, module in network.named_modules():
                own = vars(module)
                for key, value in own.items():
                    if isinstance(value, _PLAIN) and not key.startswith("_"):
                        self._take(own, own.get, key, value, f"{name or 'network'}.{key}")

    def changed(self) -> str | None:
        """Names the first value that is another now: "self.beta changed from 0.1 to 1.0"."""
        for look_up, key, value, name, _ in self._values.values():
            now = look_up(key, _MISSING)
            if now is not value and not _same(now, value):
                return f"{name} changed{_from_to(value, now)}"
        return None

    def restore(self) -> None:
        """Puts plain values back that the function itself changed: it was only tried."""
        for look_up, key, value, _, holder in self._values.values():
            now = look_up(key, _MISSING)
            if now is value or _same(now, value) or not isinstance(holder, dict):
                continue
            if value is _MISSING:  # an attribute that hides one of the class
                if isinstance(now, _PLAIN):
                    del holder[key]
            elif isinstance(value, _PLAIN):
                holder[key] = value
            elif isinstance(value, _CHANGEABLE):
                holder[key] = copy.deepcopy(value)

    def _note(self, frame: FrameType, event: str, called: Any) -> None:
        code = frame.f_code
        if event == "c_call" and called.__module__ == "time" and not self._skips(code):
            self._take(called, lambda *_: called, "", iter(()), f"time.{called.__name__}()")
        # Arguments are there at the call, other local variables at the return.
        if event not in ("call", "return") or self._skips(code):
            return
        owners = {name: x for name, x in frame.f_locals.items() if not isinstance(x, _OPAQUE)}
        key = (code, event, *map(id, owners.values()))
        if key in self._seen:
            return
        self._seen.add(key)
        # Strings too: getattr(self, "beta").
        names = {*code.co_names, *(x for x in code.co_consts if isinstance(x, str))}
        # Finding a function takes long: only for numbers and words in its closure, and not for what
        # a comprehension sees of its function, which are local variables.
        free = (frame.f_locals.get(name, _MISSING) for name in code.co_freevars)
        if code.co_name not in _COMPREHENSIONS and any(map(_is_plain, free)):
            for function in gc.get_referrers(code):
                if isinstance(function, FunctionType):
                    self._take_cells(function)
        for name in names & frame.f_globals.keys():
            value = frame.f_globals[name]
            self._take(frame.f_globals, frame.f_globals.get, name, value, name)
            owners.setdefault(name, value)
        for name, owner in owners.items():
            self._look_into(owner, names, name, 1, code)

    def _look_into(
        self, owner: Any, names: set[str], label: str, depth: int, code: CodeType
    ) -> None:
        """Notes the attributes of an object, or of those in a container, that the code names."""
        if depth > _DEEPEST or isinstance(owner, _OPAQUE) or self._is_library_s(owner):
            return
        if isinstance(owner, (*_CONTAINERS, dict)):
            items = [*owner.values()] if isinstance(owner, dict) else [*owner]
            for item in items if len(items) <= _MOST_OBJECTS else ():
                self._look_into(item, names, f"{label}[...]", depth + 1, code)
        own = getattr(owner, "__dict__", None)
        own = own if isinstance(own, dict) else {}  # a class, or an object with slots alone
        holders = [own]
        if isinstance(owner, nn.Module):
            parts = owner._modules, owner._parameters, owner._buffers
            holders += [x for x in parts if isinstance(x, dict)]  # TorchScript has others
            names = names - {"training"}  # the engine sets it, and looks at it by `take_settings`
        parts = {
            key: holder[key]
            for holder in holders
            for key in names & holder.keys()
            if not isinstance(holder[key], _OPAQUE)
        }
        for holder in holders:
            for key in names & holder.keys():
                if _is_of_part(key, parts, code):
                    continue
                value, name = holder[key], f"{label}.{key}"
                self._take(holder, holder.get, key, value, name)
                self._look_into(value, names, name, depth + 1, code)
        is_class = isinstance(owner, type)
        for kind in (owner if is_class else type(owner)).__mro__[:-1]:
            for key in names & vars(kind).keys() - own.keys() if kind is not nn.Module else ():
                value, name = vars(kind)[key], f"{label}.{key}"
                if isinstance(value, MemberDescriptorType) and not is_class:  # of a slot
                    look_up = partial(getattr, owner)
                    value = look_up(key, _MISSING)
                    self._take(owner, look_up, key, value, name)
                elif isinstance(value, _OF_CLASSES):
                    self._take(own, own.get, key, _MISSING, name)  # an instance may come to hide it
                    self._take(kind, vars(kind).get, key, value, name)
                if not isinstance(value, FunctionType):
                    self._look_into(value, names, name, depth + 1, code)

    def _take(
        self, holder: Any, look_up: Callable[..., Any], key: str, value: Any, name: str
    ) -> None:
        place = id(holder), key
        if place in self._values or isinstance(value, ModuleType):
            return
        self._alive.append(holder)
        self._values[place] = _Read(look_up, key, _kept(value), name, holder)

    def _take_cells(self, function: Any) -> None:
        """Notes a function's closure."""
        names = getattr(getattr(function, "__code__", None), "co_freevars", ())
        for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
            look_up = partial(getattr, cell)
            value = look_up("cell_contents", _MISSING)
            if value is not _MISSING:
                self._take(cell, look_up, "cell_contents", value, name)

    def _skips(self, code: CodeType) -> bool:
        if code not in self._is_library:
            self._is_library[code] = self._is_of_library(code.co_filename)
        return self._is_library[code]

    def _is_library_s(self, owner: Any) -> bool:
        """Tells whether a module or class is of a library."""
        if isinstance(owner, type):
            owner = sys.modules.get(owner.__module__)
        return isinstance(owner, ModuleType) and self._is_of_library(vars(owner).get("__file__"))

    @staticmethod
    def _is_of_library(file: str | None) -> bool:
        if file is None:
            return False
        if file.startswith(str(_PACKAGE)):
            return file.startswith(_OWN)
        return file.startswith(("<frozen", *_LIBRARIES))


def _is_of_part(key: str, parts: Mapping[str, Any], code: CodeType) -> bool:
    """Tells whether code reads an attribute of a part alone: `self.policy.step`, not `self.step`.

    Args:
        key: the attribute's name, `step`.
        parts: the object's attributes that may have such an attribute, `policy` among them.
        code: what reads it.
    """
    look = inspect.getattr_static  # runs no property
    holders = {name for name, x in parts.items() if look(x, key, _MISSING) is not _MISSING}
    holders.discard(key)
    return bool(holders) and _read_from(key, code) <= holders


def _read_from(key: str, code: CodeType) -> set[str]:
    """Returns the attributes `a` of which code reads `x.a.key`; "" if it names `key` otherwise."""
    if key in code.co_consts:  # getattr(x, "key")
        return {""}
    found, before = set(), ""
    for step in dis.get_instructions(code):
        is_read = step.opname in ("LOAD_ATTR", "LOAD_METHOD")
        if step.argval == key:
            found.add(before if is_read else "")
        before = step.argval if is_read else ""
    return found


def _kept(value: Any) -> Any:
    """Returns what a value is compared with later: a copy of what may change in place."""
    if isinstance(value, np.ndarray) and value.size <= _LARGEST:
        return value.copy()
    if isinstance(value, _GENERATORS):
        return _Drawn(pickle.dumps(value))
    if isinstance(value, Iterator) and not isinstance(value, IOBase):
        return object()  # like nothing: who reads an iterator goes on in it
    if isinstance(value, _CHANGEABLE) and _is_plain(value):
        return copy.deepcopy(value)
    return value


def _is_plain(value: Any, depth: int = 4) -> bool:
    """Tells whether a value is numbers and strings, in containers or not."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, _CONTAINERS):
        return depth > 0 and len(value) <= _LARGEST and all(_is_plain(x, depth - 1) for x in value)
    return isinstance(value, _PLAIN)


def _same(now: Any, before: Any) -> bool:
    if isinstance(now, _GENERATORS):
        now = _kept(now)
    if type(now) is not type(before):
        return False
    if isinstance(before, np.ndarray):
        return bool(np.array_equal(now, before))
    if isinstance(before, (*_PLAIN, *_CONTAINERS, dict, MethodType)):
        try:
            return bool(now == before)
        except (RuntimeError, ValueError):  # there are tensors inside
            return False
    return False


def _from_to(before: Any, now: Any) -> str:
    are_plain = isinstance(before, _PLAIN) and isinstance(now, _PLAIN)
    return f" from {before!r} to {now!r}" if are_plain else ""
