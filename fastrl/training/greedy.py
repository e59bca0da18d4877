"""Greedy tests of an agent: whole episodes in fresh environments, drawing no actions.

Episodes are dealt out to the environments beforehand. Taking whichever episodes end first would
count short ones too often, and with them the failures of some tasks and the successes of others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from fastrl.envs.make import Backend, Purpose, base_seed, is_known_id, make_env
from fastrl.envs.vector import VectorEnv
from fastrl.processes.errors import one_line
from fastrl.processes.pulse import PULSE

if TYPE_CHECKING:  # torch waits until the arguments are known to be right
    from fastrl.training.agent import Agent

StopQuery = Callable[[], bool]  # whether to stop early

MAX_ENVS = 128  # environments that play a test side by side, at most

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
    should_stop: StopQuery = lambda: False,
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
    should_stop: StopQuery = lambda: False,
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
        env = fresh_env(agent, min(num_episodes, MAX_ENVS), "eval", agent.config.seed)
        return play(agent, env, num_episodes, should_stop)
    except StoppedError:
        return None
    except ValueError as error:
        if env is not None and not isinstance(error, EndlessEpisodeError):
            raise
        _log.warning("no test at %d steps: %s", env_steps, one_line(error))
        return None


def can_be_tested(agent: Agent) -> bool:
    """Tells whether the agent's environments have an id to make others from."""
    return is_known_id(agent.envs[0].env_id)


def fresh_env(
    agent: Agent, num_envs: int, purpose: Purpose, seed: int, render: bool = False
) -> VectorEnv:
    """Returns new environments like those the agent plays; ValueError if they cannot be made."""
    played = agent.envs[0]
    if not can_be_tested(agent):
        raise ValueError(
            f"{played.env_id} is no id: environments that were handed over cannot be made anew"
        )
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


def play(
    agent: Agent, env: VectorEnv, num_episodes: int, should_stop: StopQuery = lambda: False
) -> Evaluation:
    """Plays greedily in `env` and closes it."""
    from fastrl.engine.threads import num_threads

    try:
        with num_threads(1):  # more would take the cores from the environments
            predict, begin = greedy_player(agent, env.num_envs)
            return evaluate(predict, env, num_episodes, begin=begin, should_stop=should_stop)
    finally:
        env.close()


def greedy_player(
    agent: Agent, num_envs: int
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], None]]:
    """Returns how the agent acts on observations `[N, *O]`, and what to tell of new episodes."""
    from fastrl.training.agent import HasMemory

    if not isinstance(agent, HasMemory):
        return agent.predict, lambda begins: None
    player = cast(HasMemory, agent)  # whose predict takes a state
    state = player.new_state(num_envs)

    def begin(begins: np.ndarray) -> None:
        state[begins.nonzero()] = 0

    return lambda obs: player.predict(obs, state=state), begin
