"""Running mean and variance: merged moments are those of all rows together."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.ops.moments import Moments, merge, moments_of


def everything(num_rows: int) -> torch.Tensor:
    """Return a mask that lets all rows count."""
    return torch.ones(num_rows, dtype=torch.bool)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    shift=st.sampled_from([0.0, 1e3, -1e6]),
    seed=st.integers(0, 10**6),
)
def test_merged_moments_are_those_of_all_rows(sizes, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randn(size, 3, generator=generator, dtype=torch.float64) + shift for size in sizes
    ]
    total = moments_of(parts[0], everything(sizes[0]))
    for part in parts[1:]:
        total = merge(total, moments_of(part, everything(len(part))))
    rows = torch.cat(parts)
    assert total.count == len(rows)
    if len(rows):
        torch.testing.assert_close(total.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(total.variance, rows.var(0, correction=0), rtol=1e-7, atol=1e-9)


def test_rows_that_are_not_valid_do_not_count():
    rows = torch.randn(10, 2)
    valid = torch.arange(10) % 3 != 0
    poisoned = torch.where(valid.unsqueeze(1), rows, torch.nan)
    for got, expected in zip(
        moments_of(poisoned, valid), moments_of(rows[valid], everything(6)), strict=True
    ):
        assert torch.equal(got, expected)


def test_no_valid_row_changes_nothing():
    seen = moments_of(torch.randn(5, 2), everything(5))
    merged = merge(seen, moments_of(torch.randn(4, 2), torch.zeros(4, dtype=torch.bool)))
    assert all(torch.equal(*pair) for pair in zip(merged, seen, strict=True))


def test_count_goes_on_beyond_what_a_float_can_hold():
    count = torch.tensor(2**24, dtype=torch.int64)
    mean, variance = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    total = Moments(count, mean, variance)
    for _ in range(3):
        total = merge(total, moments_of(torch.ones(1, 1), everything(1)))
    assert total.count.item() == 2**24 + 3 and total.count.dtype == torch.int64
    assert 0 < total.mean.item() < 1e-6
