"""What a sweep's folder may have run: what this user asked for, or trusts.

`sweep.yaml` holds a command line, and the file of a trial its settings. Both may name code, and the
runs of a sweep take them as the user's own words. So what a sweep asks for is signed with the
user's key (`config.trust`), and a trial may only set what is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastrl.config.describing import config_class_of
from fastrl.config.trust import ARGUMENTS, NAMING_CODE, code_named_in, shown
from fastrl.presets.layers import is_file
from fastrl.runs.folder import read_config
from fastrl.sweep.request import Asked, flags_of, kinds_of
from fastrl.sweep.space import defaults_of
from fastrl.sweep.trial import SETTINGS_NAME, Trial
from fastrl.sweep.words import grouped


def check_asked(folder: Path, asked: Asked, trust: bool = False) -> None:
    """Raises ValueError if a sweep names code that this user did not ask for.

    A file of settings counts as code, because it may name some.

    Args:
        folder: of the sweep.
        asked: what its `sweep.yaml` says.
        trust: the user trusts the sweep, whoever began it.
    """
    if trust or asked.is_own(folder):
        return
    tried = [flags_of({name: x}) for name, values in _listed(asked).items() for x in values]
    given: dict[str, list[str]] = {}
    for group in grouped([*asked.flags, *(word for words in tried for word in words)])[1]:
        given.setdefault(group.name, []).extend(group.words)
    named = code_named_in(given)
    wanted = [shown(named)] if named else []
    presets = filter(is_file, given.get("preset", ()))
    files = (*given.get("config", ()), *presets, *given.get("resume", ()))
    wanted += [f"what {file!a} names" for file in files]
    if wanted:
        raise ValueError(
            f"{folder} wants to run {' and '.join(wanted)}, but is not signed as a sweep of yours; "
            "to allow it, pass --trust"
        )


def settings_flag(asked: Asked, trial: Trial) -> tuple[str, str]:
    """Returns the words that give a run the settings of a trial.

    Raises:
        ValueError: its file sets what the sweep does not, or names code that it does not.
    """
    path = trial.folder / SETTINGS_NAME
    listed = _listed(asked)
    config_class = config_class_of(asked.algo)
    searched = {*asked.search, *asked.grid} & kinds_of(asked.algo).keys()
    for name, value in read_config(path).items():
        is_asked = name in searched
        if is_asked and name in (*NAMING_CODE, *ARGUMENTS):
            is_asked = value in [*listed.get(name, ()), *defaults_of(config_class, [name]).values()]
        if not is_asked:
            raise ValueError(f"{path} sets {name}={value!r}, which this sweep does not try")
    return "--config", str(path)


def _listed(asked: Asked) -> dict[str, list[Any]]:
    """Returns the values that a sweep tries of settings that have no range of numbers."""
    values = {name: x.get("values") for name, x in asked.search.items()}
    return {**{name: x for name, x in values.items() if isinstance(x, list)}, **asked.grid}
