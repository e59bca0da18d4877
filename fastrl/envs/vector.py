"""The interface of all backends: `VectorEnv` and its `TimeStep`.

Letters: `N` envs, `O` observation dims, `A` action dims. Row t is one transition: `rewards[t]`,
`terminated[t]` and `truncated[t]` are what action t caused. Autoreset is next-step for all
backends: the step that ends an episode returns its true last observation s_T; the next step ignores
its action and returns the reset observation, reward 0 and no flags.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gymnasium import Space, spaces

from fastrl.spaces.actions import within_bounds


class EnvError(ValueError):
    """An environment raised an error or returned invalid values; the message names it."""


def playable(env_id: str, space: Space, actions: np.ndarray) -> np.ndarray:
    """Returns actions [N] or [N, A] within the bounds of their space, in its own dtype.

    Raises:
        ValueError: one of them is NaN.
    """
    if not isinstance(space, spaces.Box):
        return actions
    if (is_nan := np.isnan(actions)).any():
        env = int(np.argwhere(is_nan)[0, 0])
        raise ValueError(f"{env_id}: the policy's action for env {env} is not a number")
    return within_bounds(space, actions)


class Spaces(NamedTuple):
    """What an agent has to know of its environments if it learns but does not play."""

    observation: Any
    """As `VectorEnv.single_observation_space`."""
    action: Space
    """As `VectorEnv.single_action_space`."""


class TimeStep(NamedTuple):
    """One step of all envs. The arrays are C-contiguous and never written to again."""

    obs: np.ndarray
    """[N, *O], with the dtype of `single_observation_space`."""
    rewards: np.ndarray
    """float32 [N]."""
    terminated: np.ndarray
    """bool [N]: the episode ended in a terminal state, so there is no bootstrapping."""
    truncated: np.ndarray
    """bool [N]: the episode was cut off. Never True together with `terminated`."""


class VectorEnv(Protocol):
    """N copies of one env, stepped together."""

    env_id: str
    backend: str
    """`envpool` or `gymnasium`."""
    num_envs: int
    single_observation_space: Any
    """Space of the rows of `obs`, with their shape and dtype (see `observation_rows`)."""
    single_action_space: Space

    def reset(self) -> np.ndarray:
        """Starts new episodes; returns observations [N, *O]. Seeds apply to the first call only."""
        ...

    def send(self, actions: np.ndarray) -> None:
        """Starts a step with valid actions [N] or [N, A]; don't modify them before `recv`."""
        ...

    def recv(self) -> TimeStep:
        """Finishes the step that `send` started."""
        ...

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        ...

    def render(self) -> np.ndarray:
        """Renders env 0 as uint8 [H, W, 3]; ValueError if made without `render=True`."""
        ...

    def close(self) -> None:
        """Releases threads, processes and windows; may be called more than once."""
        ...


@runtime_checkable
class HasInfos(Protocol):
    """A vector env that gives the infos of its last step: all of fastrl's own do."""

    def infos(self, envs: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the info of the last step of each of these envs, with names of its own."""
        ...


@runtime_checkable
class HasState(Protocol):
    """A vector env whose state can be saved, so that resumed runs are bit-identical."""

    def state_dict(self) -> dict[str, Any]:
        """Returns nested dicts and lists of arrays, numbers and strings."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state from `state_dict`; no `reset` is needed."""
        ...
