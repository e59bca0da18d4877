"""Evaluation of an agent: whole episodes with greedy actions in new environments.

The number of episodes per environment is fixed beforehand. Counting whichever episodes end first
would favour short ones: failures in some tasks, successes in others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from fastrl.envs.make import Purpose, base_seed
from fastrl.envs.vector import VectorEnv
from fastrl.processes.errors import one_line
from fastrl.processes.generators import generators_seeded
from fastrl.processes.pulse import PULSE

if TYPE_CHECKING:  # torch is imported only after the arguments are validated
    from fastrl.training.agent import Agent

StopQuery = Callable[[], bool]  # whether to stop early
Show = Callable[..., None]  # takes how much is done, of how much, and optionally the step under way

MAX_ENVS = 128  # maximum number of parallel environments in an evaluation

_log = logging.getLogger("fastrl")


@dataclass(frozen=True)
class Evaluation:
    """Results of `E` episodes; those of one environment are contiguous."""

    returns: np.ndarray
    """float64 `[E]`: undiscounted returns."""
    lengths: np.ndarray
    """int64 `[E]`: episode lengths in steps."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the returns (dividing by E, not E - 1)."""
        return float(self.returns.std())

    @property
    def mean_length(self) -> float:
        """Mean episode length."""
        return float(self.lengths.mean())


class EndlessEpisodeError(ValueError):
    """An episode exceeded `max_episode_steps`, so the evaluation was abandoned."""


class StoppedError(ValueError):
    """`should_stop` ended an evaluation before its last episode."""


def evaluate(
    predict: Callable[[np.ndarray], np.ndarray],
    env: VectorEnv,
    num_episodes: int,
    *,
    begin: Callable[[np.ndarray], None] = lambda begins: None,
    max_episode_steps: int = 100_000,
    should_stop: StopQuery = lambda: False,
    show: Show = lambda done, total, step: None,
) -> Evaluation:
    """Plays a fixed number of episodes per environment, as evenly as possible.

    Args:
        predict: maps observations `[N, *O]` to actions `[N]` or `[N, A]` for the environments.
        env: reset at the start, and not closed at the end.
        num_episodes: E.
        begin: called with bool `[N]`: the environments in which the next prediction starts a new
            episode.
        max_episode_steps: a longer episode is an error, since the task may never end.
        should_stop: called at every step.
        show: called at every step, with the number of episodes that ended, E and the step's number.

    Raises:
        EndlessEpisodeError: an episode is longer than `max_episode_steps`.
        StoppedError: `should_stop` returned True.
        ValueError: `num_episodes` is under 1, or an action or a return is not finite.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes is {num_episodes}; it must be at least 1")
    num_envs = env.num_envs
    dealt = num_episodes // num_envs + (np.arange(num_envs) < num_episodes % num_envs)
    place = np.cumsum(dealt) - dealt  # index of each env's current episode in the results
    end = place + dealt
    returns, lengths = np.zeros(num_episodes, np.float64), np.zeros(num_episodes, np.int64)
    plays = dealt > 0
    is_reset_row = np.zeros(num_envs, np.bool_)
    num_steps = num_ended = 0
    obs = env.reset()
    while plays.any():
        PULSE.count += 1
        if should_stop():
            raise StoppedError(f"{env.env_id}: the evaluation was stopped")
        actions = predict(obs)
        if actions.dtype.kind == "f" and not np.isfinite(actions).all():
            raise ValueError(
                f"{env.env_id}: an action of the policy is not finite: its training diverged"
            )
        step = env.step(actions)
        obs = step.obs
        if is_reset_row.any():
            begin(is_reset_row)
        counts = np.flatnonzero(plays & ~is_reset_row)
        returns[place[counts]] += step.rewards[counts]
        lengths[place[counts]] += 1
        if len(counts) and lengths[place[counts]].max() > max_episode_steps:
            raise EndlessEpisodeError(
                f"{env.env_id}: an episode has not ended after {max_episode_steps} steps; "
                "the task may never end under this policy"
            )
        is_reset_row = step.terminated | step.truncated
        ended = counts[is_reset_row[counts]]
        place[ended] += 1
        plays[ended] = place[ended] < end[ended]
        num_steps, num_ended = num_steps + 1, num_ended + len(ended)
        show(num_ended, num_episodes, num_steps)
    if not (is_finite := np.isfinite(returns)).all():
        raise ValueError(f"{env.env_id}: an episode's return is {returns[~is_finite][0]}")
    return Evaluation(returns, lengths)


def evaluate_agent(
    agent: Agent,
    num_episodes: int,
    env_steps: int,
    should_stop: StopQuery = lambda: False,
    show: Show = lambda done, total, step: None,
) -> Evaluation | None:
    """Evaluates an agent with greedy actions in new environments of its task.

    The environments have the same seeds at every call, so that evaluations of a run are comparable;
    these seeds differ from those of training.

    Args:
        agent: the agent to evaluate.
        num_episodes: number of episodes.
        env_steps: environment steps of the training so far, for the log.
        should_stop: called at every step.
        show: called at every step, see `evaluate`.

    Returns:
        The results. None if it was stopped; or, with one line in the log, if evaluation is
        impossible: no more environments can be made, or an episode does not end.
    """
    env, seed = None, agent.config.seed
    try:
        with generators_seeded(seed):
            env = fresh_env(agent, min(num_episodes, MAX_ENVS), "eval", seed)
            return play(agent, env, num_episodes, should_stop, show)
    except StoppedError:
        return None
    except ValueError as error:
        if env is not None and not isinstance(error, EndlessEpisodeError):
            raise
        _log.warning("no evaluation at %d steps: %s", env_steps, one_line(error))
        return None


def can_be_tested(agent: Agent) -> bool:
    """Returns whether more environments of the agent's task can be made; it may try that."""
    if agent.config.eval_episodes:
        with generators_seeded(agent.config.seed):  # it may draw, but not from the training's
            agent.task = agent.task.checked()
    return agent.task.make is not None


def fresh_env(
    agent: Agent, num_envs: int, purpose: Purpose, seed: int, render: bool = False
) -> VectorEnv:
    """Returns new environments of the agent's task; ValueError if they cannot be created."""
    played, task = agent.envs[0], agent.task
    if task.make is None:
        raise ValueError(f"no new environments of {task.env_id} can be made: {task.why_not}")
    num_threads = min(agent.config.num_env_threads, num_envs)
    env = task.make(num_envs, seed=base_seed(seed, purpose), render=render, num_threads=num_threads)
    known, fresh = ((e.single_observation_space, e.single_action_space) for e in (played, env))
    if fresh != known:
        env.close()
        raise ValueError(
            f"{env.env_id}: new environments have the spaces {fresh}; the agent's are {known}"
        )
    return env


def play(
    agent: Agent,
    env: VectorEnv,
    num_episodes: int,
    should_stop: StopQuery = lambda: False,
    show: Show = lambda done, total, step: None,
) -> Evaluation:
    """Evaluates the agent in `env` and closes it."""
    from fastrl.engine.threads import num_threads

    try:
        with num_threads(1):  # more threads would take cores from the environments
            predict, begin = greedy_player(agent, env.num_envs)
            asked = {"begin": begin, "should_stop": should_stop, "show": show}
            return evaluate(predict, env, num_episodes, **asked)
    finally:
        env.close()


def greedy_player(
    agent: Agent, num_envs: int
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], None]]:
    """Returns the `predict` and `begin` that `evaluate` needs, with the agent's recurrent state."""
    from fastrl.training.agent import HasMemory

    if not isinstance(agent, HasMemory):
        return agent.predict, lambda begins: None
    player = cast(HasMemory, agent)  # whose predict takes a state
    state = player.new_state(num_envs)

    def begin(begins: np.ndarray) -> None:
        state[begins.nonzero()] = 0

    return lambda obs: player.predict(obs, state=state), begin
