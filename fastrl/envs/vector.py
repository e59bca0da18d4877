"""What every backend gives the trainer: `VectorEnv` and its `TimeStep`.

Letters: `N` envs, `O` observation dims, `A` action dims. Row t is one transition: `rewards[t]`,
`terminated[t]` and `truncated[t]` are what action t caused. Autoreset is next-step, whatever the
wrapped env does by itself: the step that ends an episode returns its true last observation s_T; the
step after it ignores its action and returns the reset observation, reward 0 and no flags.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gymnasium import Space


class EnvError(ValueError):
    """An environment raised, or returned what no environment may; the message names it."""


class Spaces(NamedTuple):
    """What an agent has to know of its environments if it learns but does not play."""

    observation: Any
    """As `VectorEnv.single_observation_space`."""
    action: Space
    """As `VectorEnv.single_action_space`."""


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
    single_observation_space: Any
    """What the rows are, of which its shape and dtype are true (`spaces.observation_rows`)."""
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
