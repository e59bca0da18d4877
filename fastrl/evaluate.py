"""Greedy tests of an agent, and videos of them.

    python -m fastrl.evaluate RUN --episodes 100 [--video] [--json]

Episodes are dealt out to the environments beforehand. Taking whichever episodes end first would
count short ones too often, and with them the failures of some tasks and the successes of others.
"""

from __future__ import annotations

if __name__ == "__main__":  # the module that the trainer imports, not a second one named __main__
    from fastrl.run.signals import leaving_at_once

    with leaving_at_once():
        from fastrl.evaluate import main as command_line
    raise SystemExit(command_line())

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fastrl.envs.make import Backend, Purpose, base_seed, make_env
from fastrl.envs.vector import VectorEnv
from fastrl.load import find_saved, load_agent
from fastrl.run.mistakes import Parser, exit_status, one_line
from fastrl.run.pulse import PULSE
from fastrl.run.video import check_packages, check_rendering, expose_opengl, write_video

if TYPE_CHECKING:  # torch waits until the arguments are known to be right
    from fastrl.agent import Agent

Asks = Callable[[], bool]  # `bool` is one that always says no

MAX_ENVS = 128  # environments that play a test side by side, at most
MAX_FRAMES = 2000  # of a video, at most

_log = logging.getLogger("fastrl")


@dataclass(frozen=True)
class Evaluation:
    """What came of a test of `E` episodes; those of one environment stand together."""

    returns: np.ndarray
    """float64 `[E]`: undiscounted sums of rewards."""
    lengths: np.ndarray
    """int64 `[E]`: steps."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the returns themselves (divided by E, not E - 1)."""
        return float(self.returns.std())

    @property
    def mean_length(self) -> float:
        """Mean steps of an episode."""
        return float(self.lengths.mean())


class EndlessEpisodeError(ValueError):
    """An episode went on for so long that the test was given up."""


class StoppedError(ValueError):
    """The caller wanted a test to end before its last episode."""


def evaluate(
    predict: Callable[[np.ndarray], np.ndarray],
    env: VectorEnv,
    num_episodes: int,
    *,
    begin: Callable[[np.ndarray], None] = lambda begins: None,
    max_episode_steps: int = 100_000,
    should_stop: Asks = bool,
) -> Evaluation:
    """Plays episodes dealt out beforehand, as evenly as can be: env i plays its first k_i.

    Args:
        predict: gives the actions `[N]` or `[N, A]` that the env takes for observations `[N, *O]`.
        env: is reset first, and left as it is when the last dealt episode ends.
        num_episodes: how many, E.
        begin: told, bool `[N]`, in which environments the next prediction begins a new episode.
        max_episode_steps: a longer episode is an error: the task may never end.
        should_stop: asked at every step.

    Raises:
        EndlessEpisodeError: an episode is longer than `max_episode_steps`.
        StoppedError: `should_stop` said so.
        ValueError: `num_episodes` is under 1, or a return is not finite.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes is {num_episodes}; it must be at least 1")
    num_envs = env.num_envs
    dealt = num_episodes // num_envs + (np.arange(num_envs) < num_episodes % num_envs)
    place = np.cumsum(dealt) - dealt  # of each env's current episode among the results
    end = place + dealt
    returns, lengths = np.zeros(num_episodes, np.float64), np.zeros(num_episodes, np.int64)
    plays = dealt > 0
    is_reset_row = np.zeros(num_envs, np.bool_)
    obs = env.reset()
    while plays.any():
        PULSE.count += 1
        if should_stop():
            raise StoppedError(f"{env.env_id}: the test was stopped")
        step = env.step(predict(obs))
        obs = step.obs
        if is_reset_row.any():
            begin(is_reset_row)
        counts = np.flatnonzero(plays & ~is_reset_row)
        returns[place[counts]] += step.rewards[counts]
        lengths[place[counts]] += 1
        if len(counts) and lengths[place[counts]].max() > max_episode_steps:
            raise EndlessEpisodeError(
                f"{env.env_id}: an episode has not ended after {max_episode_steps} steps; "
                "the task may never end by itself under this policy"
            )
        is_reset_row = step.terminated | step.truncated
        ended = counts[is_reset_row[counts]]
        place[ended] += 1
        plays[ended] = place[ended] < end[ended]
    if not (is_finite := np.isfinite(returns)).all():
        raise ValueError(f"{env.env_id}: an episode's return is {returns[~is_finite][0]}")
    return Evaluation(returns, lengths)


def evaluate_agent(
    agent: Agent,
    num_episodes: int,
    env_steps: int,
    should_stop: Asks = bool,
) -> Evaluation | None:
    """Tests an agent greedily in fresh environments of the task it plays.

    The environments have the same seeds at every call, so that tests of one run can be compared;
    those are never seeds of training.

    Args:
        agent: who plays.
        num_episodes: how many.
        env_steps: how far the training is, for the log.
        should_stop: asked at every step.

    Returns:
        The result. None if it was stopped; or, with one line in the log, if there can be no test:
        the agent's environments were built by hand and cannot be made from their id, or the task
        does not end.
    """
    env = None
    try:
        env = _fresh_env(agent, min(num_episodes, MAX_ENVS), "eval", agent.config.seed)
        return _play(agent, env, num_episodes, should_stop)
    except StoppedError:
        return None
    except ValueError as error:
        if env is not None and not isinstance(error, EndlessEpisodeError):
            raise
        _log.warning("no test at %d steps: %s", env_steps, one_line(error))
        return None


def record_agent(
    agent: Agent, folder: Path, name: str, env_steps: int, should_stop: Asks = bool
) -> list[Path]:
    """Films one greedy episode, without a display, as `<folder>/<name>.mp4` and `.gif`.

    Args:
        agent: who plays.
        folder: where to; created if it is not there.
        name: the files' name without ending.
        env_steps: how far the training is, for the log.
        should_stop: asked at every frame; a film that was stopped is none.

    Returns:
        The files; none, with one line in the log, if the task cannot be drawn or the packages for
        videos are missing: no training ends for want of a video.
    """
    try:
        return _record(agent, folder, name, agent.config.seed, should_stop)
    except StoppedError:
        return []
    except Exception as error:  # renderers raise whatever they like
        _log.warning("no video at %d steps: %s", env_steps, one_line(error))
        return []


def _fresh_env(
    agent: Agent, num_envs: int, purpose: Purpose, seed: int, render: bool = False
) -> VectorEnv:
    """Returns new environments like those the agent plays; ValueError if they cannot be made."""
    played = agent.envs[0]
    env = make_env(
        played.env_id,
        num_envs,
        seed=base_seed(seed, purpose),
        backend=cast(Backend, played.backend),
        num_threads=min(agent.config.num_env_threads, num_envs),
        render=render,
        testing=True,
        **agent.config.env_settings,
    )
    known, fresh = ((e.single_observation_space, e.single_action_space) for e in (played, env))
    if fresh != known:
        env.close()
        raise ValueError(
            f"{env.env_id} has, made anew, the spaces {fresh}; the agent's are {known}"
        )
    return env


def _play(agent: Agent, env: VectorEnv, num_episodes: int, should_stop: Asks = bool) -> Evaluation:
    """Plays greedily in `env` and closes it."""
    from fastrl.run.threads import num_threads

    try:
        with num_threads(1):  # more would take the cores from the environments
            predict, begin = _greedy(agent, env.num_envs)
            return evaluate(predict, env, num_episodes, begin=begin, should_stop=should_stop)
    finally:
        env.close()


def _greedy(
    agent: Agent, num_envs: int
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], None]]:
    """Returns how the agent acts on observations `[N, *O]`, and what to tell of new episodes."""
    from fastrl.agent import HasMemory

    if not isinstance(agent, HasMemory):
        return agent.predict, lambda begins: None
    player = cast(HasMemory, agent)  # whose predict takes a state
    state = player.new_state(num_envs)

    def begin(begins: np.ndarray) -> None:
        state[begins.nonzero()] = 0

    return lambda obs: player.predict(obs, state=state), begin


def _record(agent: Agent, folder: Path, name: str, seed: int, should_stop: Asks) -> list[Path]:
    played = agent.envs[0]
    if played.backend == "envpool":
        check_rendering(played.env_id)
    env = _fresh_env(agent, 1, "video", seed, render=True)
    try:
        return write_video(_frames(agent, env, should_stop), folder / name, _frames_per_second(env))
    finally:
        env.close()


def _frames(agent: Agent, env: VectorEnv, should_stop: Asks) -> Iterator[np.ndarray]:
    """Yields one episode from its first observation to its last, at most MAX_FRAMES."""
    obs = env.reset()
    predict, _ = _greedy(agent, 1)
    expose_opengl()
    yield env.render()
    for _ in range(MAX_FRAMES - 1):
        if should_stop():
            raise StoppedError(f"{env.env_id}: the film was stopped")
        step = env.step(predict(obs))
        obs = step.obs
        yield env.render()
        if step.terminated[0] or step.truncated[0]:
            return


def _frames_per_second(env: VectorEnv) -> float:
    """Returns about the speed of the task: gymnasium knows it, EnvPool does not tell."""
    inner: Any = env
    while hasattr(inner, "env"):  # below a velocity mask and a stack
        inner = inner.env
    if env.backend == "gymnasium":
        return float(inner.envs[0].metadata.get("render_fps") or 30)
    import envpool

    # Classic control and Box2D make 50 steps a second; with a frame skip (Atari, MuJoCo) about 20.
    return 20.0 if hasattr(envpool.make_spec(env.env_id).config, "frame_skip") else 50.0


# The command line


def main(argv: Sequence[str] | None = None) -> int:
    """Tests what a run has learned; returns 0, 2 after a user's mistake, 130 after Ctrl-C."""
    return exit_status(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m fastrl.evaluate", description="Plays greedy episodes with a trained agent."
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder, or a checkpoint file")
    parser.add_argument("--episodes", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--seed", type=int, help="of the environments (default: the run's)")
    parser.add_argument(
        "--checkpoint", metavar="last|best|PATH", help="which of the run (default: last)"
    )
    parser.add_argument("--video", action="store_true", help="film one episode (mp4 and GIF)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args(argv)
    if arguments.episodes < 1:
        raise ValueError(f"--episodes is {arguments.episodes}; it must be at least 1")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    saved = find_saved(arguments.run, arguments.checkpoint)
    if arguments.video:
        check_packages()
    videos = saved.videos.absolute()  # now: an environment may change folders
    agent = load_agent(saved)
    seed = agent.config.seed if arguments.seed is None else arguments.seed
    try:
        env = _fresh_env(agent, min(arguments.episodes, MAX_ENVS), "eval", seed)
        result = _play(agent, env, arguments.episodes)
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
            paths = _record(agent, videos, f"evaluate_{saved.checkpoint.stem}", seed, bool)
            facts["videos"] = [str(saved.videos / path.name) for path in paths]
            if not arguments.json:
                print("\n".join(f"video: {path}" for path in facts["videos"]))
        if arguments.json:
            print(json.dumps(facts))
        return 0
    finally:
        for env in agent.envs:
            env.close()
