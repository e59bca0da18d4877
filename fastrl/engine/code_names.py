"""Which attributes a function's code names, and of which objects, as its instructions say."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Mapping
from functools import lru_cache
from itertools import takewhile
from types import CodeType
from typing import Any

from fastrl.engine.snapshots import MISSING

_TAKE_NAMES = {"setattr", "__setattr__", "register_buffer", "register_parameter", "add_module"}
_TAKE_NAMES |= {"getattr", "hasattr"}


def is_of_part(key: str, parts: Mapping[str, Any], code: CodeType) -> bool:
    """Tells whether code reads an attribute of a part alone: `self.policy.step`, not `self.step`.

    Args:
        key: the attribute's name, `step`.
        parts: the object's attributes that may have such an attribute, `policy` among them.
        code: what reads it.
    """
    look = inspect.getattr_static  # runs no property
    holders = {name for name, x in parts.items() if look(x, key, MISSING) is not MISSING}
    holders.discard(key)
    return bool(holders) and _read_from(key, code) <= holders


def _read_from(key: str, code: CodeType) -> set[str]:
    """Returns the attributes `a` of which code reads `x.a.key`; "" if it names `key` otherwise."""
    if key in code.co_consts or key not in code.co_names:  # getattr(x, "key")
        return {""}
    found, before = set(), ""
    for step in dis.get_instructions(code):
        is_read = step.opname in ("LOAD_ATTR", "LOAD_METHOD")
        if step.argval == key:
            found.add(before if is_read else "")
        before = step.argval if is_read else ""
    return found


@lru_cache(256)
def names_to_come(code: CodeType) -> list[str]:
    """Returns the names of attributes that an object may come to have.

    Those that code sets, or may set: `setattr(self, "scale", x)`; and those that it asks for:
    `getattr(self, "scale", 1.0)`.
    """
    found = [x.argval for x in dis.get_instructions(code) if x.opname == "STORE_ATTR"]
    if not _TAKE_NAMES.isdisjoint(code.co_names):
        found += [x for x in code.co_consts if isinstance(x, str)]
    return list(dict.fromkeys(found))


@lru_cache(256)
def computes_names(code: CodeType) -> bool:
    """Tells whether code may read attributes whose names it puts together: `vars(x)[name]`."""
    if not {"vars", "__dict__", "attrgetter"}.isdisjoint(code.co_names):
        return True
    steps = [*dis.get_instructions(code)]
    for i, step in enumerate(steps):
        if step.argval != "getattr" or not step.opname.startswith("LOAD_"):
            continue
        loads = [*takewhile(lambda x: x.opname.startswith("LOAD_"), steps[i + 1 :])]
        call = steps[i + 1 + len(loads)]
        num_arguments = call.arg if call.opname in ("PRECALL", "CALL") else 0
        if num_arguments not in (2, 3):  # with a default
            return True
        if loads[1 - num_arguments].opname != "LOAD_CONST":
            return True
    return False
