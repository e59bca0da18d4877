"""Environments in the hands of a module whose `rollout` is its own: the rows are kept as always."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fastrl.buffers.rollout import Episodes, RolloutBuffer
from fastrl.engine.threads import num_threads
from fastrl.envs.vector import EnvError, VectorEnv
from fastrl.models.layers import evaluating
from fastrl.processes.pulse import PULSE
from fastrl.runs.timer import StageTimer
from fastrl.training.infos import InfoRecorder
from fastrl.training.player import Player

Info = dict[str, Any]


class BoundEnv:
    """N environments with gymnasium's calls, on tensors; each step becomes a row of the rollout.

    After an episode's end the next step resets: its action is ignored, its reward is 0, and it
    returns the first observation of the next episode.
    """

    def __init__(
        self, agent: Any, envs: list[VectorEnv], buffer: RolloutBuffer, infos: InfoRecorder | None
    ) -> None:
        """Takes the pools that are played, and where their rows and infos go."""
        self._agent, self._buffer, self._infos = agent, buffer, infos
        self._pools = list(zip(envs, agent.columns_of_pools(), strict=True))
        self.num_envs = buffer.num_envs
        self.observation_space = agent.observation_space
        self.action_space = agent.action_space
        self.t = 0
        """Steps of this rollout so far."""

    def __deepcopy__(self, memo: Any) -> BoundEnv:
        """Returns itself, because there is one: modules that hold it can be copied so."""
        return self

    @property
    def obs(self) -> Any:
        """What the environments show now, `[N, *O]`, or parts `[N, *shape]` by key."""
        return self._agent.module._observations.seen(self._buffer.obs[self.t].clone())

    @property
    def noise(self) -> Tensor:
        """What `act` draws the next actions with, `[N, K]`."""
        return self._buffer.noise[min(self.t, self._buffer.num_steps - 1)]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Info]:
        """Returns what the environments show at the beginning of a rollout, and no infos.

        Episodes begin by themselves: after the end of the one before, and seeded, when `fit` does.

        Raises:
            ValueError: within a rollout, or with arguments.
        """
        if self.t or seed is not None or options is not None:
            raise ValueError("episodes begin by themselves; reset() tells what is shown at first")
        return self.obs, {}

    def step(self, actions: Any) -> tuple[Any, Tensor, Tensor, Tensor, Info]:
        """Takes a step of all environments.

        Args:
            actions: `[N, *A]`, as `act` returns them.

        Returns:
            Observations `[N, *O]`, rewards float32 `[N]`, terminated and truncated bool `[N]`, and
            no infos.

        Raises:
            ValueError: the rollout is full, or there are not N actions.
            EnvError: an environment returned something that is not finite.
        """
        buffer, t = self._buffer, self.t
        if t == buffer.num_steps:
            raise ValueError(f"rollout(total_steps) took more than total_steps={t} steps")
        stored = buffer.actions[t]
        chosen = torch.as_tensor(actions, device=stored.device)
        if chosen.numel() != stored.numel():
            raise ValueError(f"actions are {list(chosen.shape)}; step takes {list(stored.shape)}")
        stored.copy_(chosen.reshape(stored.shape))
        taken = self._agent.policy.head.to_env(stored).cpu().numpy()
        for env, columns in self._pools:
            env.send(taken[columns])
        for env, columns in self._pools:
            step = env.recv()
            broken = buffer.record(t, columns.start, *step)
            if self._infos is not None:
                self._infos.record(env, step.terminated | step.truncated)
            if broken >= 0:
                raise EnvError(f"{env.env_id}: environment {broken} returned a non-finite number")
        PULSE.count += 1
        self.t += 1
        flags = buffer.terminated[t].clone(), buffer.truncated[t].clone()
        return self.obs, buffer.rewards[t].clone(), *flags, {}


class ModulePlayer(Player):
    """Plays by the module's own `rollout`."""

    def __init__(
        self, agent: Any, envs: list[VectorEnv], buffer: RolloutBuffer, timer: StageTimer
    ) -> None:
        """Binds the module to the environments."""
        super().__init__(agent, envs, buffer, timer)
        self._module = agent.module
        self._bound = BoundEnv(agent, envs, buffer, self._infos)
        self._module.bind_env(self._bound)

    @torch.no_grad()
    def collect(self) -> Episodes:
        """Has the module play one rollout into the buffer; returns the episodes that ended in it.

        Raises:
            ValueError: it took another number of steps than it was asked for.
        """
        buffer, module, bound = self._buffer, self._module, self._bound
        start = perf_counter()
        with num_threads(1):
            self._agent.begin_rollout(buffer)  # first: the engine looks for what was changed
            bound.t = 0
            with evaluating(module):
                if module.step == 0:
                    module.initial_rollout()
                else:
                    module.rollout(buffer.num_steps)
        if bound.t != buffer.num_steps:
            raise ValueError(f"rollout({buffer.num_steps}) took {bound.t} steps")
        bound.t = 0
        self._timer.add("env", perf_counter() - start)
        return self.take_episodes()
