"""Minibatches of all ranks: weights sum to 1, advantages are normalised, rows count once."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from quick import quick
from ranks import run_ranks
from torch import Tensor

from fastrl.buffers.dealing import Dealer, SharedRows, weigh
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.buffers.sequences import SequenceRollout
from fastrl.config.ppo import PPOConfig
from fastrl.processes.devices import make_devices
from fastrl.processes.ranks import Ranks

T, N, B = 8, 6, 10
ENDS = [(0, 0), (1, 0), (5, 2), (6, 2), (3, 4)]  # rows and environments, of all ranks
KINDS = ["own rows", "shared rows", "whole rollout", "sequences"]


class Alone(Ranks):
    """One rank."""

    global_rank, world_size = 0, 1


def rollout_of(columns: slice, kind: str) -> Any:
    """Returns what some of the environments left behind; log-probabilities name the rows."""
    box, device = gymnasium.spaces.Box(-1, 1, (2,)), torch.device("cpu")
    num_envs = columns.stop - columns.start
    arguments: Any = (T, num_envs, box, (), torch.int64, 2, 8 if kind == "sequences" else B, device)
    if kind == "sequences":
        sizes = {"sequence_length": 4, "state_size": 3, "previous_size": 0, "num_features": 3}
        rollout: Any = SequenceRollout(*arguments, **sizes)
    else:
        rollout = RolloutBuffer(*arguments)
    rollout.log_probs.copy_(1 + torch.arange(T * N).view(T, N)[:, columns])
    generator = torch.Generator().manual_seed(1)
    everyone = 3 + 2 * torch.randn(T, N, generator=generator)
    rollout.advantages.copy_(everyone[:, columns])
    for t, env in ENDS:
        if columns.start <= env < columns.stop:
            rollout.host_valid[t, env - columns.start] = False
    return rollout


def dealt(ranks: Ranks, kind: str, normalizes: bool = True) -> list[list[np.ndarray]]:
    """Returns weights, advantages and names of the rows of two passes, by minibatch."""
    share = N // ranks.world_size
    columns = slice(share * ranks.global_rank, share * (ranks.global_rank + 1))
    rows: Any = rollout_of(columns, kind)
    if kind == "shared rows":
        rows = SharedRows(rows, B // ranks.world_size, ranks, False)
    build: Any = lambda function, example: function  # noqa: E731
    whole = kind == "whole rollout"
    dealer = Dealer(rows, ranks, (7,), normalizes, build, whole_rollout=whole)
    found = []
    for epoch in range(2):
        for batch in dealer.deal(3, epoch, epoch == 0):
            fields = batch.weights, batch.advantages, batch.log_probs
            found.append([x.clone().numpy() for x in fields])
    return found


def as_a_rank(world_size: int, kind: str, normalizes: bool) -> list[list[np.ndarray]]:
    return dealt(make_devices(PPOConfig(devices=world_size, accelerator="cpu")), kind, normalizes)


def everywhere(world_size: int, kind: str, normalizes: bool = True) -> list[Tensor]:
    """Returns `[3, rows]` of each minibatch of all ranks: weights, advantages and names."""
    if world_size == 1:
        ranks = [dealt(Alone(), kind, normalizes)]
    else:
        ranks = run_ranks(world_size, as_a_rank, world_size, kind, normalizes)
    batches = [
        np.concatenate([np.stack(x) for x in batch], 1) for batch in zip(*ranks, strict=True)
    ]
    return [torch.from_numpy(batch) for batch in batches]


def counted(batches: list[Tensor], kind: str) -> list[Tensor]:
    """Returns the rows that count, of each thing that the weights of sum to 1."""
    groups = batches
    if kind == "whole rollout":
        half = len(batches) // 2
        groups = [torch.cat(batches[:half], 1), torch.cat(batches[half:], 1)]
    return [group[:, group[0] > 0] for group in groups]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", quick([1, 2, 3], 1, 3))
def test_weights_of_a_global_minibatch_are_equal_and_sum_to_one(kind, world_size):
    for weights, _, _ in counted(everywhere(world_size, kind), kind):
        assert weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert len(weights.unique()) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", quick([1, 2, 3], 1, 3))
def test_advantages_of_a_global_minibatch_have_mean_0_and_deviation_1(kind, world_size):
    for _, advantages, _ in counted(everywhere(world_size, kind), kind):
        if len(advantages) > 1:
            assert advantages.mean().item() == pytest.approx(0, abs=1e-5)
            assert advantages.std(correction=0).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", [1, 2])
def test_every_row_that_counts_is_dealt_once_a_pass(kind, world_size):
    names = torch.cat([batch[2] for batch in counted(everywhere(world_size, kind), kind)])
    valid = [t * N + env + 1 for t in range(T) for env in range(N) if (t, env) not in ENDS]
    assert sorted(names.tolist()) == sorted([*valid, *valid])


@pytest.mark.parametrize("kind", ["own rows", "sequences"])
def test_advantages_are_left_alone_unless_they_are_to_be_normalised(kind):
    everyone = 3 + 2 * torch.randn(T, N, generator=torch.Generator().manual_seed(1))
    for batch in counted(everywhere(1, kind, normalizes=False), kind):
        torch.testing.assert_close(batch[1], everyone.flatten()[batch[2].long() - 1])


@pytest.mark.parametrize("world_size", [2, 3])
def test_shared_rows_are_dealt_as_one_rank_with_all_of_them_deals_them(world_size):
    """Each rank has every R-th row; together they have the minibatches of one rank."""
    size = B - B % world_size
    many = everywhere(world_size, "shared rows")
    rows: Any = SharedRows(rollout_of(slice(0, N), "shared rows"), size, Alone(), False)
    rows.refresh()
    for found, batch in zip(many, rows.minibatches(7, 3, 0), strict=False):
        expected = batch.log_probs[batch.weights > 0]
        assert sorted(found[2, found[0] > 0].tolist()) == sorted(expected.tolist())


def test_passes_are_shuffled_by_their_key_alone():
    first, again = everywhere(1, "own rows"), everywhere(1, "own rows")
    half = len(first) // 2
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first[:half], first[half:]))


def test_a_minibatch_without_a_row_has_no_weight():
    weights, advantages = torch.zeros(2, 3), torch.randn(2, 3)
    weights[0, :2] = 5.0
    weigh(Alone(), True, False, 2, weights, advantages)
    assert weights.tolist() == [[0.5, 0.5, 0], [0, 0, 0]]
    assert advantages.isfinite().all()


def test_equal_advantages_normalise_to_zero():
    advantages = torch.full((1, 4), 3.0)
    weigh(Alone(), True, False, 1, torch.ones(1, 4), advantages)
    assert advantages.tolist() == [[0] * 4]
