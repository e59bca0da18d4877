"""Several critics as one module, and the squashed Gaussian actor they judge.

Letters: E critics, B rows, O observation dimensions, A action dimensions, F features of a layer.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from fastrl.models.distributions import Bounds
from fastrl.models.encoders import Reader
from fastrl.models.layers import activation_class, linear, mlp
from fastrl.models.own import MakeNetwork, make_own
from fastrl.ops.squashed_normal import LOG_STD_MAX, LOG_STD_MIN, squashed_normal
from fastrl.spaces.actions import check_action_space, float32_bounds
from fastrl.spaces.values import on_one_line


class Critics(nn.Module):
    """E action values Q(s, a), each a network of its own, computed as one batch of products.

    With `layer_norm`, each hidden layer is linear, dropout, layer norm, activation (Hiraoka et al.
    2021, arXiv 2110.02034, figure 1, with ReLU); without, linear and activation.
    """

    def __init__(
        self,
        num_inputs: int,
        hidden_sizes: tuple[int, ...],
        num_critics: int,
        layer_norm: bool = False,
        encoder: nn.Module | None = None,
        activation: str = "relu",
    ) -> None:
        """Makes the networks, each initialised as torch initialises a linear layer.

        Args:
            num_inputs: O + A; with an encoder, its features in place of O.
            hidden_sizes: widths of the hidden layers.
            num_critics: E.
            layer_norm: put a layer norm behind each hidden layer.
            encoder: a network of the user's own in front of all critics.
            activation: of the hidden layers, as `layers.activation_class` takes it.
        """
        super().__init__()
        self.num_critics, self.hidden_sizes, self.layer_norm = num_critics, hidden_sizes, layer_norm
        sizes = (num_inputs, *hidden_sizes, 1)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)
            weight = torch.empty(num_critics, fan_in, fan_out).uniform_(-bound, bound)
            self.weights.append(nn.Parameter(weight))
            bias = torch.empty(num_critics, 1, fan_out).uniform_(-bound, bound)
            self.biases.append(nn.Parameter(bias))
        self.scales, self.shifts = nn.ParameterList(), nn.ParameterList()
        for size in hidden_sizes if layer_norm else ():
            self.scales.append(nn.Parameter(torch.ones(num_critics, 1, size)))
            self.shifts.append(nn.Parameter(torch.zeros(num_critics, 1, size)))
        self.encoder = encoder
        self.activation = activation
        # A function, for a layer of its own would be one that older checkpoints do not name.
        self._activate = activation_class(activation)().forward

    def num_mask_values(self, num_rows: int) -> int:
        """Returns how many values the dropout masks of one pass over `num_rows` rows have."""
        return self.num_critics * num_rows * sum(self.hidden_sizes)

    def forward(
        self,
        obs: Tensor,
        actions: Tensor,
        masks: Tensor | None = None,
    ) -> Tensor:
        """Returns Q(s, a) of every critic, `[E, B]`.

        Args:
            obs: `[B, O]`, as `SquashedGaussianActor.read` gives them.
            actions: `[B, A]`, scaled to [-1, 1].
            masks: dropout as factors, 0 or 1 / (1 - rate), `[num_mask_values(B)]`; None: none.
        """
        features = obs.float() if self.encoder is None else self.encoder(obs).float()
        return self.values(torch.cat([features, actions], 1), masks)

    def values(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """Returns the values `[E, B]` of features and actions `[B, num_inputs]`."""
        x = x.expand(self.num_critics, -1, -1)
        offset = 0
        for layer, size in enumerate(self.hidden_sizes):
            x = torch.baddbmm(self.biases[layer], x, self.weights[layer])
            if masks is not None:
                num_values = self.num_critics * x.shape[1] * size
                x = x * masks[offset : offset + num_values].view_as(x)
                offset += num_values
            if self.layer_norm:
                # TorchScript holds no function that is written in Python, and needs no gradient.
                x = _Standardize.apply(x) if torch.is_grad_enabled() else _standardized(x)[0]
                x = torch.addcmul(self.shifts[layer], x, self.scales[layer])
            x = self._activate(x)
        return torch.baddbmm(self.biases[-1], x, self.weights[-1]).squeeze(-1).float()


def _standardized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `x` with mean 0 and standard deviation 1 over its last dimension.

    Beside it are the means and the reciprocals of the standard deviations before.
    """
    return torch.native_layer_norm(x, x.shape[-1:], None, None, 1e-5)


class _Standardize(torch.autograd.Function):
    """Layer norm without weights over the last dimension.

    The backward pass is written out, in operations that every kind of graph can hold.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, _, scale = _standardized(x)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        y, scale = ctx.saved_tensors
        along = (gradient * y).mean(-1, keepdim=True)
        rest = gradient - gradient.mean(-1, keepdim=True)
        return torch.addcmul(rest, y, along, value=-1) * scale


class SquashedGaussianActor(nn.Module):
    """A normal distribution whose mean and spread depend on the state, squashed by tanh.

    Actions are scaled to [-1, 1]; `to_env` brings them to the bounds.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        hidden_sizes: tuple[int, ...],
        network: MakeNetwork | None = None,
        activation: str = "relu",
    ) -> None:
        """Makes the network.

        Args:
            observation_space: of the rows, from `spaces.observation_rows`; no pixels.
            action_space: a bounded one-dimensional Box.
            hidden_sizes: widths of the hidden layers.
            network: what makes a network in front of them.
            activation: of the hidden layers, as `layers.activation_class` takes it.

        Raises:
            ValueError: a space is not supported, or the network gives no features.
        """
        super().__init__()
        box = gymnasium.spaces.Box
        self.reader = Reader(observation_space)
        if self.reader.pixels_shape:
            raise ValueError(
                f"pixels, {on_one_line(observation_space)}, are not offered off-policy; ppo and "
                "a2c take them"
            )
        if not isinstance(action_space, box) or len(action_space.shape) != 1:
            raise ValueError(
                f"unsupported action space {on_one_line(action_space)}; supported is a "
                "one-dimensional Box: the actor is a squashed Gaussian"
            )
        check_action_space(action_space)
        self.num_inputs, (self.num_actions,) = self.reader.vector_size, action_space.shape
        if network is None:
            self.trunk = mlp(self.num_inputs, hidden_sizes, activation, ortho_init=False)
        else:
            own, num_features = make_own(self.reader, network)
            self.trunk = nn.Sequential(own, *mlp(num_features, hidden_sizes, activation, False))
        self.head = linear(hidden_sizes[-1], 2 * self.num_actions)
        self.bounds = Bounds(*map(torch.as_tensor, float32_bounds(action_space)))

    def read(self, obs: Tensor) -> Tensor:
        """Returns observations as the networks see them, float `[B, num_inputs]`."""
        vector = self.reader.read(obs).vector
        assert vector is not None, "there are no pixels"
        return vector

    def forward(self, obs: Tensor) -> Tensor:
        """Returns the greedy actions for observations `[B, *O]`, as the environment takes them."""
        return self.to_env(torch.tanh(self._mean_and_log_std(obs)[0]))

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Draws actions in [-1, 1], `[B, A]`, with standard normal noise `[B, A]`."""
        mean, log_std = self._mean_and_log_std(obs)
        return torch.tanh(torch.addcmul(mean, log_std.exp(), noise))

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws actions and their log-density, with a gradient through both.

        Args:
            obs: `[B, O]`.
            noise: standard normal, `[B, A]`.

        Returns:
            Actions in [-1, 1], `[B, A]`, and log pi(a|s) of these scaled actions, `[B]`, in nats
            (arXiv 1812.05905, appendix C).
        """
        return squashed_normal(self.outputs(obs), noise)

    def to_env(self, actions: Tensor) -> Tensor:
        """Brings actions from [-1, 1] to the environment's bounds."""
        return self.bounds(actions)

    def _mean_and_log_std(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.outputs(obs).chunk(2, 1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def outputs(self, obs: Tensor) -> Tensor:
        """Returns means and logarithms of standard deviations, `[B, 2 * A]`."""
        return self.head(self.trunk(self.read(obs)))
