"""Seeds, arrays, masks, rendering, saving and threads of the environments."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import toy_envs
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, PassiveEnvChecker

from fastrl.config.ppo import PPOConfig
from fastrl.envs import envpool_env, pools
from fastrl.envs.make import Backend, base_seed, make_env, vector_env_of
from fastrl.envs.masking import VELOCITY_INDICES
from fastrl.envs.pools import open_envs
from fastrl.envs.vector import HasState, TimeStep, VectorEnv
from fastrl.processes import machine

BACKENDS: list[Backend] = ["envpool", "gymnasium"]


TWO_PARTS = {"a": spaces.Box(-9, 9, (4,)), "b": spaces.Box(-9, 9, (1,))}


def toy(name: str) -> str:
    """Return the id of a toy env."""
    return f"{toy_envs.__name__}:{name}"


def play(env: VectorEnv, num_steps: int, actions_seed: int = 0) -> list[TimeStep]:
    """Step with random discrete actions, without a reset."""
    generator = np.random.default_rng(actions_seed)
    return [env.step(generator.integers(2, size=env.num_envs)) for _ in range(num_steps)]


def first_obs(**kwargs) -> np.ndarray:
    """Return the first observations of CartPole."""
    env = make_env("CartPole-v1", **kwargs)
    obs = env.reset()
    env.close()
    return obs


# Seeds


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_seed_gives_the_same_trajectory(backend):
    runs = []
    for _ in range(2):
        env = make_env("CartPole-v1", 4, seed=7, backend=backend)
        env.reset()
        runs.append([np.concatenate([row.obs.ravel() for row in play(env, 60)])])
        env.close()
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_envs_of_all_ranks_differ(backend):
    ranks = [
        first_obs(num_envs=4, seed=7, first_env=4 * rank, backend=backend) for rank in range(2)
    ]
    assert len(np.unique(np.concatenate(ranks), axis=0)) == 8


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_env_does_not_depend_on_how_envs_are_divided(backend):
    whole = first_obs(num_envs=4, seed=7, backend=backend)
    halves = [first_obs(num_envs=2, seed=7, first_env=k, backend=backend) for k in (0, 2)]
    np.testing.assert_array_equal(whole, np.concatenate(halves))


@pytest.mark.parametrize("backend", BACKENDS)
def test_seeds_wrap_at_two_to_the_31(backend):
    wrapped = first_obs(num_envs=2, seed=2**31 - 1, backend=backend)
    np.testing.assert_array_equal(wrapped[1:], first_obs(num_envs=1, seed=0, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_reset_starts_other_episodes(backend):
    env = make_env("CartPole-v1", 2, seed=7, backend=backend)
    assert not np.array_equal(env.reset(), env.reset())
    env.close()


def test_base_seed_is_stable():
    assert base_seed(0, "train") == 1908601951
    assert base_seed(0, "train") != base_seed(0, "train", restart=1)


def test_base_seeds_of_runs_and_purposes_are_far_apart():
    seeds = sorted(
        base_seed(run, purpose) for run in range(100) for purpose in ("train", "eval", "video")
    )
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert np.diff(seeds).min() > 1024


def test_base_seed_refuses_an_unknown_purpose():
    with pytest.raises(ValueError, match=r"test.*train"):
        base_seed(0, "test")  # pyright: ignore[reportArgumentType]


# Arrays


@pytest.mark.parametrize(
    ("env_id", "backend"),
    [
        ("CartPole-v1", "envpool"),
        ("CartPole-v1", "gymnasium"),
        (toy("BoxActionEnv"), "auto"),
        ("Pendulum-v1", "envpool"),
    ],
)
def test_arrays_have_the_promised_dtypes_and_shapes(env_id, backend):
    env = make_env(env_id, 3, backend=backend)
    space = env.single_observation_space
    obs = env.reset()
    actions = np.stack([env.single_action_space.sample() for _ in range(3)])
    # float64 actions are what numpy makes by default; each backend casts them itself.
    time_step = env.step(actions.astype(np.float64) if actions.ndim == 2 else actions)
    env.close()
    assert space.dtype == np.float32
    for array in (obs, time_step.obs):
        assert (
            array.dtype == space.dtype
            and array.shape == (3, *(space.shape or ()))
            and array.flags.c_contiguous
        )
    assert time_step.rewards.dtype == np.float32
    assert time_step.terminated.dtype == time_step.truncated.dtype == np.bool_
    assert (
        time_step.rewards.shape == time_step.terminated.shape == time_step.truncated.shape == (3,)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_returned_arrays_are_never_written_to_again(backend):
    env = make_env("CartPole-v1", 4, backend=backend)
    env.reset()
    rows = [(row, TimeStep(*(field.copy() for field in row))) for row in play(env, 30)]
    env.close()
    for row, copy in rows:
        for field, expected in zip(row, copy, strict=True):
            np.testing.assert_array_equal(field, expected)


def test_backends_play_the_same_cartpole():
    """The same physics: from the same state the same action leads to the same state and reward."""
    pool = make_env("CartPole-v1", 1, seed=5, backend="envpool")
    single = make_env("CartPole-v1", 1, seed=5, backend="gymnasium")
    obs = pool.reset()
    single.reset()
    single.envs[0].unwrapped.state = obs[0].astype(np.float64)  # pyright: ignore[reportAttributeAccessIssue]
    for left, right in zip(play(pool, 8), play(single, 8), strict=True):
        np.testing.assert_allclose(left.obs, right.obs, atol=1e-4)
        for field in range(1, 4):
            np.testing.assert_array_equal(left[field], right[field])
    pool.close()
    single.close()


def test_bounds_that_envpool_does_not_know_are_infinite():
    env = make_env("LunarLander-v2", 1)
    space = env.single_observation_space
    env.close()
    assert isinstance(space, spaces.Box)
    assert np.isneginf(space.low).all() and np.isposinf(space.high).all()


def test_env_kwargs_may_ask_for_gymnasiums_checker():
    wanted: Any = {"disable_env_checker": False}
    env: Any = make_env("CartPole-v1", 1, backend="gymnasium", env_kwargs=wanted)
    assert isinstance(env.envs[0].env.env, PassiveEnvChecker)


@pytest.mark.parametrize("in_reward", [False, True])
def test_nan_passes_through(in_reward):
    env = make_env(toy("NanEnv"), 2, env_kwargs={"in_reward": in_reward})
    env.reset()
    row = play(env, 3)[-1]
    assert np.isnan(row.rewards if in_reward else row.obs[:, 1]).all()


# Masks


@pytest.mark.parametrize("backend", BACKENDS)
def test_mask_vel_zeroes_velocities_and_nothing_else(backend):
    plain = make_env("CartPole-v1", 2, seed=1, backend=backend)
    masked = make_env("CartPole-v1", 2, seed=1, backend=backend, mask_vel=True)
    pairs = [(plain.reset(), masked.reset())]
    pairs += [(a.obs, b.obs) for a, b in zip(play(plain, 20), play(masked, 20), strict=True)]
    plain.close()
    masked.close()
    for whole, hidden in pairs:
        np.testing.assert_array_equal(hidden, whole * np.array([1, 0, 1, 0], np.float32))


def test_mask_vel_fits_every_env_it_names():
    for env_id, indices in VELOCITY_INDICES.items():
        env = make_env(env_id, 1, mask_vel=True)
        assert not env.reset()[0, list(indices)].any()
        env.close()


def test_mask_vel_refuses_other_envs():
    with pytest.raises(ValueError, match=r"Acrobot-v1.*CartPole-v1"):
        make_env("Acrobot-v1", 1, mask_vel=True)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda env: gymnasium.wrappers.FrameStackObservation(env, 4),
        lambda env: FlattenObservation(gymnasium.wrappers.FrameStackObservation(env, 4)),
        gymnasium.wrappers.TimeAwareObservation,
        lambda env: gymnasium.wrappers.TransformObservation(
            env, lambda obs: {"a": obs, "b": obs[:1]}, gymnasium.spaces.Dict(TWO_PARTS)
        ),
    ],
)
def test_mask_vel_refuses_observations_that_wrappers_made_others(wrapped):
    make = partial(wrapped, gymnasium.make("CartPole-v1"))
    with pytest.raises(ValueError, match="mask_vel knows CartPole-v1 with 4 numbers, not as"):
        vector_env_of("CartPole-v1", [make], [0], mask_vel=True)


def test_mask_vel_leaves_an_action_mask_alone():
    class Masked(gymnasium.Wrapper):
        def reset(self, **how: Any) -> Any:
            obs, info = self.env.reset(**how)
            return obs, {**info, "action_mask": np.array([1, 1])}

    make = partial(Masked, gymnasium.make("CartPole-v1"))
    env = vector_env_of("CartPole-v1", [make], [0], mask_vel=True, info_mask=True)
    row = env.reset()[0]
    assert (row[[1, 3]] == 0).all() and (row[[0, 2]] != 0).all() and (row[4:] == 1).all()


def test_threads_below_wrappers_are_known():
    # The player places them on the cores by the clock.
    env: Any = make_env("CartPole-v1", 2, backend="envpool", mask_vel=True, frame_stack=2)
    assert env.worker_threads == env.env.worker_threads == env.env.env.worker_threads
    env.close()


# Rendering


@pytest.mark.parametrize(
    ("env_id", "backend"),
    [("CartPole-v1", "envpool"), ("LunarLander-v2", "envpool"), (toy("CountingEnv"), "gymnasium")],
)
def test_render_gives_a_frame_without_a_display(env_id, backend):
    env = make_env(env_id, 2, render=True)
    env.reset()
    frame = env.render()
    env.close()
    assert env.backend == backend
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    assert backend == "gymnasium" or frame.min() != frame.max()


@pytest.mark.parametrize("env_id", ["CartPole-v1", toy("CountingEnv")])
def test_render_must_be_asked_for(env_id):
    env = make_env(env_id, 1)
    env.reset()
    with pytest.raises(ValueError, match=r"to be filmed|render=True"):
        env.render()
    env.close()


# Saving


def test_stateful_envs_continue_bit_identically():
    env = make_env(toy("StatefulEnv"), 3, seed=2)
    env.reset()
    play(env, 7)
    assert isinstance(env, HasState)
    state = env.state_dict()
    expected = play(env, 20)
    resumed = make_env(toy("StatefulEnv"), 3, seed=99)
    assert isinstance(resumed, HasState)
    resumed.load_state_dict(state)
    for left, right in zip(expected, play(resumed, 20), strict=True):
        for field, other in zip(left, right, strict=True):
            np.testing.assert_array_equal(field, other)


def test_time_limit_is_part_of_the_state():
    gymnasium.register("StatefulToy-v0", toy("StatefulEnv"), max_episode_steps=6)
    env, resumed = (
        make_env("StatefulToy-v0", 2, seed=2, env_kwargs={"bound": 1e3}) for _ in range(2)
    )
    env.reset()
    play(env, 4)
    assert isinstance(env, HasState) and isinstance(resumed, HasState)
    resumed.load_state_dict(env.state_dict())
    flags = [[row.truncated.tolist() for row in play(one, 8)] for one in (env, resumed)]
    assert flags[0] == flags[1] and any(map(any, flags[0]))


def test_envs_without_state_do_not_pretend_to_have_it():
    for backend in BACKENDS:
        env = make_env("CartPole-v1", 1, backend=backend)
        assert not isinstance(env, HasState)
        env.close()


# Threads


def test_threads_are_never_more_than_envs_or_cores(monkeypatch):
    monkeypatch.setattr(envpool_env, "available_cores", lambda: 8)
    assert [envpool_env.default_num_threads(n) for n in (1, 7, 8, 64)] == [1, 7, 8, 8]


@pytest.mark.parametrize(
    ("env_id", "num_cores", "num_pools"),
    [("HalfCheetah-v4", 2, 2), ("HalfCheetah-v4", 1, 1), ("CartPole-v1", 2, 1)],
)
def test_environments_whose_steps_take_long_are_halved(monkeypatch, env_id, num_cores, num_pools):
    monkeypatch.setattr(pools, "available_cores", lambda: num_cores)
    for num_envs, expected in ((32, num_pools), (30, 1), (33, 1)):
        opened = open_envs(env_id, PPOConfig(env_id=env_id, num_envs=num_envs, accelerator="cpu"))
        assert [pool.num_envs for pool in opened] == [num_envs // expected] * expected
        for pool in opened:
            pool.close()


def test_settings_that_only_envpool_uses_are_told_elsewhere(caplog):
    env_id, settings = "FrozenLake-v1", {"backend": "gymnasium", "num_pools": 2}
    for pool in open_envs(env_id, PPOConfig(env_id=env_id, num_env_threads=3, **settings)):
        pool.close()
    told = [message.partition(":")[0] for message in caplog.messages]
    assert told == [
        f"{name} gains nothing on {env_id}" for name in ("num_env_threads=3", "num_pools=2")
    ]


def test_halves_give_way_to_the_policy():
    envs = open_envs("Pendulum-v1", PPOConfig(env_id="Pendulum-v1", num_envs=4, num_pools=2))
    workers = frozenset().union(*[getattr(env, "worker_threads", frozenset()) for env in envs])
    if not workers:
        pytest.skip("the system does not name threads")
    machine.let_others_first(workers)
    assert {os.sched_getscheduler(thread) for thread in workers} == {os.SCHED_BATCH}
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in workers} == {min(19, ours + 5)}
    machine.let_others_first([2**22 + 1, *workers])  # there is no such thread: nothing happens
    for env in envs:
        env.close()


@pytest.mark.parametrize(("cpu_max", "quota"), [("max 100000", np.inf), ("150000 100000", 1.5)])
def test_cgroup_quota_of_a_parent_counts(tmp_path: Path, cpu_max, quota):
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "cpu.max").write_text(f"{cpu_max}\n")
    (tmp_path / "job" / "step" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "membership").write_text("0::/job/step\n")
    assert machine._cgroup_cpu_quota(tmp_path, tmp_path / "membership") == quota


@pytest.mark.parametrize(("written", "expected"), [("4096\n", 4096), ("max\n", None), ("", None)])
def test_memory_is_what_the_container_may_use(written, expected, tmp_path):
    (tmp_path / "memory.max").write_text(written)
    whole = machine.total_memory(tmp_path / "no such file")
    assert machine.total_memory(tmp_path / "memory.max") == (expected or whole)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_close_ends_the_threads_even_in_the_middle_of_a_step():
    def num_threads() -> int:
        return len(os.listdir("/proc/self/task"))

    before = num_threads()
    env = make_env("CartPole-v1", 4, backend="envpool", num_threads=2)
    assert num_threads() > before
    env.reset()
    env.send(np.zeros(4, np.int64))
    env.close()
    env.close()
    assert num_threads() == before


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_reset_drops_a_step_that_nobody_received(backend):
    env = make_env("CartPole-v1", 4, backend=backend)
    env.reset()
    env.send(np.ones(4, np.int64))
    obs = env.reset()
    assert np.abs(obs).max() <= 0.05  # where CartPole begins
    after = env.step(np.zeros(4, np.int64)).obs
    np.testing.assert_allclose(after[:, 0], obs[:, 0] + 0.02 * obs[:, 1], atol=1e-5)
    env.close()


def test_a_library_of_the_system_that_a_family_lacks_is_told_in_a_line(monkeypatch):
    import envpool

    def fail(env_id: str) -> None:
        raise ImportError("Procgen requires\nthe Qt 5 runtime")

    monkeypatch.setattr(envpool, "make_spec", fail)
    with pytest.raises(ValueError, match="BigfishEasy-v0: Procgen requires the Qt 5 runtime"):
        make_env("BigfishEasy-v0", 2)
    env = make_env("CartPole-v1", 2)  # gymnasium has it, too
    assert env.backend == "gymnasium"
    env.close()
