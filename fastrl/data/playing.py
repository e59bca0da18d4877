"""Plays whole episodes at the speed of the environments and writes them to a dataset.

Letters: T rows of a block, N envs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastrl.data.columns import recorded
from fastrl.data.episodes import Block, EpisodeCutter
from fastrl.data.writer import MinariWriter
from fastrl.envs.vector import EnvError, VectorEnv
from fastrl.processes.pulse import PULSE

MOST_EPISODE_STEPS = 100_000
"""A longer episode is taken for one that never ends, as in evaluations."""

_BLOCK_BYTES, _MOST_ROWS = 2**24, 128


class Policy(NamedTuple):
    """What acts."""

    act: Callable[[np.ndarray], np.ndarray]
    """Maps observations `[N, *O]` to actions `[N]` or `[N, A]` for the environments."""
    begin: Callable[[np.ndarray], None] = lambda begins: None
    """Called with bool `[N]`: the environments in which the next action starts a new episode."""


def default_num_envs(num_steps: int | None, num_episodes: int | None) -> int:
    """Returns one environment for every 1,000 steps or every episode, at most 64.

    Each environment plays its last episode to the end, so that few environments exceed a small
    number of steps by less.
    """
    wanted = num_episodes if num_episodes is not None else (num_steps or 0) // 1000
    return max(1, min(64, wanted))


def record_episodes(
    env: VectorEnv,
    policy: Policy,
    writer: MinariWriter,
    *,
    num_steps: int | None = None,
    num_episodes: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    show: Callable[..., None] = lambda done, total: None,
) -> None:
    """Plays until there are enough steps or episodes; all of them are whole.

    With `num_steps`, every episode is kept that begins before the environments have taken that many
    steps together. To leave out those that end later would favour short ones. With `num_episodes`,
    each environment plays as many as the others, give or take one, for the same reason.

    Args:
        env: is reset at the start, and not closed at the end.
        policy: what acts.
        writer: takes the episodes.
        num_steps: at least so many steps; or
        num_episodes: so many episodes.
        should_stop: called at every step; the episodes under way are lost then.
        show: called at every block with what is done and what is to be done.

    Raises:
        ValueError: an episode does not end, or an action is not a number.
        EnvError: an environment returned a number that is not finite.
    """
    assert (num_steps is None) != (num_episodes is None)
    num_envs = env.num_envs
    if num_episodes is not None:
        dealt = num_episodes // num_envs + (np.arange(num_envs) < num_episodes % num_envs)
        quotas = dealt.tolist()

        def wanted(index: int, number: int, steps_before: int) -> bool:
            return number < quotas[index]
    else:

        def wanted(index: int, number: int, steps_before: int) -> bool:
            return steps_before < (num_steps or 0)

    cutter = EpisodeCutter(env.env_id, num_envs, wanted, MOST_EPISODE_STEPS)
    goal = num_steps if num_episodes is None else num_episodes
    try:
        for block in _blocks(env, policy, should_stop):
            for episode in cutter.take(_columns_of(env, block), block["done"]):
                writer.add(episode)
            writer.commit_if_due()
            steps, episodes = writer.num_new_steps, writer.num_new_episodes
            done = episodes if num_steps is None else steps + cutter.num_steps_under_way
            show(min(done, goal or 0), goal)
            if cutter.is_finished:
                return
    finally:
        cutter.close()


def _blocks(env: VectorEnv, policy: Policy, should_stop: Callable[[], bool]) -> Any:
    """Yields blocks of rows `[T, N, *]` without end; each one overwrites the one before."""
    obs = env.reset()
    space, shape = env.single_action_space, (env.num_envs,)
    num_rows = max(1, min(_MOST_ROWS, _BLOCK_BYTES // max(1, obs.nbytes)))
    block: Block = {
        "observations": np.empty((num_rows, *obs.shape), obs.dtype),
        "actions": np.zeros((num_rows, *shape, *(space.shape or ())), space.dtype),
        "rewards": np.zeros((num_rows, *shape), np.float32),
        "terminations": np.zeros((num_rows, *shape), np.bool_),
        "truncations": np.zeros((num_rows, *shape), np.bool_),
        "done": np.zeros((num_rows, *shape), np.bool_),
    }
    all_obs, all_actions, rewards, terminations, truncations, done = block.values()
    all_obs[0], row, begins = obs, 1, np.zeros(env.num_envs, np.bool_)
    while not should_stop():
        if row == num_rows:
            yield block
            row = 0
        PULSE.count += 1
        actions = policy.act(obs)
        step = env.step(actions)
        if begins.any():
            policy.begin(begins)
        obs = step.obs
        all_obs[row], all_actions[row], rewards[row] = obs, actions, step.rewards
        terminations[row], truncations[row] = step.terminated, step.truncated
        begins = np.logical_or(step.terminated, step.truncated, out=done[row])
        row += 1
    if row:
        yield {name: x[:row] for name, x in block.items()}


def _columns_of(env: VectorEnv, block: Block) -> Block:
    """Returns the columns of a dataset `[T, N, *]`, by name."""
    obs = block["observations"]
    steps, num_envs = obs.shape[:2]
    for name in ("observations", "rewards", "actions"):
        values = block[name]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            index = int(np.argwhere(~np.isfinite(values))[0, 1])
            what = f"{name[:-1]} of environment {index}"
            raise EnvError(f"{env.env_id}: the {what} is not finite")
    rows = obs.reshape(steps * num_envs, *obs.shape[2:])
    parts = recorded(env.single_observation_space, rows)
    columns = {
        f"observations/{name}" if name else "observations": part.reshape(
            steps, num_envs, *part.shape[1:]
        )
        for name, part in parts.items()
    }
    names = "actions", "rewards", "terminations", "truncations"
    return {**columns, **{name: block[name] for name in names}}
