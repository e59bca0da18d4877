"""Ranks of one machine exchange through memory: every round whole, the same sums as by gloo."""

from __future__ import annotations

import functools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks

from fastrl.config.ppo import PPOConfig
from fastrl.processes import collectives
from fastrl.processes.devices import make_devices
from fastrl.processes.shared_memory import _FOLDER, Exchange

pytestmark = pytest.mark.skipif(Exchange is None, reason="needs the extension and Linux")

NUM_RANKS = 3


def sums(rank: int) -> dict[str, Any]:
    """Exchanges numbers whose sum depends on the order; returns what one rank got."""
    with make_devices(PPOConfig(devices=NUM_RANKS, accelerator="cpu")) as devices:
        values = torch.randn(1000, generator=torch.Generator().manual_seed(rank)) * 10.0**rank
        by_memory = collectives.sum_over_ranks(values)
        large = collectives.sum_over_ranks(torch.full((2**19,), float(rank)))
        time.sleep(0.05 * rank)  # longer than anyone looks without sleeping
        gathered = {
            str(dtype): devices.gather_rows(torch.tensor([[rank, 1]], dtype=dtype)).numpy()
            for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)
        }
        scalar = collectives.sum_over_ranks(torch.tensor(float(rank)))
        memory, collectives._memory = collectives._memory, None
        by_gloo = collectives.sum_over_ranks(values)
        return {
            "has_memory": memory is not None,
            "takes": [memory.takes(torch.empty(2**18 - 16)), memory.takes(torch.empty(2**19))],
            "by_memory": by_memory.numpy(),
            "by_gloo": by_gloo.numpy(),
            "own": values.numpy(),
            "large": large.unique().tolist(),
            "scalar": scalar.item(),
            "gathered": gathered,
        }


def on_rank() -> dict[str, Any]:
    return sums(int(os.environ["LOCAL_RANK"]))


@functools.cache
def exchanged() -> list[dict[str, Any]]:
    before = set(_FOLDER.glob("fastrl-*"))
    results = run_ranks(NUM_RANKS, on_rank)
    results[0]["left"] = set(_FOLDER.glob("fastrl-*")) - before
    return results


def test_sums_are_those_of_all_ranks_in_their_order_to_the_bit_on_each():
    ranks = exchanged()
    expected = ranks[0]["own"] + ranks[1]["own"] + ranks[2]["own"]
    for rank in ranks:
        assert rank["has_memory"]
        np.testing.assert_array_equal(rank["by_memory"], expected)
        assert rank["scalar"] == 3.0


def test_sums_are_those_of_gloo():
    for rank in exchanged():
        np.testing.assert_allclose(rank["by_memory"], rank["by_gloo"], rtol=1e-4, atol=1e-4)


def test_rows_of_every_type_come_from_every_rank():
    for rank in exchanged():
        for name, rows in rank["gathered"].items():
            expected = [[[r > 0 if "bool" in name else r, 1]] for r in range(NUM_RANKS)]
            np.testing.assert_array_equal(rows, np.array(expected), err_msg=name)


def test_what_is_too_large_goes_another_way():
    for rank in exchanged():
        assert rank["takes"] == [True, False] and rank["large"] == [3.0]


def test_no_file_is_left():
    assert exchanged()[0]["left"] == set()


def region(num_ranks: int, slot_bytes: int = 256) -> torch.Tensor:
    return torch.zeros(num_ranks * (64 + 2 * slot_bytes), dtype=torch.uint8)


@pytest.mark.parametrize("spin_seconds", [0.0, 1e-4])
def test_every_round_is_whole_whoever_is_late(spin_seconds):
    """In threads, each of which now and then dawdles."""
    memory, rounds = region(3), 300

    def play(rank: int) -> list[list[int]]:
        exchange, seen = Exchange(memory, rank, 3, spin_seconds), []
        delays = np.random.default_rng(rank).random(rounds) < 0.05
        for number in range(rounds):
            if delays[number]:
                time.sleep(5e-4)
            own = torch.full((1 + number % 40,), number % 200 + rank, dtype=torch.uint8)
            everyone = torch.empty(3, len(own), dtype=torch.uint8)
            assert exchange.gather(own, everyone, 10.0)
            assert (everyone == everyone[:, :1]).all()
            seen.append(everyone[:, 0].tolist())
        return seen

    with ThreadPoolExecutor(3) as pool:
        expected = [[number % 200 + rank for rank in range(3)] for number in range(rounds)]
        assert list(pool.map(play, range(3))) == [expected] * 3


def test_patience_ends():
    own = torch.zeros(4, dtype=torch.uint8)
    exchange = Exchange(region(2), 0, 2, 0.0)
    assert not exchange.gather(own, torch.empty(2, 4, dtype=torch.uint8), 0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(64, dtype=torch.uint8), 0, 2, 0.0), "memory: expected more bytes, got 64"),
        ((region(2), 2, 2, 0.0), r"rank: expected one in \[0, 2\), got 2"),
        ((region(2), 0, 0, 0.0), "num_ranks: expected at least 1, got 0"),
        ((torch.zeros(999), 0, 2, 0.0), r"memory: expected contiguous uint8 \[999\]"),
    ],
)
def test_a_place_that_is_none_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Exchange(*arguments)


def test_tensors_that_do_not_fit_are_refused():
    exchange, own = Exchange(region(2, 8), 0, 2, 0.0), torch.zeros(9, dtype=torch.uint8)
    with pytest.raises(ValueError, match="own: expected at most 8 bytes, got 9"):
        exchange.gather(own, torch.empty(2, 9, dtype=torch.uint8), 1.0)
    with pytest.raises(ValueError, match=r"all: expected contiguous uint8 \[2, 4\]"):
        exchange.gather(own[:4], torch.empty(2, 5, dtype=torch.uint8), 1.0)


def test_ranks_prefer_cores_of_their_own(monkeypatch: pytest.MonkeyPatch):
    from fastrl.processes import machine

    def parts(cores: int, ranks: int) -> list[list[int]]:
        monkeypatch.setattr(machine, "_sharers", ranks)
        return [machine.own_cores(set(range(cores)), rank) for rank in range(ranks)]

    assert parts(4, 2) == [[0, 1], [2, 3]] and parts(3, 2) == [[0], [1, 2]]
    assert parts(2, 4) == [[0], [0], [1], [1]] and parts(2, 1) == [[0, 1]]


def test_files_that_are_not_to_be_seen_are_not_made(tmp_path: Path):
    from fastrl.processes.shared_memory import _open

    assert _open(str(tmp_path / "gone"), 4096) is None and not list(tmp_path.iterdir())
