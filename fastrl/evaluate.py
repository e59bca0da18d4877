"""Evaluates the trained agent of a run, and records videos.

python -m fastrl.evaluate RUN --episodes 100 [--stochastic] [--video] [--json [FILE]]
"""

from __future__ import annotations

if __name__ == "__main__":  # user errors are reported before torch is imported
    from fastrl.processes.signals import leaving_at_once

    with leaving_at_once():
        from fastrl.evaluate import main as command_line
    raise SystemExit(command_line())

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastrl.agents.load import find_saved, load_agent, named_again, parser_of
from fastrl.config.run import MOST_EPISODES, RunConfig
from fastrl.config.values import number_of_flag
from fastrl.processes.errors import exit_status
from fastrl.runs.folder import check_replaceable, expanded, replaced_file
from fastrl.runs.progress import Progress
from fastrl.runs.video import check_packages
from fastrl.training.evaluation import Evaluation
from fastrl.training.film import record
from fastrl.training.greedy import Show

_TERMINAL = "-"  # where JSON goes by default


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates the agent of a run; returns 0, 2 after a user error, 130 after Ctrl-C."""
    return exit_status(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description = "Plays whole episodes with a trained agent."
    parser = parser_of("python -m fastrl.evaluate", description, "task to evaluate on")
    parser.add_argument("--episodes", default="100", help="number of episodes (default: 100)")
    parser.add_argument(
        "--seed", help="seed of environments and drawn actions (default: the run's)"
    )
    parser.add_argument(
        "--stochastic", action="store_true", help="draw actions in place of the likeliest ones"
    )
    parser.add_argument(
        "--env-kwargs",
        nargs="+",
        metavar="NAME=VALUE",
        help="keyword arguments of the environment to change (the others: the run's)",
    )
    parser.add_argument(
        "--info-metrics",
        nargs="+",
        metavar="NAME",
        help="numbers of the last infos to take the mean of (default: the run's)",
    )
    parser.add_argument(
        "--video", action="store_true", help="record a video of one episode (mp4 and GIF)"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const=_TERMINAL,
        metavar="FILE",
        help="write a line of JSON into a file; without FILE, print it in place of all else",
    )
    arguments = parser.parse_args(argv)
    arguments.episodes = number_of_flag("--episodes", arguments.episodes, int, 1, MOST_EPISODES)
    arguments.seed = number_of_flag("--seed", arguments.seed, int, 0, 2**63 - 1)
    RunConfig(
        env_kwargs=tuple(arguments.env_kwargs or ()),
        info_metrics=tuple(arguments.info_metrics or ()),
    )  # mistakes are told before torch is imported
    if arguments.json not in (None, _TERMINAL):
        check_replaceable(Path(arguments.json))
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    named = named_again(arguments)
    saved = find_saved(arguments.run, arguments.checkpoint)
    if arguments.video:
        check_packages()
    # Now: an environment may change the current folder.
    videos, is_quiet = saved.videos.absolute(), arguments.json == _TERMINAL
    file = None if arguments.json is None or is_quiet else expanded(arguments.json).absolute()
    if file is not None and file.exists() and file.samefile(saved.checkpoint):
        raise ValueError(f"{file} is the checkpoint that is evaluated; --json names another file")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    agent = load_agent(saved, arguments.env_id, **named)
    settings = RunConfig(env_kwargs=tuple(arguments.env_kwargs or ())).env_settings
    how = {"deterministic": not arguments.stochastic, "env_kwargs": settings["env_kwargs"]}
    seed = agent.config.seed if arguments.seed is None else arguments.seed
    try:
        with _bar("evaluation", "episodes", is_quiet) as show:
            asked = {"seed": seed, "info_metrics": arguments.info_metrics, "show": show}
            result = agent.evaluate(arguments.episodes, **how, **asked)
        facts = {**_facts(result), "checkpoint": str(saved.checkpoint), "seed": seed, **how}
        if not is_quiet:
            print(result, flush=True)
        if arguments.video:
            name = f"evaluate_{saved.checkpoint.stem}"
            with _bar("video", "frames", is_quiet) as show:
                paths = record(agent, videos, name, seed, show=show, **how)
            facts["videos"] = [str(saved.videos / path.name) for path in paths]
            if not is_quiet:
                print("\n".join(f"video: {path}" for path in facts["videos"]))
        if is_quiet:
            print(json.dumps(facts))
        elif file is not None:
            with replaced_file(file) as opened:
                opened.write(json.dumps(facts).encode() + b"\n")
        return 0
    finally:
        for env in agent.envs:
            env.close()


def _facts(result: Evaluation) -> dict[str, Any]:
    """Returns what JSON holds of a result; of the infos, the means that were asked for."""
    low, high = result.ci95
    return {
        "eval_return_mean": result.mean,
        "eval_return_ci95": None if low != low else [low, high],  # of one episode there is none
        "eval_return_std": result.std,
        "eval_episodes": len(result.returns),
        "eval_length_mean": result.mean_length,
        "eval_info_means": result.info_means,
        "returns": result.returns.tolist(),
        "lengths": result.lengths.tolist(),
        "infos": {
            name: [None if x != x else x for x in result.info(name).tolist()]
            for name in result.info_names
        },
        "env_id": result.env_id,
    }


@contextmanager
def _bar(words: str, unit: str, is_off: bool) -> Iterator[Show]:
    """Context of long work; `is_off` where nothing but JSON may be printed."""
    if is_off:
        yield lambda *progress: None
        return
    with Progress(None) as progress, progress.stage(words, unit) as show:
        yield show
