"""Names of metrics: those of fastrl itself, which are an interface, and those that are free."""

from __future__ import annotations

import difflib
import re

from fastrl.runs.glossary import ENTRIES

PREFIXES = ("Time/", "Test/", "Episode/", "Summary/")
"""Seconds of stages, tests, info metrics, and what trackers get of the summary."""

GLOSSARY = frozenset(name for name in ENTRIES if not name.startswith(PREFIXES))
"""The names in docs/metrics.md, but for those that begin with one of `PREFIXES`."""

_STEP_COLUMN = "env_steps"  # the first column of metrics.csv
_ALLOWED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./: -]{0,199}")  # what all loggers take


def check_characters(name: object) -> str:
    """Returns a name; raises ValueError unless every logger takes it."""
    if not isinstance(name, str) or not _ALLOWED.fullmatch(name) or name.endswith(" "):
        shown = name if not isinstance(name, str) or len(name) <= 80 else f"{name[:80]}..."
        raise ValueError(
            "a metric's name must be at most 200 letters, digits and _ . / : - or spaces, not "
            f"{shown!r}"
        )
    return name


def check_metric_name(name: object) -> None:
    """Raises ValueError unless this is a name that a callback may log a number under."""
    name = check_characters(name)
    if name in GLOSSARY or name.startswith(PREFIXES) or name == _STEP_COLUMN:
        raise ValueError(f"{name!r} is a metric of fastrl itself; log yours under another name")
    near = difflib.get_close_matches(name.lower(), [x.lower() for x in GLOSSARY], cutoff=1.0)
    if near:
        raise ValueError(f"{name!r} differs from a metric of fastrl itself by its case alone")
