"""A `gymnasium.vector.VectorEnv` that the caller built, behind the `VectorEnv` interface."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from fastrl.envs.gym_env import call
from fastrl.envs.vector import EnvError, TimeStep
from fastrl.spaces.observations import (
    PackedRow,
    action_space_of,
    check_action_space,
    leaf_values,
    observation_rows,
    pack_observation,
)


class WrappedVectorEnv:
    """A caller's `gymnasium.vector.VectorEnv`, converted to next-step autoreset.

    - NEXT_STEP needs no conversion.
    - A plain `SyncVectorEnv` in another mode is switched to NEXT_STEP (its `autoreset_mode`
      changes).
    - SAME_STEP and DISABLED envs step all their sub-envs or none, but next-step autoreset needs
      those whose episode has ended to wait for one step. Such a sub-env therefore makes that step
      with an arbitrary action, the transition is discarded, and `reset(options={"reset_mask":
      ...})` resets it. The results are exact, at the cost of one extra step and reset per episode;
      the random numbers differ from those with NEXT_STEP. An env that ignores `reset_mask` is
      detected, and raises an EnvError.
    """

    backend = "gymnasium"

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv,
        seed: int | None = None,
        obs_keys: Sequence[str] = (),
    ) -> None:
        """Wraps `env`; `seed` is for its first `reset`. ValueError if its mode isn't known."""
        self.env: Any = env
        self.env_id = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        self.num_envs = env.num_envs
        check_action_space(env.single_action_space, self.env_id)
        self.single_action_space = action_space_of(env.single_action_space)
        self.single_observation_space: Any = observation_rows(
            self.env_id, env.single_observation_space, self.single_action_space, obs_keys
        )
        self._action_dtype = env.single_action_space.dtype
        if type(env) is SyncVectorEnv and env.autoreset_mode != AutoresetMode.NEXT_STEP:
            env.autoreset_mode = AutoresetMode.NEXT_STEP
            env.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        try:
            self._mode = AutoresetMode(env.metadata.get("autoreset_mode"))
        except ValueError:
            raise ValueError(
                f"{self.env_id}: metadata['autoreset_mode'] is "
                f"{env.metadata.get('autoreset_mode')!r}; "
                f"it must be one of {', '.join(map(str, AutoresetMode))}"
            ) from None
        self._seed = seed
        self._is_async = type(env) is AsyncVectorEnv
        self._actions: np.ndarray | None = None
        # Sub-envs whose episode ended in the last step, in a mode in which they don't wait.
        self._waits = np.zeros(self.num_envs, np.bool_)
        if callable(getattr(env, "state_dict", None)) and callable(
            getattr(env, "load_state_dict", None)
        ):
            self.state_dict, self.load_state_dict = self._state_dict, self._load_state_dict

    def reset(self) -> np.ndarray:
        """Starts new episodes in all envs; returns observations [N, *O]."""
        obs, _ = call(f"{self.env_id}: reset", self.env.reset, seed=self._seed)
        self._seed = None
        self._waits[:] = False
        return self._own(obs)

    def send(self, actions: np.ndarray) -> None:
        """Starts the step of an `AsyncVectorEnv`; for other envs stores a copy of the actions."""
        actions = np.array(actions, dtype=self._action_dtype)
        # Such an env must be reset before it is stepped.
        if self._mode == AutoresetMode.DISABLED and self._waits.any():
            call(
                f"{self.env_id}: reset", self.env.reset, options={"reset_mask": self._waits.copy()}
            )
        if self._is_async:
            call(f"{self.env_id}: step", self.env.step_async, actions)
        self._actions = actions

    def recv(self) -> TimeStep:
        """Finishes the step that `send` started."""
        assert self._actions is not None, "recv without send"
        actions, self._actions = self._actions, None
        finish = self.env.step_wait if self._is_async else partial(self.env.step, actions)
        obs, rewards, terminated, truncated, info = call(f"{self.env_id}: step", finish)
        with np.errstate(over="ignore"):  # overflows become infinite, refused later
            obs, rewards = self._own(obs), np.array(rewards, np.float32)
        terminated = np.array(terminated, np.bool_)
        truncated = np.asarray(truncated, np.bool_) & ~terminated
        if self._mode != AutoresetMode.NEXT_STEP:
            done = (terminated | truncated) & ~self._waits
            if self._waits.any():
                obs = self._restart_waiting(obs)
                rewards[self._waits] = 0
                terminated &= ~self._waits
                truncated &= ~self._waits
            if self._mode == AutoresetMode.SAME_STEP and done.any():
                if "final_obs" not in info:
                    raise EnvError(
                        f"{self.env_id}: autoreset mode {self._mode}, but no info['final_obs'] "
                        "when an episode ended"
                    )
                for i in np.flatnonzero(done):
                    # In this mode the env's own row already is the reset observation.
                    obs[i] = self._final_row(info["final_obs"][i])
            self._waits = done
        return TimeStep(obs, rewards, terminated, truncated)

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def render(self) -> np.ndarray:
        """Renders env 0; returns uint8 [H, W, 3]."""
        if self.env.render_mode != "rgb_array":
            raise ValueError(
                f"{self.env_id}: render_mode is {self.env.render_mode!r}, it must be 'rgb_array'"
            )
        return np.asarray(self.env.render()[0], np.uint8)

    def close(self) -> None:
        """Closes the env."""
        self.env.close()

    def _own(self, obs: Any) -> np.ndarray:
        """Returns packed copies of the observations, because the env may reuse its arrays."""
        return pack_observation(self.single_observation_space, obs)

    def _final_row(self, obs: Any) -> np.ndarray:
        if not isinstance(self.single_observation_space, PackedRow):
            return obs
        parts = {name: np.asarray(part)[None] for name, part in leaf_values(obs).items()}
        return self.single_observation_space.pack(parts)[0]

    def _restart_waiting(self, stepped_obs: np.ndarray) -> np.ndarray:
        """Resets the sub-envs that wait, and checks that the others are unchanged."""
        options = {"reset_mask": self._waits.copy()}
        reset_obs, _ = call(f"{self.env_id}: reset", self.env.reset, options=options)
        reset_obs = self._own(reset_obs)
        others = ~self._waits
        if not np.array_equal(reset_obs[others], stepped_obs[others], equal_nan=True):
            raise EnvError(
                f"{self.env_id}: autoreset mode {self._mode} needs an env whose "
                "reset(options={'reset_mask': mask}) resets only the chosen sub-envs and returns "
                "the others' observations unchanged; this one does not. "
                f"Make it with {AutoresetMode.NEXT_STEP}."
            )
        return reset_obs

    def _state_dict(self) -> dict[str, Any]:
        return {"env": self.env.state_dict(), "waits": self._waits.tolist()}

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.load_state_dict(state["env"])
        self._waits = np.array(state["waits"], np.bool_)
        self._seed = None
