"""From a command line to what is asked of a sweep: checked, before anything is written."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastrl.processes.machine import available_cores
from fastrl.sweep.arguments import Options
from fastrl.sweep.request import (
    CONFIRMATION_SEEDS,
    DEFAULT_MINUTES,
    FINAL_SEEDS,
    TRIAL_SEEDS,
    Asked,
    base_command,
    combinations,
    flags_of,
    sorted_out,
)
from fastrl.sweep.space import Space


def asked_by(options: Options, words: Sequence[str]) -> Asked:
    """Returns what a command line asks for: a search or a grid.

    Args:
        options: as they were read.
        words: the command line, for the record.

    Raises:
        ValueError: a mistake of the user: in the sweep's flags or in the algorithm's.
    """
    assert options.algo is not None
    flags, listed, seeds = sorted_out(options.algo, options.groups)
    kept = [word for word in words if word != "--anew"]
    command = f"python -m fastrl.sweep {shlex.join(kept)}"
    is_search = options.asks_for_search or not (listed or len(seeds) > 1)
    asked = Asked("search" if is_search else "grid", options.algo, tuple(flags), command=command)
    if is_search:
        return _search(asked, options, listed, seeds)
    return _grid(asked, options, listed, seeds)


def _search(
    asked: Asked, options: Options, listed: dict[str, list[Any]], seeds: list[int]
) -> Asked:
    if "env_id" in listed:
        raise ValueError("a search is of one task; --env-id names several")
    command = base_command(asked.algo, asked.flags)
    config, given = command.config, command.explicit
    objective = options.objective or "return"
    if config.target_return is not None and objective == "return":
        raise ValueError(
            "--target-return ends runs early; with --objective seconds, its seconds are what counts"
        )
    if config.target_return is None and objective == "seconds":
        raise ValueError("--objective seconds needs --target-return: the return to reach")
    if "total_timesteps" in listed and objective != "seconds":
        raise ValueError(
            "--total-timesteps has several values, and only --objective seconds compares runs of "
            "different lengths"
        )
    if not config.eval_episodes:
        raise ValueError("--eval-episodes 0: a search compares greedy returns")
    values = {name: tuple(map(_frozen, found)) for name, found in listed.items()}
    space = Space.of(config, frozenset(given), options.search, values)
    is_timed = objective != "return"
    num_confirmed = len(CONFIRMATION_SEEDS) if options.confirm is None else options.confirm
    first = CONFIRMATION_SEEDS[0]
    minutes = options.minutes
    if minutes is None and options.trials is None:
        minutes = DEFAULT_MINUTES
    has_length = {"total_timesteps"} & {*given, *listed, *command.preset_settings}
    is_open = not has_length and minutes is not None
    return replace(
        asked,
        env_id=config.env_id,
        minutes=minutes,
        trials=options.trials,
        objective=objective,
        target_return=config.target_return,
        processes=options.processes or (1 if is_timed else available_cores()),
        seeds=tuple(seeds) or TRIAL_SEEDS,
        final_seeds=tuple(seeds) or (TRIAL_SEEDS if minutes is None else FINAL_SEEDS),
        confirmation_seeds=tuple(range(first, first + num_confirmed)),
        total_timesteps=None if is_open else config.total_timesteps,
        search={name: found.to_dict() for name, found in space.ranges.items()},
    )


def _grid(asked: Asked, options: Options, listed: dict[str, list[Any]], seeds: list[int]) -> Asked:
    first = None
    for settings in combinations(listed):
        command = base_command(asked.algo, [*asked.flags, *flags_of(settings)])
        first = first or command
    assert first is not None
    return replace(
        asked,
        env_id=first.config.env_id if "env_id" not in listed else "",
        processes=options.processes or available_cores(),
        seeds=tuple(seeds) or (first.config.seed,),
        confirmation_seeds=(),
        grid=listed,
    )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def description_of(asked: Asked) -> str:
    """Returns what a sweep is to do, in lines."""
    flags = shlex.join(asked.flags)
    if asked.kind == "grid":
        shown = combinations(asked.grid)
        lines = [
            f"{asked.algo} {flags}: {len(shown)} combinations with seeds "
            f"{' '.join(map(str, asked.seeds))}, {asked.processes} at a time"
        ]
        lines += [f"  {' '.join(flags_of(settings))}" for settings in shown if settings]
        return "\n".join(lines)
    limits = [f"{asked.minutes:g} minutes"] if asked.minutes is not None else []
    limits += [f"{asked.trials} trials"] if asked.trials is not None else []
    length = f"{asked.total_timesteps:,}" if asked.total_timesteps else "as the time allows"
    goal = f" (target {asked.target_return:g})" if asked.target_return is not None else ""
    lines = [
        f"search: {asked.algo} on {asked.env_id}, {' or '.join(limits)}, {asked.processes} at a "
        f"time, objective {asked.objective}{goal}, steps of a run: {length}"
    ]
    for name, found in asked.search.items():
        if "values" in found:
            span = " | ".join(
                " ".join(map(str, x)) if isinstance(x, list) else str(x) for x in found["values"]
            )
        else:
            span = f"{found['low']:g} to {found['high']:g} ({found['kind']})"
        lines.append(f"  {name}: {span}")
    return "\n".join(lines)
