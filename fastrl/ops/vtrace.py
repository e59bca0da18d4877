"""V-trace targets (Espeholt et al. 2018, arXiv 1802.01561), exact at time limits.

For rows that another policy mu than pi acted in, with rho = min(rho_bar, pi / mu) and
c = lambda min(1, pi / mu):

    delta[t] = rho[t] (r[t] + gamma V[t+1] (1 - terminated[t]) - V[t])
    v[t] - V[t] = delta[t] + gamma c[t] (1 - done[t]) (v[t+1] - V[t+1])
    A[t] = rho[t] (r[t] + gamma w[t+1] (1 - terminated[t]) - V[t])

w[t+1] is v[t+1] within an episode, and V[t+1] where one is cut: at its end, by the rules of
`ops/gae.py`, and after the last row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastrl.ops.gae import backward_recurrence


class VTrace(NamedTuple):
    """What a critic moves to, and what the policy's gradient is weighted with, float `[T, N]`."""

    targets: Tensor
    advantages: Tensor


@torch.no_grad()
def vtrace(
    log_ratios: Tensor,
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    trace_lambda: float = 1.0,
    rho_bar: float = 1.0,
) -> VTrace:
    """Returns targets and advantages, without gradient.

    Args:
        log_ratios: log pi(a|s) - log mu(a|s), float `[T, N]`.
        rewards: float `[T, N]`.
        values: of the policy pi, float `[T + 1, N]`.
        terminated: bool `[T, N]`.
        truncated: bool `[T, N]`.
        gamma: discount per step.
        trace_lambda: weight between one-step and whole-episode targets.
        rho_bar: largest ratio that a temporal difference is weighted with.
    """
    assert values.shape[0] == len(rewards) + 1 and log_ratios.shape == rewards.shape
    ratios = log_ratios.exp()
    rho, trace = ratios.clamp(max=rho_bar), trace_lambda * ratios.clamp(max=1.0)
    goes_on, bootstraps = (~(terminated | truncated)).float(), gamma * (~terminated).float()
    delta = rho * (rewards + bootstraps * values[1:] - values[:-1])
    correction = backward_recurrence(delta, gamma * trace * goes_on)
    following = torch.cat([correction[1:], torch.zeros_like(correction[:1])]) * goes_on
    advantages = rho * (rewards + bootstraps * (values[1:] + following) - values[:-1])
    return VTrace(values[:-1] + correction, advantages)
