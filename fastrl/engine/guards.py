"""What a function reads from Python while it runs: numbers and parts that a fixed graph freezes.

A recorded graph, a compiled graph and a native kernel see Python only once, when they are built.
`PythonReads` watches such a run and remembers the attributes, global variables and closure cells
that the function's code names. If one of them has another value later, the graph no longer says
what the function says, and the engine runs the function itself from then on.
"""

from __future__ import annotations

import gc
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import (
    CodeType,
    FrameType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from fastrl.engine.code_names import computes_names, is_of_part, names_to_come
from fastrl.engine.held_state import State, layers_of, numbers_of, settings_of, state_of
from fastrl.engine.own_code import PACKAGE, is_library, profiled
from fastrl.engine.snapshots import (
    CONTAINERS,
    GENERATORS,
    MAPPINGS,
    MISSING,
    MUTABLE,
    PLAIN,
    TooLarge,
    is_plain,
    is_same,
    parts_of,
    put_back,
    put_into,
    snapshot_of,
    words_for,
)

# What the functions in `random` and `numpy.random` draw from.
GLOBAL_GENERATORS: dict[str, Any] = {
    "random's generator": cast(Any, random.random).__self__,
    "numpy.random's generator": cast(Any, np.random.rand).__self__,
}
_READS_ENVIRONMENT = type(os.environ).__getitem__.__code__
_OPAQUE = (torch.Tensor, np.ndarray, MethodType, *GENERATORS, *PLAIN)
_OF_CLASSES = (*PLAIN, *CONTAINERS, *GENERATORS, *MAPPINGS, np.ndarray, FunctionType, property)
_MOST_OBJECTS = 256  # of a container, that are looked into
_NOW = "now", "utcnow", "today"  # of datetime
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
_DEEPEST = 5  # attributes of attributes of attributes
# fastrl's own machinery, taken for a library's: nobody changes it while a run goes on.
_MACHINERY = tuple(os.path.join(PACKAGE, name) for name in ("engine", "kernels", "processes"))


class _Read(NamedTuple):
    look_up: Callable[..., Any]
    key: str
    found: Any
    value: Any  # a snapshot of what was found
    name: str
    holder: Any


class PythonReads:
    """The values that a function's Python code read, and where to look them up again."""

    def __init__(self, networks: Sequence[nn.Module] | None = None) -> None:
        """Knows of nothing until `watch`.

        Args:
            networks: whose layers somebody else looks after; of all other layers, it notes what
                they are and how they are set. None: it notes nothing of layers.
        """
        self._others: set[int] | None = None
        if networks is not None:
            self._others = {id(x) for network in networks for x in network.modules()}
        self._values: dict[tuple[int, str], _Read] = {}
        self._is_library: dict[int, bool] = {}
        # By id: two files may have the same code, with other global variables.
        self._ran: dict[int, tuple[CodeType, dict[str, Any]]] = {}
        self._alive: list[Any] = []  # ids name objects only as long as these live
        # Of one `watch`.
        self._seen: set[tuple[Any, ...]] = set()
        self._owners: list[Any] = []
        self._made: set[int] = set()  # ids of objects that the function made

    @contextmanager
    def watch(self, function: Callable[..., Any]) -> Iterator[None]:
        """Notes what `function`, called in this block, and the functions that it calls read."""
        self._take_cells(inspect.unwrap(getattr(function, "__func__", function)))
        before = {name: snapshot_of(generator) for name, generator in GLOBAL_GENERATORS.items()}
        try:
            with profiled(self._note):
                yield
        finally:
            for name, generator in GLOBAL_GENERATORS.items():
                if not is_same(generator, before[name]):
                    self._take_object(generator, before[name], name)
            self._seen, self._owners, self._made = set(), [], set()

    @property
    def ran(self) -> list[tuple[CodeType, dict[str, Any]]]:
        """The code that ran, with its global variables."""
        return [*self._ran.values()]

    def take_settings(self, networks: Sequence[nn.Module], optimizers: Sequence[Any]) -> None:
        """Notes the numbers and words that layers have as attributes, a library's layers too.

        And those of optimisers: Adam's epsilon, the bound of the gradient's norm.
        """
        layers = [pair for network in networks for pair in network.named_modules()]
        named = [(name or "network", module) for name, module in layers]
        for name, owner in [*named, *(("optimizer", x) for x in optimizers)]:
            self._take_all(settings_of(owner, name))

    def changed(self) -> str | None:
        """Names the first value that is another now: "self.beta changed from 0.1 to 1.0"."""
        for look_up, key, _, value, name, _ in self._values.values():
            now = look_up(key, MISSING)
            if now is not value and not is_same(now, value):
                return f"{name} {words_for(value, now)}"
        return None

    def restore(self) -> None:
        """Puts back what the function itself changed: it was only tried."""
        for look_up, key, found, value, _, holder in self._values.values():
            now = look_up(key, MISSING)
            if now is value or is_same(now, value):
                continue
            put_back(found, value)
            if holder is not found:
                put_into(holder, key, found)

    def _note(self, frame: FrameType, event: str, called: Any) -> None:
        code = frame.f_code
        if event == "c_call":
            if not self._skips(frame):
                self._note_builtin(called)
        elif code is _READS_ENVIRONMENT and event == "call":
            environment, key = os.environ, frame.f_locals["key"]
            value = environment.get(key, MISSING)
            self._take(environment, environment.get, key, value, f"os.environ[{key!r}]")
        # Arguments are there at the call, other local variables at the return.
        if event not in ("call", "return") or self._skips(frame):
            return
        owners = {name: x for name, x in frame.f_locals.items() if not isinstance(x, _OPAQUE)}
        key = (id(code), event, *map(id, owners.values()))
        if key in self._seen:
            return
        self._seen.add(key)
        self._owners.append(owners)  # else another object may come to have the same id
        if code.co_name == "__init__" and code.co_argcount:
            self._made.add(id(frame.f_locals.get(code.co_varnames[0])))
        # Strings too: getattr(self, "beta").
        names = {*code.co_names, *(x for x in code.co_consts if isinstance(x, str))}
        # Finding a function takes long: only for numbers and words in its closure, and not for what
        # a comprehension sees of its function, which are local variables.
        free = (frame.f_locals.get(name, MISSING) for name in code.co_freevars)
        if code.co_name not in _COMPREHENSIONS and any(map(is_plain, free)):
            for function in gc.get_referrers(code):
                if isinstance(function, FunctionType):
                    self._take_cells(function)
        if event == "call":
            self._take_defaults(frame)
            if not code.co_filename.startswith(PACKAGE):
                self._take_function(frame)
        for name in names & frame.f_globals.keys():
            value = frame.f_globals[name]
            self._take(frame.f_globals, frame.f_globals.get, name, value, name)
            owners.setdefault(name, value)
        if not code.co_filename.startswith(PACKAGE) and computes_names(code):
            names |= numbers_of(owners.values(), names)
        for name, owner in owners.items():
            self._look_into(owner, names, name, 1, code)

    def _look_into(
        self, owner: Any, names: set[str], label: str, depth: int, code: CodeType
    ) -> None:
        """Notes the attributes of an object, or of those in a container, that the code names."""
        if depth > _DEEPEST or isinstance(owner, _OPAQUE) or self._belongs_to_library(owner):
            return
        is_made = id(owner) in self._made  # anew at each call
        is_lasting = depth > 1 or label not in (*code.co_varnames, *code.co_cellvars)
        if isinstance(owner, (*CONTAINERS, dict)):
            _, items = parts_of(owner)
            if len(items) > _MOST_OBJECTS and not all(isinstance(x, _OPAQUE) for x in items):
                self._take_object(owner, TooLarge(len(items)), label)
            for item in items if len(items) <= _MOST_OBJECTS else ():
                self._look_into(item, names, f"{label}[...]", depth + 1, code)
        if self._others is not None and is_lasting and isinstance(owner, nn.Module):
            self._take_all(layers_of(owner, label, self._others))
        elif is_lasting:
            self._take_all(state_of(owner, label))
        own = getattr(owner, "__dict__", None)
        own = own if isinstance(own, dict) else {}  # a class, or an object with slots alone
        holders = [own]
        if isinstance(owner, nn.Module):
            parts = owner._modules, owner._parameters, owner._buffers
            holders += [x for x in parts if isinstance(x, dict)]  # TorchScript has others
            # The engine sets the mode and looks at it by `take_settings`, at layers by `Layout`.
            names = names - {"training"}
            if id(owner) in (self._others or ()):
                names = names - {"_modules"}
        parts = {
            key: holder[key]
            for holder in holders
            for key in names & holder.keys()
            if not isinstance(holder[key], _OPAQUE)
        }
        for holder in holders:
            for key in names & holder.keys():
                if is_of_part(key, parts, code):
                    continue
                value, name = holder[key], f"{label}.{key}"
                if not is_made:
                    self._take(holder, holder.get, key, value, name)
                self._look_into(value, names, name, depth + 1, code)
        is_class = isinstance(owner, type)
        if own and not (is_class or is_made or code.co_filename.startswith(PACKAGE)):
            for key in names_to_come(code):
                in_class = inspect.getattr_static(owner, key, MISSING) is not MISSING
                if not in_class and not any(key in holder for holder in holders):
                    for holder in holders:
                        self._take(holder, holder.get, key, MISSING, f"{label}.{key}")
        kinds = (owner if is_class else type(owner)).__mro__[:-1]
        for kind in (x for x in kinds if x is not nn.Module):
            for key in names & (vars(kind).keys() - own.keys()):
                value, name = vars(kind)[key], f"{label}.{key}"
                if isinstance(value, MemberDescriptorType) and not is_class:  # of a slot
                    look_up = partial(getattr, owner)
                    value = look_up(key, MISSING)
                    if not is_made:
                        self._take(owner, look_up, key, value, name)
                elif isinstance(value, _OF_CLASSES):
                    if not is_made:  # an instance or a derived class may come to hide it
                        self._take(own, own.get, key, MISSING, name)
                        for derived in kinds[: kinds.index(kind)]:
                            self._take(derived, vars(derived).get, key, MISSING, name)
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
        self._values[place] = _Read(look_up, key, value, snapshot_of(value), name, holder)

    def _take_all(self, states: Iterable[State]) -> None:
        for state in states:
            self._take(*state)

    def _take_object(self, value: Any, before: Any, name: str) -> None:
        """Notes what an object that changes in place was."""
        self._alive.append(value)
        read = _Read(lambda *_: value, "", value, before, name, value)
        self._values.setdefault((id(value), ""), read)

    def _note_builtin(self, called: Any) -> None:
        """Notes a call of what reads the clock or a context variable."""
        owner, name = getattr(called, "__self__", None), called.__name__
        module = called.__module__ or getattr(owner, "__module__", "")
        if (module == "time" and name != "sleep") or (module == "datetime" and name in _NOW):
            self._take(called, lambda *_: called, name, iter(()), f"{module}.{name}()")
        elif isinstance(owner, ContextVar) and called.__name__ == "get":
            self._take(owner, partial(_value_of, owner), "", _value_of(owner), owner.name)

    def _take_defaults(self, frame: FrameType) -> None:
        """Notes lists and dicts that are defaults of arguments: they last from call to call."""
        code, given = frame.f_code, frame.f_locals
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        found = {name: given[name] for name in names if isinstance(given.get(name), MUTABLE)}
        found = {name: value for name, value in found.items() if is_plain(value)}
        for function in gc.get_referrers(code) if found else ():  # which takes long
            if isinstance(function, FunctionType):
                by_name = (function.__kwdefaults__ or {}).values()
                lasting = [*(function.__defaults__ or ()), *by_name]
                for name, value in found.items():
                    if any(value is x for x in lasting):
                        self._take_object(value, snapshot_of(value), name)

    def _take_function(self, frame: FrameType) -> None:
        """Notes the code and the defaults of a function of a module or of a class."""
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        kinds = (first if isinstance(first, type) else type(first)).__mro__
        homes = frame.f_globals, *map(vars, kinds)
        for function in (home.get(code.co_name) for home in homes):
            function = getattr(function, "__func__", function)
            if isinstance(function, FunctionType) and function.__code__ is code:
                for key in ("__code__", "__defaults__", "__kwdefaults__"):
                    value = getattr(function, key)
                    name = f"{code.co_name}.{key}"
                    self._take(function, partial(getattr, function), key, value, name)

    def _take_cells(self, function: Any) -> None:
        """Notes a function's closure."""
        names = getattr(getattr(function, "__code__", None), "co_freevars", ())
        for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
            look_up = partial(getattr, cell)
            value = look_up("cell_contents", MISSING)
            if value is not MISSING:
                self._take(cell, look_up, "cell_contents", value, name)

    def _skips(self, frame: FrameType) -> bool:
        code = frame.f_code
        if id(code) not in self._is_library:
            self._ran[id(code)] = code, frame.f_globals
            self._is_library[id(code)] = self._is_of_library(code.co_filename, frame.f_globals)
        return self._is_library[id(code)]

    def _belongs_to_library(self, owner: Any) -> bool:
        """Tells whether a module or class is of a library."""
        if isinstance(owner, type):
            owner = sys.modules.get(owner.__module__)
        if not isinstance(owner, ModuleType):
            return False
        names = vars(owner)
        return self._is_of_library(names.get("__file__"), names)

    @staticmethod
    def _is_of_library(file: str | None, names: dict[str, Any]) -> bool:
        return (file or "").startswith(_MACHINERY) or is_library(file, names)


def _value_of(variable: ContextVar[Any], *_: Any) -> Any:
    """Returns the value of a context variable, which has one of its own or a default, or none."""
    try:
        return variable.get()
    except LookupError:
        return MISSING
