"""Small gymnasium envs whose right answers are known by hand."""

import json
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

_BOX = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class ToyEnv(gymnasium.Env[np.ndarray, Any]):
    """Observation [seed, step]: it names the env (its first seed) and the episode's step."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    observation_space = _BOX
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        """Start unseeded (seed 0)."""
        self.render_mode = render_mode
        self.seed, self.num_steps = 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        """Start at step 0."""
        if seed is not None:
            self.seed = seed
        self.num_steps = 0
        return self.observation(), {}

    def observation(self) -> np.ndarray:
        """Return [seed, step]."""
        return np.array([self.seed, self.num_steps], np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Count."""
        self.num_steps += 1
        return self.observation(), *self.outcome(action), {}

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return reward, terminated, truncated of the step just counted."""
        raise NotImplementedError

    def render(self) -> Any:
        """Return a small grey frame."""
        return np.full((4, 6, 3), 128, np.uint8)


class CountingEnv(ToyEnv):
    """Reward 10 * step + action. 2 + seed % 3 steps; even seeds terminate, odd are truncated."""

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return the reward that names the step and the action."""
        ended = self.num_steps == 2 + self.seed % 3
        return (
            10.0 * self.num_steps + float(action),
            ended and self.seed % 2 == 0,
            ended and self.seed % 2 == 1,
        )


class EndlessEnv(ToyEnv):
    """Constant observation and reward 1, cut by a time limit: the value is 1 / (1 - gamma)."""

    def __init__(self, time_limit: int = 10, render_mode: str | None = None) -> None:
        """Truncate after `time_limit` steps."""
        super().__init__(render_mode)
        self.time_limit = time_limit

    def observation(self) -> np.ndarray:
        """Return [1, 1]: neither the time nor the env can be told."""
        return np.ones(2, np.float32)

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return reward 1."""
        return 1.0, False, self.num_steps == self.time_limit


class StuckEnv(EndlessEnv):
    """Its fifth step does not return."""

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Sleep for ever."""
        if self.num_steps == 5:
            time.sleep(1000)
        return super().outcome(action)


class SquareEnv(ToyEnv):
    """A bright square in a corner of a picture, or in the middle; truncated at step 5."""

    observation_space = spaces.Box(0, 255, (48, 48, 3), np.uint8)

    def __init__(self, place: str = "middle", render_mode: str | None = None) -> None:
        """Choose the place."""
        super().__init__(render_mode)
        self.first = 0 if place == "corner" else 16

    def observation(self) -> np.ndarray:
        """Return the picture."""
        picture = np.zeros((48, 48, 3), np.uint8)
        picture[self.first : self.first + 16, self.first : self.first + 16] = 200
        return picture

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return reward 1."""
        return 1.0, False, self.num_steps == 5


class TerminatingEnv(EndlessEnv):
    """The same, but the limit is the end: the first value is sum(gamma^k), k < `time_limit`."""

    def observation(self) -> np.ndarray:
        """Return [1, step / time_limit], so that the value can be a function of the observation."""
        return np.array([1, self.num_steps / self.time_limit], np.float32)

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return reward 1, and the flag of a termination at the limit."""
        return 1.0, self.num_steps == self.time_limit, False


class BothFlagsEnv(ToyEnv):
    """Terminates and is truncated on the same step, its third."""

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return both flags at step 3."""
        return 1.0, self.num_steps == 3, self.num_steps == 3


class RaisingEnv(ToyEnv):
    """Raises at step `raise_at` of an episode, if its seed is `bad_seed` (None: in every env)."""

    def __init__(
        self, raise_at: int = 3, bad_seed: int | None = None, render_mode: str | None = None
    ) -> None:
        """Set when to raise."""
        super().__init__(render_mode)
        self.raise_at, self.bad_seed = raise_at, bad_seed

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return reward 0, or raise."""
        if self.num_steps == self.raise_at and self.bad_seed in (None, self.seed):
            raise ArithmeticError("the simulator exploded")
        return 0.0, False, False


class NanEnv(ToyEnv):
    """Its step `nan_at` returns a NaN: in the observation, or in the reward if `in_reward`."""

    def __init__(
        self, nan_at: int = 3, in_reward: bool = False, render_mode: str | None = None
    ) -> None:
        """Set when and where."""
        super().__init__(render_mode)
        self.nan_at, self.in_reward = nan_at, in_reward

    def observation(self) -> np.ndarray:
        """Return [seed, step], or [seed, NaN]."""
        is_bad = self.num_steps == self.nan_at and not self.in_reward
        return np.array([self.seed, np.nan if is_bad else self.num_steps], np.float32)

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return reward 1 or NaN."""
        return (
            (np.nan if self.num_steps == self.nan_at and self.in_reward else 1.0),
            False,
            self.num_steps == 10,
        )


class BoxActionEnv(ToyEnv):
    """Reward: the sum of an action [3] in [-1, 1]. float64 observations; truncated at step 5."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (3,), np.float32)

    def observation(self) -> np.ndarray:
        """Return [seed, step] as float64."""
        return super().observation().astype(np.float64)

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return the sum of the action."""
        assert self.action_space.contains(action)
        return float(action.sum()), False, self.num_steps == 5


class EnduringEnv(BoxActionEnv):
    """Takes any action, even one that is no number, and stays finite."""

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return the sum of the action, as far as it has one."""
        return float(np.nan_to_num(action).clip(-1, 1).sum()), False, self.num_steps == 5


class StatefulEnv(ToyEnv):
    """A random walk that can be saved; terminates beyond `bound`."""

    def __init__(self, bound: float = 3.0, render_mode: str | None = None) -> None:
        """Start at 0."""
        super().__init__(render_mode)
        self.position, self.bound = 0.0, bound

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        """Start at a random place."""
        gymnasium.Env.reset(self, seed=seed)
        self.position = float(self.np_random.normal())
        return super().reset(seed=seed)

    def observation(self) -> np.ndarray:
        """Return [position, step]."""
        return np.array([self.position, self.num_steps], np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Walk."""
        self.position += float(self.np_random.normal())
        return super().step(action)

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """Return the position as reward."""
        return self.position, abs(self.position) > self.bound, False

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        random_state = json.dumps(self.np_random.bit_generator.state)  # its ints have 128 bits
        return {
            "position": self.position,
            "num_steps": self.num_steps,
            "random_state": random_state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.position, self.num_steps = state["position"], state["num_steps"]
        self.np_random.bit_generator.state = json.loads(state["random_state"])


class TargetEnv(ToyEnv):
    """Shows one of four targets in many ways; reward 1 for naming it. Truncated at step 8."""

    observation_spaces: ClassVar[dict[str, spaces.Space]] = {
        "vector": spaces.Box(-1, 1, (2,), np.float64),
        "discrete": spaces.Discrete(4, start=-1),
        "multidiscrete": spaces.MultiDiscrete([2, 2], start=[0, 3]),
        "multibinary": spaces.MultiBinary((2, 2)),
        "grid": spaces.Box(0, 1, (2, 2), np.float32),
        "grey": spaces.Box(0, 255, (8, 8), np.uint8),
        "colour": spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "dict": spaces.Dict(
            {
                "low": spaces.Box(-1, 1, (1,), np.float64),
                "inner": spaces.Dict({"high": spaces.Discrete(2)}),
            }
        ),
        "tuple": spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, ())]),
        "mixed": spaces.Dict(
            {"image": spaces.Box(0, 255, (7, 7, 3), np.uint8), "high": spaces.Box(-1, 1, (3,))}
        ),
        "masked": spaces.Dict(
            {"nothing": spaces.Box(-1, 1, (1,)), "action_mask": spaces.MultiBinary(4)}
        ),
        "masked_image": spaces.Dict(
            {
                "image": spaces.Box(0, 255, (7, 7, 3), np.uint8),
                "action_mask": spaces.MultiBinary(4),
            }
        ),
        "info": spaces.Box(-1, 1, (1,)),
    }
    action_spaces: ClassVar[dict[str, spaces.Space]] = {
        "discrete": spaces.Discrete(4, start=1),
        "multidiscrete": spaces.MultiDiscrete([2, 2], start=[1, 0]),
        "multibinary": spaces.MultiBinary(2),
        "integers": spaces.Box(np.array([-1, 0]), np.array([0, 1]), dtype=np.int64),
        "signs": spaces.Box(-1, 1, (2,)),
    }

    def __init__(
        self,
        shown: str = "vector",
        named: str = "discrete",
        render_mode: str | None = None,
    ) -> None:
        """Choose how the target is shown, and how it is named."""
        super().__init__(render_mode)
        self.shown, self.named, self.target = shown, named, 0
        self.observation_space, self.action_space = (
            self.observation_spaces[shown],
            self.action_spaces[named],
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict]:
        """Draw a first target."""
        gymnasium.Env.reset(self, seed=seed)
        self.target = int(self.np_random.integers(4))
        return super().reset(seed=seed)[0], {"action_mask": self.mask()}

    def mask(self) -> np.ndarray:
        """Allow the target alone."""
        return (np.arange(4) == self.target).astype(np.int8)

    def observation(self) -> Any:
        """Show the target."""
        high, low = divmod(self.target, 2)
        image = np.zeros((8, 8), np.uint8)
        image[4 * high : 4 * high + 4, 4 * low : 4 * low + 4] = 255
        match self.shown:
            case "vector":
                return np.array([high, low], np.float64)
            case "discrete":
                return self.target - 1
            case "multidiscrete":
                return np.array([high, 3 + low])
            case "multibinary":
                return self.mask().reshape(2, 2)
            case "grid":
                return self.mask().reshape(2, 2).astype(np.float32)
            case "grey":
                return image
            case "colour":
                return np.stack([image, image // 2, 255 - image], 2)
            case "dict":
                return {"low": np.array([low], np.float64), "inner": {"high": high}}
            case "tuple":
                return high, np.array(low, np.float32)
            case "mixed":
                values = np.array([high, 0.25, -1], np.float32)
                return {"image": np.full((7, 7, 3), 255 * low, np.uint8), "high": values}
            case "masked":
                return {"nothing": np.zeros(1, np.float32), "action_mask": self.mask()}
            case "masked_image":
                return {"image": np.zeros((7, 7, 3), np.uint8), "action_mask": self.mask()}
        return np.zeros(1, np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Judge the action, then draw another target."""
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype))
        if self.named == "discrete":
            answer = int(action) - 1
        elif self.named == "signs":
            answer = int(2 * (action[0] > 0) + (action[1] > 0))
        else:
            start = {"multidiscrete": (1, 0), "multibinary": (0, 0), "integers": (-1, 0)}[
                self.named
            ]
            answer = int(2 * (action[0] - start[0]) + action[1] - start[1])
        is_right = answer == self.target
        if not is_right and self.shown in ("masked", "masked_image", "info"):
            raise ArithmeticError("a forbidden action")
        self.target = int(self.np_random.integers(4))
        self.num_steps += 1
        info = {"action_mask": self.mask()}
        return self.observation(), float(is_right), False, self.num_steps == 8, info


def normalised() -> gymnasium.Env:
    """Shows what is divided by statistics of its own."""
    return gymnasium.wrappers.NormalizeObservation(EndlessEnv())
