"""Actor and critic as one module, observation normaliser included: what is saved and exported."""

from __future__ import annotations

import gymnasium
import torch
from torch import Tensor, nn

from fastrl.models.distributions import make_action_head
from fastrl.models.layers import linear, mlp
from fastrl.models.normalization import RunningNorm


class ActorCritic(nn.Module):
    """A policy and a value function over vector observations `[B, O]`."""

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
    ) -> None:
        """Makes the networks.

        Args:
            observation_space: a one-dimensional Box.
            action_space: Discrete, MultiDiscrete or one-dimensional Box.
            hidden_sizes: widths of the hidden layers.
            activation: "relu", "tanh" or "elu".
            shared: one trunk with two heads, in place of two trunks.
            ortho_init: orthogonal initial weights.
            squash_actions: squash Box actions by tanh in place of clipping them.
            log_std_init: initial logarithm of the standard deviation of Box actions.
            normalize_observations: put a running normaliser in front.

        Raises:
            ValueError: a space is not supported.
        """
        super().__init__()
        is_box = isinstance(observation_space, gymnasium.spaces.Box)
        if not is_box or len(observation_space.shape) != 1:
            raise ValueError(
                f"unsupported observation space {observation_space}; "
                "supported is a one-dimensional Box (gymnasium.wrappers.FlattenObservation)"
            )
        (num_inputs,) = observation_space.shape
        self.normalizer = RunningNorm((num_inputs,)) if normalize_observations else None
        self.actor = mlp(num_inputs, hidden_sizes, activation, ortho_init)
        self.critic = None if shared else mlp(num_inputs, hidden_sizes, activation, ortho_init)
        action_gain, value_gain = (0.01, 1.0) if ortho_init else (None, None)
        self.head = make_action_head(
            action_space, hidden_sizes[-1], squash_actions, log_std_init, action_gain
        )
        self.value_head = linear(hidden_sizes[-1], 1, value_gain)

    def normalize(self, observations: Tensor) -> Tensor:
        """Brings observations `[B, O]`, of any type, to the floats that the networks see."""
        return observations.float() if self.normalizer is None else self.normalizer(observations)

    def forward(self, observations: Tensor) -> Tensor:
        """Returns the greedy actions for observations `[B, O]`, as the environment takes them."""
        return self.head.to_env(self.head.mode(self.head(self.actor(self.normalize(observations)))))

    def act(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Draws actions `[B, *action_shape]`, as they are stored, with noise `[B, noise_size]`."""
        return self.head.sample(self.head(self.actor(self.normalize(observations))), noise)

    def value(self, observations: Tensor) -> Tensor:
        """Returns V(s) `[B]`."""
        trunk = self.actor if self.critic is None else self.critic
        features = trunk(self.normalize(observations))
        with _full_precision(features):
            return self.value_head(features.float()).squeeze(-1)

    def evaluate(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s), each `[B]`."""
        inputs = self.normalize(observations)
        actor_features = self.actor(inputs)
        critic_features = actor_features if self.critic is None else self.critic(inputs)
        with _full_precision(inputs):
            outputs = self.head(actor_features.float())
            log_prob, entropy = self.head.log_prob_and_entropy(outputs, actions)
            return log_prob, entropy, self.value_head(critic_features.float()).squeeze(-1)


def _full_precision(like: Tensor) -> torch.autocast:
    """Ends mixed precision before the heads: ratios and targets need more than 8 bits."""
    return torch.autocast(like.device.type, enabled=False)
