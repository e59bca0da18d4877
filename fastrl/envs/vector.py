"""What every backend gives the trainer: `VectorEnv`, its `TimeStep`, and the spaces it may have.

Letters: `N` envs, `O` observation dims, `A` action dims. Row t is one transition: `rewards[t]`,
`terminated[t]` and `truncated[t]` are what action t caused. Autoreset is next-step, whatever the
wrapped env does by itself: the step that ends an episode returns its true last observation s_T; the
step after it ignores its action and returns the reset observation, reward 0 and no flags.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gymnasium import Space, spaces

# The dtypes a rollout buffer stores as they are; anything else (float64, bool, int8 ...) becomes
# float32.
PASSED_THROUGH_DTYPES = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int64))
SUPPORTED_OBSERVATIONS = "a Box with at least one dimension"
SUPPORTED_ACTIONS = (
    "Discrete (start 0), MultiDiscrete with one dimension (start 0), bounded Box with one dimension"
)


class EnvError(ValueError):
    """An environment raised, or returned what no environment may; the message names it."""


class TimeStep(NamedTuple):
    """One step of all envs. The arrays are C-contiguous; no env writes to them again."""

    obs: np.ndarray
    """[N, *O], of the dtype of `single_observation_space`."""
    rewards: np.ndarray
    """float32 [N]."""
    terminated: np.ndarray
    """bool [N]: the episode ended for good, so nothing is bootstrapped."""
    truncated: np.ndarray
    """bool [N]: the episode was cut. Never True together with `terminated`."""


class VectorEnv(Protocol):
    """N copies of one env, stepped together."""

    env_id: str
    backend: str
    """`envpool` or `gymnasium`."""
    num_envs: int
    single_observation_space: spaces.Box
    """Its dtype is the one that is really returned (see `emitted_observation_space`)."""
    single_action_space: Space

    def reset(self) -> np.ndarray:
        """Start new episodes; observations [N, *O]. Seeds apply to the first call only."""
        ...

    def send(self, actions: np.ndarray) -> None:
        """Start a step with legal actions [N] or [N, A], not to be overwritten before `recv`."""
        ...

    def recv(self) -> TimeStep:
        """Finish the step that `send` started."""
        ...

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        ...

    def render(self) -> np.ndarray:
        """Return env 0 as uint8 [H, W, 3]. ValueError if made without `render=True`."""
        ...

    def close(self) -> None:
        """Release threads, processes and windows. More than one call is harmless."""
        ...


@runtime_checkable
class HasState(Protocol):
    """A vector env that can be saved, so that a resumed run is bit-identical (use `isinstance`)."""

    def state_dict(self) -> dict[str, Any]:
        """Return nested dicts and lists of arrays, numbers and strings."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned; no `reset` is needed."""
        ...


def check_spaces(env_id: str, observation_space: Any, action_space: Any) -> None:
    """Raise ValueError, naming the space, if fastrl can't learn from such a space."""
    if not isinstance(observation_space, spaces.Box) or not observation_space.shape:
        raise ValueError(
            f"{env_id}: observation space {observation_space} is not supported; "
            f"supported: {SUPPORTED_OBSERVATIONS}. "
            "gymnasium.wrappers.FlattenObservation turns most spaces into one."
        )
    match action_space:
        case spaces.Discrete():
            supported = action_space.start == 0
        case spaces.MultiDiscrete():
            supported = action_space.nvec.ndim == 1 and not np.any(action_space.start)
        case spaces.Box():
            supported = len(action_space.shape) == 1 and action_space.is_bounded("both")
        case _:
            supported = False
    if not supported:
        raise ValueError(
            f"{env_id}: action space {action_space} is not supported; "
            f"supported: {SUPPORTED_ACTIONS}"
        )


def emitted_observation_space(space: spaces.Box) -> spaces.Box:
    """Return `space` with the dtype that the trainer sees (float32 for all kinds of float)."""
    if space.dtype == np.float32 or space.dtype in PASSED_THROUGH_DTYPES:
        return space
    with np.errstate(
        over="ignore"
    ):  # a float64 bound beyond float32 becomes infinite, which is what it means
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)
