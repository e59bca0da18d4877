"""Single gymnasium envs behind the `VectorEnv` interface."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from fastrl.envs.foreign import ForeignCode, call, line_of
from fastrl.envs.frames import as_frame, no_frames
from fastrl.envs.sharing import check_distinct
from fastrl.envs.vector import EnvError, TimeStep, playable
from fastrl.envs.wrappers import ActionRepeat, PixelObservation
from fastrl.spaces.actions import action_space_of, check_action_space
from fastrl.spaces.masked import joined
from fastrl.spaces.observations import observation_rows, plain_row
from fastrl.spaces.packed import MASK_KEY, PackedRow
from fastrl.spaces.parts import batch_of_one
from fastrl.spaces.pixels import ObsKind
from fastrl.spaces.values import UnfitValueError, as_flag, as_number, on_one_line, shown

_log = logging.getLogger("fastrl")

# Wrappers without a state, but for the number of steps of a time limit.
_STATELESS = TimeLimit, OrderEnforcing, PassiveEnvChecker, PixelObservation, ActionRepeat


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
        obs_kind: ObsKind = "auto",
        first_env: int = 0,
        scale_images: bool = True,
    ) -> None:
        """Makes one env per function.

        Args:
            env_id: for messages.
            env_fns: functions that make an env each. Only env 0 is ever rendered, so only it needs
                a render mode.
            seeds: one seed per env, for its first reset.
            obs_keys: keys of a Dict observation to use; all if empty.
            info_mask: whether to use the action mask in the info.
            obs_kind: what arrays of bytes are (see `observation_rows`).
            first_env: number of the first one, for messages.
            scale_images: whether pixels are divided (see `observation_rows`).

        Raises:
            EnvError: making an env raised an error, or returned no env.
            ValueError: a space is not supported.
        """
        self.env_id, self.num_envs, self._first = env_id, len(env_fns), first_env
        self.envs = [
            call(f"{env_id}: making env {first_env + i}", f) for i, f in enumerate(env_fns)
        ]
        with ForeignCode(f"{env_id}: the spaces") as code:
            for i, env in enumerate(self.envs):
                code.at(first_env + i)
                if not isinstance(env, gymnasium.Env):
                    kind = type(env).__name__
                    raise EnvError(f"{env_id}: it returned a {kind}, not a gymnasium.Env")
                spaces = env.observation_space, env.action_space
                for space in spaces:
                    if not isinstance(space, gymnasium.Space):
                        raise EnvError(f"{env_id}: {shown(space)} is no space of gymnasium's")
                if i == 0:
                    observation_space, action_space = spaces
                elif spaces != (observation_space, action_space):
                    raise EnvError(
                        f"{env_id}: the envs have different spaces: {self.envs[0]} and {env}"
                    )
        check_distinct(env_id, self.envs)
        check_action_space(action_space, env_id)
        self._spaces = observation_space, action_space
        self.single_action_space = action_space_of(action_space)
        self._info_mask = info_mask
        self.single_observation_space = observation_rows(
            env_id,
            observation_space,
            self.single_action_space,
            obs_keys,
            info_mask,
            obs_kind,
            scale_images,
        )
        self.action_dtype = action_space.dtype
        self._num_steps = 0
        self._seeds: Sequence[int | None] = seeds
        self._actions: np.ndarray | None = None
        self._needs_reset = [False] * self.num_envs
        self._infos: list[Any] = [{}] * self.num_envs
        self._stateful = [_env_with_state(env) for env in self.envs]
        if None not in self._stateful:
            self.state_dict, self.load_state_dict = self._state_dict, self._load_state_dict

    def reset(self) -> np.ndarray:
        """Starts new episodes in all envs; returns observations [N, *O]."""
        obs = self._empty_obs()
        self._num_steps = 0
        with ForeignCode(f"{self.env_id}: reset") as code:
            for i, env in enumerate(self.envs):
                code.at(self._first + i)
                _seed_spaces(env.unwrapped, self._seeds[i])
                answer = env.reset(seed=self._seeds[i])
                if (spaces := (env.observation_space, env.action_space)) != self._spaces:
                    raise EnvError(
                        f"{self.env_id}: env {self._first + i} has other spaces after its reset: "
                        f"{on_one_line(spaces)}, before {on_one_line(self._spaces)}"
                    )
                try:
                    obs[i] = self._row(*_answer(answer, "(obs, info)"))
                except UnfitValueError as error:
                    raise self._unfit(i, error, "reset") from error
        self._check_masks(obs, None)
        self._seeds = [None] * self.num_envs
        self._needs_reset = [False] * self.num_envs
        return obs

    def send(self, actions: np.ndarray) -> None:
        """Stores a copy of the actions for `recv`, because an env may keep the row it is given."""
        assert len(actions) == self.num_envs, f"{len(actions)} actions for {self.num_envs} envs"
        actions = playable(self.env_id, self.single_action_space, actions)
        self._actions = np.array(actions, dtype=self.action_dtype)

    def recv(self) -> TimeStep:
        """Steps the envs in turn; resets those whose episode ended in the last step."""
        assert self._actions is not None, "recv without send"
        # Plain ints for Discrete: env authors expect them, and indexing is faster.
        actions = self._actions.tolist() if self._actions.ndim == 1 else self._actions
        self._actions = None
        obs = self._empty_obs()
        rewards = [0.0] * self.num_envs
        terminated, truncated = np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.bool_)
        self._num_steps += 1
        with ForeignCode(f"{self.env_id}: step") as code:
            for i, env in enumerate(self.envs):
                code.at(self._first + i)
                needs_reset = self._needs_reset[i]
                answer = env.reset() if needs_reset else env.step(actions[i])
                try:
                    if needs_reset:
                        row, info = _answer(answer, "(obs, info)")
                        self._needs_reset[i] = False
                    else:
                        row, reward, ended, cut, info = _answer(
                            answer, "(obs, reward, terminated, truncated, info)"
                        )
                        if type(reward) is not float:
                            reward = as_number(reward, "the reward")
                        if type(ended) is not bool:
                            ended = as_flag(ended, "terminated as")
                        if type(cut) is not bool:
                            cut = as_flag(cut, "truncated as")
                        rewards[i] = reward
                        terminated[i], truncated[i] = ended, cut and not ended
                        self._needs_reset[i] = ended or cut
                    self._infos[i] = info
                    obs[i] = self._row(row, info)
                except UnfitValueError as error:
                    raise self._unfit(i, error, "reset" if needs_reset else "step") from error
        self._check_masks(obs, terminated | truncated)
        with np.errstate(over="ignore"):  # overflows become infinite, refused later
            return TimeStep(obs, np.array(rewards, np.float32), terminated, truncated)

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def infos(self, envs: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the info of the last step of each of these envs."""
        with ForeignCode(f"{self.env_id}: reading the info"):
            return [dict(self._infos[i] or {}) for i in envs]

    def render(self) -> np.ndarray:
        """Renders env 0; returns uint8 [H, W, 3]."""
        if self.render_mode != "rgb_array":
            raise no_frames(self.env_id, self.render_mode)
        return as_frame(self.env_id, call(f"{self.env_id}: render", self.envs[0].render))

    @property
    def render_mode(self) -> Any:
        """Render mode of env 0."""
        return self.envs[0].render_mode

    @property
    def metadata(self) -> Any:
        """Metadata of env 0."""
        return self.envs[0].metadata

    def reseed(self, seeds: Sequence[int]) -> None:
        """Gives each env a seed for its next reset, in place of those of `__init__`."""
        self._seeds = list(seeds)

    def call(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Calls a method of each env, below its wrappers if need be; returns what each returns.

        Raises:
            EnvError: one has no such method, or it raised an error.
        """
        answers: list[Any] = []
        with ForeignCode(f"{self.env_id}: {name}") as code:
            for i, env in enumerate(self.envs):
                code.at(self._first + i)
                self._check_has(env, name)
                answers.append(env.get_wrapper_attr(name)(*args, **kwargs))
        return answers

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        """Sets an attribute that each env has, below its wrappers if need be.

        Raises:
            EnvError: one has no such attribute, or refuses the value.
        """
        with ForeignCode(f"{self.env_id}: set_attr {name}") as code:
            for i, (env, value) in enumerate(zip(self.envs, values, strict=True)):
                code.at(self._first + i)
                self._check_has(env, name)  # else a new one, which nothing reads
                env.set_wrapper_attr(name, value)

    def _check_has(self, env: Any, name: str) -> None:
        if not env.has_wrapper_attr(name):
            raise EnvError(f"{self.env_id}: its environments have no {name!r}")

    def close(self) -> None:
        """Closes the envs."""
        for i, env in enumerate(self.envs):
            try:
                call(f"{self.env_id}: close of env {self._first + i}", env.close)
            except EnvError as error:  # no reason to lose what was learned
                _log.warning("%s", error)
        self.envs = []

    def _row(self, row: Any, info: Any) -> Any:
        """Returns an observation of the right shape; assignment would broadcast a wrong one."""
        space = self.single_observation_space
        if isinstance(space, PackedRow):
            parts = batch_of_one(row, space.names)
            if self._info_mask:
                if not isinstance(info, Mapping) or MASK_KEY not in info:
                    raise UnfitValueError(f"no info[{MASK_KEY!r}]")
                parts[MASK_KEY] = np.asarray(joined(info[MASK_KEY]))[None]
            return space.pack(parts)[0]
        row = plain_row(space, row)
        if row.shape != space.shape:
            raise UnfitValueError(
                f"an observation of shape {row.shape}, but its space has {space.shape}"
            )
        return row

    def _check_masks(self, obs: np.ndarray, done: np.ndarray | None) -> None:
        space = self.single_observation_space
        if isinstance(space, PackedRow) and space.mask_size:
            i = space.first_without_choice(obs, done)
            if i >= 0:
                error = UnfitValueError("an action mask that forbids every action")
                raise self._unfit(i, error, "step" if self._num_steps else "reset")

    def _unfit(self, i: int, error: UnfitValueError, method: str) -> EnvError:
        when = f"at step {self._num_steps}" if self._num_steps else "at its reset"
        where = f"{self.env_id}: env {self._first + i} returned"
        return EnvError(f"{where} {error} {when}{line_of(self.envs[i], method)}")

    def _empty_obs(self) -> np.ndarray:
        space = self.single_observation_space
        return np.empty((self.num_envs, *space.shape), space.dtype)

    def _state_dict(self) -> dict[str, Any]:
        states: list[dict[str, Any]] = []
        for i, (env, outer) in enumerate(self._stateful_pairs()):
            where = f"{self.env_id}: state_dict of env {self._first + i}"
            state = call(where, env.state_dict)
            states.append(
                {"env": state, "elapsed": [x._elapsed_steps for x in _time_limits(outer)]}
            )
        return {"envs": states, "needs_reset": list(self._needs_reset)}

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["envs"]) != self.num_envs:
            raise ValueError(
                f"{self.env_id}: the state of {len(state['envs'])} envs doesn't fit {self.num_envs}"
            )
        for i, (env, outer) in enumerate(self._stateful_pairs()):
            saved = state["envs"][i]
            # Wrappers refuse to step an env that was never reset.
            which = f"env {self._first + i}"
            call(f"{self.env_id}: reset of {which}", outer.reset)
            call(f"{self.env_id}: load_state_dict of {which}", env.load_state_dict, saved["env"])
            elapsed = saved["elapsed"] if isinstance(saved["elapsed"], list) else [saved["elapsed"]]
            for limit, steps in zip(_time_limits(outer), elapsed, strict=False):
                limit._elapsed_steps = steps
        self._needs_reset = [bool(flag) for flag in state["needs_reset"]]
        self._seeds = [None] * self.num_envs

    def _stateful_pairs(self) -> list[tuple[Any, gymnasium.Env]]:
        return list(zip(self._stateful, self.envs, strict=True))


def _env_with_state(env: Any) -> Any:
    """Returns the env that can save its state; None if none can, or a wrapper may have state."""
    while True:
        if callable(getattr(env, "state_dict", None)) and callable(
            getattr(env, "load_state_dict", None)
        ):
            return env
        if type(env) not in _STATELESS:  # a class derived from one may have state
            return None
        env = env.env


def _time_limits(env: Any) -> list[Any]:
    """Returns the time limits around an environment, from outside."""
    limits = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            limits.append(env)
        env = env.env
    return limits


def _seed_spaces(env: Any, seed: int | None) -> None:
    """Seeds the spaces of an environment, which may draw from them, but those of its class."""
    own = {} if seed is None else vars(env)
    for name in own.keys() & {"observation_space", "action_space"}:
        with suppress(Exception):  # a space of somebody's own need not have a generator
            own[name].seed(seed)


def _answer(answer: Any, names: str) -> Any:
    """Returns what `reset` or `step` answered; UnfitValueError if it isn't as many values."""
    if isinstance(answer, tuple | list) and len(answer) == names.count(",") + 1:
        return answer
    what = f"{len(answer)} values" if isinstance(answer, tuple | list) else shown(answer)
    raise UnfitValueError(f"{what}, but not {names}")
