"""Masking of velocities, so that a task requires memory (`mask_vel`)."""

import numpy as np

from fastrl.envs.vector import HasInfos, HasState, TimeStep, VectorEnv
from fastrl.spaces.packed import PackedRow

_LUNAR_LANDER = (2, 3, 5)
VELOCITY_INDICES: dict[str, tuple[int, ...]] = {
    "CartPole-v1": (1, 3),
    "MountainCar-v0": (1,),
    "MountainCarContinuous-v0": (1,),
    "Pendulum-v1": (2,),
    "LunarLander-v2": _LUNAR_LANDER,
    "LunarLander-v3": _LUNAR_LANDER,
    "LunarLanderContinuous-v2": _LUNAR_LANDER,
    "LunarLanderContinuous-v3": _LUNAR_LANDER,
}
"""Indices of the velocities in the observation, by env id."""
_SIZES = {(1, 3): 4, (1,): 2, (2,): 3, _LUNAR_LANDER: 8}  # numbers in these observations


def check_mask_vel(env_id: str) -> None:
    """Raises ValueError if the indices of the velocities of `env_id` aren't known."""
    if env_id not in VELOCITY_INDICES:
        raise ValueError(
            f"mask_vel does not know {env_id!r}; supported: {', '.join(VELOCITY_INDICES)}"
        )


class MaskVelocity:
    """A `VectorEnv` that sets the velocities in the wrapped env's observations to zero."""

    def __init__(self, env: VectorEnv) -> None:
        """Wraps `env`; ValueError if its id is not in `VELOCITY_INDICES`, or it shows others."""
        check_mask_vel(env.env_id)
        indices, space = VELOCITY_INDICES[env.env_id], env.single_observation_space
        seen = space.parts.get("") if isinstance(space, PackedRow) else space  # beside a mask
        if getattr(seen, "shape", None) != (size := (_SIZES[indices],)):
            raise ValueError(
                f"mask_vel knows {env.env_id} with {size[0]} numbers, not as wrappers show it: "
                f"{seen or space}"
            )
        self.env = env
        self.env_id, self.backend, self.num_envs = env.env_id, env.backend, env.num_envs
        self.worker_threads: frozenset[int] = getattr(env, "worker_threads", frozenset())
        self.single_observation_space = env.single_observation_space
        self.single_action_space = env.single_action_space
        self._mask = np.ones(env.single_observation_space.shape or (), np.float32)
        self._mask[list(indices)] = 0
        if hasattr(env, "reseed"):
            self.reseed = env.reseed  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(env, HasInfos):
            self.infos = env.infos
        if isinstance(env, HasState):
            self.state_dict, self.load_state_dict = env.state_dict, env.load_state_dict
        # These need no masking, so they are called without a Python wrapper.
        self.send, self.render, self.close = env.send, env.render, env.close

    def reset(self) -> np.ndarray:
        """Starts new episodes; returns masked observations [N, *O]."""
        return self._masked(self.env.reset())

    def recv(self) -> TimeStep:
        """Finishes the step and masks its observations."""
        time_step = self.env.recv()
        self._masked(time_step.obs)
        return time_step

    def step(self, actions: np.ndarray) -> TimeStep:
        """`send`, then `recv`."""
        self.send(actions)
        return self.recv()

    def _masked(self, obs: np.ndarray) -> np.ndarray:
        # In place: the caller owns the arrays of a VectorEnv. A NaN stays a NaN, to be found.
        return np.multiply(obs, self._mask, out=obs)
