"""The player: steps the environments with the policy and fills the buffer."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
from gymnasium import Space

from fastrl.buffers.rollout import Episodes, RolloutBuffer
from fastrl.engine.threads import num_threads
from fastrl.envs.vector import EnvError, VectorEnv
from fastrl.processes.machine import let_others_first
from fastrl.processes.pulse import PULSE
from fastrl.runs.timer import StageTimer
from fastrl.spaces.actions import Outside, choices_of
from fastrl.spaces.values import on_one_line
from fastrl.training.agent import Agent
from fastrl.training.infos import InfoRecorder
from fastrl.training.placement import Placement


class Player:
    """Steps pools of environments in turn: while one pool steps, the policy acts on the next.

    The policy is fixed during a rollout, and a pool's actions depend on its own latest observations
    only, so the data are on-policy and do not depend on timing. Each pool has its own columns of
    the buffer, from its `first_env` on.
    """

    def __init__(
        self, agent: Agent, envs: list[VectorEnv], buffer: RolloutBuffer, timer: StageTimer
    ) -> None:
        """Prepares the player; `reset` starts the episodes.

        Args:
            agent: the agent that acts.
            envs: the pools; pool p has the buffer's columns after those of the pools before it.
            buffer: the buffer to fill, with a column per environment of all pools.
            timer: accumulates the time of the stages "env", "act" and "store".
        """
        self._agent, self._buffer, self._timer = agent, buffer, timer
        # Only EnvPool has threads of its own.
        workers = [getattr(env, "worker_threads", frozenset()) for env in envs]
        names, speaks = agent.config.info_metrics, agent.devices.is_global_zero
        self._infos = InfoRecorder(names, speaks) if names else None
        self._placement = Placement(frozenset().union(*workers))
        if len(envs) > 1:  # stepping one half must not delay the policy that acts on the other
            let_others_first(frozenset().union(*workers))
        space = envs[0].single_action_space
        # An own policy's actions are looked at: EnvPool takes any, and plays on with them.
        self._outside = None if _acts_by_fastrl(agent, space) else Outside(space)
        self._pools: list[tuple[int, VectorEnv, int]] = []
        first_env = 0
        for pool, env in enumerate(envs):
            self._pools.append((pool, env, first_env))
            first_env += env.num_envs
        assert first_env == buffer.num_envs

    def reset(self) -> None:
        """Starts new episodes in all environments."""
        for _, env, first_env in self._pools:
            obs = env.reset()
            _check_number(env, len(obs))
            broken = ~np.isfinite(obs).reshape(len(obs), -1).all(1)
            if broken.any():
                index = first_env + int(broken.argmax())
                raise EnvError(
                    f"{env.env_id}: environment {index} returned a non-finite observation at reset"
                )
            self._buffer.start(obs, first_env)

    def collect(self) -> Episodes:
        """Plays one rollout into the buffer and returns the episodes that ended in it.

        Raises:
            EnvError: an environment returned a reward or an observation that is not finite.
            ValueError: a policy of somebody's own drew an action that is not in the space, or a
                tensor of the buffer lies elsewhere now.
        """
        buffer, act = self._buffer, self._agent.act
        buffer.places.check()
        num_steps = buffer.num_steps
        env_seconds = act_seconds = store_seconds = 0.0
        # For a policy of this size a second thread costs more than it saves, and takes a core from
        # the environments.
        with num_threads(1), self._placement.rollout():
            self._agent.begin_rollout(buffer)
            for t in range(num_steps + 1):
                PULSE.count += 1
                for pool, env, first_env in self._pools:
                    start = perf_counter()
                    if t:
                        step = env.recv()
                        received = perf_counter()
                        if len(step.rewards) != env.num_envs:
                            _check_number(env, len(step.rewards))
                        broken = buffer.record(t - 1, first_env, *step)
                        if self._infos is not None:
                            self._infos.record(env, step.terminated | step.truncated)
                        stored = perf_counter()
                        env_seconds += received - start
                        store_seconds += stored - received
                        start = stored
                        if broken >= 0:
                            raise _not_finite(env, broken, step.rewards[broken - first_env], t)
                    if t < num_steps:
                        env_actions = act(t, pool)
                        if self._outside is not None:
                            self._check_actions(env, first_env, env_actions)
                        acted = perf_counter()
                        env.send(env_actions)
                        act_seconds += acted - start
                        env_seconds += perf_counter() - acted
        self._timer.add("env", env_seconds)
        self._timer.add("act", act_seconds)
        self._timer.add("store", store_seconds)
        return self.take_episodes()

    def _check_actions(self, env: VectorEnv, first_env: int, actions: np.ndarray) -> None:
        assert self._outside is not None
        if (row := self._outside.first(actions)) is not None:
            raise ValueError(
                f"{env.env_id}: the policy drew {actions[row].tolist()} in environment "
                f"{first_env + row}, which is not in {on_one_line(env.single_action_space)}"
            )

    def take_episodes(self) -> Episodes:
        """Returns the episodes that ended since the last call, with what their infos told."""
        episodes = self._buffer.take_episodes()
        return episodes._replace(infos=self._infos.take()) if self._infos else episodes


def player_of(agent: Agent, buffer: RolloutBuffer, timer: StageTimer) -> Player:
    """Returns what plays an agent's environments: `Player`, or what the agent has in its place."""
    return getattr(agent, "make_player", Player)(agent, agent.envs, buffer, timer)


def _acts_by_fastrl(agent: Any, space: Space) -> bool:
    """Tells whether fastrl's own code draws the actions, with a head of the space's size."""
    policy = getattr(agent, "policy", None)
    head = getattr(policy, "head", None)
    sizes = getattr(head, "num_choices", None)
    parts = [x for x in (agent, policy, head, getattr(agent, "module", None)) if x is not None]
    is_own = any(type(x).__module__.partition(".")[0] != "fastrl" for x in parts)
    return not is_own and (not sizes or sizes == choices_of(space))


def _check_number(env: VectorEnv, number: int) -> None:
    """Raises EnvError unless there is a row for each environment: the others would go stale."""
    if number != env.num_envs:
        raise EnvError(f"{env.env_id}: {number} rows came back from {env.num_envs} environments")


def _not_finite(env: VectorEnv, index: int, reward: float, t: int) -> EnvError:
    what = "observation" if np.isfinite(reward) else f"reward: {reward} as float32"
    return EnvError(
        f"{env.env_id}: environment {index} returned a non-finite {what}, "
        f"at step {t} of the rollout"
    )
