"""Grey, small pictures and repeated actions, by settings."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import GrayscaleObservation

from fastrl import PPO, cli
from fastrl.envs.make import make_env, vector_env_of, wrap_vector_env
from fastrl.envs.vector import HasState
from fastrl.spaces.pixels import channel_axis
from fastrl.spaces.random_actions import RandomActions

COLOUR = spaces.Box(0, 255, (12, 10, 3), np.uint8)


class PictureEnv(gymnasium.Env):
    """Random pictures of a space; the reward is the number of the step, the fifth is the last."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: Any = COLOUR, render_mode: str | None = None) -> None:
        self.observation_space, self.render_mode = space, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.num_steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.num_steps += 1
        obs = self.observation_space.sample()
        return obs, float(self.num_steps), False, self.num_steps == 5, {}

    def render(self) -> Any:
        return np.zeros((16, 16, 3), np.uint8)


def shown(space: Any, **settings: Any) -> np.ndarray:
    env = vector_env_of("Picture", [lambda: PictureEnv(space)], [7], **settings)
    obs = env.reset()
    assert obs.shape[1:] == env.single_observation_space.shape
    return obs[0]


def area_means(image: np.ndarray, size: int) -> np.ndarray:
    """Means of areas `[size, size, C]` of an image `[H, W, C]`, one pixel after the other."""
    height, width, channels = image.shape
    result = np.zeros((size, size, channels))
    for i in range(size):
        for j in range(size):
            top, bottom = i * height / size, (i + 1) * height / size
            left, right = j * width / size, (j + 1) * width / size
            for y in range(height):
                for x in range(width):
                    overlap = max(0, min(bottom, y + 1) - max(top, y))
                    overlap *= max(0, min(right, x + 1) - max(left, x))
                    result[i, j] += overlap * image[y, x]
    return result * size * size / (height * width)


def test_grey_is_gymnasiums():
    expected, _ = GrayscaleObservation(PictureEnv()).reset(seed=7)
    np.testing.assert_array_equal(shown(COLOUR, gray_scale=True), expected)
    first = spaces.Box(0, 255, (3, 12, 10), np.uint8)
    picture, _ = PictureEnv(first).reset(seed=7)
    red, green, blue = picture.astype(np.float64)
    luminance = (red * 0.2125 + green * 0.7154 + blue * 0.0721).astype(np.uint8)
    np.testing.assert_array_equal(shown(first, gray_scale=True), luminance)


@pytest.mark.parametrize("size", [8, 5, 15])
@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 3), (3, 12, 10), (4, 9, 9)])
def test_pixel_of_a_resized_image_is_the_mean_of_its_area(shape, size):
    space = spaces.Box(0, 255, shape, np.uint8)
    picture, _ = PictureEnv(space).reset(seed=7)
    is_first = len(shape) == 3 and shape[0] < 5
    whole = picture[..., None] if len(shape) == 2 else picture
    small = area_means(np.moveaxis(whole, 0, 2) if is_first else whole, size)
    small = np.moveaxis(small, 2, 0) if is_first else small.reshape(size, size, *shape[2:])
    obs = shown(space, resize=size)
    assert obs.dtype == np.uint8 and obs.shape == small.shape
    np.testing.assert_allclose(obs, small, atol=0.51)


def test_a_resized_image_has_its_channels_where_they_were():
    for shape, axis in (((12, 10, 8), 2), ((8, 12, 10), 0)):
        make = partial(PictureEnv, spaces.Box(0, 255, shape, np.uint8))
        space = vector_env_of("Picture", [make], [7], resize=8).single_observation_space
        assert space.shape == (8, 8, 8) and channel_axis(space) == axis


def test_all_pictures_of_a_dict_and_nothing_else_are_changed():
    space = spaces.Dict(
        eyes=spaces.Tuple([COLOUR, COLOUR]), place=spaces.Box(-1, 1, (2,)), way=spaces.Discrete(3)
    )
    env = vector_env_of("Picture", [lambda: PictureEnv(space)], [7], gray_scale=True, resize=9)
    rows = env.single_observation_space
    assert rows.pixels_shape == (2, 9, 9) and rows.vector_size == 5
    obs, _ = PictureEnv(space).reset(seed=7)
    picture = env.reset()[0][:81].reshape(9, 9)
    grey = (obs["eyes"][0] @ np.array([0.2125, 0.7154, 0.0721])).astype(np.uint8)
    np.testing.assert_allclose(picture, area_means(grey[..., None], 9)[..., 0], atol=1.51)


def test_actions_are_repeated_until_the_episode_ends():
    env = vector_env_of("Picture", [PictureEnv], [0], action_repeat=3)
    env.reset()
    steps = [env.step(np.array([0])) for _ in range(3)]
    assert [step.rewards[0] for step in steps] == [1 + 2 + 3, 4 + 5, 0]
    assert [bool(step.truncated[0]) for step in steps] == [False, True, False]


class TurnEnv(gymnasium.Env):
    """Allows one choice of each dimension at a time, the next one at the next step."""

    def __init__(self, action_space: Any, place: str, as_tuple: bool = False) -> None:
        self.action_space, self.place, self.as_tuple = action_space, place, as_tuple
        number = spaces.Box(0, 9, (1,), np.float32)
        mask = spaces.MultiBinary(sum(self._sizes()))
        whole = spaces.Dict({"n": number, "action_mask": mask})
        self.observation_space = whole if place == "obs" else number

    def _sizes(self) -> list[int]:
        return np.ravel(
            getattr(self.action_space, "nvec", getattr(self.action_space, "n", 0))
        ).tolist()

    def _seen(self) -> Any:
        parts = [np.arange(n) == self.num_steps // 3 % n for n in self._sizes()]
        mask: Any = np.concatenate(parts).astype(np.int8)
        number, info = np.float32([self.num_steps]), {"action_mask": mask}
        if self.place == "obs":
            return {"n": number, "action_mask": mask}, {}
        return number, info

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.num_steps = 0
        return self._seen()

    def step(self, action: Any) -> Any:
        chosen = np.ravel(action) - np.ravel(self.action_space.start)
        is_right = all(
            a == self.num_steps // 3 % n for a, n in zip(chosen, self._sizes(), strict=True)
        )
        self.num_steps += 1
        obs, info = self._seen()
        return obs, 1.0 if is_right else -100.0, False, self.num_steps == 12, info


@pytest.mark.parametrize("place", ["obs", "info"])
@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Discrete(3),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([3, 2]),
        spaces.MultiDiscrete([2, 2], start=[1, 0]),
    ],
)
def test_no_action_is_repeated_that_a_mask_forbids_by_then(place, action_space):
    make, masked = partial(TurnEnv, action_space, place), {"info_mask": place == "info"}
    env = vector_env_of("Turn", [make], [0], action_repeat=2, **masked)
    draw = RandomActions(env.single_observation_space, env.single_action_space, 0)
    obs, rewards = env.reset(), []
    for _ in range(9):
        step = env.step(draw(obs))
        obs = step.obs
        rewards.append(step.rewards[0])
    assert rewards == [2, 1, 2, 1, 2, 1, 2, 1, 0]  # each choice is allowed for three steps


def test_a_mask_that_is_not_in_use_stops_no_repetition():
    make = partial(TurnEnv, spaces.Discrete(3), "info")
    env = vector_env_of("Turn", [make], [0], action_repeat=4)
    env.reset()
    assert env.step(np.array([0])).rewards[0] == 1 + 1 + 1 - 100


def test_state_is_saved_below_them():
    task, settings = "toy_envs:StatefulEnv", {"seed": 1, "action_repeat": 2}
    env, other = make_env(task, 2, **settings), make_env(task, 2, **{**settings, "seed": 9})
    env.reset()
    assert isinstance(env, HasState) and isinstance(other, HasState)
    other.load_state_dict(env.state_dict())
    for _ in range(5):
        left, right = env.step(np.zeros(2, np.int64)), other.step(np.zeros(2, np.int64))
        np.testing.assert_array_equal(left.obs, right.obs)


RUN: dict[str, Any] = {
    "num_envs": 2,
    "num_steps": 8,
    "per_rank_batch_size": 16,
    "update_epochs": 1,
    "hidden_sizes": (8,),
    "engine": "eager",
    "accelerator": "cpu",
    "preset": "none",
    "total_timesteps": 16,
    "eval_episodes": 1,
    "capture_video": True,
    "gray_scale": True,
    "resize": 36,
    "action_repeat": 2,
    "frame_stack": 2,
}


def test_they_travel_through_films_tests_evaluation_and_resume(tmp_path, capsys):
    settings = {**RUN, "log_dir": str(tmp_path), "env_kwargs": {"place": "corner"}}
    task = "toy_envs:SquareEnv"
    model = PPO(task, **settings).learn()
    assert model.observation_space.shape == (2, 36, 36) and model.result is not None
    folder = model.result.folder
    assert list((folder / "videos").iterdir())
    loaded = PPO.load(folder)
    assert loaded.observation_space == model.observation_space
    assert cli.main("ppo", ["--resume", str(folder), "--total-timesteps", "32"]) == 0
    assert model.result.summary["eval_length_mean"] == 3.0  # of five steps


@pytest.mark.parametrize(
    ("make", "settings", "words"),
    [
        (lambda **how: make_env("CartPole-v1", 1, **how), {"resize": 84}, "EnvPool runs it"),
        (lambda **how: make_env("Pong-v5", 1, **how), {"gray_scale": True}, "EnvPool runs it"),
        (lambda **how: make_env("Pong-v5", 1, **how), {"action_repeat": 4}, "EnvPool runs it"),
        (lambda **how: make_env("toy_envs:EndlessEnv", 1, **how), {"resize": 9}, "no images"),
        (
            lambda **how: wrap_vector_env(gymnasium.make_vec("CartPole-v1", 2), **how),
            {"action_repeat": 4},
            "action_repeat=4 has no effect on a vector environment",
        ),
        (
            lambda **how: shown(spaces.Box(0, 255, (9, 9, 4), np.uint8), **how),
            {"gray_scale": True},
            "gray_scale takes images of 3 channels",
        ),
        (
            lambda **how: shown(spaces.Box(0, 255, (9, 9), np.uint8), **how),
            {"resize": 9},
            "resize=9 has no effect on images of that size",
        ),
    ],
)
def test_where_they_have_no_effect_they_are_refused(make, settings, words):
    with pytest.raises(ValueError, match=words):
        make(**settings)


def test_environments_that_are_made_already_are_not_wrapped(tmp_path):
    with pytest.raises(ValueError, match="resize=36 has no effect on environments that are made"):
        PPO(make_env("toy_envs:EndlessEnv", 2), num_envs=2, resize=36)
