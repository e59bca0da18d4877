"""Advantages of a rollout: side by side in blocks, against the plain loop."""

from __future__ import annotations

import pytest
import torch

from fastrl.ops.gae import gae, gae_reference


@pytest.mark.parametrize(("T", "N"), [(128, 64), (2048, 1)])
@pytest.mark.parametrize("function", [gae, gae_reference])
def test_advantage(benchmark, function, T, N):
    benchmark.group = f"advantages of {T} steps of {N} environments"
    rewards, values = torch.randn(T, N), torch.randn(T + 1, N)
    ends = torch.rand(T, N)
    arguments = rewards, values, ends < 0.01, ends > 0.99, 0.99, 0.95
    advantages = benchmark.pedantic(function, arguments, rounds=30, iterations=1, warmup_rounds=3)
    torch.testing.assert_close(advantages, gae_reference(*arguments), rtol=1e-4, atol=1e-4)
