"""Conversion of the values of settings: from YAML, from the command line, from Python."""

from __future__ import annotations

import math
import os
import re
import types
from collections.abc import Iterable
from typing import Any, Literal, cast, get_args, get_origin

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

_MOST_TOLD = 200  # characters of what is wrong
_MOST_CHARACTERS = 100_000  # that a file of settings may have
MOST_BYTES = 4 * _MOST_CHARACTERS
"""Bytes that such a file may have: UTF-8 takes up to four for a character."""


class ConfigLoader(yaml.SafeLoader):
    """A safe loader that reads numbers as the command line: `3e-4` is a string in YAML 1.1.

    It refuses names that are set twice, and aliases: a few of aliases can stand for billions.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Composes a node; raises ComposerError for an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ComposerError(
                None,
                None,
                f"settings may not have aliases such as *{event.anchor}",
                event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Constructs a mapping; raises ConstructorError for a name that is set twice."""
        names = set()
        for key, _ in node.value:
            if key.value in names and isinstance(key, yaml.ScalarNode):
                problem = f"{key.value!r} is set twice"
                raise ConstructorError(None, None, problem, key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                names.add(key.value)
        return super().construct_mapping(node, deep)


class ConfigDumper(yaml.SafeDumper):
    """A safe dumper that quotes strings which the loader would read as such a number."""

    def ignore_aliases(self, data: Any) -> bool:
        """Returns True: what occurs twice is written twice."""
        return True


for _kind in (ConfigLoader, ConfigDumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z"),
        list("-+.0123456789"),
    )


class _ArgumentLoader(ConfigLoader):
    """Reads the argument of a callable: None is None, as Python and other flags have it."""


class _ArgumentDumper(ConfigDumper):
    """Quotes what `_ArgumentLoader` would read as None."""


for _kind in (_ArgumentLoader, _ArgumentDumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(None|none)\Z"), list("Nn"))


_TUPLE = "tag:yaml.org,2002:python/tuple"
ConfigLoader.add_constructor(
    _TUPLE, lambda loader, node: tuple(loader.construct_sequence(cast(Any, node), deep=True))
)
ConfigDumper.add_representer(tuple, lambda dumper, value: dumper.represent_sequence(_TUPLE, value))


def _number(loader: ConfigLoader, node: Any) -> Any:
    """Returns a number as the command line and YAML 1.2 read it, where YAML 1.1 has other bases.

    `017` is 17 and not 15, and `12:30` is text and not 750.

    Raises:
        ValueError: Python would refuse to write it in decimals.
    """
    if ":" in node.value:
        return node.value
    if node.tag.endswith("float"):
        return loader.construct_yaml_float(node)
    digits = node.value.replace("_", "")
    number = int(digits) if digits.lstrip("+-").isdecimal() else loader.construct_yaml_int(node)
    str(number)  # 0xfff... may have thousands of digits: no message could show it
    return number


for _name in ("int", "float"):
    ConfigLoader.add_constructor(f"tag:yaml.org,2002:{_name}", _number)


def read_yaml(text: str, loader: type[ConfigLoader] = ConfigLoader) -> Any:
    """Parses a text as YAML of plain values: `1e-3` is a number, `[1, a]` a list.

    Args:
        text: the text.
        loader: what reads it.

    Raises:
        ValueError: the text is not YAML, sets a name twice, has aliases, or is too long or deep.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"{len(text):,} characters are more than {_MOST_CHARACTERS:,}")
    try:
        return yaml.load(text, Loader=loader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except Exception as error:  # `!!bool x` and `!!timestamp x` raise what their conversion does
        raise ValueError(_reason_of(error)[:_MOST_TOLD]) from error


def _reason_of(error: Exception) -> str:
    """Returns why a text is no YAML of plain values, with the line where it shows."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {' '.join(error.problem.split())}"
    if isinstance(error, yaml.reader.ReaderError):
        character = (
            error.character if isinstance(error.character, int) else ord(error.character[:1])
        )
        return f"it has the character #x{character:04x}, which no text has"
    if isinstance(error, TypeError) and "unhashable" in str(error):
        return "a name is a list or a mapping"
    is_syntax = isinstance(error, yaml.YAMLError)
    return " ".join(str(error).split()) if is_syntax else f"a value is wrong: {error!r}"


def read_value(text: str, loader: type[ConfigLoader] = ConfigLoader) -> Any:
    """Parses the value of a setting on the command line; arguments as of `read_yaml`.

    Raises:
        ValueError: as `read_yaml`, with the text.
    """
    try:
        return read_yaml(text, loader)
    except ValueError as error:
        shown = text if len(text) <= _MOST_TOLD else f"{text[:_MOST_TOLD]}..."
        raise ValueError(f"{shown!r} is not YAML") from error


def read_argument(text: str) -> Any:
    """Parses the value of an argument `name=value`, as `write_argument` writes it.

    None and none are None, and 'None' in quotes is text.

    Raises:
        ValueError: as `read_value`.
    """
    return read_value(text, _ArgumentLoader)


def read_arguments(arguments: Iterable[str]) -> dict[str, Any]:
    """Returns keyword arguments that are written name=value."""
    pairs = (argument.partition("=") for argument in arguments)
    return {name: read_argument(value) for name, _, value in pairs}


def number_of(name: str, value: Any, kind: Any, least: float, most: float) -> Any:
    """Returns the number that an argument has, as an int or a float.

    Args:
        name: of the argument.
        value: a number, or text as on the command line, where 1e6 is an int, too.
        kind: int or float.
        least: the least that is allowed.
        most: the most.

    Raises:
        ValueError: it is no number of this kind, or out of bounds.
    """
    try:
        number = as_kind(kind, read_value(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
    if not least <= number <= most:
        raise ValueError(f"{name} is {value}; it must be at least {least:,} and at most {most:,}")
    return number


def number_of_flag(flag: str, text: str | None, kind: Any, least: float, most: float) -> Any:
    """Returns `number_of` what a flag has; None if it is not given."""
    return None if text is None else number_of(flag, text, kind, least, most)


def write_argument(value: Any) -> str:
    """Returns YAML that `read_argument` reads as the same value; errors as of `write_value`."""
    return write_value(value, _ArgumentDumper)


def write_value(value: Any, dumper: type[ConfigDumper] = ConfigDumper) -> str:
    """Returns YAML that `read_value` reads as the same value.

    Args:
        value: the value.
        dumper: what writes it.

    Raises:
        ValueError: the value is not made of plain values, lists and dicts.
    """
    options: dict[str, Any] = {"default_flow_style": True, "sort_keys": False, "width": math.inf}
    try:
        text = yaml.dump(_plain(value), Dumper=dumper, allow_unicode=True, **options)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{value!r} cannot be written as YAML") from error
    return text.removesuffix("...\n").rstrip("\n")


def as_kind(kind: Any, value: Any) -> Any:
    """Converts a value to the type of a setting.

    In YAML, 1e6 is a float but may be meant as an integer, 3 may be meant as 3.0, and off is a
    boolean. Values from Python may be NumPy scalars, paths and mappings.

    Args:
        kind: type of the setting.
        value: from YAML, JSON or Python; a list may stand for a tuple.

    Raises:
        ValueError: the value cannot be converted.
    """
    kinds = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and types.NoneType in kinds:
        return None
    kind, given = kinds[0], _plain(value)
    if get_origin(kind) is Literal and isinstance(given, bool):
        given = "on" if given else "off"
    if kind == tuple[str, ...] and isinstance(given, dict):
        given = [f"{name}={write_argument(item)}" for name, item in given.items()]
    if kind is bool:
        fits = isinstance(given, bool)
    elif kind is int:
        if isinstance(given, float) and given.is_integer():
            given = int(given)
        fits = type(given) is int
    elif kind is float:
        given = _as_float(given)
        fits = isinstance(given, float)
    elif kind in (tuple[str, ...], tuple[int, ...]):
        to_list = getattr(given, "tolist", None)  # of an array
        given = to_list() if to_list else given
        fits = isinstance(given, list | tuple)
        given = tuple(map(_plain, given)) if fits else given
        fits = fits and all(type(item) is get_args(kind)[0] for item in given)
    else:
        fits = isinstance(given, str)
    if not fits:
        is_none = types.NoneType in kinds and isinstance(value, str) and value.lower() == "none"
        advice = "; in a file, write null" if is_none else ""
        raise ValueError(f"must be {' or '.join(map(in_words, kinds))}, not {value!r}{advice}")
    return given


def in_words(kind: Any) -> str:
    """Describes the values that a setting of this type takes."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if isinstance(kind, types.UnionType):
        return " or ".join(map(in_words, get_args(kind)))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    names |= {types.NoneType: "None", tuple[str, ...]: "a list of texts"}
    return names.get(kind, "a list of whole numbers")


def _plain(value: Any) -> Any:
    """Converts NumPy scalars to Python numbers, paths and classes of torch.nn to strings."""
    if isinstance(value, type) and value.__module__.startswith("torch.nn."):
        name = value.__name__
        return name.lower() if name in ("ReLU", "Tanh", "ELU") else name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    is_scalar = hasattr(value, "item") and getattr(value, "ndim", None) == 0
    return value.item() if is_scalar else value


def _as_float(value: Any) -> Any:
    """Converts numbers, and strings that spell one, to float: YAML 1.1 reads 3e-4 as a string."""
    try:
        return value if isinstance(value, bool | None) else float(value)
    except OverflowError:
        return math.inf
    except (ValueError, TypeError):
        return value
