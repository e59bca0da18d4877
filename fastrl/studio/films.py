"""Films of a run, and what the policy did in each: read from files that may be anybody's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrl.runs.plain_files import read_facts
from fastrl.runs.run import Run

_MOST_BYTES = 4 * 2**20  # of the file beside a film
_MOST_STEPS, _MOST_DIMENSIONS, _MOST_CHOICES = 10_000, 64, 256
_MOST_CHARACTERS = 60  # of a name


@dataclass(frozen=True)
class Film:
    """A film of a run."""

    name: str
    """Without suffix, such as `step_000000500000` or `evaluate_best`."""
    path: Path
    """The mp4."""
    written: float
    """Seconds since 1970; a film may be made anew under its name."""
    has_gif: bool

    @property
    def title(self) -> str:
        """What it shows, in words."""
        words = self.name.removeprefix("evaluate_")
        if words.startswith("step_") and words[5:].isdecimal():
            words = f"step {int(words[5:]):,}"
        return f"{words} (evaluation)" if self.name.startswith("evaluate_") else words


def films_of(run: Run) -> list[Film]:
    """Returns the films of a run, the newest first."""
    gifs = {file.path.stem for file in run.videos if file.path.suffix == ".gif"}
    films = [
        Film(file.path.stem, file.path, file.written, file.path.stem in gifs)
        for file in run.videos
        if file.path.suffix == ".mp4"
    ]
    return sorted(films, key=lambda film: (-film.written, film.name))


def read_actions(film: Film) -> dict[str, Any] | None:
    """Returns what the policy did in a film; None if that is not there or is damaged.

    Returns:
        `rate` in frames per second, `actions` `[F - 1, A]`, `probabilities` `[F - 1, C]` or empty,
        `rewards` `[F - 1]`, and `dimensions`, as docs/run_folder.md has them; numbers and short
        texts alone.
    """
    try:
        return _checked(read_facts(film.path.with_suffix(".json"), _MOST_BYTES))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _checked(facts: Any) -> dict[str, Any]:
    dimensions = [_dimension(x) for x in facts["dimensions"]]
    actions, rewards = facts["actions"], [_number(x) for x in facts["rewards"]]
    num_choices = sum(len(x["choices"]) for x in dimensions if "choices" in x)
    is_large = len(actions) > _MOST_STEPS or num_choices > _MOST_CHOICES
    if is_large or len(dimensions) > _MOST_DIMENSIONS or len(rewards) != len(actions):
        raise ValueError("too large, or not of one length")
    chances = facts["probabilities"]
    if chances and len(chances) != len(actions):
        raise ValueError("not of one length")
    rate = _number(facts["frames_per_second"])
    if not 0 < rate <= 1000:
        raise ValueError(f"{rate} frames per second")
    return {
        "rate": rate,
        "dimensions": dimensions,
        "actions": [_row(row, len(dimensions)) for row in actions],
        "probabilities": [_row(row, num_choices) for row in chances],
        "rewards": rewards,
    }


def _dimension(facts: Any) -> dict[str, Any]:
    name = str(facts["name"])[:_MOST_CHARACTERS]
    if "choices" in facts:
        choices = [str(choice)[:_MOST_CHARACTERS] for choice in facts["choices"]]
        return {"name": name, "first": int(_number(facts["first"])), "choices": choices}
    bounds = {x: None if facts[x] is None else _number(facts[x]) for x in ("low", "high")}
    return {"name": name, **bounds}


def _row(row: Any, size: int) -> list[float]:
    if len(row) != size:
        raise ValueError(f"a row of {len(row)}; expected {size}")
    return [_number(x) for x in row]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return value
