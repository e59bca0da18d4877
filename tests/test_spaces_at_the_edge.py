"""Spaces and values at the edge: taken as they are meant, or refused with their name."""

from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from quick import quick, slow

from fastrl import PPO, SAC
from fastrl.envs.gym_env import GymEnv
from fastrl.envs.make import make_env, wrap_vector_env
from fastrl.envs.vector import EnvError
from fastrl.models.critics import SquashedGaussianActor
from fastrl.models.distributions import CategoricalHead, GaussianHead
from fastrl.models.encoders import Reader
from fastrl.models.heads import make_action_head
from fastrl.spaces.actions import Outside, check_action_space, float32_bounds, within_bounds
from fastrl.spaces.layout import in_words
from fastrl.spaces.observations import observation_rows, rows_of
from fastrl.spaces.pixels import ObsKind, is_pixels

BOX, CHOICE = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)


def picture(size: int) -> spaces.Box:
    return spaces.Box(0, 255, (size, size, 3), np.uint8)


class GivingEnv(gymnasium.Env):
    """Shows, pays and says whatever it was given, from its first step on; judges its actions."""

    def __init__(self, space: Any = BOX, action_space: Any = CHOICE, **given: Any) -> None:
        """Takes the spaces and the values; `good` is what a reset shows."""
        self.observation_space, self.action_space, self.given = space, action_space, given
        self.actions: list[Any] = []

    def reset(self, *, seed=None, options=None):
        """Shows what is good."""
        info = {"action_mask": self.given.get("mask", np.ones(2, np.int8))}
        return self.given.get("good", np.zeros(2, np.float32)), info

    def step(self, action):
        """Shows and says what was given."""
        self.actions.append(action)
        obs, info = self.reset()
        flags = self.given.get("terminated", False), self.given.get("truncated", False)
        mask = {"action_mask": self.given.get("next_mask", info["action_mask"])}
        return self.given.get("obs", obs), self.given.get("reward", 0.0), *flags, mask


def one(**given: Any) -> GymEnv:
    """Returns a started GymEnv of a GivingEnv."""
    env = GymEnv("MyEnv", [lambda: GivingEnv(**given)], [0], info_mask="mask" in given)
    env.reset()
    return env


def step(env: GymEnv) -> Any:
    """Steps with whatever action."""
    return env.step(np.zeros((1, *(env.single_action_space.shape or ())), np.int64))


# Actions


def box(low: Any, high: Any, dtype: Any = np.float64) -> spaces.Box:
    return spaces.Box(np.array([low], dtype), np.array([high], dtype), dtype=dtype)


TINY, LARGEST = np.finfo(np.float32).tiny, np.finfo(np.float32).max
BOXES = [
    box(-0.1, 0.1),
    box(0.1, 0.7),
    box(-1 / 3, 1e-9),
    box(-1e300, 1e300),
    box(-1.7e308, 1.0),
    box(-LARGEST, LARGEST, np.float32),
    box(-TINY, TINY, np.float32),
    box(1e-45, 1e-44, np.float32),
    box(0.1, 0.1 + 1e-12),  # no float32 is in between
    box(1e200, 1e201),
    box(2.0, 2.0),
    box(-0.1, 0.1, np.float16),
]


@pytest.mark.parametrize("space", BOXES, ids=str)
@pytest.mark.parametrize("kind", ["clipped", "squashed", "sac"])
def test_actions_are_inside_in_the_dtype_of_the_space(space, kind):
    drawn = torch.cat([torch.randn(500, 1) * 10.0**k for k in (-9, 0, 3, 30)])
    if kind == "sac":
        played = SquashedGaussianActor(BOX, space, (4,)).to_env(torch.tanh(drawn))
    else:
        head = make_action_head(space, 4, kind == "squashed", 0.0, None)
        played = head.to_env(drawn)
    for action in within_bounds(space, played.numpy()):
        assert space.contains(action)


@pytest.mark.parametrize("space", BOXES[:8], ids=str)
def test_bounds_of_float32_are_inside_and_the_nearest(space):
    low, high = float32_bounds(space)
    with np.errstate(over="ignore"):
        outside = np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf))
    assert low >= space.low and high <= space.high
    assert outside[0] < space.low and outside[1] > space.high


def test_squashing_gives_the_bits_of_the_plain_formula():
    space = spaces.Box(*np.array([[-0.4, 0, -3e4], [0.4, 7, 11]], np.float32))
    head: Any = make_action_head(space, 4, True, 0.0, None)
    numbers = torch.randn(1000, 3) * 3
    plain = head.low + (head.high - head.low) * (torch.tanh(numbers) + 1) / 2
    assert torch.equal(head.to_env(numbers), plain.clamp(head.low, head.high))


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("space", [BOXES[0], BOXES[3], BOXES[8]], ids=str)
def test_envs_get_actions_inside_of_their_space(space, is_wrapped):
    given = GivingEnv(action_space=space)
    if is_wrapped:
        env = wrap_vector_env(SyncVectorEnv([lambda: given]), seed=0)
    else:
        env = GymEnv("MyEnv", [lambda: given], [0])
    env.reset()
    for action in (np.inf, -np.inf, 0.1, 1e30):
        env.step(np.full((1, 1), action, np.float32))
    assert all(space.contains(action) for action in given.actions)


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_predicted_actions_are_inside_of_the_space(kind):
    space = box(-0.1, 0.1)
    env = SyncVectorEnv([lambda: GivingEnv(action_space=space)] * 2)
    agent = kind(env, num_envs=2, accelerator="cpu", num_threads=1)
    for is_greedy in (True, False):
        for action in agent.predict(np.full((50, 2), 1e6, np.float32), is_greedy):
            assert space.contains(action)


def test_nan_of_the_policy_is_not_played():
    env = one(action_space=BOXES[0])
    with pytest.raises(ValueError, match="MyEnv: the policy's action for env 0 is not a number"):
        env.step(np.full((1, 1), np.nan, np.float32))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.MultiDiscrete(np.array([], np.int64)), "nothing to choose"),
        (spaces.Box(-1, 1, (0,)), "nothing to choose"),
        (spaces.Discrete(10**9), "has 1,000,000,000 choices"),
        (spaces.MultiDiscrete([2**40, 2**62]), "choices, each of which needs an output"),
        (spaces.Box(-(2**63), 2**63 - 1, (1,), np.int64), "has 18,446,744,073,709,551,616 choices"),
        (spaces.Box(2**63, 2**63 + 1, (1,), np.uint64), "beyond the whole numbers of int64"),
        (spaces.Box(-np.inf, np.inf, (1,)), "Give it finite bounds"),
        (box(-np.inf, 1.0), "Give it finite bounds"),
        (None, "is not supported"),
    ],
    ids=str,
)
def test_action_space_that_cannot_be_learned_is_refused(space, message):
    with pytest.raises(ValueError, match=f"MyEnv: action space .*{message}"):
        check_action_space(space, "MyEnv")


# Observation spaces


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.MultiDiscrete(np.array([], np.int64)), "holds no numbers"),
        (spaces.Dict({"action_mask": spaces.MultiBinary(2)}), "beside the action mask"),
        (spaces.Discrete(10**9), "has 1,000,000,000 values"),
        (spaces.Discrete(2**16 + 1), "has 65,537 values, each .* A MultiDiscrete of its digits"),
        (spaces.Tuple([spaces.Discrete(40_000)] * 2), "has 80,000 values"),
        (spaces.Dict({"x": spaces.MultiDiscrete([2**40, 9])}), "an input of the network"),
        (spaces.Dict({"a.b": BOX, "a": spaces.Dict({"b": BOX})}), r"two parts named 'a\.b'"),
        (spaces.Tuple([]), "holds no numbers"),
        (spaces.Box(-1, 1, ()), "is not supported"),
        (spaces.Dict(far=picture(64), near=picture(32)), r"one shape, .*'near': \(32, 32, 3\)"),
        (None, "is not supported"),
    ],
    ids=str,
)
def test_observation_space_that_cannot_be_learned_is_refused(space, message):
    with pytest.raises(ValueError, match=f"MyEnv: .*{message}"):
        observation_rows("MyEnv", space, CHOICE)


def test_as_many_choices_as_are_allowed_are_seen_one_hot():
    row = observation_rows("MyEnv", spaces.Discrete(2**16), CHOICE)
    seen = Reader(row).read(torch.tensor([2**16 - 1])).vector
    assert seen is not None and seen.shape == (1, 2**16) and seen[0, -1] == seen.sum() == 1
    observation_rows("MyEnv", spaces.MultiBinary(2**16 + 1), CHOICE)  # whose zeros are numbers


TABLE = spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]))


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: check_action_space(TABLE, "MyEnv"),
        lambda: check_action_space(spaces.Box(-np.inf, np.inf, (9,)), "MyEnv"),
        lambda: observation_rows("MyEnv", spaces.Dict(x=TABLE, a=spaces.Text(3)), CHOICE),
        lambda: observation_rows("MyEnv", TABLE, CHOICE, obs_kind="pixels"),
        lambda: rows_of(observation_rows("MyEnv", TABLE, CHOICE), [[9, 0], [0, 0]]),
        lambda: GymEnv("MyEnv", [lambda: GivingEnv(action_space=TABLE)], [0]),
        lambda: SquashedGaussianActor(BOX, TABLE, (4,)),
        lambda: Reader(TABLE).make_normalizer(10.0, 1e-8),
    ],
)
def test_space_of_several_lines_is_refused_in_one(refuse):
    with pytest.raises(ValueError, match=r"MultiDiscrete|Box") as error:
        refuse()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("space", "shown"),
    [(spaces.Discrete(1), 0), slow((spaces.MultiDiscrete([1, 1]), [0, 0]))],
    ids=str,
)
@pytest.mark.parametrize(
    "action_space", quick([spaces.Discrete(1), spaces.MultiDiscrete([1, 1])], spaces.Discrete(1))
)
def test_single_choices_are_learned(tmp_path, space, shown, action_space):
    given = {"space": space, "action_space": action_space, "good": shown, "truncated": True}
    sizes: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "per_rank_batch_size": 8}
    env = SyncVectorEnv([lambda: GivingEnv(**given)] * 2)
    agent = PPO(env, **sizes, total_timesteps=32, log_dir=str(tmp_path), accelerator="cpu")
    agent.learn()
    assert not np.any(agent.predict(np.array(shown)))


# What is a picture


@pytest.mark.parametrize(
    ("shape", "high", "kind", "words"),
    [
        ((3, 3), 2, "auto", "a vector of 9 numbers"),
        ((6, 7), 255, "auto", "a vector of 42 numbers"),
        ((8, 8, 12), 1, "auto", "a vector of 768 numbers"),
        ((8, 8), 255, "auto", "pixels 1 x 8 x 8, divided by 255"),
        ((84, 84, 4), 255, "auto", "pixels 84 x 84 x 4, divided by 255"),
        ((84, 84, 4), 255, "vector", "a vector of 28224 numbers"),
        ((6, 7), 2, "pixels", "pixels 1 x 6 x 7, divided by 2"),
    ],
)
def test_bytes_are_pictures_by_size_and_bounds_or_by_word(shape, high, kind: ObsKind, words):
    space = spaces.Box(0, high, shape, np.uint8)
    row = observation_rows("MyEnv", space, CHOICE, obs_kind=kind)
    assert in_words(row) == words and is_pixels(row) == words.startswith("pixels")
    shown = np.full((1, *shape), high, np.uint8)
    seen = Reader(row).read(torch.from_numpy(rows_of(row, shown)[0]))
    assert (seen.pixels is None) == (seen.vector is not None)
    assert seen.vector is None or (seen.vector == high).all()


def test_board_in_a_dict_is_a_vector_too():
    parts = {"board": spaces.Box(0, 2, (3, 3), np.uint8), "x": BOX}
    row = observation_rows("MyEnv", spaces.Dict(parts), CHOICE)
    packed = row.pack({"board": np.full((1, 3, 3), 2), "x": np.zeros((1, 2))})
    assert packed.tolist() == [[2.0] * 9 + [0.0] * 2]


def test_stacked_boards_stay_vectors():
    env_id = f"{__name__}:GivingEnv"
    board = spaces.Box(0, 255, (3, 7), np.uint8)
    kwargs = {"space": board, "good": np.full((3, 7), 4)}
    env = make_env(env_id, 2, env_kwargs=kwargs, frame_stack=8)
    assert not is_pixels(env.single_observation_space)
    assert env.reset().shape == (2, 24, 7)


def test_images_that_one_number_cannot_scale_are_refused():
    parts = spaces.Dict(camera=picture(12), mask=spaces.Box(0, 1, (12, 12, 3), np.uint8))
    assert observation_rows("MyEnv", parts, CHOICE).brightest == 255  # a mask is a vector
    with pytest.raises(ValueError, match=r"not by those of {'camera': 255, 'mask': 1}"):
        observation_rows("MyEnv", parts, CHOICE, obs_kind="pixels")


def test_what_cannot_be_pixels_is_not_called_so():
    with pytest.raises(ValueError, match="MyEnv: obs_kind=pixels has no effect on Box"):
        observation_rows("MyEnv", BOX, CHOICE, obs_kind="pixels")


# Values


@pytest.mark.parametrize(
    "reward",
    [
        np.full((1,), 1.5),
        np.full((1, 1), 1.5),
        np.array(1.5),
        [1.5],
        torch.full((1,), 1.5, requires_grad=True),
        Fraction(3, 2),
    ],
    ids=repr,
)
def test_reward_of_any_shape_that_is_one_number_is_taken(reward):
    assert step(one(reward=reward)).rewards.tolist() == [1.5]


@pytest.mark.parametrize(
    "name_and_value",
    [
        *(("reward", x) for x in ("1.5", None, np.ones(2), 1j, {}, b"1", np.array("1"))),
        *(("terminated", x) for x in ("False", "", None, 2, 0.5, [], np.nan)),
        ("truncated", "no"),
    ],
    ids=str,
)
def test_value_that_is_none_is_refused_with_env_step_and_line(name_and_value):
    name, value = name_and_value
    env = one(**{name: value})
    with pytest.raises(EnvError, match=rf"MyEnv: env 0 returned .*{name}.* at step 1 \(.*\.py:\d+"):
        step(env)


@pytest.mark.parametrize("value", [np.bool_(True), np.array([True]), 1, 1.0, torch.tensor(True)])
def test_flag_that_is_one_truth_is_taken(value):
    assert step(one(terminated=value)).terminated.tolist() == [True]


PICTURE = spaces.Box(0, 255, (8, 8), np.uint8)
BLACK = np.zeros((8, 8), np.uint8)


@pytest.mark.parametrize(
    ("space", "good", "bad", "message"),
    [
        (PICTURE, BLACK, BLACK.astype(int) + 300, "300, which the uint8"),
        (PICTURE, BLACK, BLACK + 0.5, r"0\.5, which the uint8"),
        (PICTURE, BLACK, BLACK.astype(int) - 1, "-1, which the uint8"),
        (PICTURE, BLACK, BLACK + np.nan, "nan, which the uint8"),
        (PICTURE, BLACK, BLACK.astype(str), "dtype <U"),
        (PICTURE, BLACK, BLACK[:7], r"shape \(7, 8\)"),
        (spaces.Discrete(3), 0, 7, "7, but its space is Discrete"),
        (
            spaces.Box(-128, 127, (2,), np.int8),
            np.zeros(2, np.int8),
            np.array([200, 0]),
            "200, which the int8",
        ),
        (
            spaces.MultiBinary(3),
            np.zeros(3, np.int8),
            np.array([0, 1, 2]),
            "2, but its space is Mu",
        ),
        (spaces.Discrete(3, start=1), 1, 0, "0, but its space is Discrete"),
        (spaces.Discrete(3), 0, 0.5, r"0\.5, which the int64"),
        (spaces.MultiDiscrete([2, 2]), [0, 0], [0, 2], "2, but its space is MultiDiscrete"),
        (BOX, np.zeros(2), ["0.5", "1"], "dtype <U"),
        (BOX, np.zeros(2), np.array([None, 1.0]), "dtype object"),
        (BOX, np.zeros(2), np.zeros(2, complex), "dtype complex128"),
        (BOX, np.zeros(2), [[1], [2, 3]], "that is not an array"),
        (spaces.Dict({"x": PICTURE}), {"x": BLACK}, {"x": BLACK + 0.5}, "'x' with 0.5"),
        (spaces.Dict({"x": spaces.Discrete(2)}), {"x": 0}, {"x": 2}, "'x' with 2"),
        (spaces.Dict({"x": BOX}), {"x": np.zeros(2)}, {"y": 1}, "without 'x'"),
    ],
)
def test_observation_unlike_its_space_is_refused(space, good, bad, message):
    env = one(space=space, good=good, obs=bad)
    with pytest.raises(EnvError, match=rf"MyEnv: env 0 returned an observation.*{message}.*step 1"):
        step(env)
    if not isinstance(bad, dict):
        with pytest.raises(ValueError, match=r"observation|expected"):
            rows_of(env.single_observation_space, bad)  # as predict does


def test_numbers_of_another_dtype_that_fit_are_taken():
    env = one(space=PICTURE, good=BLACK, obs=(BLACK + 7.0).tolist())
    assert (step(env).obs == 7).all()


TWO = spaces.Tuple((spaces.Discrete(3), spaces.Dict(x=spaces.Tuple((CHOICE, BOX)))))


@pytest.mark.parametrize("sequence", [list, tuple])
def test_list_is_taken_for_a_tuple_as_gymnasium_takes_it(sequence):
    shown = sequence((2, {"x": sequence((1, np.array([0.5, -0.5], np.float32)))}))
    assert TWO.contains(shown)
    env = one(space=TWO, good=shown)
    expected = [[0, 0, 1, 0, 1, 0.5, -0.5]]
    assert step(env).obs.tolist() == expected
    rows, is_single = rows_of(env.single_observation_space, shown)
    assert rows.tolist() == expected and is_single


def test_array_is_taken_for_a_tuple_as_gymnasium_takes_it():
    space = spaces.Tuple((spaces.Discrete(3), CHOICE))
    assert space.contains(np.array([2, 1]))
    env = one(space=space, good=np.array([2, 1]))
    assert step(env).obs.tolist() == [[0, 0, 1, 0, 1]]
    row = env.single_observation_space
    assert rows_of(row, step(env).obs)[0].tolist() == [[0, 0, 1, 0, 1]]  # an array is of rows


def test_list_of_a_box_in_a_dict_stays_an_array():
    env = one(space=spaces.Dict(x=BOX), good={"x": [0.5, -0.5]})
    assert step(env).obs.tolist() == [[0.5, -0.5]]


# Masks


MASKED = spaces.Dict({"x": BOX, "action_mask": spaces.MultiBinary(2)})


def masked(mask: Any) -> dict[str, Any]:
    return {"x": np.zeros(2), "action_mask": np.array(mask)}


@pytest.mark.parametrize("in_info", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_mask_that_forbids_everything_is_an_error_unless_the_episode_ended(in_info, ends):
    if in_info:
        env = one(mask=np.ones(2), next_mask=np.zeros(2), terminated=ends)
    else:
        env = one(space=MASKED, good=masked([1, 1]), obs=masked([0, 0]), terminated=ends)
    if ends:
        allowed = Reader(env.single_observation_space).read(torch.from_numpy(step(env).obs)).mask
        assert allowed is not None and allowed.all()  # for an action that is ignored
    else:
        message = "MyEnv: env 0 returned an action mask that forbids every action at step 1"
        with pytest.raises(EnvError, match=message):
            step(env)


def test_mask_of_several_dimensions_in_the_info_may_be_a_tuple_as_gymnasiums_samples_take():
    two_dims = {"action_space": spaces.MultiDiscrete([2, 3]), "mask": ([1, 0], np.array([1, 0, 1]))}
    env = one(**two_dims)
    seen = Reader(env.single_observation_space).read(torch.from_numpy(step(env).obs))
    assert seen.mask is not None and seen.mask.tolist() == [[1, 0, 1, 0, 1]]


def test_mask_must_leave_a_choice_in_each_dimension():
    row = observation_rows("MyEnv", BOX, spaces.MultiDiscrete([2, 3]), info_mask=True)
    masks = np.array([[1, 0, 0, 0, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    rows = row.pack({"": np.zeros((3, 2)), "action_mask": masks})
    assert row.first_without_choice(rows) == 1
    assert row.first_without_choice(rows, np.array([False, True, False])) == 2


def test_vector_env_may_not_forbid_everything_either():
    given = {"space": MASKED, "good": masked([1, 1]), "obs": masked([0, 0])}
    env = wrap_vector_env(SyncVectorEnv([lambda: GivingEnv(**given)] * 2), seed=0)
    env.reset()
    with pytest.raises(EnvError, match=r"forbids every action of env 0 at step 1 \(.*edge"):
        env.step(np.zeros(2, np.int64))


def test_prediction_under_a_mask_that_forbids_everything_is_refused():
    row = observation_rows("MyEnv", MASKED, CHOICE)
    with pytest.raises(ValueError, match="mask of observation 0 forbids every action"):
        rows_of(row, masked([0, 0]))


SMALL: dict[str, Any] = {
    **{"preset": "none", "verbose": 0, "eval_episodes": 0, "hidden_sizes": (8,), "num_envs": 2},
    **{"num_steps": 16, "per_rank_batch_size": 16, "total_timesteps": 64},
}


class FarHead(GaussianHead):
    """Hands the environment five, which is outside of most spaces."""

    def to_env(self, actions: torch.Tensor) -> torch.Tensor:
        return 0 * actions + 5


def with_another_head(task: str) -> PPO:
    agent = PPO(task, **SMALL)
    if task == "CartPole-v1":
        agent.policy.head = CategoricalHead(8, [3], [0], True, None)
    else:
        bounds = np.array([-2.0]), np.array([2.0])
        agent.policy.head = FarHead(8, *bounds, squash=False, log_std_init=0.0, gain=None)
    return agent


DRAWN = {"CartPole-v1": r"2 .* in Discrete\(2\)", "Pendulum-v1": r"\[5.0\] .*Box"}


@pytest.mark.parametrize(("task", "drawn"), DRAWN.items())
def test_actions_that_an_own_head_draws_outside_of_the_space_are_refused(task: str, drawn: str):
    with pytest.raises(ValueError, match=rf"{task}: the policy drew {drawn}"):
        with_another_head(task).learn()


def test_actions_that_an_own_class_draws_outside_of_the_space_are_refused():
    class Far(SAC):
        def draw_actions(self, obs: Any, noise: Any, actions: Any) -> Any:
            return super().draw_actions(obs, noise, actions) + 10

    with pytest.raises(ValueError, match=r"Pendulum-v1: the policy drew \[.*\] in environment 0"):
        Far("Pendulum-v1", **SMALL, learning_starts=0).learn()


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (spaces.Discrete(3, start=2), [2, 4], [5, 1]),
        (spaces.MultiDiscrete([2, 3]), [[1, 2], [0, 0]], [[1, 3], [-1, 0]]),
        (spaces.MultiBinary(2), [[1, 0]], [[1, 2]]),
        (spaces.Box(-0.1, 0.1, (1,), np.float64), [[0.1]], [[np.float32(0.1)], [np.nan]]),
    ],
)
def test_the_first_action_outside_of_a_space_is_found(space: Any, inside: Any, outside: Any):
    find = Outside(space).first
    assert find(np.array(inside)) is None
    for action in outside:
        assert find(np.array([inside[0], action])) == 1
