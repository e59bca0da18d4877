"""By the layout alone, every part of an observation is found in its row."""

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from fastrl.spaces.layout import layout_of
from fastrl.spaces.observations import observation_rows

ACTIONS = spaces.MultiDiscrete([2, 3])
PARTS: dict[str, spaces.Space] = {
    "action_mask": spaces.MultiBinary(5),
    "a_number": spaces.Box(-1, 1, ()),
    "choices": spaces.MultiDiscrete([3, 2], start=[1, 0]),
    "doubles": spaces.Box(-9, 9, (2, 2), np.float64),
    "flags": spaces.MultiBinary(2),
}
IMAGES = {
    "none": {},
    "channels last": dict.fromkeys(["back", "front"], spaces.Box(0, 255, (8, 7, 3), np.uint8)),
    "channels first": dict.fromkeys(["back", "front"], spaces.Box(0, 255, (2, 8, 8), np.uint8)),
    "grey": {"front": spaces.Box(0, 255, (8, 8), np.uint8)},
}


def unpacked(row: np.ndarray, part: dict[str, Any]) -> np.ndarray:
    """Return one part of one row, as the environment gave it."""
    start, stop = part["columns"]
    values = row[start:stop].view(part["dtype"]).reshape(part["shape"])
    if "channels" in part:
        return np.take(values, range(*part["channels"]), part["channel_axis"])
    if "one_hot" in part:
        chosen = np.flatnonzero(values)
        assert np.take(part["one_hot"]["dimensions"], chosen).tolist() == [*range(len(chosen))]
        return np.take(part["one_hot"]["values"], chosen)
    return values


@pytest.mark.parametrize("images", IMAGES)
def test_every_part_is_found_in_its_row(images):
    space = spaces.Dict({**PARTS, **IMAGES[images]})
    space.seed(3)
    observation = space.sample()
    row = observation_rows("MyEnv", space, ACTIONS)
    layout = json.loads(json.dumps(layout_of(row)))
    (packed,) = row.pack({name: np.asarray(value)[None] for name, value in observation.items()})
    assert (layout["shape"], layout["dtype"]) == ([*packed.shape], str(packed.dtype))
    assert {part["name"] for part in layout["parts"]} == {*space.keys()}
    for part in layout["parts"]:
        found, expected = unpacked(packed, part), observation[part["name"]]
        assert part["space"] == str(space[part["name"]])
        np.testing.assert_array_equal(found.reshape(np.shape(expected)), np.float32(expected))
    assert layout["parts"][-1]["name"] == "action_mask"
    assert layout["parts"][-1]["columns"][1] == len(packed)


def test_observation_of_one_part_is_its_own_row():
    row = observation_rows("MyEnv", spaces.Box(-1, 1, (3,), np.float64), ACTIONS)
    assert layout_of(row) == {"shape": [3], "dtype": "float32"}


def test_mask_of_the_info_has_columns_behind_the_observation():
    row = observation_rows("MyEnv", spaces.Box(-1, 1, (3,)), ACTIONS, info_mask=True)
    parts = [(part["name"], part["columns"]) for part in layout_of(row)["parts"]]
    assert parts == [("", [0, 3]), ("action_mask", [3, 8])]
