"""Actor and critic as one module, observation normaliser included: what is saved and exported."""

from __future__ import annotations

import gymnasium
import torch
from torch import Tensor, nn

from fastrl.kernels.extension import HAS_DENSE
from fastrl.kernels.networks import WIDEST, DenseNetwork, dense
from fastrl.models.distributions import make_action_head
from fastrl.models.encoders import Inputs, Reader, features_of, make_trunk
from fastrl.models.layers import ACTIVATIONS, linear


class ActorCritic(nn.Module):
    """A policy and a value function over rows `[B, *O]` as the rollout stores them."""

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        *,
        hidden_sizes: tuple[int, ...],
        activation: str,
        shared: bool,
        ortho_init: bool,
        squash_actions: bool,
        log_std_init: float,
        normalize_observations: bool,
        encoder: str = "auto",
    ) -> None:
        """Makes the networks.

        Args:
            observation_space: of the rows, from `spaces.observation_rows`.
            action_space: Discrete, MultiDiscrete, MultiBinary or one-dimensional Box.
            hidden_sizes: widths of the hidden layers; with pixels, those after the convolutions.
            activation: "relu", "tanh" or "elu".
            shared: one trunk with two heads, in place of two trunks.
            ortho_init: orthogonal initial weights.
            squash_actions: squash Box actions by tanh in place of clipping them.
            log_std_init: initial logarithm of the standard deviation of Box actions.
            normalize_observations: put a running normaliser in front of vectors.
            encoder: the convolutions over pixels: "auto", "nature", "impala" or "minatar".

        Raises:
            ValueError: a space is not supported, or a setting has no effect on it.
        """
        super().__init__()
        self.reader = Reader(observation_space)
        self.normalizer = self.reader.make_normalizer() if normalize_observations else None
        trunk = (self.reader, hidden_sizes, activation, ortho_init, encoder)
        self.actor, num_features = make_trunk(*trunk)
        self.critic = None if shared else make_trunk(*trunk)[0]
        action_gain, value_gain = (0.01, 1.0) if ortho_init else (None, None)
        self.head = make_action_head(
            action_space, num_features, squash_actions, log_std_init, action_gain
        )
        self.value_head = linear(num_features, 1, value_gain)
        self.activation = activation
        self.in_extension = False  # set where kernels/networks.py is to serve

    def read(self, observations: Tensor) -> Inputs:
        """Brings observations `[B, *O]`, of any type, to what the networks see."""
        return self.reader.read(observations, self.normalizer)

    def forward(self, observations: Tensor) -> Tensor:
        """Returns the greedy actions for observations `[B, *O]`, as the environment takes them."""
        inputs = self.read(observations)
        outputs = self._outputs(features_of(self.actor, inputs), inputs)
        return self.head.to_env(self.head.mode(outputs))

    def act(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Draws actions `[B, *action_shape]`, as they are stored, with noise `[B, noise_size]`."""
        inputs = self.read(observations)
        if self._suits_extension(inputs):
            (outputs,) = self._dense(inputs, (self.actor, [self.head.layer]))
            return self.head.sample(self._allowed(outputs, inputs), noise)
        return self.head.sample(self._outputs(features_of(self.actor, inputs), inputs), noise)

    def value(self, observations: Tensor) -> Tensor:
        """Returns V(s) `[B]`."""
        inputs = self.read(observations)
        trunk = self.actor if self.critic is None else self.critic
        if self._suits_extension(inputs):
            return self._dense(inputs, (trunk, [self.value_head]))[0].squeeze(-1)
        features = features_of(trunk, inputs)
        with _full_precision(features):
            return self.value_head(features.float()).squeeze(-1)

    def evaluate(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s), each `[B]`."""
        inputs = self.read(observations)
        if self._suits_extension(inputs):
            outputs, values = self.outputs_and_values(observations)
            return *self.head.log_prob_and_entropy(outputs, actions), values
        actor_features = features_of(self.actor, inputs)
        critic_features = actor_features
        if self.critic is not None:
            critic_features = features_of(self.critic, inputs)
        with _full_precision(actor_features):
            outputs = self._outputs(actor_features.float(), inputs)
            log_prob, entropy = self.head.log_prob_and_entropy(outputs, actions)
            return log_prob, entropy, self.value_head(critic_features.float()).squeeze(-1)

    def outputs_and_values(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the distribution's parameters `[B, A]` and V(s) `[B]`, through the extension."""
        inputs = self.read(observations)
        heads = [self.head.layer], [self.value_head]
        if self.critic is None:
            outputs, values = self._dense(inputs, (self.actor, [*heads[0], *heads[1]]))
        else:
            outputs, values = self._dense(inputs, (self.actor, heads[0]), (self.critic, heads[1]))
        return self._allowed(outputs, inputs), values.squeeze(-1)

    def _suits_extension(self, inputs: Inputs) -> bool:
        x = inputs.vector
        if not (self.in_extension and HAS_DENSE) or x is None or x.requires_grad or not len(x):
            return False
        return x.device.type == "cpu" and x.dtype == torch.float32 and self.is_dense

    @property
    def is_dense(self) -> bool:
        """Whether the layers are those that `mlp` made: the extension knows nothing of others."""
        trunks = [trunk for trunk in (self.actor, self.critic) if trunk is not None]
        heads = [self.head.layer, self.value_head]
        kinds = nn.Linear, ACTIVATIONS[self.activation]
        return (
            not _has_hooks(self.head)
            and all(_is_plain(layer, nn.Linear) for layer in heads)
            and all(
                type(trunk) is nn.Sequential and not _has_hooks(trunk) and len(trunk) % 2 == 0
                for trunk in trunks
            )
            and all(len(trunk) > 0 for trunk in trunks)  # pyright: ignore[reportArgumentType]
            and all(
                _is_plain(layer, kinds[index % 2])
                for trunk in trunks
                for index, layer in enumerate(trunk.children())
            )
        )

    def _dense(self, inputs: Inputs, *networks: tuple[nn.Module, list[nn.Linear]]) -> list[Tensor]:
        """Returns what heads give on trunks over vectors, through the extension."""
        assert inputs.vector is not None
        given = [dense_network(trunk, heads) for trunk, heads in networks]
        return dense(inputs.vector, given, self.activation)

    def _outputs(self, features: Tensor, inputs: Inputs) -> Tensor:
        """Returns the distribution's parameters; forbidden actions get no probability."""
        return self._allowed(self.head(features), inputs)

    @staticmethod
    def _allowed(outputs: Tensor, inputs: Inputs) -> Tensor:
        if inputs.mask is None:
            return outputs
        # Finite, so that its product with a probability of zero is zero in the entropy.
        return outputs.masked_fill(~inputs.mask, _FORBIDDEN)


_FORBIDDEN = -1e9


def _is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Tells whether a layer does what its kind does, and a linear one no more than is fast."""
    if type(layer) is not kind or _has_hooks(layer):
        return False
    if not isinstance(layer, nn.Linear):
        return not isinstance(layer, nn.ELU) or layer.alpha == 1
    weight, bias = layer.weight, layer.bias
    if bias is None or {weight.dtype, bias.dtype} != {torch.float32}:
        return False
    is_contiguous = weight.is_contiguous() or weight.mT.is_contiguous()
    return is_contiguous and layer.out_features <= WIDEST


def _has_hooks(module: nn.Module) -> bool:
    names = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    return any(getattr(module, name) for name in names)


def dense_network(trunk: nn.Module, heads: list[nn.Linear]) -> DenseNetwork:
    """Returns the layers of a trunk and of heads on it, as kernels/networks.py takes them."""
    hidden = [layer for layer in trunk.children() if isinstance(layer, nn.Linear)]
    return DenseNetwork(*[[(x.weight, x.bias) for x in layers] for layers in (hidden, heads)])


def _full_precision(like: Tensor) -> torch.autocast:
    """Ends mixed precision before the heads: ratios and targets need more than 8 bits."""
    return torch.autocast(like.device.type, enabled=False)
