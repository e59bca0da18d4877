"""Advantages of a rollout, beside the plain loop over its steps."""

from __future__ import annotations

import torch

from benchmarks.plain import plain_advantages
from fastrl.ops.gae import gae

T, N = 128, 64


def test_advantage(compare):
    rewards, values, ends = torch.randn(T, N), torch.randn(T + 1, N), torch.rand(T, N)
    rollout = rewards, values, ends < 0.01, ends > 0.99
    expected = plain_advantages(*rollout)
    torch.testing.assert_close(gae(*rollout, 0.99, 0.95), expected, rtol=1e-4, atol=1e-4)
    compare(
        f"advantages of {T} x {N} steps",
        lambda: gae(*rollout, 0.99, 0.95),
        lambda: plain_advantages(*rollout),
        "steps",
        T * N,
    )
