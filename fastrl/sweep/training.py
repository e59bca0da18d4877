"""Training with what a trial found: `--trial 21`."""

from __future__ import annotations

import shlex

from fastrl.cli import main as run_algorithm
from fastrl.cli import parse
from fastrl.config.command import plan_of
from fastrl.runs.folder import expanded
from fastrl.runs.owner import owned_by_this_process
from fastrl.sweep.arguments import Options
from fastrl.sweep.folder import newest
from fastrl.sweep.reading import read_sweep
from fastrl.sweep.request import Asked, sorted_out
from fastrl.sweep.trial import Trial
from fastrl.sweep.trust import check_asked, settings_flag


def train_trial(options: Options) -> int:
    """Trains with the settings of a trial; returns the exit status of the run, or of the grid.

    The flags of the sweep hold, and those that are given now come in their place. With several
    seeds it is a grid of one combination.

    Args:
        options: with `trial`, and the sweep's folder in `resume`; without it, the newest sweep is
            taken, of the algorithm and the task if they are given.

    Raises:
        ValueError: there is no such sweep or trial, or it names code of somebody else's.
    """
    env_ids = [group.words for group in options.groups if group.flag == "--env-id"]
    env_id = env_ids[0][0] if env_ids and env_ids[0] else None
    folder = expanded(options.resume) if options.resume is not None else None
    sweep = read_sweep(folder or newest(options.log_dir, options.algo, env_id))
    check_asked(sweep.folder, sweep.asked, options.trust)
    trial = _trial_of(sweep.trials, sweep.best, options.trial or "", str(sweep.folder))
    algo = sweep.asked.algo
    if options.algo not in (None, algo):
        raise ValueError(f"{sweep.folder} is a sweep of {algo}, not {options.algo}")
    flags, listed, seeds = sorted_out(algo, options.groups)
    if listed:
        raise ValueError(f"--trial trains one combination; --{min(listed)} has several values")
    flags += ["--trust"] if options.trust else []
    common = _without(sweep.asked, flags, "total_timesteps" in trial.settings)
    words = [*common, *flags, *settings_flag(sweep.asked, trial)]
    if len(seeds) > 1:
        return _train_seeds(options, algo, words, seeds)
    if seeds:
        words += ["--seed", str(seeds[0])]
    words += ["--log-dir", options.log_dir]
    print(f"python -m fastrl.{algo} {shlex.join(words)}", flush=True)
    if options.dry_run:
        print(plan_of(parse(algo, words)))
        return 0
    return run_algorithm(algo, words)


def _trial_of(trials: tuple[Trial, ...], best: Trial | None, name: str, where: str) -> Trial:
    if name == "best" and best is not None:
        return best
    found = [trial for trial in trials if str(trial.number) == name]
    if not found:
        numbers = f"0 to {len(trials) - 1}" if trials else "none yet"
        raise ValueError(f"--trial {name}: {where} has the trials {numbers}, or best")
    return found[0]


def _without(asked: Asked, flags: list[str], has_length: bool) -> list[str]:
    """Returns the flags of a sweep without those that are given anew; its length with them."""
    given = {word.partition("=")[0] for word in flags if word.startswith("--")}
    kept: list[str] = []
    keep = True
    for word in asked.flags:
        if word.startswith("--"):
            keep = word.partition("=")[0] not in given or word.startswith("--config")
        if keep:
            kept.append(word)
    has_length |= any("--total-timesteps" in words for words in (kept, flags))
    if asked.total_timesteps is not None and not has_length:
        kept += ["--total-timesteps", str(asked.total_timesteps)]
    return kept


def _train_seeds(options: Options, algo: str, words: list[str], seeds: list[int]) -> int:
    from fastrl.processes.machine import available_cores
    from fastrl.sweep.folder import create
    from fastrl.sweep.grid import run_grid

    config = parse(algo, words).config
    asked = Asked(
        "grid",
        algo,
        tuple(words),
        env_id=config.env_id,
        processes=options.processes or available_cores(),
        seeds=tuple(seeds),
        confirmation_seeds=(),
        command=f"python -m fastrl.sweep --trial {options.trial}",
    )
    if options.dry_run:
        print(plan_of(parse(algo, words)))
        return 0
    folder = create(options.log_dir)
    asked.save(folder)
    print(f"sweep folder: {folder}", flush=True)
    with owned_by_this_process(folder):
        run_grid(folder, asked, lambda line: print(line, flush=True))
    return 0
