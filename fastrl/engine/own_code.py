"""Whose code a function runs: fastrl's and libraries' alone, or somebody's own as well.

A kernel stands in for code of fastrl's. What somebody else wrote may differ from it on rows that
no random sample meets: a clamp far out, a rule for one state. So where such code runs, the function
itself runs. A copy of a function of fastrl's, in a copied file, counts as fastrl's.
"""

from __future__ import annotations

import contextlib
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch

PACKAGE = os.path.join(Path(__file__).parent.parent, "")  # not a neighbour, `fastrl_lab`
_TORCH = os.path.join(Path(torch.__file__).parent, "")
# Where packages are installed: torch may lie in another folder than this interpreter's.
_INSTALLED: tuple[str, ...] = tuple(
    {
        *(sysconfig.get_paths()[name] for name in ("purelib", "platlib")),
        *([site.getusersitepackages()] if site.ENABLE_USER_SITE else []),
        str(Path(_TORCH).parent),  # in which torch's folder lies
    }
)
_STANDARD = ("<frozen", sysconfig.get_paths()["stdlib"])


def is_library(file: str | None, names: dict[str, Any] | None = None) -> bool:
    """Tells whether a file is part of Python, or of a package that knows nothing of fastrl.

    Args:
        file: where code is; None if nobody knows.
        names: the global variables of the code.
    """
    if file is None or file.startswith(PACKAGE):
        return False
    if file.startswith(_TORCH):
        return True
    if not file.startswith(_INSTALLED):
        return file.startswith(_STANDARD)
    return names is None or not _uses_fastrl(names)


def _uses_fastrl(names: dict[str, Any]) -> bool:
    """Tells whether a module that is installed builds on fastrl: somebody's algorithm, say."""
    for value in [*names.values()]:
        if isinstance(value, ModuleType):
            owner = value.__name__
        else:
            is_named = isinstance(value, type | FunctionType)
            owner = value.__module__ if is_named else type(value).__module__
        if isinstance(owner, str) and owner.partition(".")[0] == "fastrl":
            return True
    return False


@contextlib.contextmanager
def profiled(note: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Calls `note` at each call and return in this block; another profiler waits meanwhile."""
    profiler: Any = sys.getprofile()  # Python has one for a thread
    is_builtin = hasattr(profiler, "disable")  # cProfile's, which goes by its own switch
    if is_builtin:
        profiler.disable()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None if is_builtin else profiler)
        if is_builtin:
            profiler.enable()


def first_own(ran: Iterable[tuple[CodeType, dict[str, Any]]]) -> str:
    """Returns the name of the first code that is neither fastrl's nor a library's; "" if none."""
    for code, names in ran:
        file = code.co_filename
        if file.startswith(PACKAGE) or is_library(file, names) or _is_made(file, names):
            continue
        if not any(_are_same(code, ours) for ours in _alike_in_fastrl(code)):
            return code.co_qualname
    return ""


def _is_made(file: str, names: dict[str, Any]) -> bool:
    """Tells whether code was generated: by a recording, for a NamedTuple or a dataclass of ours."""
    module = str(names.get("__name__", ""))
    is_ours = module.startswith("namedtuple_") or module.partition(".")[0] == "fastrl"
    return file == "<recorded>" or (file == "<string>" and is_ours)


def _alike_in_fastrl(code: CodeType) -> list[CodeType]:
    """Returns fastrl's code of the same name, or within a function of the same name."""
    names = [x for x in code.co_qualname.split(".") if not x.startswith("<")]
    return [x for x in _codes_of(names[-1]) if x.co_name == code.co_name] if names else []


@cache
def _codes_of(name: str) -> list[CodeType]:
    """Returns the code in those of fastrl's files that define a function of a name.

    From their text: an algorithm's own file need not be imported where a copy of it runs.
    """
    found: list[CodeType] = []

    def take(outer: CodeType) -> None:
        inner = [x for x in outer.co_consts if isinstance(x, CodeType)]
        found.extend(inner)
        for code in inner:
            take(code)

    for path in sorted(Path(PACKAGE).rglob("*.py")):
        text = path.read_text("utf-8")
        if f"def {name}(" in text:
            take(compile(text, str(path), "exec"))
    return found


def _are_same(code: Any, ours: Any) -> bool:
    """Tells whether two pieces of code say the same, wherever they stand."""
    if not isinstance(code, CodeType) or not isinstance(ours, CodeType):
        return type(code) is type(ours) and code == ours
    if code.co_code != ours.co_code or len(code.co_consts) != len(ours.co_consts):
        return False
    is_alike = code.co_names == ours.co_names and code.co_varnames == ours.co_varnames
    is_alike &= code.co_freevars == ours.co_freevars and code.co_cellvars == ours.co_cellvars
    return is_alike and all(map(_are_same, code.co_consts, ours.co_consts))
