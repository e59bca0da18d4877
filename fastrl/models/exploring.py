"""A head that explores by a function of the state, in place of noise at each step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fastrl.models.distributions import GaussianHead
from fastrl.ops.exploration import exploration_log_std, exploration_noise


class ExploringGaussianHead(GaussianHead):
    """Normals whose noise is a function of the state that stays for many steps.

    Generalised state-dependent exploration (Raffin et al. 2021, arXiv 2005.05719): the last
    features, which noise is made of, get no gradient from it. Letters: T steps, N environments, F
    features, A action dimensions.
    """

    def __init__(
        self,
        num_features: int,
        low: np.ndarray,
        high: np.ndarray,
        squash: bool,
        log_std_init: float,
        gain: float | None,
        resample_steps: int = 0,
    ):
        """Makes the layer of means and one deviation for each feature and dimension.

        Args:
            num_features: F.
            low: lower bounds `[A]`.
            high: upper bounds `[A]`.
            squash: squash by tanh in place of clipping.
            log_std_init: initial logarithm of the weights' standard deviation.
            gain: gain of orthogonal initial weights of the means, None for torch's default.
            resample_steps: steps of a rollout after which weights are drawn anew; 0: none.
        """
        super().__init__(num_features, low, high, squash, log_std_init, gain)
        self.log_std = None
        sizes = num_features, len(low)
        self.weight_log_std = nn.Parameter(torch.full(sizes, log_std_init))
        self.noise_size = num_features * len(low)
        self.resample_steps = resample_steps

    def forward(self, features: Tensor) -> Tensor:
        """Returns means, then the features, `[B, A + F]`."""
        means = self.means(features)
        return torch.cat([means, features.detach().to(means.dtype)], 1)

    def draw_noise(self, noise: Tensor, generator: torch.Generator) -> None:
        """Fills weights `[n, F A]`, one row for each draw; of a rollout `[T, N, F A]`.

        Those of a rollout stay as they are for `resample_steps`, in each environment.
        """
        if noise.dim() < 3:
            noise.normal_(generator=generator)
            return
        for block in noise.split(self.resample_steps or len(noise)):
            block[0].normal_(generator=generator)
            block[1:] = block[0]

    def mean_and_log_std(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns means and logarithms of standard deviations, each `[B, A]`."""
        means, features = self._split(outputs)
        return means, exploration_log_std(features, self.weight_log_std)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Draws unbounded actions, float `[B, A]`; `noise` is `[B, F A]`."""
        means, features = self._split(outputs)
        return means + exploration_noise(features, self.weight_log_std, noise)

    def mode(self, outputs: Tensor) -> Tensor:
        """Returns the means."""
        return self._split(outputs)[0]

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        num_features, num_dims = self.weight_log_std.shape
        means, features = outputs.split([num_dims, num_features], 1)
        return means, features
