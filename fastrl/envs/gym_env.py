"""Gymnasium envs behind the `VectorEnv` interface, whatever their autoreset.

`GymEnv` steps single `gymnasium.Env`s itself. `WrappedVectorEnv` takes a
`gymnasium.vector.VectorEnv` that the caller built.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from fastrl.envs.vector import EnvError, TimeStep, check_spaces, emitted_observation_space

_log = logging.getLogger("fastrl")


class GymEnv:
    """Single `gymnasium.Env`s stepped one after the other; see `vector.VectorEnv` for the methods.

    Offers `state_dict` and `load_state_dict` only if the envs do (below wrappers whose state is
    known).
    """

    backend = "gymnasium"

    def __init__(
        self, env_id: str, env_fns: Sequence[Callable[[], gymnasium.Env]], seeds: Sequence[int]
    ) -> None:
        """Make one env per function. Only env 0 is ever rendered: it alone needs a render mode."""
        self.env_id, self.num_envs = env_id, len(env_fns)
        self.envs = [_call(f"{env_id}: making env {i}", f) for i, f in enumerate(env_fns)]
        first = self.envs[0]
        for env in self.envs:
            if not isinstance(env, gymnasium.Env):
                raise ValueError(
                    f"{env_id}: made a {type(env).__name__}, which is not a gymnasium.Env"
                )
            if (env.observation_space, env.action_space) != (
                first.observation_space,
                first.action_space,
            ):
                raise ValueError(f"{env_id}: the envs differ in their spaces: {first} and {env}")
        check_spaces(env_id, first.observation_space, first.action_space)
        assert isinstance(first.observation_space, spaces.Box)
        self.single_observation_space = emitted_observation_space(first.observation_space)
        self.single_action_space = first.action_space
        self._action_dtype = first.action_space.dtype
        self._seeds: Sequence[int | None] = seeds
        self._actions: np.ndarray | None = None
        self._needs_reset = [False] * self.num_envs
        self._stateful = [_env_with_state(env) for env in self.envs]
        if None not in self._stateful:
            self.state_dict, self.load_state_dict = self._state_dict, self._load_state_dict

    def reset(self) -> np.ndarray:
        """Start new episodes in all envs; observations [N, *O]."""
        obs = self._empty_obs()
        for i, env in enumerate(self.envs):
            answer = _call(f"{self.env_id}: reset of env {i}", env.reset, seed=self._seeds[i])
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise EnvError(f"{self.env_id}: reset of env {i} did not return (obs, info)")
            obs[i] = self._checked(answer[0], i)
        self._seeds = [None] * self.num_envs
        self._needs_reset = [False] * self.num_envs
        return obs

    def send(self, actions: np.ndarray) -> None:
        """Keep a copy of the actions for `recv`: an env may keep the row it is given."""
        assert len(actions) == self.num_envs, f"{len(actions)} actions for {self.num_envs} envs"
        self._actions = np.array(actions, dtype=self._action_dtype)

    def recv(self) -> TimeStep:
        """Step the envs in turn, or reset those whose episode ended in the last step."""
        assert self._actions is not None, "recv without send"
        # Plain ints for Discrete: what env authors expect, and quicker to read one by one.
        actions = self._actions.tolist() if self._actions.ndim == 1 else self._actions
        self._actions = None
        obs = self._empty_obs()
        rewards = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.bool_)
        for i, env in enumerate(self.envs):
            try:
                if self._needs_reset[i]:
                    row, _ = env.reset()
                    self._needs_reset[i] = False
                else:
                    row, rewards[i], terminated[i], cut, _ = env.step(actions[i])
                    truncated[i] = cut and not terminated[i]
                    self._needs_reset[i] = bool(terminated[i] or cut)
                obs[i] = self._checked(row, i)
            except EnvError:
                raise
            except Exception as error:
                raise _failure(f"{self.env_id}: step of env {i}", error) from error
        return TimeStep(obs, rewards, terminated, truncated)

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def render(self) -> np.ndarray:
        """Draw env 0; uint8 [H, W, 3]."""
        if self.envs[0].render_mode != "rgb_array":
            raise ValueError(f"{self.env_id}: made without render=True")
        return np.asarray(self.envs[0].render(), np.uint8)

    def close(self) -> None:
        """Close the envs."""
        for i, env in enumerate(self.envs):
            try:
                env.close()
            except Exception as error:  # nothing that was learned is lost over this
                _log.warning("%s", _failure(f"{self.env_id}: close of env {i}", error))
        self.envs = []

    def _checked(self, row: Any, i: int) -> Any:
        """Returns an observation if its shape is right; assigning would broadcast a wrong one."""
        shape = self.single_observation_space.shape
        if np.shape(row) != shape:
            raise EnvError(
                f"{self.env_id}: env {i} returned an observation of shape {np.shape(row)}, "
                f"its space says {shape}"
            )
        return row

    def _empty_obs(self) -> np.ndarray:
        space = self.single_observation_space
        return np.empty((self.num_envs, *space.shape), space.dtype)

    def _state_dict(self) -> dict[str, Any]:
        states = [
            {"env": env.state_dict(), "elapsed": _elapsed_steps(outer)}
            for env, outer in self._stateful_pairs()
        ]
        return {"envs": states, "needs_reset": list(self._needs_reset)}

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["envs"]) != self.num_envs:
            raise ValueError(
                f"{self.env_id}: a state of {len(state['envs'])} envs can't go into {self.num_envs}"
            )
        for (env, outer), saved in zip(self._stateful_pairs(), state["envs"], strict=True):
            outer.reset()  # the wrappers refuse to step an env that was never reset
            env.load_state_dict(saved["env"])
            if (limit := _time_limit(outer)) is not None:
                limit._elapsed_steps = saved["elapsed"]
        self._needs_reset = [bool(flag) for flag in state["needs_reset"]]
        self._seeds = [None] * self.num_envs

    def _stateful_pairs(self) -> list[tuple[Any, gymnasium.Env]]:
        return list(zip(self._stateful, self.envs, strict=True))


class WrappedVectorEnv:
    """A caller's `gymnasium.vector.VectorEnv` brought to next-step autoreset.

    - NEXT_STEP is taken as it is.
    - A plain `SyncVectorEnv` in another mode is switched to NEXT_STEP (its `autoreset_mode`
      changes).
    - SAME_STEP and DISABLED envs step all their sub-envs or none, while next-step autoreset needs
      those whose episode has ended to wait for one step. So such a sub-env makes that step with an
      action nobody looked at, the transition is thrown away, and `reset(options={"reset_mask":
      ...})` starts it afresh: what is returned is exact, at the price of one step and one reset per
      episode. Its random numbers differ from NEXT_STEP's. An env that ignores `reset_mask` is found
      out, and refused with an EnvError.
    """

    backend = "gymnasium"

    def __init__(self, env: gymnasium.vector.VectorEnv, seed: int | None = None) -> None:
        """Take over `env`; `seed` goes to its first `reset`. ValueError if its mode isn't known."""
        self.env: Any = env
        self.env_id = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        self.num_envs = env.num_envs
        check_spaces(self.env_id, env.single_observation_space, env.single_action_space)
        assert isinstance(env.single_observation_space, spaces.Box)
        self.single_observation_space = emitted_observation_space(env.single_observation_space)
        self.single_action_space = env.single_action_space
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
        self._waits = np.zeros(
            self.num_envs, np.bool_
        )  # the episode ended in the last step, in a mode that doesn't wait
        if callable(getattr(env, "state_dict", None)) and callable(
            getattr(env, "load_state_dict", None)
        ):
            self.state_dict, self.load_state_dict = self._state_dict, self._load_state_dict

    def reset(self) -> np.ndarray:
        """Start new episodes in all envs; observations [N, *O]."""
        obs, _ = _call(f"{self.env_id}: reset", self.env.reset, seed=self._seed)
        self._seed = None
        self._waits[:] = False
        return self._own(obs)

    def send(self, actions: np.ndarray) -> None:
        """Start the step if the env is an `AsyncVectorEnv`, else keep a copy of the actions."""
        actions = np.array(actions, dtype=self._action_dtype)
        if (
            self._mode == AutoresetMode.DISABLED and self._waits.any()
        ):  # it may not be stepped before
            _call(
                f"{self.env_id}: reset", self.env.reset, options={"reset_mask": self._waits.copy()}
            )
        if self._is_async:
            _call(f"{self.env_id}: step", self.env.step_async, actions)
        self._actions = actions

    def recv(self) -> TimeStep:
        """Finish the step that `send` started."""
        assert self._actions is not None, "recv without send"
        actions, self._actions = self._actions, None
        finish = self.env.step_wait if self._is_async else partial(self.env.step, actions)
        obs, rewards, terminated, truncated, info = _call(f"{self.env_id}: step", finish)
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
                    obs[i] = info["final_obs"][
                        i
                    ]  # the env's own row already holds the reset observation
            self._waits = done
        return TimeStep(obs, rewards, terminated, truncated)

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def render(self) -> np.ndarray:
        """Draw env 0; uint8 [H, W, 3]."""
        if self.env.render_mode != "rgb_array":
            raise ValueError(
                f"{self.env_id}: render_mode is {self.env.render_mode!r}, it must be 'rgb_array'"
            )
        return np.asarray(self.env.render()[0], np.uint8)

    def close(self) -> None:
        """Close the env."""
        self.env.close()

    def _own(self, obs: Any) -> np.ndarray:
        """Copy: the env may write to its own array again (`copy=False`)."""
        return np.array(obs, self.single_observation_space.dtype, order="C")

    def _restart_waiting(self, stepped_obs: np.ndarray) -> np.ndarray:
        """Reset the envs that wait, and check that the env left the others alone."""
        options = {"reset_mask": self._waits.copy()}
        reset_obs, _ = _call(f"{self.env_id}: reset", self.env.reset, options=options)
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


def _failure(where: str, error: Exception) -> EnvError:
    return EnvError(f"{where} raised {type(error).__name__}: {error}")


def _call(where: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call the env's own code; chain what it raises to an EnvError that says where."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        raise _failure(where, error) from error


def _env_with_state(env: Any) -> Any:
    """Return what can save all of `env`; None if nothing can or a wrapper may have state."""
    while True:
        if callable(getattr(env, "state_dict", None)) and callable(
            getattr(env, "load_state_dict", None)
        ):
            return env
        if not isinstance(env, (TimeLimit, OrderEnforcing, PassiveEnvChecker)):
            return None
        env = env.env


def _time_limit(env: gymnasium.Env) -> Any:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            return env
        env = env.env
    return None


def _elapsed_steps(env: gymnasium.Env) -> int | None:
    limit = _time_limit(env)
    return None if limit is None else limit._elapsed_steps
