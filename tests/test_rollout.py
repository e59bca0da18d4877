"""The rollout buffer: what a row holds, which rows count, what reaches a minibatch."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from toy_agents import Loop, differing, make_agent, tensors_of

from fastrl.buffers.rollout import RolloutBuffer

T, N, B = 6, 3, 4


def make_buffer(num_steps: int = T, batch_size: int = B, **changes: Any) -> RolloutBuffer:
    """Return a buffer for two-dimensional observations and one discrete action."""
    settings: dict[str, Any] = {
        "observation_space": gymnasium.spaces.Box(-1, 1, (2,)),
        "action_shape": (),
        "action_dtype": torch.int64,
        "noise_size": 2,
        "device": torch.device("cpu"),
    }
    return RolloutBuffer(num_steps, N, batch_size=batch_size, **{**settings, **changes})


def record(buffer: RolloutBuffer, t: int, done: list[int], reward: float = 1.0) -> int:
    """Record step t, in which the episodes of some environments end."""
    terminated = np.isin(np.arange(N), done)
    rewards = np.full(N, reward, np.float32)
    obs = np.full((N, 2), t + 1, np.float32)
    return buffer.record(t, 0, obs, rewards, terminated, np.zeros(N, bool))


def fill(buffer: RolloutBuffer) -> None:
    """Fill the buffer: env 0 ends at step 1, env 2 at steps 1 and 4."""
    buffer.start(np.zeros((N, 2), np.float32), 0)
    for t in range(T):
        record(buffer, t, {1: [0, 2], 4: [2]}.get(t, []))
    buffer.log_probs.copy_(torch.arange(T * N).view(T, N))  # names the row


def test_row_after_an_end_is_not_valid():
    buffer = make_buffer()
    fill(buffer)
    invalid = [(t, env) for t in range(T) for env in range(N) if not buffer.valid[t, env]]
    assert invalid == [(2, 0), (2, 2), (5, 2)]
    assert buffer.num_valid == T * N - 3


def test_observation_that_follows_is_in_the_next_row():
    buffer = make_buffer()
    fill(buffer)
    assert buffer.obs[:, 0, 0].tolist() == list(range(T + 1))


def test_last_row_is_the_first_of_the_next_rollout():
    buffer = make_buffer()
    fill(buffer)
    record(buffer, T - 1, done=[1])
    buffer.carry_over()
    assert buffer.obs[0].tolist() == [[T, T]] * N
    assert buffer.valid[0].tolist() == [True, False, True]


def test_each_valid_row_is_in_exactly_one_minibatch_with_equal_weight():
    buffer = make_buffer()
    fill(buffer)
    rows = []
    for batch in buffer.minibatches(7):
        counts = batch.weights > 0
        rows += batch.log_probs[counts].tolist()
        assert batch.weights.sum().item() == pytest.approx(1)
        assert len(batch.weights[counts].unique()) == 1
    valid = buffer.valid.flatten().nonzero().flatten()
    assert sorted(rows) == valid.tolist()


def test_fields_of_a_minibatch_belong_to_one_row():
    buffer = make_buffer()
    fill(buffer)
    names = torch.arange(T * N, dtype=torch.float32).view(T, N)
    buffer.advantages.copy_(names + 100)
    buffer.returns.copy_(names + 200)
    buffer.values[:-1].copy_(names + 300)
    buffer.actions.copy_(names + 400)
    for batch in buffer.minibatches(1):
        assert torch.equal(batch.advantages, batch.log_probs + 100)
        assert torch.equal(batch.returns, batch.log_probs + 200)
        assert torch.equal(batch.values, batch.log_probs + 300)
        assert torch.equal(batch.actions, batch.log_probs.long() + 400)
        steps = (batch.log_probs / N).floor()
        assert torch.equal(batch.obs, steps.unsqueeze(1).expand(-1, 2))


def test_shuffle_follows_from_its_seed_alone():
    buffer = make_buffer()
    fill(buffer)
    first, again, other = (
        torch.cat([batch.log_probs.clone() for batch in buffer.minibatches(seed)])
        for seed in (5, 5, 6)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_minibatches_are_the_same_tensors_every_time():
    buffer = make_buffer()
    fill(buffer)
    first = [[field.data_ptr() for field in batch] for batch in buffer.minibatches(1)]
    assert [[field.data_ptr() for field in batch] for batch in buffer.minibatches(2)] == first
    assert [field.data_ptr() for field in buffer.first_minibatch] == first[0]


def test_episodes_are_counted_without_their_reset_rows():
    buffer = make_buffer()
    fill(buffer)
    episodes = buffer.take_episodes()
    assert episodes.returns.tolist() == [2, 2, 2] and episodes.lengths.tolist() == [2, 2, 2]
    assert len(buffer.take_episodes().returns) == 0


def test_reward_of_a_reset_row_reaches_no_episode():
    buffer = make_buffer()
    buffer.start(np.zeros((N, 2), np.float32), 0)
    record(buffer, 0, done=[0])
    record(buffer, 1, done=[], reward=1e6)
    record(buffer, 2, done=[0])
    assert buffer.take_episodes().returns.tolist() == [1, 1]


def test_episodes_go_on_over_the_end_of_a_rollout():
    buffer = make_buffer()
    buffer.start(np.zeros((N, 2), np.float32), 0)
    for t in range(T):
        record(buffer, t, done=[])
    buffer.carry_over()
    record(buffer, 0, done=[0, 1, 2])
    assert buffer.take_episodes().lengths.tolist() == [T + 1] * N


def test_what_is_not_finite_is_named():
    buffer = make_buffer()
    buffer.start(np.zeros((N, 2), np.float32), 0)
    flags, obs = np.zeros(N, bool), np.zeros((N, 2), np.float32)
    rewards = np.array([0, np.inf, np.nan], np.float32)
    assert buffer.record(0, 0, obs, rewards, flags, flags) == 1
    obs[2, 1] = np.nan
    assert buffer.record(1, 0, obs, np.zeros(N, np.float32), flags, flags) == 2
    assert record(buffer, 2, done=[]) == -1


def test_state_of_a_buffer_is_where_the_next_rollout_starts():
    first, second = make_buffer(), make_buffer()
    fill(first)
    record(first, T - 1, done=[1])
    first.take_episodes()
    first.carry_over()
    second.load_state_dict(first.state_dict())
    for buffer in (first, second):
        record(buffer, 0, done=[0, 1, 2])
    assert torch.equal(first.obs[:2], second.obs[:2])
    assert torch.equal(first.valid[:2], second.valid[:2])
    assert first.take_episodes().returns.tolist() == second.take_episodes().returns.tolist()


EVERYTHING = {
    "observation_normalization": True,
    "reward_scaling": True,
    "normalize_advantages": True,
    "clip_vloss": True,
    "ent_coef": 0.01,
}


def poison(loop: Loop) -> int:
    """Write huge values into all that must not be read; return how many rows that were."""
    buffer = loop.buffer
    reset_rows = ~buffer.valid
    ended = torch.zeros_like(buffer.host_valid)
    ended[1:] = buffer.terminated  # after a termination not even the observation counts
    buffer.host_rewards[reset_rows] = 1e6
    buffer.actions[reset_rows] = 1
    buffer.noise[reset_rows] = 1e6
    buffer.obs[ended] = 1e6
    return int(reset_rows.sum())


@pytest.mark.parametrize("env", ["discrete", "box"])
def test_reset_rows_change_nothing_that_is_learned_or_logged(env):
    settings = {"num_steps": 40, "total_timesteps": 480, **EVERYTHING}
    clean, poisoned = (Loop(make_agent(env, **settings)) for _ in range(2))
    num_poisoned = 0
    for _ in range(3):
        clean.collect(), poisoned.collect()
        last = poisoned.buffer.obs[-1].clone()
        num_poisoned += poison(poisoned)
        assert clean.update() == poisoned.update()
        poisoned.buffer.obs[-1] = last  # where the next rollout starts
    assert num_poisoned > 20
    assert not differing(tensors_of(clean.agent), tensors_of(poisoned.agent))


def test_on_another_device_a_callback_may_add_to_the_rewards_until_the_next_step():
    buffer = make_buffer(device=torch.device("meta"))
    fill(buffer)
    for name in ("rewards", "terminated", "truncated", "valid"):
        assert getattr(buffer, name) is getattr(buffer, name)
    rewards = buffer.rewards
    record(buffer, 0, [])
    assert buffer.rewards is not rewards
