"""EnvPool behind the `VectorEnv` interface, without the overhead of its Python layer per step.

EnvPool itself, whose import takes 0.7 s, is imported at the first use.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from fastrl.envs.vector import EnvError, TimeStep
from fastrl.processes.errors import one_line
from fastrl.processes.machine import available_cores, thread_ids
from fastrl.spaces.actions import action_space_of, check_action_space
from fastrl.spaces.observations import observation_rows
from fastrl.spaces.packed import MASK_KEY, PackedRow
from fastrl.spaces.parts import leaf_spaces
from fastrl.spaces.pixels import ObsKind
from fastrl.spaces.values import UnfitValueError

# Set by make_env itself; in `env_kwargs` they would silently conflict with it.
RESERVED_CONFIG = frozenset(
    {
        "num_envs",
        "batch_size",
        "num_threads",
        "max_num_players",
        "seed",
        "env_seed",
        "render_mode",
        "env_type",
    }
    | {"gym_reset_return_info", "thread_affinity_offset", "base_path"}
)
# EnvPool takes less, too, and then plays episodes of one step, or reads beyond its memory.
_AT_LEAST_ONE = "max_episode_steps", "frame_skip", "stack_num", "img_height", "img_width"


def default_num_threads(num_envs: int) -> int:
    """Returns the default number of threads of a pool: one per core, at most one per env."""
    return max(1, min(num_envs, available_cores()))


def list_envpool_ids() -> frozenset[str]:
    """Returns the ids that EnvPool has; none if it isn't installed. Imports EnvPool."""
    try:
        import envpool
    except ImportError:
        return frozenset()
    return frozenset(envpool.list_all_envs())


def family_of(env_id: str) -> str:
    """Returns the EnvPool module that defines an env, such as "envpool.box2d"; "" if none does."""
    if env_id not in list_envpool_ids():
        return ""
    from envpool.registration import registry

    return str(registry.specs[env_id][0])


def check_envpool_id(env_id: str, info_mask: bool = False) -> None:
    """Raises an error if an id that EnvPool has can't be used here.

    Raises:
        ValueError: it has several players or spaces not supported here, or lacks a system library.
    """
    import envpool

    try:
        spec: Any = envpool.make_spec(env_id)
    except ImportError as error:
        raise ValueError(f"{env_id}: {one_line(error)}") from error
    if spec.config.max_num_players != 1:
        raise ValueError(f"{env_id}: has {spec.config.max_num_players} players; supported: 1")
    names = "gymnasium_observation_space", "gymnasium_action_space"
    observation_space, action_space = _spaces(spec, *names)
    check_action_space(action_space, env_id)
    observation_rows(env_id, observation_space, action_space_of(action_space))
    if info_mask:
        _mask_key(env_id, spec._state_keys)


def _spaces(source: Any, *names: str) -> list[Any]:
    """Returns spaces, which EnvPool builds on access, without its warning about rounded bounds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting")
        return [without_default_bounds(getattr(source, name)) for name in names]


def without_default_bounds(space: Any) -> Any:
    """Replaces the bounds of a Box by infinite ones where they are only the limits of a C++ type.

    EnvPool gives these for unknown bounds, for example [1.2e-38, 3.4e38] for LunarLander. Other
    spaces are returned unchanged.
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: without_default_bounds(part) for key, part in space.items()})
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return space
    lowest, highest = space.low.copy(), space.high.copy()
    for info in (np.finfo(np.float32), np.finfo(np.float64)):
        # numeric_limits<float>::min() is the least positive number, not the most negative one.
        not_given = (space.low == info.tiny) & (space.high == info.max)
        lowest[not_given], highest[not_given] = -np.inf, np.inf
    return spaces.Box(lowest, highest, dtype=space.dtype)  # pyright: ignore[reportArgumentType]


def _mask_key(env_id: str, state_keys: Sequence[str]) -> str:
    """Returns the key of the action mask in EnvPool's info; ValueError if there is none."""
    for key in ("info:action_mask", "info:legal_action_mask"):
        if key in state_keys:
            return key
    raise ValueError(f"{env_id}: EnvPool's info holds no action mask")


def _refused(env_id: str, spec: Any, env_kwargs: Mapping[str, Any]) -> str:
    """Returns the message for settings that EnvPool does not take."""
    pairs = {name: (value, getattr(spec.config, name, None)) for name, value in env_kwargs.items()}
    unlike = {name: pair for name, pair in pairs.items() if type(pair[0]) is not type(pair[1])}
    words = ", ".join(
        f"{name}={value!r} (default {default!r})"
        for name, (value, default) in (unlike or pairs).items()
    )
    return f"{env_id}: EnvPool refuses the env_kwargs {words}"


class EnvPoolEnv:
    """`num_envs` envs in one EnvPool; see `vector.VectorEnv` for the methods.

    EnvPool itself has next-step autoreset: s_T comes with the done flag, and the next step ignores
    its action.
    """

    backend = "envpool"

    def __init__(
        self,
        env_id: str,
        seeds: list[int],
        *,
        num_threads: int = 0,
        render: bool = False,
        env_kwargs: Mapping[str, Any] | None = None,
        obs_keys: Sequence[str] = (),
        info_mask: bool = False,
        obs_kind: ObsKind = "auto",
        scale_images: bool = True,
        testing: bool = False,
    ) -> None:
        """Makes the pool.

        Args:
            env_id: an id that `check_envpool_id` accepts.
            seeds: one seed per env, in [0, 2**31); EnvPool ignores `reset(seed=...)`.
            num_threads: number of threads; 0: `default_num_threads(num_envs)`.
            render: whether `render` will be called.
            env_kwargs: further settings of EnvPool, such as `max_episode_steps`.
            obs_keys: keys of a Dict observation to use; all if empty.
            info_mask: whether to use the action mask in the info.
            obs_kind: what arrays of bytes are (see `observation_rows`).
            scale_images: whether pixels are divided (see there).
            testing: Atari: whether rewards are unclipped and an episode is a whole game. In
                training a lost life ends the episode and rewards are clipped to their sign (Mnih
                et al. 2015), unless `env_kwargs` override it.

        Raises:
            ValueError: `env_kwargs` has an unknown or reserved setting, a space is unsupported, or
                there is no action mask.
        """
        import envpool

        num_envs = len(seeds)
        env_kwargs = dict(env_kwargs or {})
        if reserved := sorted(RESERVED_CONFIG & env_kwargs.keys()):
            raise ValueError(
                f"{env_id}: env_kwargs may not set {reserved}, which fastrl sets itself"
            )
        spec: Any = envpool.make_spec(env_id)
        if "info:lives" in spec._state_keys:
            env_kwargs = {"episodic_life": True, "reward_clip": True, **env_kwargs}
            env_kwargs["reward_clip"] &= not testing
        known = {
            *spec._config_keys,
            "from_pixels",
            "render_width",
            "render_height",
        }
        if unknown := sorted(env_kwargs.keys() - known):
            raise ValueError(
                f"{env_id}: EnvPool has no setting {', '.join(unknown)}; it has "
                f"{', '.join(sorted(known - RESERVED_CONFIG))}. backend=gymnasium may have it"
            )
        if render:
            env_kwargs["render_mode"] = "rgb_array"
        threads_before = thread_ids()
        try:
            if low := [name for name in _AT_LEAST_ONE if env_kwargs.get(name, 1) < 1]:
                raise ValueError(f"{low[0]} must be at least 1")
            pool: Any = envpool.make_gymnasium(
                env_id,
                num_envs=num_envs,
                num_threads=num_threads or default_num_threads(num_envs),
                seed=list(seeds),
                **env_kwargs,
            )
        except Exception as error:  # of the binding, which lists all C++ types
            raise ValueError(_refused(env_id, spec, env_kwargs)) from error
        self.env_id, self.num_envs = env_id, num_envs
        self.worker_threads = thread_ids() - threads_before
        observation_space, action_space = _spaces(pool, "observation_space", "action_space")
        check_action_space(action_space, env_id)
        self.single_action_space = action_space_of(action_space)
        self.single_observation_space = observation_rows(
            env_id,
            observation_space,
            self.single_action_space,
            obs_keys,
            info_mask,
            obs_kind,
            scale_images,
        )
        self._pool: Any = pool
        self._renders, self._is_under_way = render, False

        # Looked up once: EnvPool's own `send` and `recv` go through properties and dictionaries.
        self._env_ids = np.arange(num_envs, dtype=np.int32)
        self._action_dtype = np.dtype(pool._spec._action_spec[-1][0])
        self._action_shape = (num_envs, *(self.single_action_space.shape or ()))
        assert (
            list(pool._spec._action_keys[:2]) == ["env_id", "players.env_id"]
            and len(pool._spec._action_keys) == 3
        )
        keys = list(pool._state_keys)
        self._reward_at = keys.index("reward")
        self._done_at, self._truncated_at = keys.index("done"), keys.index("trunc")
        self._env_id_at = keys.index("info:env_id")
        self._obs_at = keys.index("obs") if "obs" in keys else -1
        # EnvPool treats lives as episodes in evaluation too, because it then fires after each.
        joins_lives = testing and "info:lives" in keys
        self._game_over_at = keys.index("info:terminated") if joins_lives else -1
        self._parts_at: dict[str, int] = {}
        self._obs_dtype = self.single_observation_space.dtype
        if isinstance(self.single_observation_space, PackedRow):
            leaves = {
                name: f"obs:{name}" if name else "obs" for name in leaf_spaces(observation_space)
            }
            if info_mask:
                leaves[MASK_KEY] = _mask_key(env_id, keys)
            self._parts_at = {name: keys.index(key) for name, key in leaves.items()}
        self._infos_at = {
            key.removeprefix("info:"): place
            for place, key in enumerate(keys)
            if key.startswith("info:") and not key.endswith("env_id")
        }
        self._state: Any = None  # of the last step
        self._has_mask = getattr(self.single_observation_space, "mask_size", 0) > 0
        self._num_steps = 0

    def reset(self) -> np.ndarray:
        """Starts new episodes in all envs; returns observations [N, *O]."""
        if self._is_under_way:  # an interrupt came between `send` and `recv`
            self._pool._recv()
            self._is_under_way = False
        self._pool._reset(self._env_ids)
        state = self._pool._recv()
        # With batch_size == num_envs EnvPool returns rows in the order of the envs, not in that in
        # which they finish.
        assert np.array_equal(state[self._env_id_at], self._env_ids), (
            "EnvPool returned the envs out of order"
        )
        rows = self._rows(state)
        self._num_steps = 0
        if self._has_mask:
            self._check_masks(rows, None)
        return rows

    def _check_masks(self, rows: np.ndarray, done: np.ndarray | None) -> None:
        env = self.single_observation_space.first_without_choice(rows, done)
        if env >= 0:
            raise EnvError(
                f"{self.env_id}: env {env} returned an action mask that forbids every action at "
                f"step {self._num_steps}"
            )

    def _rows(self, state: Any) -> np.ndarray:
        if self._parts_at:
            parts = {name: state[place] for name, place in self._parts_at.items()}
            try:
                return self.single_observation_space.pack(parts)
            except UnfitValueError as error:
                raise EnvError(f"{self.env_id}: EnvPool returned {error}") from error
        # EnvPool allocates a new batch per step, so these arrays are ours; astype copies only if
        # the dtype differs.
        return state[self._obs_at].astype(self._obs_dtype, order="C", copy=False)

    def send(self, actions: np.ndarray) -> None:
        """Passes the actions to EnvPool's threads and returns immediately."""
        if actions.shape != self._action_shape:  # EnvPool would read out of bounds
            raise ValueError(
                f"{self.env_id}: actions of shape {actions.shape}, expected {self._action_shape}"
            )
        self._pool._send(
            [
                self._env_ids,
                self._env_ids,
                actions.astype(self._action_dtype, order="C", copy=False),
            ]
        )
        self._is_under_way = True

    def recv(self) -> TimeStep:
        """Waits until all envs have finished the step."""
        self._is_under_way = False
        state = self._state = self._pool._recv()
        truncated = state[self._truncated_at]
        # A step that terminates exactly at the time limit is reported as truncated only, and so is
        # wrongly bootstrapped. EnvPool sets trunc = done and elapsed_step >= max_episode_steps, and
        # derives discount and step_type from done, so its arrays don't tell the two cases apart;
        # the observation may (as for CartPole), but not in general. The error is limited to
        # episodes that terminate exactly at the limit.
        terminated = state[self._done_at] > truncated
        if self._game_over_at >= 0:
            terminated &= state[self._game_over_at] > 0
        rows = self._rows(state)
        if self._has_mask:
            self._num_steps += 1
            self._check_masks(rows, terminated | truncated)
        return TimeStep(rows, state[self._reward_at], terminated, truncated)

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def infos(self, envs: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the info of the last step of each of these envs."""
        return [{name: self._state[at][i] for name, at in self._infos_at.items()} for i in envs]

    def render(self) -> np.ndarray:
        """Renders env 0 without a display; returns uint8 [H, W, 3]."""
        if not self._renders:
            raise ValueError(f"{self.env_id}: made without render=True")
        return self._pool.render(0)[0]

    def close(self) -> None:
        """Drops the pool, at which EnvPool joins its threads."""
        self._pool = None
