"""A `gymnasium.vector.VectorEnv` that the caller built, behind the `VectorEnv` interface."""

import logging
import operator
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from fastrl.envs.foreign import ForeignCode, call, line_of
from fastrl.envs.frames import as_frame, no_frames
from fastrl.envs.sharing import check_distinct
from fastrl.envs.vector import EnvError, TimeStep, playable
from fastrl.spaces.actions import action_space_of, check_action_space
from fastrl.spaces.observations import observation_rows, pack_observation, plain_row
from fastrl.spaces.packed import PackedRow
from fastrl.spaces.parts import batch_of_one, leaf_values
from fastrl.spaces.pixels import ObsKind
from fastrl.spaces.values import UnfitValueError, shown

_log = logging.getLogger("fastrl")


def info_of(infos: Mapping[str, Any], env: int) -> dict[str, Any]:
    """Returns the info of one env, of those that `gymnasium.vector` keeps as arrays by name.

    Beside the array of a name, `_name` says which envs have it. A dict in an info is kept likewise.
    """
    info: dict[str, Any] = {}
    for name, values in infos.items():
        has = infos.get(f"_{name}")
        if (name[:1] == "_" and name[1:] in infos) or (has is not None and not has[env]):
            continue
        if isinstance(values, Mapping):
            info[name] = info_of(values, env)
        else:  # a custom vector env may say something about all of its envs
            is_one = isinstance(values, str) or getattr(values, "shape", None) == ()
            are_many = not is_one and hasattr(values, "__getitem__")
            info[name] = values[env] if are_many else values
    return info


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
        obs_kind: ObsKind = "auto",
        scale_images: bool = True,
    ) -> None:
        """Wraps `env`; `seed` is for its first `reset`. ValueError if its mode isn't known."""
        self.env: Any = env
        if hasattr(env.spec, "gymnasium_observation_space"):  # EnvPool's own kind of spec
            raise ValueError("environments of EnvPool are given by their id: PPO('CartPole-v1')")
        with ForeignCode(f"{type(env).__name__}: the spaces"):
            self.env_id = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
            self.num_envs = operator.index(env.num_envs)
            mode = env.metadata.get("autoreset_mode")
            observation_space, action_space = env.single_observation_space, env.single_action_space
        check_distinct(self.env_id, getattr(env, "envs", None) or ())
        check_action_space(action_space, self.env_id)
        self.single_action_space = action_space_of(action_space)
        self.single_observation_space: Any = observation_rows(
            self.env_id,
            observation_space,
            self.single_action_space,
            obs_keys,
            obs_kind=obs_kind,
            scale_images=scale_images,
        )
        self._num_steps = 0
        self._action_dtype = action_space.dtype
        if type(env) is SyncVectorEnv and env.autoreset_mode != AutoresetMode.NEXT_STEP:
            env.autoreset_mode = AutoresetMode.NEXT_STEP
            env.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
        try:
            self._mode = AutoresetMode(env.metadata.get("autoreset_mode"))
        except ValueError:
            raise ValueError(
                f"{self.env_id}: metadata['autoreset_mode'] is {mode!r}; "
                f"it must be one of {', '.join(map(str, AutoresetMode))}"
            ) from None
        self._seed = seed
        self._is_async = type(env) is AsyncVectorEnv
        self._actions: np.ndarray | None = None
        self._info: Any = {}
        # Sub-envs whose episode ended in the last step: this one is, or becomes, the reset row.
        self._ended = np.zeros(self.num_envs, np.bool_)
        if callable(getattr(env, "state_dict", None)) and callable(
            getattr(env, "load_state_dict", None)
        ):
            self.state_dict, self.load_state_dict = self._state_dict, self._load_state_dict

    def reset(self) -> np.ndarray:
        """Starts new episodes in all envs; returns observations [N, *O]."""
        answer = call(f"{self.env_id}: reset", self.env.reset, seed=self._seed)
        self._num_steps = 0
        obs, _ = self._checked(answer, "(obs, info)")
        self._seed = None
        self._ended[:] = False
        obs = self._own(obs, "reset")
        self._check_masks(obs, None)
        return obs

    def send(self, actions: np.ndarray) -> None:
        """Starts the step of an `AsyncVectorEnv`; for other envs stores a copy of the actions."""
        actions = playable(self.env_id, self.single_action_space, actions)
        actions = np.array(actions, dtype=self._action_dtype)
        # Such an env must be reset before it is stepped.
        if self._mode == AutoresetMode.DISABLED and self._ended.any():
            call(
                f"{self.env_id}: reset", self.env.reset, options={"reset_mask": self._ended.copy()}
            )
        if self._is_async:
            call(f"{self.env_id}: step", self.env.step_async, actions)
        self._actions = actions

    def recv(self) -> TimeStep:
        """Finishes the step that `send` started."""
        assert self._actions is not None, "recv without send"
        actions, self._actions = self._actions, None
        finish = self.env.step_wait if self._is_async else partial(self.env.step, actions)
        answer = call(f"{self.env_id}: step", finish)
        self._num_steps += 1
        obs, rewards, terminated, truncated, info = self._checked(
            answer, "(obs, rewards, terminated, truncated, infos)"
        )
        self._info = info
        obs, rewards = self._own(obs), self._numbers(rewards, "rewards")
        with np.errstate(over="ignore"):  # overflows become infinite, refused later
            rewards = rewards.astype(np.float32)
        terminated = self._flags(terminated, "terminated")
        truncated = self._flags(truncated, "truncated") & ~terminated
        if self._mode != AutoresetMode.NEXT_STEP:
            done = (terminated | truncated) & ~self._ended
            if self._ended.any():
                obs = self._restart_ended(obs)
                rewards[self._ended] = 0
                terminated &= ~self._ended
                truncated &= ~self._ended
            if self._mode == AutoresetMode.SAME_STEP and done.any():
                with ForeignCode(f"{self.env_id}: reading info['final_obs']"):
                    for i in np.flatnonzero(done):
                        # In this mode the env's own row already is the reset observation.
                        obs[i] = self._final_row(self._final_obs(info, i))
            self._ended = done
        else:  # whatever wrappers make of the reward of a reset
            rewards[self._ended] = 0
            self._ended = terminated | truncated
        self._check_masks(obs, terminated | truncated)
        return TimeStep(obs, rewards, terminated, truncated)

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def reseed(self, seeds: Sequence[int]) -> None:
        """Gives the env a seed for its next reset, the first of these."""
        self._seed = seeds[0]

    def infos(self, envs: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the info of the last step of each of these envs."""
        with ForeignCode(f"{self.env_id}: reading the info"):
            is_list = isinstance(self._info, list | tuple)  # as of gymnasium's `DictInfoToList`
            infos = [self._info[i] if is_list else info_of(self._info, i) for i in envs]
        # Where envs are reset within a step, an info is that of the next episode, but for what
        # wrappers of the vector have to say of the one that ended.
        return [{**info, **(info.get("final_info") or {})} for info in infos]

    def render(self) -> np.ndarray:
        """Renders env 0; returns uint8 [H, W, 3]."""
        if self.env.render_mode != "rgb_array":
            raise no_frames(self.env_id, self.env.render_mode)
        frames = call(f"{self.env_id}: render", self.env.render)
        return as_frame(self.env_id, frames[0] if isinstance(frames, tuple | list) else frames)

    def close(self) -> None:
        """Closes the env."""
        try:
            call(f"{self.env_id}: close", self.env.close)
        except EnvError as error:  # no reason to lose what was learned
            _log.warning("%s", error)

    def _own(self, obs: Any, method: str = "step") -> np.ndarray:
        """Returns packed copies of the observations, because the env may reuse its arrays."""
        space = self.single_observation_space
        with ForeignCode(f"{self.env_id}: reading observations"):
            parts = leaf_values(obs, space.names) if isinstance(space, PackedRow) else {"": obs}
            shapes = {name: np.shape(part) for name, part in parts.items()}
        try:
            for name, shape in shapes.items():
                if shape[:1] != (self.num_envs,):
                    called = f" of {name!r}" if name else ""
                    raise UnfitValueError(
                        f"observations{called} of shape {shape} for {self.num_envs} environments"
                    )
            rows = pack_observation(space, obs)
            if rows.shape[1:] != space.shape:
                raise UnfitValueError(
                    f"observations of shape {rows.shape[1:]} each, but their space has "
                    f"{space.shape}"
                )
        except UnfitValueError as error:
            raise self._unfit(error, method) from error
        return rows

    def _final_obs(self, info: Any, env: Any) -> Any:
        """Returns the last observation of an episode that ended in this step."""
        if isinstance(info, list | tuple):  # as of gymnasium's `DictInfoToList`
            info = {name: {env: value} for name, value in info[env].items()}
        if not isinstance(info, dict) or "final_obs" not in info:
            raise EnvError(
                f"{self.env_id}: autoreset mode {self._mode}, but no info['final_obs'] when an "
                "episode ended"
            )
        return info["final_obs"][env]

    def _final_row(self, obs: Any) -> np.ndarray:
        space = self.single_observation_space
        try:
            if isinstance(space, PackedRow):
                return space.pack(batch_of_one(obs, space.names))[0]
            row = plain_row(space, obs)
            if row.shape != space.shape:
                raise UnfitValueError(f"a final observation of shape {row.shape}")
        except UnfitValueError as error:
            raise self._unfit(error) from error
        return row

    def _numbers(self, values: Any, name: str) -> np.ndarray:
        """Returns numbers `[N]` that the env gave as an array with one for each sub-env."""
        with ForeignCode(f"{self.env_id}: reading {name}"):
            array = np.asarray(values)
        if array.size != self.num_envs or (array.shape or (1,))[0] != self.num_envs:
            raise self._unfit(f"{name} of shape {array.shape} for {self.num_envs} environments")
        if array.dtype.kind not in "biuf":
            raise self._unfit(f"{name} {shown(values)}, which are not numbers")
        return array.reshape(self.num_envs)

    def _flags(self, values: Any, name: str) -> np.ndarray:
        array = self._numbers(values, name)
        if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
            raise self._unfit(f"{name} {shown(values)}, which are neither true nor false")
        return array.astype(np.bool_)

    def _checked(self, answer: Any, names: str) -> Any:
        """Returns what `reset` or `step` answered, if it is as many values."""
        if isinstance(answer, tuple | list) and len(answer) == names.count(",") + 1:
            return answer
        what = f"{len(answer)} values" if isinstance(answer, tuple | list) else shown(answer)
        raise self._unfit(f"{what}, but not {names}", "step" if self._num_steps else "reset")

    def _check_masks(self, obs: np.ndarray, done: np.ndarray | None) -> None:
        space = self.single_observation_space
        if isinstance(space, PackedRow) and space.mask_size:
            env = space.first_without_choice(obs, done)
            if env >= 0:
                raise self._unfit(f"an action mask that forbids every action of env {env}")

    def _unfit(self, what: Any, method: str = "step") -> EnvError:
        when = f"at step {self._num_steps}" if self._num_steps else "at its reset"
        inner = self.env.unwrapped
        env = inner.envs[0] if isinstance(inner, SyncVectorEnv) else self.env
        return EnvError(f"{self.env_id}: it returned {what} {when}{line_of(env, method)}")

    def _restart_ended(self, stepped_obs: np.ndarray) -> np.ndarray:
        """Resets the sub-envs that wait, and checks that the others are unchanged."""
        options = {"reset_mask": self._ended.copy()}
        answer = call(f"{self.env_id}: reset", self.env.reset, options=options)
        reset_obs = self._own(self._checked(answer, "(obs, info)")[0], "reset")
        others = ~self._ended
        if not np.array_equal(reset_obs[others], stepped_obs[others], equal_nan=True):
            raise EnvError(
                f"{self.env_id}: autoreset mode {self._mode} needs an env whose "
                "reset(options={'reset_mask': mask}) resets only the chosen sub-envs and returns "
                "the others' observations unchanged; this one does not. "
                f"Make it with {AutoresetMode.NEXT_STEP}."
            )
        return reset_obs

    def _state_dict(self) -> dict[str, Any]:
        state = call(f"{self.env_id}: state_dict", self.env.state_dict)
        return {"env": state, "waits": self._ended.tolist()}

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        call(f"{self.env_id}: load_state_dict", self.env.load_state_dict, state["env"])
        self._ended = np.array(state["waits"], np.bool_)
        self._seed = None
