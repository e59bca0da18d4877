"""Environments in processes of their own: the same as in this one, and gone when they should be."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_envs
from gymnasium import spaces
from hostile.environments import Misbehaving
from quick import quick, slow

from fastrl.envs.async_env import AsyncEnv, default_num_workers
from fastrl.envs.make import make_env
from fastrl.envs.vector import EnvError, HasState, TimeStep, VectorEnv
from fastrl.envs.worker import Facts, Rows

SEEDS = [3, 4, 5]


def made(env: Any, num_envs: int = 3, num_workers: int = 2, **reading: Any) -> AsyncEnv:
    return AsyncEnv("MyEnv", [env] * num_envs, SEEDS[:num_envs], **reading, num_workers=num_workers)


@contextmanager
def closing(env: Any) -> Iterator[Any]:
    try:
        yield env
    finally:
        env.close()


def play(env: VectorEnv, num_steps: int = 20) -> list[TimeStep]:
    space: Any = env.single_action_space
    space.seed(0)
    actions = [np.stack([space.sample() for _ in range(env.num_envs)]) for _ in range(num_steps)]
    return [env.step(row) for row in actions]


def assert_equal(left: list[TimeStep], right: list[TimeStep]) -> None:
    for steps in zip(left, right, strict=True):
        for one, other in zip(*steps, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def pids(env: AsyncEnv) -> list[int]:
    return env._workers.pids


def is_gone(pid: int, seconds: float = 5.0) -> bool:
    """Returns whether a process has ended, or does within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


# Equal to one process


@pytest.mark.parametrize(("shown", "named"), [slow(("tuple", "signs")), ("mixed", "multibinary")])
def test_steps_are_those_of_one_process(shown, named):
    settings: dict[str, Any] = {"seed": 5, "env_kwargs": {"shown": shown, "named": named}}
    task = f"{toy_envs.__name__}:TargetEnv"
    with (
        closing(make_env(task, 2, **settings)) as sync,
        closing(make_env(task, 2, vector="async", num_workers=2, **settings)) as beside,
    ):
        assert beside.single_observation_space == sync.single_observation_space
        assert beside.single_action_space == sync.single_action_space
        np.testing.assert_array_equal(beside.reset(), sync.reset())
        assert_equal(play(beside), play(sync))


def test_last_observations_are_the_true_ones_and_resets_take_a_step():
    task = f"{toy_envs.__name__}:CountingEnv"
    with (
        closing(make_env(task, 5, seed=6)) as sync,
        closing(make_env(task, 5, seed=6, vector="async", num_workers=2)) as beside,
    ):
        np.testing.assert_array_equal(beside.reset(), sync.reset())
        steps = play(beside)
        assert_equal(steps, play(sync))
    ended = np.stack([step.terminated | step.truncated for step in steps])
    after = np.stack([step.obs[:, 1] for step in steps])[1:]
    assert ended.any(0).all() and (after[ended[:-1]] == 0).all()


def test_functions_need_no_name():
    limit = 4
    with closing(made(lambda: toy_envs.EndlessEnv(limit), num_workers=1)) as env:
        env.reset()
        assert play(env, 4)[-1].truncated.all()


def test_default_is_a_process_per_core_and_at_most_one_per_environment(monkeypatch):
    monkeypatch.setattr("fastrl.envs.async_env.available_cores", lambda: 4)
    assert [default_num_workers(n) for n in (1, 3, 4, 64)] == [1, 3, 4, 4]


def test_rows_of_all_environments_lie_apart_from_each_other():
    facts = Facts(
        spaces.Box(0, 255, (3,), np.uint8), spaces.Discrete(2), np.int64, False, None, 1, False
    )
    memory = os.memfd_create("rows")
    os.ftruncate(memory, Rows.num_bytes(2, 5, facts))
    rows = Rows(memory, 2, 5, facts)
    arrays = [rows.obs, rows.actions, rows.rewards, rows.terminated, rows.truncated]
    for number, array in enumerate(arrays):
        array[...] = number % 2 if array.dtype == np.bool_ else number + 1
    assert os.pread(memory, 128, 0) == bytes(128)  # the headers
    for number, array in enumerate(arrays):
        assert (array == (number % 2 if array.dtype == np.bool_ else number + 1)).all()
    os.close(memory)


# What one has besides


def test_methods_attributes_seeds_and_frames_reach_every_environment():
    task = partial(toy_envs.EndlessEnv, render_mode="rgb_array")
    with closing(made(task)) as env:
        assert env.reset().shape == (3, 2)
        env.set_attr("time_limit", [2, 2, 2])
        assert play(env, 2)[-1].truncated.all()
        env.set_attr("time_limit", [1, 2, 3])
        env.reset()
        assert play(env, 1)[-1].truncated.tolist() == [True, False, False]
        assert [row[0] for row in env.call("outcome", 0)] == [1.0] * 3
        for use in (lambda: env.call("nothing"), lambda: env.set_attr("nothing", [1, 2, 3])):
            with pytest.raises(EnvError, match="MyEnv: its environments have no 'nothing'"):
                use()
        assert env.render().shape == (4, 6, 3)


def test_seeds_are_those_of_each_environment():
    with closing(made(toy_envs.CountingEnv)) as env:
        assert not isinstance(env, HasState)
        assert env.reset()[:, 0].tolist() == SEEDS
        env.reseed([7, 8, 9])
        assert env.reset()[:, 0].tolist() == [7, 8, 9]
        with pytest.raises(ValueError, match="to be filmed, it must take"):
            env.render()


@pytest.mark.parametrize(
    ("before", "after"), quick([("sync", "async"), ("async", "sync")], ("sync", "async"))
)
def test_state_of_environments_fits_any_number_of_processes(before, after):
    task = f"{toy_envs.__name__}:StatefulEnv"
    with closing(make_env(task, 3, seed=2, vector=before, num_workers=2)) as env:
        env.reset()
        play(env, 7)
        assert isinstance(env, HasState)
        state = env.state_dict()
        expected = play(env)
    with closing(make_env(task, 3, seed=99, vector=after, num_workers=3)) as env:
        env.load_state_dict(state)
        assert_equal(play(env), expected)


class Walking(toy_envs.StatefulEnv):
    """Walks by the global generator."""

    def step(self, action):
        self.position += float(np.random.normal())
        return super().step(action)


def test_environments_that_draw_from_global_generators_are_seeded_and_saved():
    with closing(made(Walking)) as env:
        env.reset()
        first = play(env, 3)
        state = env.state_dict()
        expected = play(env)
        assert len({*first[0].rewards}) == 3  # the processes draw apart
        env.load_state_dict(state)
        assert_equal(play(env), expected)
    with closing(made(Walking)) as env:
        env.reset()
        assert_equal(play(env, 3), first)


class Telling(toy_envs.CountingEnv):
    """Says in its info which it is, and something that cannot be sent."""

    def step(self, action):
        *others, _ = super().step(action)
        return *others, {"seed": self.seed, "lock": threading.Lock(), "more": {"step": 1.5}}


def test_infos_are_those_of_each_environment():
    with closing(made(Telling)) as env:
        env.reset()
        play(env, 1)
        infos = [{"seed": SEEDS[i], "more": {"step": 1.5}} for i in (2, 0)]
        assert env.infos([2, 0]) == infos


# Errors


def test_error_names_environment_and_line_and_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "exploding_env.py").write_text(
        "import os, toy_envs\n"
        "class Exploding(toy_envs.ToyEnv):\n"
        "    def outcome(self, action):\n"
        "        if self.seed == 2 and action == 1:\n"
        "            os._exit(0)\n"
        "        return self.explode() if self.seed == 2 else 0.0, False, False\n"
        "    def explode(self):\n"
        "        raise ArithmeticError('the simulator exploded')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with closing(make_env("exploding_env:Exploding", 3, vector="async", num_workers=2)) as env:
        env.reset()
        words = r"exploding_env:Exploding: step of env 2 raised "
        line = f" \\({tmp_path}/exploding_env.py:"
        with pytest.raises(EnvError, match=f"{words}ArithmeticError: .*{line}8") as caught:
            env.step(np.array([0, 0, 0]))
        assert "in explode" in str(caught.value.__cause__)
        with pytest.raises(EnvError, match=rf"{words}SystemExit: os\._exit\(0\){line}5"):
            env.step(np.array([0, 0, 1]))


@pytest.mark.parametrize(
    ("place", "kind", "words"),
    [
        slow(
            (
                "reward",
                "a number as a string",
                "the reward '1.5', which is not one number at step 1",
            )
        ),
        slow(("observation_space", "Text", "is not supported; supported: Box")),
        ("state_dict", "a generator", "state_dict of env 0|sending what state_dict returned"),
        slow(("step", "Bare", "step of env 0 raised Bare: x")),
    ],
)
def test_fault_is_the_error_that_it_is_in_one_process(place, kind, words):
    def use() -> None:
        with closing(made(partial(Misbehaving, place, kind, 1), 1)) as env:
            env.reset()
            env.step(np.array([1]))
            env.state_dict()

    with pytest.raises(ValueError, match=f"MyEnv: .*{words}"):
        use()


def test_different_spaces_are_refused():
    makers = [toy_envs.CountingEnv, toy_envs.BoxActionEnv]
    with pytest.raises(EnvError, match=r"MyEnv: the envs have different spaces: .* of env 1"):
        AsyncEnv("MyEnv", makers, [1, 2], num_workers=2)


def test_function_that_cannot_be_sent_is_refused():
    lock = threading.Lock()
    with pytest.raises(ValueError, match=r"cannot be sent to a process: .*lock.*vector=sync"):
        made(lambda: lock)


def test_process_that_dies_is_named(number=signal.SIGSEGV):
    with closing(made(toy_envs.CountingEnv)) as env:
        env.reset()
        os.kill(pids(env)[1], number)
        words = f"MyEnv: the process of environments 1 to 2 was ended by {number.name} during step"
        with pytest.raises(EnvError, match=words):
            play(env)


class Sleeping(toy_envs.EndlessEnv):
    """Its steps take some time, or for ever."""

    seconds = 0.0

    def outcome(self, action):
        time.sleep(self.seconds)
        return super().outcome(action)


def test_process_that_is_silent_is_named(monkeypatch, caplog):
    with closing(made(Sleeping, 1)) as env:
        env.reset()
        os.kill(pids(env)[0], signal.SIGSTOP)
        monkeypatch.setattr("fastrl.processes.workers._SECONDS_TO_ANSWER", 0.1)
        threading.Timer(0.5, os.kill, [pids(env)[0], signal.SIGCONT]).start()
        play(env, 1)
    assert "MyEnv: the process of environment 0: no answer for 0 s" in caplog.text


def test_interrupted_step_leaves_nothing_behind():
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with closing(made(Sleeping)) as env:
            env.reset()
            env.set_attr("seconds", [0.0, 0.4, 0.0])
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                play(env, 1)
            env.set_attr("seconds", [0.0, 0.0, 0.0])
            np.testing.assert_array_equal(env.reset(), np.ones((3, 2)))
            assert [step.truncated.all() for step in play(env, 10)] == [False] * 9 + [True]
    finally:
        signal.signal(signal.SIGALRM, before)


# The end


class Closing(toy_envs.CountingEnv):
    """Leaves a file when it is closed, or raises."""

    def __init__(self, path: Path, raises: bool) -> None:
        super().__init__()
        self.path, self.raises = path, raises

    def close(self):
        self.path.touch()
        if self.raises:
            raise RuntimeError("stuck")


def test_environments_are_closed_and_their_errors_told(tmp_path, caplog):
    env = made(partial(Closing, tmp_path / "closed", True), num_workers=1)
    workers = pids(env)
    del env  # closes it; nobody has it any more
    gc.collect()
    assert (tmp_path / "closed").exists() and all(map(is_gone, workers))
    assert "MyEnv: close of env 2 raised RuntimeError: stuck" in caplog.text


def test_hanging_environment_does_not_hold_the_end():
    env = made(Sleeping, 1)
    env.reset()
    env.set_attr("seconds", [1000.0])
    env.send(np.zeros(1, np.int64))
    start = time.monotonic()
    env.close()
    assert time.monotonic() - start < 4 and is_gone(pids(env)[0])


@pytest.mark.slow
def test_processes_end_with_the_one_that_made_them(tmp_path):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # has its own processes, the first of which never comes back
        try:
            env = made(Sleeping, 2)
            env.reset()
            env.set_attr("seconds", [1000.0, 0.0])
            env.send(np.zeros(2, np.int64))
            os.write(writer, " ".join(map(str, pids(env))).encode())
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.close(writer)
    os.waitpid(child, 0)
    workers = os.read(reader, 100).split()
    os.close(reader)
    assert len(workers) == 2 and all(is_gone(int(worker)) for worker in workers)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("count", [1, slow(2), slow(50)])
def test_nothing_is_left_of_many(count):
    gc.collect()
    before, workers = open_files(), []
    shared = lambda: Path("/proc/self/maps").read_text().count("memfd:fastrl")  # noqa: E731
    mapped = shared()
    for _ in range(count):
        env = made(toy_envs.CountingEnv)
        env.reset()
        play(env, 2)
        workers += pids(env)
        env.close()
        env.close()
        del env
    gc.collect()
    assert open_files() == before and shared() == mapped
    assert all(is_gone(worker, 0.1) for worker in workers)
