"""Running normalisers as modules: statistics are saved, exported and resumed with the policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from fastrl.ops.gae import backward_recurrence
from fastrl.ops.moments import Moments, merge, moments_of

OverRanks = Callable[[Moments], Moments]


def _as_they_are(moments: Moments) -> Moments:
    return moments


class _Statistics(nn.Module):
    """Buffers that move to another device, but keep their dtypes: `policy.float()`."""

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, kept in before.items():
            now = self._buffers[name]
            if now is not None and kept is not None and now.dtype != kept.dtype:
                self._buffers[name] = kept.to(now.device)
        return self


class RunningNorm(_Statistics):
    """Takes the running mean off observations and divides by the running standard deviation.

    Statistics are float64 and the count is an integer: in float32 it would stand still at 2^24.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0, eps: float = 1e-8) -> None:
        """Starts with mean 0 and variance 1, so that at first it only clips.

        Args:
            shape: shape of one observation.
            clip: normalised values are kept within plus and minus this.
            eps: added to the variance.
        """
        super().__init__()
        self.clip, self.eps = self._made_with = clip, eps
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def extra_repr(self) -> str:
        """Says what was changed by hand, which settings do not make again."""
        now = self.clip, self.eps
        return "" if now == self._made_with else f"clip={self.clip}, eps={self.eps}"

    def forward(self, observations: Tensor) -> Tensor:
        """Normalises observations `[*, *shape]`."""
        return ((observations - self.shift) * self.scale).clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(
        self, observations: Tensor, valid: Tensor, over_ranks: OverRanks = _as_they_are
    ) -> None:
        """Takes in the valid rows of `observations` `[R, *shape]`; `valid` is bool `[R]`.

        `over_ranks` makes the moments of all ranks' rows of those of one rank's.
        """
        _take_in(self, over_ranks(moments_of(observations, valid)))
        self.rescale()

    @torch.no_grad()
    def rescale(self) -> None:
        """Brings `shift` and `scale` to what the moments and `eps` say."""
        self.shift.copy_(self.mean)
        self.scale.copy_((self.variance + self.eps).rsqrt())


class RewardScale(_Statistics):
    """Divides rewards by the running standard deviation of the discounted return."""

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, gamma: float, clip: float = 10.0, eps: float = 1e-8) -> None:
        """Starts with variance 1, so that at first it only clips.

        Args:
            gamma: discount per step.
            clip: scaled rewards are kept within plus and minus this.
            eps: added to the variance.
        """
        super().__init__()
        self.gamma, self.clip, self.eps = gamma, clip, eps
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("variance", torch.ones((), dtype=torch.float64))

    def forward(self, rewards: Tensor) -> Tensor:
        """Scales rewards `[T, N]`."""
        scale = (self.variance + self.eps).rsqrt().to(rewards.dtype)
        return (rewards * scale).clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(
        self,
        rewards: Tensor,
        done: Tensor,
        valid: Tensor,
        running: Tensor,
        over_ranks: OverRanks = _as_they_are,
    ) -> None:
        """Takes in the discounted returns of a rollout.

        Args:
            rewards: float `[T, N]`.
            done: bool `[T, N]`, an episode ended with this row.
            valid: bool `[T, N]`, False on reset rows.
            running: discounted returns of the episodes under way, float64 `[N]`; brought up to
                date in place.
            over_ranks: makes the moments of all ranks' returns of those of one rank's.
        """
        # x[t] = r[t] + gamma x[t-1] within an episode: the recurrence of GAE, the other way round.
        goes_on = (valid & ~done).double()
        rewards = rewards.double()
        rewards[0] += self.gamma * running.to(rewards.device)
        decay = torch.cat([torch.zeros_like(goes_on[:1]), self.gamma * goes_on[:-1]])
        returns = backward_recurrence(rewards.flip(0), decay.flip(0)).flip(0)
        running.copy_(returns[-1] * goes_on[-1])
        _take_in(self, over_ranks(moments_of(returns.flatten(), valid.flatten())))


def _take_in(normalizer: RunningNorm | RewardScale, new: Moments) -> None:
    """Merges the moments of new rows into those of a normaliser."""
    moments = Moments(normalizer.count, normalizer.mean, normalizer.variance)
    for before, after in zip(moments, merge(moments, new), strict=True):
        before.copy_(after)
