"""Environments that misbehave in one place: a method raises or returns what it must not."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces


class UnprintableError(Exception):
    """An error that cannot be put into words."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Bare(BaseException):
    """An error that is no Exception."""


class Group(ExceptionGroup):
    """Several errors at once."""


def _errors() -> dict[str, BaseException]:
    return {
        "Exception": Exception("x"),
        "without words": Exception(),
        "of many lines": ValueError("first\nsecond\nthird\nfourth\n" * 20),
        "with escapes": ValueError("\x1b[31mred\x07\x00"),
        "very long": RuntimeError("x" * 100_000),
        "Unprintable": UnprintableError(),
        "Bare": Bare("x"),
        "Group": Group("several", [ValueError("a"), TypeError("b")]),
        "SystemExit 0": SystemExit(0),
        "SystemExit None": SystemExit(),
        "SystemExit words": SystemExit("bye"),
        "GeneratorExit": GeneratorExit(),
        "StopIteration": StopIteration("x"),
        "KeyError": KeyError("x"),
        "BrokenPipeError": BrokenPipeError(32, "Broken pipe"),
        "EOFError": EOFError(),
        "MemoryError": MemoryError("x"),
        "RecursionError": RecursionError("maximum recursion depth exceeded"),
        "NotImplementedError": NotImplementedError(),
        "AssertionError": AssertionError(),
        "Warning": UserWarning("x"),
    }


_ANY: dict[str, Any] = {
    "None": None,
    "a string": "x",
    "bytes": b"x",
    "a set": {1, 2},
    "a dict": {"x": 1},
    "an object": object(),
    "a function": len,
    "a class": int,
    "a complex number": 1 + 2j,
    "an empty list": [],
    "a ragged list": [[1], [2, 3]],
    "an object array": np.array([object(), None], dtype=object),
    "a generator": (x for x in ()),
}
# What is wrong as one of the five answers of `step`, and as the observation of `reset`.
_WRONG: dict[str, dict[str, Any]] = {
    "obs": _ANY
    | {
        "nan": np.array([np.nan, 0], np.float32),
        "infinity": np.array([np.inf, 0], np.float32),
        "of another length": np.zeros(3, np.float32),
        "of no axis": np.float32(0),
        "of another axis": np.zeros((2, 1), np.float32),
        "strings": ["a", "b"],
        "numbers as strings": np.array(["1", "2"]),
        "complex": np.zeros(2, complex),
        "times": np.zeros(2, "datetime64[s]"),
        "beyond float32": np.array([1e300, 0]),
        "a huge integer": [10**400, 0],
        "a tuple with a set": (0.0, {1}),
    },
    "reward": {key: value for key, value in _ANY.items() if key != "an empty list"}
    | {
        "nan": float("nan"),
        "infinity": float("inf"),
        "minus infinity": -np.inf,
        "a number as a string": "1.5",
        "two numbers": np.zeros(2),
        "no number": np.zeros(0),
        "a huge integer": 10**400,
        "beyond float32": 1e300,
        "a time": np.timedelta64(1, "s"),
    },
    "terminated": _ANY
    | {"the word False": "False", "nan": float("nan"), "two": np.zeros(2, bool), "no": np.zeros(0)},
    "truncated": _ANY
    | {"the word False": "False", "nan": float("nan"), "two": np.zeros(2, bool), "no": np.zeros(0)},
    "answer": _ANY
    | {
        "four values": (np.zeros(2, np.float32), 0.0, False, {}),
        "six values": (np.zeros(2, np.float32), 0.0, False, False, {}, 1),
        "one value": (np.zeros(2, np.float32),),
    },
}
# A name leads to a space and an observation that is not of it.
_LIES: dict[str, tuple[spaces.Space, Any]] = {
    "Discrete(3) with 7": (spaces.Discrete(3), 7),
    "Discrete(3) with -1": (spaces.Discrete(3), -1),
    "Discrete(3) with 0.5": (spaces.Discrete(3), 0.5),
    "Discrete(3) from 5 with 0": (spaces.Discrete(3, start=5), 0),
    "a picture with 300": (spaces.Box(0, 255, (48, 48, 3), np.uint8), np.full((48, 48, 3), 300)),
    "a picture with -1": (spaces.Box(0, 255, (48, 48, 3), np.uint8), np.full((48, 48, 3), -1)),
    "a picture with 0.5": (spaces.Box(0, 255, (48, 48, 3), np.uint8), np.full((48, 48, 3), 0.5)),
    "integers with 0.5": (spaces.Box(0, 9, (2,), np.int64), np.array([0.5, 1.5])),
    "integers with nan": (spaces.Box(0, 9, (2,), np.int64), np.array([np.nan, 1.5])),
    "int8 with 200": (spaces.Box(-128, 127, (2,), np.int8), np.array([200, 0])),
    "bits with 2": (spaces.MultiBinary(3), np.array([0, 1, 2])),
    "MultiDiscrete with 9": (spaces.MultiDiscrete([3, 3]), np.array([9, 0])),
    "a Dict without a key": (
        spaces.Dict(a=spaces.Box(0, 1, (2,)), b=spaces.Discrete(2)),
        {"a": np.zeros(2, np.float32)},
    ),
    "a Dict as a list": (spaces.Dict(a=spaces.Box(0, 1, (2,))), [0.0, 0.0]),
    "a Tuple too short": (spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)]), (1,)),
}
# Spaces that cannot be served, or can with care; `sample` of each is a right observation.
_SPACES: dict[str, Any] = {
    "None": None,
    "a string": "Box",
    "a class": spaces.Discrete,
    "a shape": (2,),
    "Text": spaces.Text(5),
    "Sequence": spaces.Sequence(spaces.Discrete(2)),
    "an empty Dict": spaces.Dict({}),
    "an empty Tuple": spaces.Tuple([]),
    "an empty Box": spaces.Box(0, 1, (0,)),
    "a Box of no axis": spaces.Box(0, 1, ()),
    "Discrete(1)": spaces.Discrete(1),
    "Discrete(10**9)": spaces.Discrete(10**9),
    "MultiDiscrete([1, 1])": spaces.MultiDiscrete([1, 1]),
    "MultiDiscrete([10**9, 2])": spaces.MultiDiscrete([10**9, 2]),
    "all of float32": spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (2,)),
    "all of float64": spaces.Box(-1.7e308, 1.7e308, (2,), np.float64),
    "one point": spaces.Box(1, 1, (2,)),
    "a tiny range": spaces.Box(0, 1e-38, (2,)),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
    "half bounded": spaces.Box(0, np.inf, (2,)),
    "int64": spaces.Box(-(2**62), 2**62, (2,), np.int64),
    "float16": spaces.Box(-1, 1, (2,), np.float16),
    "a Dict of a mask alone": spaces.Dict(action_mask=spaces.MultiBinary(2)),
    "deep": spaces.Dict(a=spaces.Dict(b=spaces.Dict(c=spaces.Tuple([spaces.Discrete(3)])))),
    "names with dots": spaces.Dict(
        {"a.b": spaces.Discrete(2), "a": spaces.Dict(b=spaces.Discrete(2))}
    ),
}


@dataclass(frozen=True)
class Fault:
    """What an environment does wrong.

    `place` is a method, a value or a space; `kind` names what is done there, at call number `when`.
    """

    place: str
    kind: str
    when: int

    @property
    def may_end_well(self) -> bool:
        """Whether a run may take it, because the learning does not depend on it."""
        return self.place in ("close", "state_dict", "info", "observation_space", "action_space")


PLACES = {
    "init": list(_errors()),
    "reset": list(_errors()),
    "step": list(_errors()),
    "close": list(_errors()),
    "state_dict": [*_errors(), *_ANY],
    "spaces": list(_errors()),
    **{name: list(values) for name, values in _WRONG.items()},
    "reset_obs": list(_WRONG["obs"]),
    "reset_answer": [*_ANY, "five values", "one value"],
    "info": list(_ANY),
    "lie": list(_LIES),
    "observation_space": list(_SPACES),
    "action_space": list(_SPACES),
}
_EACH_STEP = ("step", "obs", "reward", "terminated", "truncated", "answer", "info", "lie")


def faults(chance: random.Random) -> list[Fault]:
    """Returns all faults, shuffled, so that any number of the first are of all places alike."""
    turns = []
    for place, kinds in PLACES.items():
        calls = [1, 2, 5, 20] if place in _EACH_STEP else [1, 2] if "reset" in place else [1]
        of_place = [Fault(place, kind, when) for kind in kinds for when in calls]
        chance.shuffle(of_place)
        turns += [(turn, chance.random(), fault) for turn, fault in enumerate(of_place)]
    return [fault for _, _, fault in sorted(turns, key=lambda turn: turn[:2])]


class Misbehaving(gymnasium.Env[Any, Any]):
    """Two numbers, two actions, episodes of ten steps, and one fault."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, place: str, kind: str, when: int, render_mode: str | None = None) -> None:
        self.fault, self.render_mode, self.calls = Fault(place, kind, when), render_mode, {}
        self._space: Any = spaces.Box(-10, 10, (2,), np.float32)
        self._actions: Any = spaces.Discrete(2)
        self.num_steps = 0
        if place == "lie":
            self._space = _LIES[kind][0]
        elif place == "observation_space":
            self._space = _SPACES[kind]
        elif place == "action_space":
            self._actions = _SPACES[kind]
        if place == "state_dict":
            self.state_dict, self.load_state_dict = self._state_dict, lambda state: None
        self._fail("init")

    @property
    def observation_space(self) -> Any:  # type: ignore[override]
        """The space, or an error."""
        self._fail("spaces")
        return self._space

    @property
    def action_space(self) -> Any:  # type: ignore[override]
        """The space."""
        return self._actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Starts an episode."""
        super().reset(seed=seed)
        self._fail("reset")
        self.num_steps = 0
        answer = self._wrong("reset_obs", self._observation()), self._wrong("info", {})
        if self.fault.place == "reset_answer" and self._is_time("reset_answer"):
            shapes = {"five values": (*answer, 0, 0, 0), "one value": answer[:1]}
            return (shapes | _ANY)[self.fault.kind]
        return answer

    def step(self, action: Any) -> Any:
        """Rewards action 1."""
        self._fail("step")
        self.num_steps += 1
        reward = 1.0 if self.fault.place == "action_space" else float(action)
        answer = (
            self._wrong("obs", self._observation()),
            self._wrong("reward", reward),
            self._wrong("terminated", False),
            self._wrong("truncated", self.num_steps == 10),
            self._wrong("info", {}),
        )
        return self._wrong("answer", answer)

    def close(self) -> None:
        """Ends."""
        self._fail("close")

    def _state_dict(self) -> Any:
        self._fail("state_dict")
        return _ANY.get(self.fault.kind, {})

    def _observation(self) -> Any:
        if self.fault.place == "lie" and self._is_time("lie"):
            return _LIES[self.fault.kind][1]
        return self._space.sample()

    def _fail(self, place: str) -> None:
        if self.fault.place == place and self.fault.kind in _errors() and self._is_time(place):
            raise _errors()[self.fault.kind]

    def _wrong(self, place: str, right: Any) -> Any:
        if self.fault.place != place or not self._is_time(place):
            return right
        kinds = _WRONG["obs"] if place == "reset_obs" else _WRONG.get(place, _ANY)
        return kinds[self.fault.kind]

    def _is_time(self, place: str) -> bool:
        self.calls[place] = self.calls.get(place, 0) + 1
        return self.calls[place] >= self.fault.when


HARMS: dict[str, Callable[[], object]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "all files closed": lambda: os.closerange(3, 1000),
}


class Harmful(Misbehaving):
    """Does something to its process at the twelfth step of all."""

    def __init__(self, kind: str, render_mode: str | None = None) -> None:
        super().__init__("nowhere", "", 0, render_mode)
        self.kind = kind

    def step(self, action: Any) -> Any:
        """Harms."""
        self.calls["step"] = self.calls.get("step", 0) + 1
        if self.calls["step"] == 12:
            HARMS[self.kind]()
        return super().step(action)
