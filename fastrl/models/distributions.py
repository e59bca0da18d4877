"""Heads that turn features into a distribution over actions: its draws, likelihoods and entropy.

Noise is drawn for a whole rollout at once (`draw_noise`) and handed to `sample`, so that acting is
a pure function of its arguments. Each head says what one stored action looks like (`action_shape`,
`action_dtype`) and what the environment gets (`to_env`). Letters: B rows, A action dimensions, F
features.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fastrl.models.layers import linear
from fastrl.ops.squashed_normal import log_slope_of_tanh

_NEARLY_ONE = 1 - 2.0**-20


class ActionHead(Protocol):
    """What a policy needs of its last layer, an nn.Module from features `[B, F]` to `[B, K]`."""

    action_shape: tuple[int, ...]
    action_dtype: torch.dtype
    noise_size: int
    num_choices: list[int]
    """Of each dimension; none for normals."""
    log_std: Tensor | None
    """Of normals."""

    @property
    def layer(self) -> nn.Linear:
        """What makes the parameters of features."""
        ...

    def __call__(self, features: Tensor) -> Tensor:
        """Returns the distribution's parameters `[B, K]`."""
        ...

    def draw_noise(self, noise: Tensor, generator: torch.Generator) -> None:
        """Fills `noise` `[*, noise_size]` for as many draws."""
        ...

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Draws actions `[B, *action_shape]`; with zero noise this is the mode."""
        ...

    def mode(self, outputs: Tensor) -> Tensor:
        """Returns the likeliest actions `[B, *action_shape]`."""
        ...

    def log_prob_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log pi(a|s) `[B]` and the entropy `[B]`, in nats."""
        ...

    def to_env(self, actions: Tensor) -> Tensor:
        """Returns the actions that the environment takes, within its bounds."""
        ...

    def from_env(self, actions: Tensor) -> Tensor:
        """Returns actions that an environment took as they are stored: of a data set, say."""
        ...


class CategoricalHead(nn.Module):
    """One choice out of n (Discrete), or A choices out of n_1 ... n_A at once (MultiDiscrete).

    MultiBinary is A choices out of two.
    """

    starts: Tensor

    def __init__(
        self,
        num_features: int,
        num_choices: list[int],
        starts: list[int],
        single: bool,
        gain: float | None,
    ):
        """Makes the logits' layer.

        Args:
            num_features: F.
            num_choices: n of each dimension.
            starts: the environment's name for choice 0, of each dimension.
            single: actions are `[B]` in place of `[B, A]`.
            gain: gain of orthogonal initial weights, None for torch's default.
        """
        super().__init__()
        self.num_choices, self.single = num_choices, single
        self.log_std = None
        self.action_shape = () if single else (len(num_choices),)
        self.action_dtype = torch.int64
        self.noise_size = sum(num_choices)
        self.logits = linear(num_features, self.noise_size, gain)
        self.shifted = any(starts)
        self.register_buffer(
            "starts", torch.tensor(starts[0] if single else starts), persistent=False
        )

    @property
    def layer(self) -> nn.Linear:
        """What makes logits of features."""
        return self.logits

    def forward(self, features: Tensor) -> Tensor:
        """Returns logits `[B, sum n]`, in memory `[sum n, B]`: few columns of many rows.

        A softmax along memory of so few numbers is ten times slower than one across it.
        """
        weight, bias = self.logits.weight, self.logits.bias
        return torch.addmm(bias.unsqueeze(1), weight, features.t()).t()

    def draw_noise(self, noise: Tensor, generator: torch.Generator) -> None:
        """Gumbel noise: the argmax of logits plus noise is a draw (Gumbel 1954)."""
        noise.exponential_(generator=generator).log_().neg_()

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Draws actions, int64 `[B]` or `[B, A]`."""
        return self.mode(outputs + noise)

    def mode(self, outputs: Tensor) -> Tensor:
        """Returns the likeliest actions, int64 `[B]` or `[B, A]`."""
        if self.single:
            return outputs.argmax(1)
        return torch.stack([part.argmax(1) for part in outputs.split(self.num_choices, 1)], 1)

    def log_prob_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the dimensions, which are independent."""
        rows = actions.unsqueeze(0) if self.single else actions.t()
        logits = outputs.t()
        parts = [logits] if self.single else logits.split(self.num_choices)
        log_probs = [part.log_softmax(0) for part in parts]
        chosen = [
            part.gather(0, rows[dim : dim + 1]).squeeze(0) for dim, part in enumerate(log_probs)
        ]
        entropies = [-(part.exp() * part).sum(0) for part in log_probs]
        log_prob, entropy = chosen[0], entropies[0]
        for dim in range(1, len(log_probs)):
            log_prob, entropy = log_prob + chosen[dim], entropy + entropies[dim]
        return log_prob, entropy

    def to_env(self, actions: Tensor) -> Tensor:
        """Adds the space's start."""
        return actions + self.starts if self.shifted else actions

    def from_env(self, actions: Tensor) -> Tensor:
        """Takes the space's start off; ValueError if an action is none of the space's."""
        stored = actions.long() - self.starts
        choices = torch.tensor(self.num_choices, device=stored.device)
        is_wrong = (stored < 0) | (stored >= (choices[0] if self.single else choices))
        if is_wrong.any():
            raise ValueError(
                f"the action {actions[is_wrong][0].item()} is none of {self.num_choices} choices "
                f"from {self.starts.tolist()} on"
            )
        return stored


class GaussianHead(nn.Module):
    """Independent normals with a state-independent spread (Box), kept within bounds in two ways.

    Clipped (the default): the policy's action is any real number and the environment gets it
    clipped to its bounds; the likelihood is that of the unclipped action. Squashed: the environment
    gets `middle + half_width * tanh(action)`, and the likelihood accounts for the change of
    variables. Stored actions are the unbounded ones in both cases.
    """

    low: Tensor
    high: Tensor
    log_std: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        low: np.ndarray,
        high: np.ndarray,
        squash: bool,
        log_std_init: float,
        gain: float | None,
    ):
        """Makes the means' layer.

        Args:
            num_features: F.
            low: lower bounds `[A]`.
            high: upper bounds `[A]`.
            squash: squash by tanh in place of clipping.
            log_std_init: initial logarithm of the standard deviation.
            gain: gain of orthogonal initial weights, None for torch's default.
        """
        super().__init__()
        self.squash = self._made_squashed = squash
        self.num_choices: list[int] = []
        self.action_shape = low.shape
        self.action_dtype = torch.float32
        self.noise_size = len(low)
        self.means = linear(num_features, len(low), gain)
        self.log_std = nn.Parameter(torch.full((len(low),), log_std_init))
        self.register_buffer("low", torch.as_tensor(low, dtype=torch.float32), persistent=False)
        self.register_buffer("high", torch.as_tensor(high, dtype=torch.float32), persistent=False)
        self.bounds = Bounds(self.low, self.high)

    def extra_repr(self) -> str:
        """Says what was changed by hand, which settings do not make again."""
        return "" if self.squash == self._made_squashed else f"squash={self.squash}"

    @property
    def layer(self) -> nn.Linear:
        """What makes means of features."""
        return self.means

    def forward(self, features: Tensor) -> Tensor:
        """Returns means `[B, A]`."""
        return self.means(features)

    def mean_and_log_std(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns means `[B, A]` and logarithms of standard deviations `[A]`."""
        assert self.log_std is not None
        return outputs, self.log_std

    def draw_noise(self, noise: Tensor, generator: torch.Generator) -> None:
        """Standard normal noise."""
        noise.normal_(generator=generator)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Draws unbounded actions, float `[B, A]`."""
        means, log_std = self.mean_and_log_std(outputs)
        return torch.addcmul(means, log_std.exp(), noise)

    def mode(self, outputs: Tensor) -> Tensor:
        """Returns the means."""
        return self.mean_and_log_std(outputs)[0]

    def log_prob_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Normal likelihood and entropy; squashed, both take the log-Jacobian of tanh into account.

        The squashed entropy's mean is taken over these very actions, as if drawn again with the
        same noise, so that its gradient is the true one (arXiv 1312.6114, section 2.4). The factor
        from tanh to the bounds is left out: a constant, without influence on ratios and gradients.
        """
        # Outputs first: where their rows lie across memory, what follows does too, and the sum of a
        # row is fast.
        means, log_std = self.mean_and_log_std(outputs)
        scaled = (means - actions) * (-log_std).exp()
        constant = 0.5 * math.log(2 * math.pi) * len(self.low)
        log_prob = (-0.5 * scaled * scaled - log_std).sum(1) - constant
        spread = (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
        entropy = torch.ones_like(log_prob) * spread
        if self.squash:
            redrawn = torch.addcmul(means, log_std.exp(), scaled.detach(), value=-1)
            log_prob = log_prob - log_slope_of_tanh(actions).sum(1)
            entropy = entropy + log_slope_of_tanh(redrawn).sum(1)
        return log_prob, entropy

    def to_env(self, actions: Tensor) -> Tensor:
        """Clips or squashes into the bounds."""
        if self.squash:
            return self.bounds(torch.tanh(actions))
        return torch.clamp(actions, self.low, self.high)

    def from_env(self, actions: Tensor) -> Tensor:
        """Returns float32; squashed, what tanh brings there, of a bound what comes close to it."""
        actions = actions.float()
        return self.bounds.inverse(actions).atanh() if self.squash else actions


class StateDependentGaussianHead(GaussianHead):
    """Independent normals whose spread the network gives, too, for each state.

    Logarithms of standard deviations are clamped to [-20, 2], as in the code of SAC's authors
    (Haarnoja et al. 2018, arXiv 1801.01290). They begin as `log_std_init` in every state.
    """

    def __init__(
        self,
        num_features: int,
        low: np.ndarray,
        high: np.ndarray,
        squash: bool,
        log_std_init: float,
        gain: float | None,
    ):
        """Makes the layer of means and of log_std; arguments as of `GaussianHead`."""
        super().__init__(num_features, low, high, squash, log_std_init, gain)
        num_dims = len(low)
        del self.means
        self.log_std = None
        self.means_and_log_stds = linear(num_features, 2 * num_dims, gain)
        with torch.no_grad():
            self.means_and_log_stds.weight[num_dims:] = 0
            self.means_and_log_stds.bias[num_dims:] = log_std_init

    @property
    def layer(self) -> nn.Linear:
        """What makes means and logarithms of standard deviations of features."""
        return self.means_and_log_stds

    def forward(self, features: Tensor) -> Tensor:
        """Returns means, then logarithms of standard deviations before the clamp, `[B, 2 A]`."""
        return self.means_and_log_stds(features)

    def mean_and_log_std(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns means and logarithms of standard deviations, each `[B, A]`."""
        means, log_std = outputs.chunk(2, 1)
        return means, log_std.clamp(-20.0, 2.0)


class Bounds(nn.Module):
    """Brings numbers from [-1, 1] to bounds `[A]`."""

    low: Tensor
    high: Tensor
    half_low: Tensor
    quarter_width: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        """Takes the bounds, float32 `[A]`."""
        super().__init__()
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        # Halves and quarters are exact, and those of the largest numbers do not overflow.
        self.register_buffer("half_low", low / 2, persistent=False)
        self.register_buffer("quarter_width", high / 4 - low / 4, persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """Returns numbers within the bounds, for `numbers` `[B, A]`."""
        scaled = 2 * (self.half_low + self.quarter_width * (numbers + 1))
        return torch.clamp(scaled, self.low, self.high)  # rounding may go beyond

    def inverse(self, numbers: Tensor) -> Tensor:
        """Returns what `forward` brings to `numbers` `[B, A]`, strictly between -1 and 1."""
        scaled = (numbers / 2 - self.half_low) / self.quarter_width - 1
        return scaled.clamp(-_NEARLY_ONE, _NEARLY_ONE)
