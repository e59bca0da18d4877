"""Snapshots of Python values, and whether a value is still what its snapshot says."""

from __future__ import annotations

import copy
import ctypes
import pickle
import random
from array import array
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Iterable, Iterator, MutableMapping
from io import IOBase
from types import CellType, FunctionType, MemberDescriptorType, MethodType
from typing import Any, NamedTuple

import numpy as np
import torch

PLAIN = (
    *(int, float, complex, bool, str, bytes, type(None), np.generic),
    *(torch.dtype, torch.device),
)
CONTAINERS = (list, tuple, set, deque, UserList)
MAPPINGS = (dict, UserDict)
GENERATORS = (random.Random, np.random.Generator, np.random.RandomState)
MUTABLE = (list, set, deque, UserList, *MAPPINGS)
BUFFERS = (array, bytearray)
_SHARED: tuple[type, ...] = (ctypes._SimpleCData, ctypes.Array, ctypes.Structure)
MISSING = object()
_DEEPEST = 4  # containers in containers that are looked into
_LARGEST = 4096  # items of a container that are compared
_LARGEST_ARRAY = 1 << 20  # numbers, which takes a millisecond


class Drawn(NamedTuple):
    """How far a generator has been drawn from."""

    state: bytes


class Shared(NamedTuple):
    """What a number that processes share is: `multiprocessing.Value`, a value of ctypes."""

    content: bytes


class Held(NamedTuple):
    """What a container held, beside numbers and strings: tensors, functions, objects."""

    keys: list[Any]
    items: list[Any]
    values: list[Any]
    """Snapshots of the items."""


class TooLarge(NamedTuple):
    """A container or an array that is too large to be compared at each update."""

    size: int


def snapshot_of(value: Any, depth: int = 0) -> Any:
    """Returns what a value is compared with later: a copy of what may change in place."""
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":  # those may hold tensors
        return value.copy() if value.size <= _LARGEST_ARRAY else TooLarge(value.size)
    if isinstance(value, GENERATORS):
        try:
            return Drawn(pickle.dumps(value))
        except NotImplementedError:  # SystemRandom has no state to go back to
            return object()
    if isinstance(value, _SHARED) or _is_locked(value):
        return Shared(bytes(_memory_of(value)))
    if isinstance(value, Iterator) and not isinstance(value, IOBase):
        return object()  # equal to nothing: reading an iterator advances it
    if isinstance(value, ChainMap):
        return object()
    if isinstance(value, BUFFERS):
        return value[:] if len(value) <= _LARGEST_ARRAY else TooLarge(len(value))
    if isinstance(value, (*MUTABLE, tuple, np.ndarray)):
        if is_plain(value):
            return copy.deepcopy(value)
        size = value.size if isinstance(value, np.ndarray) else len(value)
        if size > _LARGEST:
            return TooLarge(size)
        if depth < _DEEPEST:
            return _held(value, depth + 1)
    return value


def _is_locked(value: Any) -> bool:
    return type(value).__module__ == "multiprocessing.sharedctypes" and hasattr(value, "get_obj")


def _memory_of(value: Any) -> Any:
    return value if isinstance(value, _SHARED) else value.get_obj()


def _held(value: Any, depth: int) -> Held:
    keys, items = parts_of(value)
    return Held(keys, items, [snapshot_of(item, depth) for item in items])


def parts_of(container: Any) -> tuple[list[Any], list[Any]]:
    """Returns a mapping's keys and values, or the items of another container without keys."""
    if isinstance(container, MAPPINGS):
        return [*container.keys()], [*container.values()]
    if isinstance(container, np.ndarray):
        return [], [*container.flat]
    # A batch that notes its reads must not note this one.
    return [], [*tuple.__iter__(container)] if isinstance(container, tuple) else [*container]


def put_back(value: Any, before: Any) -> None:
    """Gives what changes in place the contents of its snapshot; others may hold it as well."""
    if isinstance(before, Held):
        for item, then in zip(before.items, before.values, strict=True):
            put_back(item, then)
        if isinstance(value, MUTABLE):  # a tuple holds what it held
            is_mapping = isinstance(value, MAPPINGS)
            keys, items = before.keys, before.items
            _refill(value, dict(zip(keys, items, strict=True)) if is_mapping else items)
        if isinstance(value, np.ndarray):
            for place, item in enumerate(before.items):
                value.flat[place] = item
    elif isinstance(before, Drawn):
        rewind(value, before)
    elif isinstance(before, Shared):
        memory = _memory_of(value)
        ctypes.memmove(ctypes.addressof(memory), before.content, len(before.content))
    elif isinstance(before, np.ndarray):
        if value.flags.writeable:
            value[...] = before
    elif isinstance(before, BUFFERS):
        value[:] = before
    elif isinstance(before, MUTABLE):
        _refill(value, copy.deepcopy(before))


def _refill(value: Any, contents: Iterable[Any]) -> None:
    value.clear()
    (value.update if isinstance(value, (set, *MAPPINGS)) else value.extend)(contents)


def rewind(generator: Any, drawn: Drawn) -> None:
    """Puts a generator back to where it was."""
    before = pickle.loads(drawn.state)  # made above
    if isinstance(generator, random.Random):
        generator.setstate(before.getstate())
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(before.get_state())
    else:
        generator.bit_generator.state = before.bit_generator.state


def is_plain(value: Any, depth: int = _DEEPEST) -> bool:
    """Tells whether a value is numbers, strings, dtypes, devices or None, in containers or not."""
    if isinstance(value, MAPPINGS):
        value = [*value.keys(), *value.values()]
    if isinstance(value, CONTAINERS):
        return depth > 0 and len(value) <= _LARGEST and all(is_plain(x, depth - 1) for x in value)
    return isinstance(value, PLAIN)


def is_same(now: Any, before: Any) -> bool:
    """Tells whether a value is what `snapshot_of` noted."""
    if isinstance(before, Drawn | Shared):
        now = snapshot_of(now)
    if isinstance(before, Held):
        if not isinstance(now, (*MUTABLE, tuple, np.ndarray)):
            return False
        keys, items = parts_of(now)
        if keys != before.keys or len(items) != len(before.values):
            return False
        return all(x is y or is_same(x, y) for x, y in zip(items, before.values, strict=True))
    if type(now) is not type(before):
        return False
    if isinstance(before, np.ndarray):
        return bool(np.array_equal(now, before, equal_nan=before.dtype.kind in "fc"))
    if isinstance(before, (*PLAIN, *CONTAINERS, *MAPPINGS, *BUFFERS, MethodType)):
        try:
            return bool(now == before)
        except (RuntimeError, ValueError):  # there are tensors inside
            return False
    return False


def put_into(holder: Any, key: str, value: Any) -> None:
    """Gives what holds a value the one that it had: a dict, a class, a slot or a closure's cell."""
    if isinstance(holder, MutableMapping):
        if value is MISSING:
            holder.pop(key, None)
        else:
            holder[key] = value
    elif isinstance(holder, CellType):
        holder.cell_contents = value
    elif value is MISSING:
        if isinstance(holder, type) and key in vars(holder):
            delattr(holder, key)
    else:
        kind = vars(type(holder)).get(key)
        if isinstance(holder, type | FunctionType) or isinstance(kind, MemberDescriptorType):
            setattr(holder, key, value)


def words_for(before: Any, now: Any) -> str:
    """Says what became of a value, of which `before` is the snapshot."""
    if isinstance(before, TooLarge):
        return f"has {before.size:,} items, too many to be compared"
    are_plain = isinstance(before, PLAIN) and isinstance(now, PLAIN)
    return f"changed from {before!r} to {now!r}" if are_plain else "changed"
