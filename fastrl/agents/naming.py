"""Classes of agents by name: what a checkpoint says it is of, and the way back to the class."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from fastrl.config.callables import imported

_STOCK = ("ppo", "a2c", "ppo_recurrent", "sac", "droq")


def class_name(kind: type) -> str:
    """Returns `module:Class`, as `--agent` takes it; the module may be `__main__`, a script."""
    module = kind.__module__
    if module == "__main__":  # under python -m it has a name
        module = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", module)
    return f"{module}:{kind.__qualname__}"


def is_stock(kind: type) -> bool:
    """Tells whether a class is one of fastrl's own algorithms."""
    return kind.__module__ in [f"fastrl.{algo}" for algo in _STOCK]


def is_loaded(name: Any) -> bool:
    """Tells whether a class is imported already, so that naming it runs no code."""
    if not isinstance(name, str):
        return False
    module_name, _, qualname = name.partition(":")
    return _is_stock_name(name) or _loaded(module_name, qualname) is not None


def class_of(name: Any, source: str = "") -> Any:
    """Returns the class of an agent by its name, whose module it imports.

    Args:
        name: `module:Class`.
        source: the file that names it, which must be trusted (`config.trust`); "" if the user did.

    Raises:
        ValueError: there is no such class, it is not an agent, or its module cannot be imported.
    """
    module_name, colon, qualname = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not colon or not module_name or not qualname:
        where = f"{source}: " if source else ""
        raise ValueError(f"{where}an agent is named module:Class, not {name!r}")
    found = _loaded(module_name, qualname)
    if found is None and module_name != "__main__":
        found = _found(imported(module_name, name), qualname)
    where = f"{source} was made by {name}" if source else name
    if found is None and module_name == "__main__":
        raise ValueError(
            f"{where}, a class of a script: load it there, by {qualname}.load, or put the class "
            "into a module, which --agent names"
        )
    if found is None:
        raise ValueError(f"{where}, but there is no class of that name")
    if not hasattr(found, "load_state_dict") or not hasattr(found, "algo"):
        raise ValueError(f"{where}, which is not an agent of fastrl")
    return found


def name_of_function(function: Any) -> str:
    """Returns `module:callable` of a function or class; `<its name>` if that leads nowhere back."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    module = getattr(function, "__module__", None) or ""
    if _loaded(module, name, callable) is not function:
        return f"<{name.replace('<', '').replace('>', '')}>"
    return class_name(function)


def is_loaded_function(name: str) -> bool:
    """Tells whether a function is imported already, so that naming it runs no code."""
    module_name, _, qualname = name.partition(":")
    return _loaded(module_name, qualname, callable) is not None


def function_of(name: str) -> Any:
    """Returns a function by its name, whose module it imports; the name must be trusted.

    Raises:
        ValueError: there is no such function, or its module cannot be imported.
    """
    module_name, _, qualname = name.partition(":")
    found = _loaded(module_name, qualname, callable)
    if found is None and module_name == "__main__":
        raise ValueError(
            f"{name} is a function of a script: load it there, or put it into a module; "
            "network= takes it again"
        )
    if found is None:
        found = _found(imported(module_name, name), qualname, callable)
    if found is None:
        raise ValueError(f"{name}: there is no function or class of that name")
    return found


def class_to_load(recorded: Any, asked: Any, source: str) -> Any:
    """Returns the class that a file is read with.

    Args:
        recorded: the name in the file; "" for an algorithm of fastrl's, None in files of older
            versions.
        asked: the class whose `load` was called.
        source: the file, which may name the class (`config.trust`).

    Raises:
        ValueError: it is another class's, or there is no such class.
    """
    if recorded in (None, class_name(asked)) or (recorded == "" and is_stock(asked)):
        return asked
    if recorded == "":
        raise ValueError(
            f"{source} is of fastrl's own {asked.algo}, not of {class_name(asked)}: that reads it; "
            "policy.load_state_dict takes the weights alone"
        )
    if recorded == f"__main__:{asked.__qualname__}":  # saved where that module ran as a script
        return asked
    kind = class_of(recorded, source)
    if issubclass(kind, asked) or (is_stock(asked) and kind.algo == asked.algo):
        return kind
    raise ValueError(
        f"{source} is of {recorded}, not of {class_name(asked)}: {kind.__name__}.load reads it; "
        "policy.load_state_dict takes the weights alone"
    )


def _is_stock_name(name: str) -> bool:
    return name.startswith(tuple(f"fastrl.{algo}:" for algo in _STOCK))


def _is_class(value: Any) -> bool:
    return isinstance(value, type)


def _loaded(module_name: str, qualname: str, fits: Callable[[Any], bool] = _is_class) -> Any:
    """Returns what fits of a module that was imported before, or of this script; else None."""
    main = sys.modules["__main__"]
    if getattr(getattr(main, "__spec__", None), "name", "") == module_name:
        return _found(main, qualname, fits)
    return _found(sys.modules.get(module_name), qualname, fits)


def _found(holder: Any, qualname: str, fits: Callable[[Any], bool] = _is_class) -> Any:
    """Returns what fits in a module or class; None if there is none. It runs no code."""
    for part in qualname.split("."):
        holder = vars(holder).get(part) if hasattr(holder, "__dict__") else None
    return holder if fits(holder) else None
