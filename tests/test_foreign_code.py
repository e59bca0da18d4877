"""What an environment's own code raises, where it hangs or leaves, and states it cannot give."""

import os
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import toy_envs
from gymnasium.vector import SyncVectorEnv
from gymnasium.vector.utils import batch_space
from quick import quick

from fastrl import PPO
from fastrl.envs import foreign
from fastrl.envs.foreign import call
from fastrl.envs.gym_env import GymEnv
from fastrl.envs.make import make_env, wrap_vector_env
from fastrl.envs.vector import EnvError, TimeStep
from fastrl.runs.checkpoint import Checkpoints, load_checkpoint
from fastrl.training import resuming
from fastrl.training.trainer import AgentTrainer


class OddError(BaseException):
    """No Exception."""


class SilentError(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class DoingEnv(toy_envs.ToyEnv):
    """Calls a function in a step, or in a reset."""

    def __init__(self, in_step: Any = None, in_reset: Any = None, render_mode: Any = None) -> None:
        super().__init__(render_mode)
        self.in_step, self.in_reset = in_step, in_reset

    def reset(self, *, seed=None, options=None):
        if self.in_reset:
            self.in_reset()
        return super().reset(seed=seed)

    def outcome(self, action):
        if self.in_step:
            self.in_step()
        return 0.0, False, False


def throw(error: BaseException) -> None:
    raise error


# Errors


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OddError("x"), "OddError: x"),
        (SilentError(), r"SilentError: \(its __str__ raised RuntimeError\)"),
        (GeneratorExit(), "GeneratorExit"),
        (SystemExit(0), "SystemExit: 0"),
        (ValueError("a\nb" * 999), r"ValueError: a ba b.{494} \.\.\. .{500}"),
    ],
)
@pytest.mark.parametrize("place", ["in_step", "in_reset"])
def test_whatever_is_raised_is_one_line_with_its_place(is_wrapped, error, words, place):
    def make() -> DoingEnv:
        return DoingEnv(**{place: lambda: throw(error)})

    env = wrap_vector_env(SyncVectorEnv([make])) if is_wrapped else GymEnv("Env", [make], [0])
    with pytest.raises(EnvError, match=rf"Env: \w+.* raised {words} \(.*foreign.*:\d+\)$") as told:
        env.reset()
        env.step(np.zeros(1, np.int64))
    assert "\n" not in str(told.value)


def test_interrupt_passes():
    with pytest.raises(KeyboardInterrupt):
        call("Env: step", throw, KeyboardInterrupt())


@pytest.mark.parametrize("missing", ["observation_space", "action_space"])
def test_env_without_a_space_is_named(missing):
    class Env(toy_envs.CountingEnv):
        def __getattribute__(self, name: str) -> Any:
            if name == missing:
                raise AttributeError(f"no attribute {name}")
            return super().__getattribute__(name)

    with pytest.raises(EnvError, match=f"MyEnv: the spaces of env 0 raised .*{missing}"):
        GymEnv("MyEnv", [Env], [0])


@pytest.mark.parametrize("limit", ["abc", "1.5", 0, -3, None, 10**30, [5]], ids=str)
def test_limit_that_envpool_cannot_take_is_one_line(limit):
    with pytest.raises(ValueError, match=r"CartPole-v1: EnvPool refuses .*max_episode_steps=") as e:
        make_env("CartPole-v1", 1, env_kwargs={"max_episode_steps": limit})
    assert "\n" not in str(e.value)


# Leaving and hanging


@pytest.mark.parametrize("place", ["in_step", "in_reset"])
def test_env_may_not_end_the_process(place):
    env = GymEnv("MyEnv", [lambda: DoingEnv(**{place: lambda: os._exit(0)})], [0])
    with pytest.raises(EnvError, match=r"raised SystemExit: os\._exit\(0\)"):
        env.reset()
        env.step(np.zeros(1, np.int64))
    assert os._exit is foreign._leave_process


def test_processes_that_an_env_starts_may_end():
    def fork() -> None:
        child = os.fork()
        if not child:
            os._exit(7)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    statuses: list[int] = []
    env = GymEnv("MyEnv", [lambda: DoingEnv(in_step=fork)], [0])
    env.reset()
    env.step(np.zeros(1, np.int64))
    assert statuses == [7]


def test_call_that_does_not_return_is_named(monkeypatch, caplog):
    monkeypatch.setattr(foreign, "PATIENCE_SECONDS", 1)
    monkeypatch.setattr(foreign._WATCH, "patience", 1)
    env = GymEnv("MyEnv", [DoingEnv, lambda: DoingEnv(in_step=lambda: time.sleep(2.3))], [0, 1])
    env.reset()
    env.step(np.zeros(2, np.int64))
    line, *_ = [record.getMessage() for record in caplog.records]
    assert line.startswith("MyEnv: step of env 1 has not returned for 1 s (")
    assert line.endswith(".py:" + line.rpartition(":")[2]) and "test_foreign_code" in line


# Numbers of environments


class ShortVectorEnv(gymnasium.vector.VectorEnv):
    """Gives rows for another number of environments than it has."""

    def __init__(self, counts: dict[str, int]) -> None:
        self.num_envs, self.counts = 4, counts
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
        self.single_observation_space = toy_envs.ToyEnv.observation_space
        self.single_action_space = toy_envs.ToyEnv.action_space
        self.observation_space = batch_space(self.single_observation_space, 4)
        self.action_space = batch_space(self.single_action_space, 4)

    def rows(self, name: str) -> np.ndarray:
        shape = (self.counts.get(name, 4), 2) if name in ("reset", "obs") else None
        return np.zeros(shape or self.counts.get(name, 4), np.float32)

    def reset(self, *, seed=None, options=None):
        return self.rows("reset"), {}

    def step(self, actions):
        flags = self.rows("terminated") > 0, self.rows("truncated") > 0
        return self.rows("obs"), self.rows("rewards"), *flags, {}


@pytest.mark.parametrize("name", ["reset", "obs", "rewards", "terminated", "truncated"])
@pytest.mark.parametrize("count", [0, 1, 3, 5, 8])
def test_vector_env_that_gives_other_numbers_of_rows_is_refused(name, count):
    env = wrap_vector_env(ShortVectorEnv({name: count}))
    with pytest.raises(EnvError, match=rf"ShortVectorEnv: .* of shape \({count},.*\) for 4 env"):
        env.reset()
        env.step(np.zeros(4, np.int64))


@pytest.mark.parametrize("count", [2, 6])
def test_rows_of_any_vector_env_are_counted_in_training(tmp_path, count):
    class Env(GymEnv):
        def recv(self) -> TimeStep:
            step = super().recv()
            return TimeStep(*[np.resize(field, (count, *field.shape[1:])) for field in step])

    env = Env("MyEnv", [toy_envs.CountingEnv] * 4, [0, 1, 2, 3])
    agent = PPO(env, num_envs=4, accelerator="cpu", log_dir=str(tmp_path))
    with pytest.raises(EnvError, match=f"MyEnv: {count} rows came back from 4 environments"):
        agent.learn()


# States


class OddStateEnv(toy_envs.StatefulEnv):
    """Has a state of a kind, or raises when it is asked for or given back."""

    kinds: ClassVar[dict[str, Any]] = {
        "set": lambda: {1, 2},
        "complex": lambda: 1j,
        "objects": lambda: np.array([None, "x"]),
        "texts": lambda: np.array(["a"]),
        "bytes": lambda: b"x",
        "function": lambda: print,
        "key": lambda: {(1, 2): 3},
        "raises": lambda: throw(RuntimeError("no state")),
        "odd": lambda: throw(OddError("no state")),
    }

    def __init__(self, kind: str, render_mode: Any = None) -> None:
        super().__init__(render_mode=render_mode)
        self.kind = kind

    def state_dict(self) -> dict[str, Any]:
        if self.kind == "endless":
            endless: dict[str, Any] = {}
            endless["self"] = endless
            return endless
        more = self.kinds[self.kind]() if self.kind in self.kinds else 0
        return {**super().state_dict(), "more": more}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.kind == "unloadable":
            raise RuntimeError("not mine")
        super().load_state_dict(state)


def ppo(kind: str, folder: Any, total_timesteps: int = 64) -> Any:
    """Returns an agent whose environments have such a state."""
    sizes: dict[str, Any] = {"num_envs": 2, "num_steps": 16, "per_rank_batch_size": 16}
    env = f"{__name__}:OddStateEnv"
    return PPO(
        env,
        **sizes,
        env_kwargs={"kind": kind},
        total_timesteps=total_timesteps,
        eval_episodes=0,
        accelerator="cpu",
        log_dir=str(folder),
    )


@pytest.mark.parametrize("kind", [*OddStateEnv.kinds, "endless"])
def test_state_that_no_checkpoint_holds_is_named(kind, caplog):
    env = make_env(f"{__name__}:OddStateEnv", 1, env_kwargs={"kind": kind})
    env.reset()
    assert resuming._state_of_envs([env]) is None
    assert resuming._state_of_envs([env]) is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert "OddStateEnv: state_dict" in line and "a resumed run starts new episodes" in line


@pytest.mark.parametrize("kind", quick(["set", "raises"], "raises"))
def test_state_that_cannot_be_saved_is_told_once_and_left_out(tmp_path, caplog, kind):
    result = ppo(kind, tmp_path).learn().result
    assert result is not None
    state = load_checkpoint(Checkpoints(result.folder / "checkpoints").newest())
    assert len(caplog.records) == 1
    assert "envs" not in state and "rollout" not in state
    resumed = AgentTrainer(resume=result.folder).fit(ppo(kind, tmp_path, 128))
    assert resumed.summary["total_env_steps"] == 128


def test_state_that_cannot_be_given_back_begins_new_episodes(tmp_path, caplog):
    result = ppo("unloadable", tmp_path).learn().result
    assert result is not None and not caplog.records
    resumed = AgentTrainer(resume=result.folder).fit(ppo("unloadable", tmp_path, 128))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "load_state_dict of env 0 raised RuntimeError: not mine" in line
    assert line.endswith("new episodes are started")
    assert resumed.summary["total_env_steps"] == 128


def test_close_that_raises_is_a_warning(caplog):
    class Env(gymnasium.vector.VectorWrapper):
        def close(self, **kwargs: Any) -> None:
            throw(OddError("stuck"))

    wrap_vector_env(Env(SyncVectorEnv([toy_envs.CountingEnv]))).close()
    assert "close raised OddError: stuck" in caplog.text


@pytest.mark.parametrize("frame", [None, "x", np.zeros((4, 6)), np.full((4, 6, 3), 0.5)], ids=repr)
def test_what_is_no_frame_is_refused(frame):
    class Env(toy_envs.CountingEnv):
        def render(self) -> Any:
            return frame

    env = GymEnv("MyEnv", [lambda: Env(render_mode="rgb_array")], [0])
    with pytest.raises(EnvError, match=r"MyEnv: render returned .*, which is not a frame"):
        env.render()


def test_settings_that_a_given_vector_env_cannot_follow_are_refused():
    env = SyncVectorEnv([toy_envs.CountingEnv] * 4)
    for name, told in (("mask_vel", "does not know"), ("info_action_mask", "masks in the info")):
        settings: dict[str, Any] = {"num_envs": 4, "accelerator": "cpu", name: True}
        with pytest.raises(ValueError, match=told):
            PPO(env, **settings)
