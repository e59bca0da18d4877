"""Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438), exact at time limits.

Row t is one transition and autoreset happens on the next step (see `buffers/rollout.py`), so the
row after an episode's end holds its true last observation: `values[t + 1]` is what a time limit
bootstraps from.

    delta[t] = r[t] + gamma V[t+1] (1 - terminated[t]) - V[t]
    A[t]     = delta[t] + gamma lambda (1 - done[t]) A[t+1],    done = terminated or truncated,
    A[T] = 0

`terminated` cuts the target, `done` cuts the trace. Reset rows get an advantage too, which nothing
may read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gae_reference(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """The recursion as a plain loop: slow, and what the fast form is tested against.

    Args:
        rewards: float `[T, N]`.
        values: float `[T + 1, N]`.
        terminated: bool `[T, N]`.
        truncated: bool `[T, N]`.
        gamma: discount per step.
        gae_lambda: weight between one-step and whole-episode advantages.

    Returns:
        Advantages, float `[T, N]`.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * values[t + 1] * ~terminated[t] - values[t]
        following = delta + gamma * gae_lambda * following * ~(terminated[t] | truncated[t])
        advantages[t] = following
    return advantages


def gae(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Advantages in about 6 sqrt(T) tensor operations; arguments and result as `gae_reference`."""
    num_steps = len(rewards)
    assert values.shape[0] == num_steps + 1 and rewards.shape == terminated.shape == truncated.shape
    delta = torch.addcmul(
        rewards - values[:-1], values[1:], (~terminated).to(values.dtype), value=gamma
    )
    decay = (~(terminated | truncated)).to(values.dtype).mul_(gamma * gae_lambda)
    return backward_recurrence(delta, decay)


def backward_recurrence(delta: Tensor, decay: Tensor) -> Tensor:
    """Solves `x[t] = delta[t] + decay[t] x[t+1]`, `x[T] = 0`, by blocks of sqrt(T) side by side.

        steps     0 1 2 | 3 4 5 | 6 7 8
        within    <---- | <---- | <----   1. each block as if nothing followed it, and the running
                                             product of decay: how much what follows counts in it
        between   <-----+-<-----+-<----   2. what follows each block, the last one first

    Args:
        delta: float `[T, N]`.
        decay: float `[T, N]`.

    Returns:
        x, float `[T, N]`.
    """
    num_steps, num_envs = delta.shape
    length = math.isqrt(num_steps - 1) + 1
    num_blocks = -(-num_steps // length)
    padding = num_blocks * length - num_steps
    if padding:  # steps after the last one: nothing comes from them
        zeros = delta.new_zeros(padding, num_envs)
        delta, decay = torch.cat([delta, zeros]), torch.cat([decay, zeros])
    delta_steps = delta.view(num_blocks, length, num_envs).unbind(1)
    decay_steps = decay.view(num_blocks, length, num_envs).unbind(1)
    solution, influence = delta_steps[-1], decay_steps[-1]
    solutions, influences = [solution], [influence]
    for step in reversed(range(length - 1)):
        solution = torch.addcmul(delta_steps[step], decay_steps[step], solution)
        influence = decay_steps[step] * influence
        solutions.append(solution)
        influences.append(influence)
    following = torch.zeros_like(delta[0])
    carried = [following]
    for block in reversed(range(1, num_blocks)):
        following = torch.addcmul(solution[block], influence[block], following)
        carried.append(following)
    x = torch.addcmul(
        torch.stack(solutions[::-1], 1),
        torch.stack(influences[::-1], 1),
        torch.stack(carried[::-1]).unsqueeze(1),
    )
    return x.reshape(num_blocks * length, num_envs)[:num_steps]
