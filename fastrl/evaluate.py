"""Evaluates the trained agent of a run, and records videos.

python -m fastrl.evaluate RUN --episodes 100 [--video] [--json]
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
from typing import Any

from fastrl.agents.load import find_saved, load_agent, parser_of
from fastrl.config.run import MOST_EPISODES
from fastrl.processes.errors import exit_status
from fastrl.processes.generators import generators_seeded
from fastrl.runs.progress import Progress
from fastrl.runs.video import check_packages
from fastrl.training.film import record
from fastrl.training.greedy import MAX_ENVS, Show, fresh_env, play


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates the agent of a run; returns 0, 2 after a user error, 130 after Ctrl-C."""
    return exit_status(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description = "Plays greedy episodes with a trained agent."
    parser = parser_of("python -m fastrl.evaluate", description, "task to evaluate on")
    parser.add_argument(
        "--episodes", type=int, default=100, help="number of episodes (default: 100)"
    )
    parser.add_argument("--seed", type=int, help="seed of the environments (default: the run's)")
    parser.add_argument(
        "--video", action="store_true", help="record a video of one episode (mp4 and GIF)"
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON")
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.episodes <= MOST_EPISODES:
        raise ValueError(
            f"--episodes is {arguments.episodes}; it must be at least 1 and at most {MOST_EPISODES}"
        )
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    saved = find_saved(arguments.run, arguments.checkpoint)
    if arguments.video:
        check_packages()
    videos = saved.videos.absolute()  # now: an environment may change the current folder
    agent = load_agent(saved, arguments.env_id, trust=arguments.trust, agent=arguments.agent)
    seed = agent.config.seed if arguments.seed is None else arguments.seed
    try:
        with generators_seeded(seed):
            env = fresh_env(agent, min(arguments.episodes, MAX_ENVS), "eval", seed)
            with _bar("evaluation", "episodes", arguments.json) as show:
                result = play(agent, env, arguments.episodes, show=show)
        facts: dict[str, Any] = {
            "eval_return_mean": result.mean,
            "eval_return_std": result.std,
            "eval_episodes": len(result.returns),
            "eval_length_mean": result.mean_length,
            "returns": result.returns.tolist(),
            "checkpoint": str(saved.checkpoint),
            "env_id": agent.envs[0].env_id,
        }
        if not arguments.json:
            print(
                f"return {result.mean:.1f} +- {result.std:.1f} over {len(result.returns)} episodes "
                f"(length {result.mean_length:.1f})",
                flush=True,
            )
        if arguments.video:
            name = f"evaluate_{saved.checkpoint.stem}"
            with _bar("video", "frames", arguments.json) as show:
                paths = record(agent, videos, name, seed, show=show)
            facts["videos"] = [str(saved.videos / path.name) for path in paths]
            if not arguments.json:
                print("\n".join(f"video: {path}" for path in facts["videos"]))
        if arguments.json:
            print(json.dumps(facts))
        return 0
    finally:
        for env in agent.envs:
            env.close()


@contextmanager
def _bar(words: str, unit: str, is_off: bool) -> Iterator[Show]:
    """Context of long work; `is_off` where nothing but JSON may be printed."""
    if is_off:
        yield lambda *progress: None
        return
    with Progress(None) as progress, progress.stage(words, unit) as show:
        yield show
