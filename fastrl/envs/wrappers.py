"""Wrappers that settings put around single gymnasium environments: grey, small, repeated actions.

EnvPool has its own, among its `env_kwargs`. Sources: the preprocessing of Mnih et al. 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space, spaces
from gymnasium.wrappers import TransformObservation

from fastrl.envs.vector import EnvError
from fastrl.spaces.actions import action_space_of, choices_of
from fastrl.spaces.packed import MASK_KEY
from fastrl.spaces.parts import leaf_spaces
from fastrl.spaces.pixels import ImageBox, ObsKind, channel_axis, is_pixels, of_kind
from fastrl.spaces.values import as_dtype, as_number, on_one_line

_LUMINANCE = 0.2125, 0.7154, 0.0721  # of red, green and blue, as in gymnasium
_NONE: dict[str, Any] = {"gray_scale": False, "resize": 0, "action_repeat": 1}


def check_no_wrappers(env_id: str, why: str, **settings: Any) -> None:
    """Raises ValueError for one of the settings of `wrapped` that differs from its default."""
    for name, value in settings.items():
        if value != _NONE[name]:
            raise ValueError(f"{env_id}: {name}={value} has no effect {why}")


class PixelObservation(TransformObservation):
    """Images `[H, W]`, `[H, W, C]` or `[C, H, W]` as grey ones `[H, W]`, or of another size."""

    def __init__(self, env: gymnasium.Env, gray_scale: bool, size: int, obs_kind: ObsKind) -> None:
        """Wraps `env`; EnvError if its observations hold no images for which that has an effect."""
        name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        space, self._functions = env.observation_space, dict[str, Callable[..., Any]]()
        parts = {key: of_kind(part, obs_kind) for key, part in leaf_spaces(space).items()}
        images = {key: part for key, part in parts.items() if is_pixels(part)}
        if not images:
            what = "gray_scale" if gray_scale else f"resize={size}"
            seen = on_one_line(space)
            raise EnvError(f"{name}: {what} has no effect on {seen}, which holds no images")
        new: dict[str, Space] = {}
        for key, part in images.items():
            assert isinstance(part, spaces.Box)
            shape, steps = part.shape, list[Callable[..., Any]]()
            axis = channel_axis(part) if len(shape) == 3 else None
            if gray_scale:
                if axis is None or shape[axis] != 3:
                    raise EnvError(f"{name}: gray_scale takes images of 3 channels, not {shape}")
                shape = shape[:2] if axis == 2 else shape[1:]
                steps.append(_Gray(axis))
                axis = None
            if size:
                sides: Any = shape[1:] if axis == 0 else shape[:2]
                if sides == (size, size):
                    raise EnvError(f"{name}: resize={size} has no effect on images of that size")
                shape = (shape[0], size, size) if axis == 0 else (size, size, *shape[2:])
                steps.append(_Resize(axis, sides[0], sides[-1], size))
            # They stay images, however small, and their channels are where they were.
            bounds = part.low.min(), part.high.max()
            new[key] = ImageBox(*bounds, shape, np.uint8, channel_axis=axis)
            self._functions[key] = _Chain(steps)
        super().__init__(env, self._changed, _replaced(space, new))

    def _changed(self, obs: Any, name: str = "") -> Any:
        if isinstance(obs, Mapping):
            return {
                key: self._changed(part, f"{name}.{key}" if name else str(key))
                for key, part in obs.items()
            }
        if isinstance(obs, tuple):
            return tuple(
                self._changed(part, f"{name}.{index}" if name else str(index))
                for index, part in enumerate(obs)
            )
        change = self._functions.get(name)
        return obs if change is None else change(as_dtype(obs, np.uint8, name))


class ActionRepeat(gymnasium.Wrapper):
    """Takes each action several times; the reward is the sum, the observation the last one."""

    def __init__(self, env: gymnasium.Env, times: int, info_mask: bool = False) -> None:
        """Wraps `env`; `info_mask` says whether an action mask in the info counts."""
        super().__init__(env)
        self._times, self._info_mask = times, info_mask

    def step(self, action: Any) -> Any:
        """Steps `times` times, or until the episode ends or an action mask forbids the action."""
        total = 0.0
        for left in reversed(range(self._times)):
            # A copy each time: an environment may write into what it is given.
            taken = action.copy() if isinstance(action, np.ndarray) else action
            obs, reward, terminated, truncated, info = self.env.step(taken)
            total += as_number(reward, "the reward")
            if terminated or truncated or (left and self._is_forbidden(action, obs, info)):
                break
        return obs, total, terminated, truncated, info

    def _is_forbidden(self, action: Any, obs: Any, info: Any) -> bool:
        shown = info if self._info_mask else obs
        if not isinstance(shown, Mapping) or MASK_KEY not in shown:
            return False
        space: Any = action_space_of(self.action_space)
        if isinstance(space, spaces.Box):
            return False
        mask, sizes = np.ravel(shown[MASK_KEY]), choices_of(space)
        if len(mask) != sum(sizes):  # which is told where it becomes part of a row
            return False
        firsts = np.cumsum([0, *sizes[:-1]])
        chosen = firsts + np.ravel(action) - np.ravel(getattr(space, "start", 0))
        return not (mask[chosen] > 0.5).all()


def wrapped(
    make: Callable[..., gymnasium.Env],
    gray_scale: bool,
    resize: int,
    action_repeat: int,
    obs_kind: ObsKind,
    info_mask: bool = False,
    **how: Any,
) -> Any:
    """Makes an environment and wraps it.

    Args:
        make: returns the environment.
        gray_scale: whether images become grey.
        resize: width and height of images; 0: as they are.
        action_repeat: how often each action is taken.
        obs_kind: what arrays of bytes are (see `observation_rows`).
        info_mask: whether to use the action mask in the info.
        **how: arguments of `make`.
    """
    env = make(**how)
    if not isinstance(env, gymnasium.Env):
        return env  # `GymEnv` says so
    if action_repeat > 1:
        env = ActionRepeat(env, action_repeat, info_mask)
    return PixelObservation(env, gray_scale, resize, obs_kind) if gray_scale or resize else env


class _Chain:
    def __init__(self, steps: list[Callable[..., Any]]) -> None:
        self._steps = steps

    def __call__(self, image: np.ndarray) -> np.ndarray:
        for step in self._steps:
            image = step(image)
        return image


class _Gray:
    """Luminance `[H, W]` of an image with red, green and blue along `axis`, rounded down."""

    def __init__(self, axis: int) -> None:
        self._axis = axis

    def __call__(self, image: np.ndarray) -> np.ndarray:
        red, green, blue = (
            image.take(i, self._axis) * weight for i, weight in enumerate(_LUMINANCE)
        )
        return (red + green + blue).astype(np.uint8)


class _Resize:
    """Each pixel is the mean of the area that it covers, as OpenCV's INTER_AREA shrinks."""

    def __init__(self, channel_axis: int | None, height: int, width: int, size: int) -> None:
        self._axis = channel_axis
        self._rows, self._columns = _area_weights(height, size), _area_weights(width, size)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self._axis == 0:  # [C, H, W]: both products are over the last two dimensions
            small = self._rows @ image.astype(np.float32) @ self._columns.T
        else:
            rows = self._rows @ image.reshape(len(image), -1).astype(np.float32)
            small = self._columns @ rows.reshape(len(rows), image.shape[1], -1)
            small = small.reshape(len(rows), len(rows), *image.shape[2:])
        return np.rint(small).astype(np.uint8)


def _area_weights(length: int, size: int) -> np.ndarray:
    """Returns float32 `[size, length]`: which part of each output pixel each input pixel covers."""
    edges = np.arange(size + 1) * (length / size)
    pixels = np.arange(length)
    overlaps = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlaps.clip(0) * (size / length)).astype(np.float32)


def _replaced(space: Space, new: Mapping[str, Space], name: str = "") -> Space:
    """Returns a space in which some parts, given by dotted name, are others."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict(
            {
                key: _replaced(part, new, f"{name}.{key}" if name else str(key))
                for key, part in space.spaces.items()
            }
        )
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple(
            [
                _replaced(part, new, f"{name}.{index}" if name else str(index))
                for index, part in enumerate(space.spaces)
            ]
        )
    return new.get(name, space)
