"""Evaluation of an agent: whole episodes in new environments, with greedy actions by default.

The number of episodes per environment is fixed beforehand. Counting whichever episodes end first
would favour short ones: failures in some tasks, successes in others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import numpy as np

from fastrl.envs.make import Purpose, base_seed
from fastrl.envs.vector import Spaces, VectorEnv
from fastrl.processes.errors import one_line
from fastrl.processes.generators import generators_seeded
from fastrl.processes.pulse import PULSE
from fastrl.training.evaluation import Evaluation
from fastrl.training.infos import infos_of, missing

if TYPE_CHECKING:  # torch is imported only after the arguments are validated
    from fastrl.envs.rebuild import Task
    from fastrl.training.agent import Agent

StopQuery = Callable[[], bool]  # whether to stop early
Show = Callable[..., None]  # takes how much is done, of how much, and optionally the step under way

MAX_ENVS = 128  # maximum number of parallel environments in an evaluation

_log = logging.getLogger("fastrl")
_told_what_is_missing: WeakSet[Any] = WeakSet()  # agents whose missing info metrics were told


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
    with_infos: bool = False,
    info_names: Sequence[str] = (),
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
        with_infos: keep the info of each episode's last step.
        info_names: numbers of these infos whose means are asked for; they are kept then.

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
    infos: list[dict[str, Any]] = [{}] * num_episodes if with_infos or info_names else []
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
        if infos and len(ended):
            for index, info in zip(ended, infos_of(env, ended.tolist()), strict=True):
                infos[place[index]] = {name: _owned(value) for name, value in info.items()}
        place[ended] += 1
        plays[ended] = place[ended] < end[ended]
        num_steps, num_ended = num_steps + 1, num_ended + len(ended)
        show(num_ended, num_episodes, num_steps)
    if not (is_finite := np.isfinite(returns)).all():
        raise ValueError(f"{env.env_id}: an episode's return is {returns[~is_finite][0]}")
    result = Evaluation(returns, lengths, tuple(infos), tuple(info_names), env.env_id)
    _ = result.info_means  # raises here, where the environment is known, for what is no number
    return result


def _owned(value: Any) -> Any:
    """Returns a value of an info that no later step of the environment changes."""
    if isinstance(value, dict):
        return {name: _owned(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_owned(part) for part in value]
    return value.copy() if isinstance(value, np.ndarray) else value


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
    env, seed, names = None, agent.config.seed, agent.config.info_metrics
    try:
        with generators_seeded(seed):
            env = fresh_env(agent, min(num_episodes, MAX_ENVS), "eval", seed)
            result = play(agent, env, num_episodes, should_stop, show, info_names=names)
    except StoppedError:
        return None
    except ValueError as error:
        if env is not None and not isinstance(error, EndlessEpisodeError):
            raise
        _log.warning("no evaluation at %d steps: %s", env_steps, one_line(error))
        return None
    if (words := missing(result.infos, names)) and agent not in _told_what_is_missing:
        _told_what_is_missing.add(agent)
        _log.warning("%s: evaluation: info_metrics: %s", env.env_id, words)
    return result


def can_be_tested(agent: Agent) -> bool:
    """Returns whether more environments of the agent's task can be made; it may try that."""
    if agent.config.eval_episodes:
        with generators_seeded(agent.config.seed):  # it may draw, but not from the training's
            agent.task = agent.task.checked()
    return agent.task.make is not None


def check_tested(agent: Agent) -> None:
    """Makes two of the caller's `eval_env`, so that one that cannot be tested is refused at once.

    Two, because a function may return the same environment at every call.

    Raises:
        ValueError: it cannot be made, or is no task for this agent.
    """
    task, seed = agent.task, agent.config.seed
    if agent.config.eval_episodes and task.is_own and task.make is not None:
        with generators_seeded(seed):
            fresh_env(agent, 2, "eval", seed).close()


def fresh_env(
    agent: Agent,
    num_envs: int,
    purpose: Purpose,
    seed: int,
    render: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
    task: Task | None = None,
) -> VectorEnv:
    """Returns new environments of a task.

    Args:
        agent: the agent that plays.
        num_envs: how many; an environment that the caller built is one.
        purpose: what for; each has seeds of its own.
        seed: the run's, from which those of the environments follow.
        render: whether to draw.
        env_kwargs: keyword arguments of the environment to change.
        task: by default the agent's.

    Raises:
        ValueError: they cannot be created, or their spaces are not the agent's.
    """
    task = task or agent.task
    if task.make is None:
        raise ValueError(f"no new environments of {task.env_id} can be made: {task.why_not}")
    num_threads = min(agent.config.num_env_threads, num_envs)
    how: dict[str, Any] = {"render": render, "num_threads": num_threads}
    if env_kwargs:
        how["env_kwargs"] = env_kwargs
    env = task.make(num_envs, seed=base_seed(seed, purpose), **how)
    fresh = Spaces(env.single_observation_space, env.single_action_space)
    known = agent_spaces(agent)
    if fresh != known:
        env.close()
        raise ValueError(
            f"{env.env_id}: new environments have the spaces {tuple(fresh)}; the agent's are "
            f"{tuple(known)}"
        )
    return env


def agent_spaces(agent: Any) -> Spaces:
    """Returns the spaces that an agent plays in, also if it has no environments."""
    if not agent.envs:
        return Spaces(agent.observation_space, agent.action_space)
    return Spaces(agent.envs[0].single_observation_space, agent.envs[0].single_action_space)


def play(
    agent: Agent,
    env: VectorEnv,
    num_episodes: int,
    should_stop: StopQuery = lambda: False,
    show: Show = lambda done, total, step: None,
    *,
    deterministic: bool = True,
    with_infos: bool = False,
    info_names: Sequence[str] = (),
) -> Evaluation:
    """Evaluates the agent in `env` and closes it; arguments as of `evaluate`."""
    from fastrl.engine.threads import num_threads

    try:
        with num_threads(1):  # more threads would take cores from the environments
            predict, begin = policy_of(agent, env.num_envs, deterministic)
            return evaluate(
                predict,
                env,
                num_episodes,
                begin=begin,
                should_stop=should_stop,
                show=show,
                with_infos=with_infos,
                info_names=info_names,
            )
    finally:
        env.close()


def policy_of(
    agent: Agent, num_envs: int, deterministic: bool = True
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], None]]:
    """Returns the `predict` and `begin` that `evaluate` needs, with the agent's recurrent state."""
    from fastrl.training.agent import HasMemory

    if not isinstance(agent, HasMemory):
        return lambda obs: agent.predict(obs, deterministic), lambda begins: None
    player = cast(HasMemory, agent)  # whose predict takes a state
    state = player.new_state(num_envs)

    def begin(begins: np.ndarray) -> None:
        state[begins.nonzero()] = 0

    return lambda obs: player.predict(obs, deterministic, state=state), begin
