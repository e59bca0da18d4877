"""Stacking of the latest observations, so that a policy sees motion (`frame_stack`)."""

from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from fastrl.envs.vector import HasInfos, HasState, TimeStep, VectorEnv
from fastrl.spaces.packed import PackedRow
from fastrl.spaces.pixels import ImageBox, channel_axis, is_pixels
from fastrl.spaces.values import on_one_line


class FrameStack:
    """A `VectorEnv` that stacks the last `depth` observations of the wrapped env, latest last.

    Images are stacked along their channels, vectors are concatenated. A new episode starts with
    copies of its first observation.
    """

    def __init__(self, env: VectorEnv, depth: int) -> None:
        """Wraps `env`; ValueError if its observations are not a plain Box."""
        space = env.single_observation_space
        if not isinstance(space, spaces.Box) or isinstance(space, PackedRow):
            seen = on_one_line(space)
            raise ValueError(f"{env.env_id}: frame_stack has no effect on {seen}; it is for a Box")
        self.env, self._depth = env, depth
        self.env_id, self.backend, self.num_envs = env.env_id, env.backend, env.num_envs
        self.worker_threads: frozenset[int] = getattr(env, "worker_threads", frozenset())
        self.single_action_space = env.single_action_space
        # Stacking adds a channel dimension to grey images [H, W].
        self._lacks_channels = is_pixels(space) and len(space.shape) == 2
        low, high = (
            self._with_channels(space.low[None])[0],
            self._with_channels(space.high[None])[0],
        )
        # A grey image has its channels first now.
        has_axis = is_pixels(space) and not self._lacks_channels
        axis = channel_axis(space) if has_axis else 0
        low, high = (np.concatenate([bound] * depth, axis) for bound in (low, high))
        kind: Any = spaces.Box
        if is_pixels(space):  # the stacked shape no longer tells which axis holds the channels
            is_scaled = getattr(space, "is_scaled", True)
            kind = partial(ImageBox, is_scaled=is_scaled, channel_axis=axis)
        self.single_observation_space = kind(low, high, dtype=space.dtype or np.float32)
        self._axis = 1 + axis
        self._stacked = np.zeros((env.num_envs, *low.shape), space.dtype)
        self._begins = np.zeros(env.num_envs, np.bool_)
        if hasattr(env, "reseed"):
            self.reseed = env.reseed  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(env, HasInfos):
            self.infos = env.infos
        if isinstance(env, HasState):
            self._stateful = env
            self.state_dict, self.load_state_dict = self._state_dict, self._load_state_dict
        self.send, self.render, self.close = env.send, env.render, env.close

    def reset(self) -> np.ndarray:
        """Starts new episodes; returns stacked observations [N, *O]."""
        obs = self._with_channels(self.env.reset())
        self._stacked = np.concatenate([obs] * self._depth, self._axis)
        self._begins[:] = False
        return self._stacked

    def recv(self) -> TimeStep:
        """Finishes the step and stacks its observations."""
        step = self.env.recv()
        obs = self._with_channels(step.obs)
        size = obs.shape[self._axis]
        kept = self._stacked.take(range(size, size * self._depth), self._axis)
        # A new array, because the caller owns the last one.
        self._stacked = np.concatenate([kept, obs], self._axis)
        if self._begins.any():
            first = obs[self._begins]
            self._stacked[self._begins] = np.concatenate([first] * self._depth, self._axis)
        self._begins = step.terminated | step.truncated
        return step._replace(obs=self._stacked)

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def _with_channels(self, obs: np.ndarray) -> np.ndarray:
        return obs[:, None] if self._lacks_channels else obs

    def _state_dict(self) -> dict[str, Any]:
        inner = self._stateful.state_dict()
        return {"env": inner, "stacked": self._stacked, "begins": self._begins}

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self._stateful.load_state_dict(state["env"])
        self._stacked, self._begins = state["stacked"], state["begins"]
