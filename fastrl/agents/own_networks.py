"""Networks of the user's own: what `network=` and `--network` name, and what makes them.

A setting names functions, as module:callable, so that a run, a checkpoint and an export find them
again. A function without a name that leads back to it (a lambda, one within another function) is
noted as `<its name>`, and must be handed over again.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from typing import Any

import gymnasium
from torch import nn

from fastrl.agents.naming import function_of, is_loaded_function, name_of_function
from fastrl.config.trust import is_part_of_python
from fastrl.config.values import read_arguments
from fastrl.models.own import MakeNetwork

PARTS = ("actor", "critic")


def names_and_functions(network: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Returns what is written of `network=`, and the functions in it: of "actor" and "critic".

    Args:
        network: a function, `module:callable`, or a mapping from "actor" and "critic" to such;
            or what is written, as a list of texts. None: no network.

    Raises:
        ValueError: it is something else.
    """
    if network is None or network == () or network == []:
        return (), {}
    if isinstance(network, list | tuple):
        return tuple(network), {}
    if not isinstance(network, Mapping):
        return (_name(network),), dict.fromkeys(PARTS, network) if callable(network) else {}
    if set(network) != set(PARTS):
        raise ValueError(f"network must have the keys actor and critic, not {', '.join(network)}")
    names = tuple(f"{part}={_name(network[part])}" for part in PARTS)
    return names, {part: network[part] for part in PARTS if callable(network[part])}


def _name(network: Any) -> str:
    if isinstance(network, nn.Module):
        raise ValueError(
            f"network must be a function that makes a network, not a {type(network).__name__}: "
            "actor and critic need one each, lambda space: MyNetwork(...)"
        )
    if isinstance(network, str):
        return network
    if not callable(network):
        raise ValueError(
            "network must be a function, module:callable, or a mapping of actor and critic to "
            f"such, not {network!r}"
        )
    return name_of_function(network)


def makers(config: Any, functions: Mapping[str, Any]) -> dict[str, MakeNetwork]:
    """Returns what makes the networks of "actor" and "critic"; {} if there are none of one's own.

    Args:
        config: names them, and has their keyword arguments.
        functions: those that were handed over.

    Raises:
        ValueError: there is no such function, or its name leads nowhere.
    """
    found: dict[str, MakeNetwork] = {}
    arguments = read_arguments(config.network_kwargs)
    for part, name in parts_named(config.network).items():
        function = functions.get(part)
        if function is None and name.startswith("<"):
            raise ValueError(
                f"the network {name} is a function without a name, which no file can lead back "
                "to: hand it over again, as network= of PPO or load; of a module, --network of "
                "evaluate and export names it"
            )
        found[part] = _told(name, function or function_of(name), arguments)
    return found


def parts_named(network: Collection[str]) -> dict[str, str]:
    """Returns the names of what makes "actor" and "critic" in the setting; {} if it is empty."""
    if not network:
        return {}
    words = list(network)
    if len(words) == 1 and not words[0].startswith(("actor=", "critic=")):
        return dict.fromkeys(PARTS, words[0])
    return {part: name for part, _, name in (word.partition("=") for word in words)}


def is_known(network: Collection[str]) -> bool:
    """Tells whether all networks named are imported already, so that naming them runs no code.

    Not so what comes with Python, of which much is imported always: to call it may run any.
    """
    names = parts_named(network).values()
    return all(x.startswith("<") or (is_loaded_function(x) and not _is_python(x)) for x in names)


def is_gone(network: Collection[str]) -> bool:
    """Tells whether all networks named lead nowhere any more; it runs no code.

    Of a module within a package that is not imported, it cannot tell, and says no.
    """
    names = parts_named(network).values()
    return bool(names) and all(not x.startswith("<") and _leads_nowhere(x) for x in names)


def _leads_nowhere(name: str) -> bool:
    module = name.partition(":")[0]
    package = module.rpartition(".")[0]
    if module in sys.modules:
        return not is_loaded_function(name)
    # To look for a module within a package imports the package.
    looked_for = module if not package or package in sys.modules else module.partition(".")[0]
    try:
        return find_spec(looked_for) is None
    except (ImportError, ValueError):
        return True


def _is_python(name: str) -> bool:
    return is_part_of_python(name.partition(":")[0])


def _told(name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> MakeNetwork:
    """Returns a function of a space; what goes wrong in it is a ValueError of one line."""

    def make(space: gymnasium.Space) -> nn.Module:
        try:
            return function(space, **arguments)
        except (Exception, SystemExit) as error:  # foreign code may raise anything
            *_, last = traceback.extract_tb(sys.exc_info()[2])
            words = " ".join(str(error).split())
            where = f"{last.filename}:{last.lineno}"
            raise ValueError(
                f"network {name} raised {type(error).__name__}: {words} ({where})"
            ) from error

    return make
