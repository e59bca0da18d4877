"""Minibatches of sequences: every valid row once, each sequence of one episode, from its state."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastrl.buffers.sequences import SequenceMinibatch, SequenceRollout

T, N, L = 12, 3, 4


def make_rollout(ends: list[tuple[int, int]], batch_size: int = 3 * L, **sizes: int) -> Any:
    """Return a rollout whose observation names its row, with episodes that end in (row, env)."""
    box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    sizes = {"sequence_length": L, "state_size": 3, "previous_size": 1, "num_features": 2, **sizes}
    arguments = (T, N, box, (), torch.int64, 1, batch_size, torch.device("cpu"))
    rollout = SequenceRollout(*arguments, **sizes)
    rows = torch.arange((T + 1) * N).view(T + 1, N)
    rollout.obs.copy_(torch.stack([rows // N, rows % N], -1))
    rollout.states.copy_(rows.unsqueeze(-1) + torch.tensor([0.1, 0.2, 0.3]))
    for t, env in ends:
        rollout.host_terminated[t, env] = True
        rollout.host_valid[t + 1, env] = False
    return rollout


def columns_of(batch: SequenceMinibatch) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return rows `[L, 2]`, weights `[L]` and the first state of every sequence."""
    obs, weights = batch.obs.unflatten(0, (L, -1)), batch.weights.unflatten(0, (L, -1))
    return [(obs[:, b], weights[:, b], batch.states[b]) for b in range(obs.shape[1])]


ENDS = [(0, 0), (5, 0), (T - 1, 0), (3, 1), (6, 1), (T - 2, 2)]


@pytest.mark.parametrize("batch_size", [L, 2 * L, 5 * L])
def test_every_valid_row_counts_exactly_once_in_an_epoch(batch_size):
    rollout = make_rollout(ENDS, batch_size)
    seen = torch.zeros(T, N, dtype=torch.int64)
    for batch in rollout.minibatches(0):
        for t, env in batch.obs[batch.weights > 0].long().tolist():
            seen[t, env] += 1
    assert torch.equal(seen.bool(), rollout.valid) and seen.max() == 1


def test_weights_of_a_minibatch_are_equal_and_sum_to_one():
    for batch in make_rollout(ENDS, 2 * L).minibatches(0):
        assert batch.weights.sum().item() == pytest.approx(1)
        assert len(batch.weights[batch.weights > 0].unique()) == 1


def test_sequence_is_of_one_episode_and_in_order():
    rollout = make_rollout(ENDS)
    episode = (~rollout.host_valid).cumsum(0)  # grows with each reset row
    for batch in rollout.minibatches(0):
        for rows, weights, _ in columns_of(batch):
            t, env = rows[weights > 0].long().T
            if len(t):
                assert len(env.unique()) == 1 and torch.equal(t, t[0] + torch.arange(len(t)))
                assert len(episode[t, env].unique()) == 1


def test_sequence_begins_in_the_state_of_its_first_row():
    for batch in make_rollout(ENDS).minibatches(0):
        for rows, weights, state in columns_of(batch):
            if weights[0] > 0:
                t, env = rows[0].tolist()
                torch.testing.assert_close(state, t * N + env + torch.tensor([0.1, 0.2, 0.3]))


def test_previous_actions_are_those_of_the_rows():
    for batch in make_rollout(ENDS).minibatches(0):
        t, env = batch.obs.T
        torch.testing.assert_close(batch.previous[:, 0], t * N + env + 0.3)


def test_episode_under_way_is_cut_only_at_the_sequence_length():
    (batch,) = make_rollout([], batch_size=9 * L).minibatches(0)
    starts = sorted(tuple(rows[0].tolist()) for rows, _, _ in columns_of(batch))
    assert starts == [(t, env) for t in range(0, T, L) for env in range(N)]
    assert (batch.weights > 0).all()


def test_shapes_do_not_depend_on_the_number_of_episodes():
    few, many = make_rollout([]).minibatches(0), make_rollout(ENDS).minibatches(0)
    assert len(many) > len(few)
    for batch in many:
        assert [x.shape for x in batch] == [x.shape for x in few[0]]


def lengths(batch: SequenceMinibatch) -> list[int]:
    return [int((weights > 0).sum()) for _, weights, _ in columns_of(batch)]


def test_sequences_of_a_minibatch_lie_in_order_of_falling_length():
    for batch in make_rollout(ENDS, 5 * L).minibatches(0):
        assert lengths(batch) == sorted(lengths(batch), reverse=True)


def test_shuffle_follows_from_its_key_alone():
    rollout = make_rollout(ENDS)

    def order(*key: int) -> list[torch.Tensor]:
        return [batch.obs.clone() for batch in rollout.minibatches(*key)]

    first, again, other = order(1, 2), order(1, 2), order(1, 3)
    assert all(map(torch.equal, first, again)) and not all(map(torch.equal, first, other))


def test_without_previous_actions_there_are_no_numbers_of_them():
    rollout = make_rollout(ENDS, previous_size=0)
    assert rollout.minibatches(0)[0].previous.shape == (3 * L, 0)


def test_states_are_carried_over_saved_and_begun_with_zeros():
    rollout = make_rollout([])
    last = rollout.states[-1].clone()
    rollout.carry_over()
    assert torch.equal(rollout.states[0], last)
    state = {name: x.clone() for name, x in rollout.state_dict().items()}
    rollout.start(np.zeros((2, 2), np.float32), 1)
    assert not rollout.states[0, 1:].any() and torch.equal(rollout.states[0, 0], last[0])
    rollout.load_state_dict(state)
    assert torch.equal(rollout.states[0], last)
