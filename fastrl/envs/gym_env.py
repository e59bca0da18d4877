"""Single gymnasium envs behind the `VectorEnv` interface."""

import logging
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from fastrl.envs.vector import EnvError, TimeStep
from fastrl.spaces.observations import (
    MASK_KEY,
    PackedRow,
    action_space_of,
    check_action_space,
    leaf_values,
    num_choices,
    observation_rows,
)

_log = logging.getLogger("fastrl")

_FOREIGN_FOLDERS = (Path(__file__).parents[1], sysconfig.get_path("stdlib"))


class GymEnv:
    """Single `gymnasium.Env`s, stepped one after the other; see `vector.VectorEnv` for the methods.

    Has `state_dict` and `load_state_dict` only if the envs do, if necessary below wrappers whose
    state is known.
    """

    backend = "gymnasium"

    def __init__(
        self,
        env_id: str,
        env_fns: Sequence[Callable[[], gymnasium.Env]],
        seeds: Sequence[int],
        obs_keys: Sequence[str] = (),
        info_mask: bool = False,
    ) -> None:
        """Makes one env per function.

        Args:
            env_id: for messages.
            env_fns: functions that make an env each. Only env 0 is ever rendered, so only it needs
                a render mode.
            seeds: one seed per env, for its first reset.
            obs_keys: keys of a Dict observation to use; all if empty.
            info_mask: whether to use the action mask in the info.
        """
        self.env_id, self.num_envs = env_id, len(env_fns)
        self.envs = [call(f"{env_id}: making env {i}", f) for i, f in enumerate(env_fns)]
        first = self.envs[0]
        for env in self.envs:
            if not isinstance(env, gymnasium.Env):
                raise ValueError(
                    f"{env_id}: it returned a {type(env).__name__}, not a gymnasium.Env"
                )
            if (env.observation_space, env.action_space) != (
                first.observation_space,
                first.action_space,
            ):
                raise ValueError(f"{env_id}: the envs have different spaces: {first} and {env}")
        check_action_space(first.action_space, env_id)
        self.single_action_space = action_space_of(first.action_space)
        self._info_mask = info_mask
        self.single_observation_space = observation_rows(
            env_id,
            first.observation_space,
            self.single_action_space,
            obs_keys,
            num_choices(self.single_action_space) if info_mask else 0,
        )
        self._action_dtype = first.action_space.dtype
        self._seeds: Sequence[int | None] = seeds
        self._actions: np.ndarray | None = None
        self._needs_reset = [False] * self.num_envs
        self._stateful = [_env_with_state(env) for env in self.envs]
        if None not in self._stateful:
            self.state_dict, self.load_state_dict = self._state_dict, self._load_state_dict

    def reset(self) -> np.ndarray:
        """Starts new episodes in all envs; returns observations [N, *O]."""
        obs = self._empty_obs()
        for i, env in enumerate(self.envs):
            answer = call(f"{self.env_id}: reset of env {i}", env.reset, seed=self._seeds[i])
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise EnvError(f"{self.env_id}: reset of env {i} did not return (obs, info)")
            obs[i] = self._row(*answer, i)
        self._seeds = [None] * self.num_envs
        self._needs_reset = [False] * self.num_envs
        return obs

    def send(self, actions: np.ndarray) -> None:
        """Stores a copy of the actions for `recv`, because an env may keep the row it is given."""
        assert len(actions) == self.num_envs, f"{len(actions)} actions for {self.num_envs} envs"
        self._actions = np.array(actions, dtype=self._action_dtype)

    def recv(self) -> TimeStep:
        """Steps the envs in turn; resets those whose episode ended in the last step."""
        assert self._actions is not None, "recv without send"
        # Plain ints for Discrete: env authors expect them, and indexing is faster.
        actions = self._actions.tolist() if self._actions.ndim == 1 else self._actions
        self._actions = None
        obs = self._empty_obs()
        rewards = np.zeros(self.num_envs, np.float32)
        terminated, truncated = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.bool_)
        for i, env in enumerate(self.envs):
            try:
                if self._needs_reset[i]:
                    row, info = env.reset()
                    reward, self._needs_reset[i] = 0.0, False
                else:
                    row, reward, terminated[i], cut, info = env.step(actions[i])
                    truncated[i] = cut and not terminated[i]
                    self._needs_reset[i] = bool(terminated[i] or cut)
                with np.errstate(over="ignore"):  # overflows become infinite, refused later
                    obs[i], rewards[i] = self._row(row, info, i), reward
            except EnvError:
                raise
            except (Exception, SystemExit) as error:
                raise _failure(f"{self.env_id}: step of env {i}", error) from error
        return TimeStep(obs, rewards, terminated, truncated)

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def render(self) -> np.ndarray:
        """Renders env 0; returns uint8 [H, W, 3]."""
        if self.envs[0].render_mode != "rgb_array":
            raise ValueError(f"{self.env_id}: made without render=True")
        return np.asarray(call(f"{self.env_id}: render", self.envs[0].render), np.uint8)

    def close(self) -> None:
        """Closes the envs."""
        for i, env in enumerate(self.envs):
            try:
                env.close()
            except (Exception, SystemExit) as error:  # no reason to lose what was learned
                _log.warning("%s", _failure(f"{self.env_id}: close of env {i}", error))
        self.envs = []

    def _row(self, row: Any, info: Any, i: int) -> Any:
        """Returns an observation of the right shape; assignment would broadcast a wrong one."""
        space = self.single_observation_space
        if isinstance(space, PackedRow):
            parts = {name: np.asarray(part)[None] for name, part in leaf_values(row).items()}
            if self._info_mask:
                if MASK_KEY not in info:
                    raise EnvError(f"{self.env_id}: env {i} returned no info['{MASK_KEY}']")
                parts[MASK_KEY] = np.asarray(info[MASK_KEY])[None]
            return space.pack(parts)[0]
        shape = space.shape
        if np.shape(row) != shape:
            raise EnvError(
                f"{self.env_id}: env {i} returned an observation of shape {np.shape(row)}, "
                f"but its space has {shape}"
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
                f"{self.env_id}: the state of {len(state['envs'])} envs doesn't fit {self.num_envs}"
            )
        for (env, outer), saved in zip(self._stateful_pairs(), state["envs"], strict=True):
            outer.reset()  # wrappers refuse to step an env that was never reset
            env.load_state_dict(saved["env"])
            if (limit := _time_limit(outer)) is not None:
                limit._elapsed_steps = saved["elapsed"]
        self._needs_reset = [bool(flag) for flag in state["needs_reset"]]
        self._seeds = [None] * self.num_envs

    def _stateful_pairs(self) -> list[tuple[Any, gymnasium.Env]]:
        return list(zip(self._stateful, self.envs, strict=True))


def _failure(where: str, error: BaseException) -> EnvError:
    words = f": {error}" if str(error) else ""
    return EnvError(f"{where} raised {type(error).__name__}{words}{own_line(error)}")


def own_line(error: BaseException) -> str:
    """Returns " (file:line)" of the innermost user code in the traceback of an error, or "".

    User code is in neither fastrl, nor the standard library, nor an installed package.
    """
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        is_installed = {"site-packages", "dist-packages"} & {*file.parts}
        is_foreign = any(file.is_relative_to(folder) for folder in _FOREIGN_FOLDERS)
        if not is_installed and not is_foreign and not file.name.startswith("<"):
            place = f" ({file}:{line})"
    return place


def call(where: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls code of the env; turns what it raises into an EnvError that says where."""
    try:
        return function(*args, **kwargs)
    except (Exception, SystemExit) as error:  # foreign code may call sys.exit
        raise _failure(where, error) from error


def _env_with_state(env: Any) -> Any:
    """Returns the env that can save its state; None if none can, or a wrapper may have state."""
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
