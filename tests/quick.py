"""Which of many parameters the quick tests take; the slow tests take all others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick(values: Iterable[Any], *kept: Any) -> list[Any]:
    """Returns all values as parameters; those that are not kept are run by `-m slow` alone.

    Tuples are values for several names.
    """
    values = list(values)
    missing = [x for x in kept if x not in values]
    assert not missing, f"{missing} are not among the parameters"
    return [slow(x) if x not in kept else _param(x) for x in values]


def slow(value: Any) -> Any:
    """Returns a parameter, or a tuple of some, for `-m slow` alone."""
    return _param(value, marks=pytest.mark.slow)


def _param(value: Any, **how: Any) -> Any:
    return pytest.param(*(value if isinstance(value, tuple) else [value]), **how)
