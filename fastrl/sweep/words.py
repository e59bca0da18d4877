"""The words of a command line: which belong to the sweep, and which to the algorithm."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import NoneType
from typing import Any, NamedTuple, get_args

from fastrl.config.flags import flag_of
from fastrl.config.values import as_kind, in_words, read_value


class Group(NamedTuple):
    """A flag and the words after it."""

    flag: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The setting that it names; of --no-anneal-lr, no_anneal_lr."""
        return self.flag.removeprefix("--").replace("-", "_")


def grouped(words: Sequence[str]) -> tuple[list[str], list[Group]]:
    """Returns the words before any flag, and each flag with its words.

    Raises:
        ValueError: a word that begins like a flag and is none.
    """
    before: list[str] = []
    groups: list[Group] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            flag, equals, value = word.partition("=")
            groups.append(Group(flag, (value,) if equals else ()))
        elif word == "-h":
            groups.append(Group("--help", ()))
        elif groups:
            groups[-1] = Group(groups[-1].flag, (*groups[-1].words, word))
        else:
            before.append(word)
    return before, groups


def split(groups: Sequence[Group], own: Collection[str]) -> tuple[list[Group], list[Group]]:
    """Returns the groups whose flags are the sweep's own, and the others.

    Raises:
        ValueError: a flag is given twice.
    """
    for group in groups:
        is_again = sum(group.flag == other.flag for other in groups) > 1
        if is_again and group.flag not in ("--config", "--callback", "--logger"):
            raise ValueError(f"{group.flag} is given twice; give it once, with all its values")
    is_own = [group.flag in own for group in groups]
    ours = [group for group, mine in zip(groups, is_own, strict=True) if mine]
    return ours, [group for group, mine in zip(groups, is_own, strict=True) if not mine]


def value_of(name: str, word: str, kind: Any) -> Any:
    """Returns a word of the command line as the value of a setting.

    Raises:
        ValueError: it is not of the kind.
    """
    is_tuple = getattr(kind, "__origin__", None) is tuple
    if word.lower() == "none" and NoneType in get_args(kind):
        return None
    try:
        if is_tuple:
            items = [read_value(item) for item in word.split()]
            return list(as_kind(kind, items if kind == tuple[int, ...] else word.split()))
        if kind is str:
            return word
        return as_kind(kind, read_value(word))
    except ValueError:
        raise ValueError(f"{flag_of(name)} takes {in_words(kind)}, not {word!r}") from None
