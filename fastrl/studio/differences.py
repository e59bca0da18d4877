"""The settings of a run beside what the task's preset and the defaults say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastrl.config.describing import description_of
from fastrl.presets import algorithms, preset_for
from fastrl.runs.run import Run


@dataclass(frozen=True)
class Row:
    """A setting of a run, in words."""

    name: str
    value: str
    usual: str
    """What the preset of its task sets, or else the default; "" if that is not known."""
    source: str
    """Where `usual` comes from: preset, default or ""."""
    differs: bool
    """Whether the run has something else."""
    help: str


def rows_of(run: Run) -> list[Row]:
    """Returns the settings of a run in the order of its config; those it lacks are left out."""
    known = _known(run)
    rows = []
    for name, value in run.settings.items():
        setting = known.get(name)
        if setting is None:
            rows.append(Row(name, in_words(value), "", "", False, ""))
            continue
        source = "preset" if "preset" in setting else "default"
        usual, is_facts = setting[source], name in _FACTS
        differs = not is_facts and in_words(usual) != in_words(value)
        shown = "" if is_facts else in_words(usual)
        rows.append(
            Row(name, in_words(value), shown, source if shown else "", differs, setting["help"])
        )
    return rows


_FACTS = frozenset({"env_id", "seed", "exp_name", "log_dir"})  # of this run, not a deviation


def _known(run: Run) -> dict[str, dict[str, Any]]:
    """Returns what is known of the settings of the run's algorithm, by name."""
    algo = run.algo
    if algo not in algorithms():
        return {}
    env_id = run.settings.get("env_id")
    preset = preset_for(algo, env_id) if isinstance(env_id, str) else {}
    return {setting["name"]: setting for setting in description_of(algo, preset)["settings"]}


def in_words(value: Any) -> str:
    """Returns a setting's value as it is shown: lists without brackets, numbers in one form."""
    if isinstance(value, list | tuple):
        return " ".join(map(in_words, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)
