"""Advantages: the fast form against the plain loop, against hand computation and closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.ops.gae import backward_recurrence, gae, gae_reference


def random_rows(num_steps: int, num_envs: int, seed: int, dtype: torch.dtype = torch.float64):
    """Return rewards, values, terminated and truncated; after a third of the rows comes a reset."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(num_steps, num_envs, generator=generator, dtype=dtype)
    values = torch.randn(num_steps + 1, num_envs, generator=generator, dtype=dtype)
    kind = torch.randint(6, (num_steps, num_envs), generator=generator)
    for t in range(1, num_steps):
        kind[t][kind[t - 1] < 2] = 2  # a reset row ends nothing
    return rewards, values, kind == 0, kind == 1


@settings(deadline=None, max_examples=60)
@given(
    num_steps=st.integers(1, 70),
    num_envs=st.integers(1, 5),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_fast_form_equals_the_plain_loop(num_steps, num_envs, gamma, gae_lambda, seed):
    rows = random_rows(num_steps, num_envs, seed)
    torch.testing.assert_close(
        gae(*rows, gamma, gae_lambda), gae_reference(*rows, gamma, gae_lambda), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("num_steps", [1, 2, 5, 16, 17, 2048])
def test_fast_form_equals_the_plain_loop_in_single_precision(num_steps):
    rows = random_rows(num_steps, 3, seed=num_steps, dtype=torch.float32)
    fast, reference = gae(*rows, 0.999, 0.98), gae_reference(*rows, 0.999, 0.98)
    assert fast.shape == (num_steps, 3) and fast.dtype == torch.float32
    torch.testing.assert_close(fast, reference, rtol=1e-5, atol=1e-5)


def test_long_rollout_without_an_end_is_exact():
    rewards, values, _, _ = random_rows(2048, 1, seed=0)
    never = torch.zeros(2048, 1, dtype=torch.bool)
    torch.testing.assert_close(
        gae(rewards, values, never, never, 1.0, 1.0),
        gae_reference(rewards, values, never, never, 1.0, 1.0),
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("function", [gae, gae_reference])
def test_example_computed_by_hand(function):
    # gamma 1/2, lambda 1/2. Step 1 is cut by a time limit, step 2 is the reset row, step 3 ends.
    rewards = torch.tensor([[1.0], [2.0], [0.0], [4.0], [5.0]])
    values = torch.tensor([[10.0], [20.0], [40.0], [80.0], [160.0], [320.0]])
    truncated = torch.tensor([[False], [True], [False], [False], [False]])
    terminated = torch.tensor([[False], [False], [False], [True], [False]])
    advantages = function(rewards, values, terminated, truncated, 0.5, 0.5)
    last = 5 + 160 - 160
    ended = 4 - 80
    reset_row = 0 + 40 - 40 + 0.25 * ended
    cut = 2 + 20 - 20  # bootstraps from the 40 of its last observation, and lets no more through
    first = 1 + 10 - 10 + 0.25 * cut
    assert advantages.flatten().tolist() == [first, cut, reset_row, ended, last]


def test_values_after_a_termination_do_not_count():
    rewards, values, terminated, truncated = random_rows(40, 3, seed=1)
    other = values.clone()
    other[1:][terminated] += 1e6
    difference = gae(rewards, other, terminated, truncated, 0.9, 0.8) - gae(
        rewards, values, terminated, truncated, 0.9, 0.8
    )
    assert torch.equal(difference[terminated], torch.zeros_like(difference[terminated]))


def test_nothing_flows_back_over_an_end():
    rewards, values, terminated, truncated = random_rows(40, 3, seed=2)
    done = terminated | truncated
    other = rewards.clone()
    other[1:][done[:-1]] += 1e6  # rewards of the reset rows
    valid = torch.ones_like(done)
    valid[1:] = ~done[:-1]
    before = gae(rewards, values, terminated, truncated, 0.9, 0.8)
    after = gae(other, values, terminated, truncated, 0.9, 0.8)
    assert torch.equal(before[done], after[done])
    assert not torch.equal(before[~valid], after[~valid])


def test_time_limit_bootstraps_with_gamma_times_the_last_value():
    flag, no_flag = torch.tensor([[True]]), torch.tensor([[False]])
    rewards, values = torch.tensor([[1.0]]), torch.tensor([[3.0], [7.0]])
    assert gae(rewards, values, no_flag, flag, 0.5, 0.9).item() == 1 + 0.5 * 7 - 3
    assert gae(rewards, values, flag, no_flag, 0.5, 0.9).item() == 1 - 3
    assert gae(rewards, values, flag, flag, 0.5, 0.9).item() == 1 - 3


def test_lambda_zero_is_the_one_step_error():
    rewards, values, terminated, truncated = random_rows(23, 2, seed=3)
    expected = rewards + 0.9 * values[1:] * ~terminated - values[:-1]
    torch.testing.assert_close(gae(rewards, values, terminated, truncated, 0.9, 0.0), expected)


def test_lambda_one_is_the_discounted_return_less_the_value():
    rewards, values, _, _ = random_rows(10, 1, seed=4)
    never = torch.zeros(10, 1, dtype=torch.bool)
    discounts = 0.9 ** torch.arange(10, dtype=torch.float64)
    total = (discounts * rewards[:, 0]).sum() + 0.9**10 * values[-1, 0]
    advantages = gae(rewards, values, never, never, 0.9, 1.0)
    torch.testing.assert_close(advantages[0, 0], total - values[0, 0])


def test_recurrence_leaves_its_arguments_alone():
    delta, decay = torch.randn(7, 2), torch.rand(7, 2)
    copies = delta.clone(), decay.clone()
    backward_recurrence(delta, decay)
    assert torch.equal(delta, copies[0]) and torch.equal(decay, copies[1])
