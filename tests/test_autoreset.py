"""Every backend and autoreset mode gives the same rows: s_T with the done flag, then a reset."""

from functools import partial

import gymnasium
import numpy as np
import pytest
import toy_envs
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from toy_envs import BothFlagsEnv, CountingEnv

from fastrl.envs.make import make_env, wrap_vector_env
from fastrl.envs.vector import EnvError, TimeStep, VectorEnv

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
COUNTING = f"{CountingEnv.__module__}:CountingEnv"
NUM_ENVS, SEED, NUM_STEPS = 3, 4, 14


class ForeignVectorEnv(SyncVectorEnv):
    """Not exactly a SyncVectorEnv, so it can't be switched to another mode."""


class MaskIgnoringVectorEnv(ForeignVectorEnv):
    """Resets all sub-envs whatever the mask says."""

    def reset(self, *, seed=None, options=None):
        """Reset everything."""
        return super().reset(seed=seed)


def actions_of(env: VectorEnv, num_steps: int) -> np.ndarray:
    """Return random actions [T, N]."""
    return np.random.default_rng(0).integers(2, size=(num_steps, env.num_envs))


def play(env: VectorEnv, num_steps: int = NUM_STEPS) -> tuple[np.ndarray, TimeStep]:
    """Return the first observations [N, *O] and a TimeStep of arrays [T, N, ...]."""
    first_obs = env.reset()
    steps = [env.step(actions) for actions in actions_of(env, num_steps)]
    env.close()
    return first_obs, TimeStep(*(np.stack(field) for field in zip(*steps, strict=True)))


def expected_rows() -> TimeStep:
    """Return what CountingEnv must give, written down without any vector env."""
    obs = np.zeros((NUM_STEPS, NUM_ENVS, 2), np.float32)
    rewards = np.zeros((NUM_STEPS, NUM_ENVS), np.float32)
    terminated, truncated = np.zeros((2, NUM_STEPS, NUM_ENVS), bool)
    actions = np.random.default_rng(0).integers(2, size=(NUM_STEPS, NUM_ENVS))
    for i in range(NUM_ENVS):
        seed = SEED + i
        length = 2 + seed % 3
        for t in range(NUM_STEPS):
            step = (t + 1) % (length + 1)  # 0 is the reset row
            obs[t, i] = seed, step
            rewards[t, i] = 10 * step + actions[t, i] if step else 0
            (truncated if seed % 2 else terminated)[t, i] = step == length
    return TimeStep(obs, rewards, terminated, truncated)


def assert_same_rows(rows: TimeStep, expected: TimeStep) -> None:
    """Compare all fields."""
    for name, got, wanted in zip(TimeStep._fields, rows, expected, strict=True):
        np.testing.assert_array_equal(got, wanted, err_msg=name)


def test_gymnasium_backend_gives_the_rows_of_next_step_autoreset():
    first_obs, rows = play(make_env(COUNTING, NUM_ENVS, seed=SEED))
    np.testing.assert_array_equal(first_obs, [[4, 0], [5, 0], [6, 0]])
    assert_same_rows(rows, expected_rows())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [SyncVectorEnv, ForeignVectorEnv, AsyncVectorEnv])
def test_every_autoreset_mode_gives_identical_rows(kind: type, mode: AutoresetMode):
    env = wrap_vector_env(kind([CountingEnv] * NUM_ENVS, autoreset_mode=mode), seed=SEED)
    _, rows = play(env)
    assert_same_rows(rows, expected_rows())


@pytest.mark.parametrize("mode", MODES[1:])
def test_env_that_ignores_the_reset_mask_is_refused(mode: AutoresetMode):
    env = wrap_vector_env(
        MaskIgnoringVectorEnv([CountingEnv] * NUM_ENVS, autoreset_mode=mode), seed=SEED
    )
    with pytest.raises(EnvError, match=r"NEXT_STEP|NextStep"):
        play(env)


def test_env_without_autoreset_mode_is_refused():
    env = SyncVectorEnv([CountingEnv])
    env.metadata = {}
    with pytest.raises(ValueError, match="autoreset_mode"):
        wrap_vector_env(env)


def test_wrapped_env_that_reuses_its_arrays_does_not_change_returned_ones():
    env = wrap_vector_env(SyncVectorEnv([CountingEnv] * NUM_ENVS, copy=False), seed=SEED)
    _, rows = play(env)
    assert_same_rows(rows, expected_rows())


def test_termination_at_the_limit_is_a_termination():
    for env in (
        make_env(f"{toy_envs.__name__}:BothFlagsEnv", 1),
        *(wrap_vector_env(ForeignVectorEnv([BothFlagsEnv], autoreset_mode=mode)) for mode in MODES),
    ):
        _, rows = play(env, 3)
        assert rows.terminated[2, 0] and not rows.truncated.any()


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_cartpole_obeys_the_autoreset_rule(backend):
    first_obs, rows = play(make_env("CartPole-v1", 8, seed=1, backend=backend), 150)
    done = rows.terminated | rows.truncated
    after_done = np.zeros_like(done)
    after_done[1:] = done[:-1]
    assert done.any(axis=0).all()
    assert not (done & after_done).any()
    np.testing.assert_array_equal(rows.rewards, np.where(after_done, 0, 1))
    # CartPole starts within 0.05 of the origin and ends beyond 2.4 m or 12 degrees.
    assert np.abs(first_obs).max() <= 0.05
    assert np.abs(rows.obs[after_done]).max() <= 0.05
    s_last = np.abs(rows.obs[done])
    assert ((s_last[:, 0] > 2.4) | (s_last[:, 2] > 0.209)).all()


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_time_limit_is_a_truncation_and_shows_the_last_observation(backend):
    env = make_env("Pendulum-v1", 2, backend=backend, env_kwargs={"max_episode_steps": 5})
    env.reset()
    rows = [env.step(np.zeros((2, 1), np.float32)) for _ in range(12)]
    env.close()
    assert [bool(row.truncated.all()) for row in rows] == [t in (4, 10) for t in range(12)]
    assert not any(row.terminated.any() for row in rows)
    # Without torque one step turns the pendulum by less than half a radian; a new episode starts
    # anywhere.
    angle = np.array([np.arctan2(row.obs[:, 1], row.obs[:, 0]) for row in rows])
    turned = np.abs(np.angle(np.exp(1j * np.diff(angle, axis=0))))
    assert turned[3].max() < 0.5
    assert not rows[5].rewards.any()


def test_envpool_reports_a_termination_at_the_limit_as_truncation():
    """A known limit of EnvPool, pinned so that we notice when it is lifted: see EnvPoolEnv.recv."""
    env = make_env(
        "CartPole-v1", 64, seed=3, backend="envpool", env_kwargs={"max_episode_steps": 9}
    )
    env.reset()
    for _ in range(9):
        time_step = env.step(np.zeros(64, np.int64))
    env.close()
    fell = np.abs(time_step.obs[:, 2]) > 0.2095
    assert (fell & time_step.truncated).any()


def test_asynchronous_step_starts_in_send():
    env = wrap_vector_env(AsyncVectorEnv([partial(gymnasium.make, "CartPole-v1")] * 2), seed=0)
    env.reset()
    env.send(np.zeros(2, np.int64))
    with pytest.raises(EnvError, match="AlreadyPendingCallError"):
        env.send(np.zeros(2, np.int64))
    env.recv()
    env.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_row_has_no_reward_whatever_a_wrapper_makes_of_it(mode):
    vector = SyncVectorEnv([BothFlagsEnv] * 2, autoreset_mode=mode)
    paid = gymnasium.wrappers.vector.TransformReward(vector, lambda reward: reward + 1)
    env = wrap_vector_env(paid, seed=0)
    env.reset()
    rewards = [env.step(np.zeros(2, np.int64)).rewards.tolist() for _ in range(8)]
    assert rewards == [[2, 2]] * 3 + [[0, 0]] + [[2, 2]] * 3 + [[0, 0]]
