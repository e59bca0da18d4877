"""Searches for settings that learn more or faster, or trains every combination of a grid.

python -m fastrl.sweep ppo --env-id LunarLander-v2 --minutes 10
python -m fastrl.sweep ppo --env-id CartPole-v1 --learning-rate 3e-4 1e-3 --seed 1..5
"""

from __future__ import annotations

from fastrl.processes.signals import leaving_at_once

with leaving_at_once():
    import signal
    import sys
    from collections.abc import Sequence
    from dataclasses import replace
    from pathlib import Path
    from types import FrameType

    from fastrl.presets import algorithms
    from fastrl.processes.errors import exit_status
    from fastrl.runs.folder import expanded
    from fastrl.runs.owner import owned_by_this_process
    from fastrl.sweep.arguments import HELP, Options, read
    from fastrl.sweep.asking import asked_by, description_of
    from fastrl.sweep.folder import create, read_status, unfinished
    from fastrl.sweep.request import FINAL_SEEDS, TRIAL_SEEDS, Asked
    from fastrl.sweep.training import train_trial
    from fastrl.sweep.trust import check_asked


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sweep; returns 0, 2 after a user error, 128 plus a signal that ended it."""
    return exit_status(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(words: list[str]) -> int:
    options = read(words)
    if options.help:
        print(HELP.format(algorithms=", ".join(algorithms())))
        return 0
    if options.trial is not None:
        return train_trial(options)
    if options.resume is not None:
        folder = expanded(options.resume)
        Asked.load(folder)  # ValueError: it is no sweep's, and nothing is written there
        return _go(folder, options)
    asked = asked_by(options, words)
    if options.dry_run:
        print(description_of(asked))
        return 0
    folder = None if options.anew else unfinished(options.log_dir, asked.command, _say)
    is_new = folder is None
    if folder is None:
        folder = create(options.log_dir)
        asked.save(folder)
    else:
        _say(f"going on with {folder}, which was cut short; --anew begins another")
    return _go(folder, Options(trust=is_new))  # one just asked for needs no signature


def _changed(folder: Path, asked: Asked, options: Options) -> Asked:
    """Returns what a sweep that goes on is asked for now: more minutes or trials."""
    if asked.kind == "grid" and (options.minutes is not None or options.trials is not None):
        raise ValueError(f"{folder} is a grid, which has neither --minutes nor --trials")
    if options.minutes is not None:
        used = read_status(folder).get("seconds", 0.0)
        if asked.minutes is None and asked.seeds == TRIAL_SEEDS:
            asked = replace(asked, final_seeds=FINAL_SEEDS)
        asked = replace(asked, minutes=used / 60 + options.minutes)
    if options.trials is not None:
        asked = replace(asked, trials=options.trials)
    if options.processes is not None:
        asked = replace(asked, processes=options.processes)
    return asked


def _go(folder: Path, changes: Options) -> int:
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _end)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a script's `&` has it
        signal.signal(signal.SIGINT, signal.default_int_handler)  # `runs.owner.stop` sends it
    try:
        with owned_by_this_process(folder):
            asked = Asked.load(folder)
            check_asked(folder, asked, changes.trust)
            asked = _changed(folder, asked, changes)
            asked.save(folder)  # as this user's from now on
            _say(description_of(asked))
            _say(f"sweep folder: {folder}")
            if asked.kind == "search":
                from fastrl.sweep.searching import run_search

                run_search(folder, asked, _say)
            else:
                from fastrl.sweep.grid import run_grid

                run_grid(folder, asked, _say)
    except (KeyboardInterrupt, SystemExit):
        _say(f"stopped; go on with: python -m fastrl.sweep --resume {folder}")
        raise
    _say(f"sweep folder: {folder}")
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
