"""Actor and critic as one module, observation normaliser included: what is saved and exported."""

from __future__ import annotations

import gymnasium
import torch
from torch import Tensor, nn

from fastrl.models.encoders import Inputs, Reader, features_of, make_trunk
from fastrl.models.heads import make_action_head
from fastrl.models.layers import linear
from fastrl.models.own import NetworksOf, make_own


class ActorCritic(nn.Module):
    """A policy and a value function over rows `[B, *O]` as the rollout stores them."""

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        *,
        hidden_sizes: tuple[int, ...],
        critic_hidden_sizes: tuple[int, ...] = (),
        activation: str,
        shared: bool,
        ortho_init: bool,
        squash_actions: bool,
        log_std_init: float,
        state_dependent_std: bool = False,
        state_dependent_exploration: bool = False,
        exploration_resample_steps: int = 0,
        normalize_observations: bool,
        observation_clip: float = 10.0,
        observation_epsilon: float = 1e-8,
        encoder: str = "auto",
        networks: NetworksOf | None = None,
    ) -> None:
        """Makes the networks.

        Args:
            observation_space: of the rows, from `spaces.observation_rows`.
            action_space: Discrete, MultiDiscrete, MultiBinary or one-dimensional Box.
            hidden_sizes: widths of the hidden layers; with pixels, those after the convolutions.
            critic_hidden_sizes: those of the critic, if it has others.
            activation: as `layers.activation_class` takes it.
            shared: one trunk with two heads, in place of two trunks.
            ortho_init: orthogonal initial weights.
            squash_actions: squash Box actions by tanh in place of clipping them.
            log_std_init: initial logarithm of the standard deviation of Box actions.
            state_dependent_std: the actor gives that of each state.
            state_dependent_exploration: noise is a function of the last features.
            exploration_resample_steps: steps after which it is another one; 0: a whole rollout.
            normalize_observations: put a running normaliser in front of vectors.
            observation_clip: normalised values are kept within plus and minus this.
            observation_epsilon: added to the variance of observations.
            encoder: the convolutions over pixels: "auto", "nature", "impala" or "minatar".
            networks: what makes other networks in front of the heads; those of `hidden_sizes`,
                `activation` and `encoder` are not made then.

        Raises:
            ValueError: a space is not supported, or a setting has no effect on it; or a network
                gives no features.
        """
        super().__init__()
        self.reader = Reader(observation_space)
        self.normalizer = None
        if normalize_observations:
            self.normalizer = self.reader.make_normalizer(observation_clip, observation_epsilon)

        def make(which: str, sizes: tuple[int, ...]) -> tuple[nn.Module, int]:
            if networks:
                return make_own(self.reader, networks[which])
            return make_trunk(self.reader, sizes, activation, ortho_init, encoder)

        self.actor, num_features = make("actor", hidden_sizes)
        self.critic, num_critic_features = None, num_features
        if not shared:
            sizes = critic_hidden_sizes or hidden_sizes
            self.critic, num_critic_features = make("critic", sizes)
        action_gain, value_gain = (0.01, 1.0) if ortho_init else (None, None)
        self.head = make_action_head(
            action_space,
            num_features,
            squash_actions,
            log_std_init,
            action_gain,
            state_dependent_std,
            state_dependent_exploration,
            exploration_resample_steps,
        )
        self.value_head = linear(num_critic_features, 1, value_gain)

    def read(self, observations: Tensor) -> Inputs:
        """Brings observations `[B, *O]`, of any type, to what the networks see."""
        return self.reader.read(observations, self.normalizer)

    def forward(self, observations: Tensor) -> Tensor:
        """Returns the greedy actions for observations `[B, *O]`, as the environment takes them."""
        return self.head.to_env(self.head.mode(self.outputs(observations)))

    def act(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Draws actions `[B, *action_shape]`, as they are stored, with noise `[B, noise_size]`."""
        return self.head.sample(self.outputs(observations), noise)

    def evaluate(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s), each `[B]`."""
        outputs, values = self.outputs_and_values(observations)
        return *self.head.log_prob_and_entropy(outputs, actions), values

    # The networks

    def outputs(self, observations: Tensor) -> Tensor:
        """Returns the parameters of the distribution over actions, `[B, A]`."""
        inputs = self.read(observations)
        return self.allowed(self.head(features_of(self.actor, inputs)), inputs)

    def value(self, observations: Tensor) -> Tensor:
        """Returns V(s) `[B]`."""
        trunk = self.actor if self.critic is None else self.critic
        features = features_of(trunk, self.read(observations))
        with full_precision(features):
            return self.value_head(features.float()).squeeze(-1)

    def outputs_and_values(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the distribution's parameters `[B, A]` and V(s) `[B]`."""
        inputs = self.read(observations)
        actor_features = critic_features = features_of(self.actor, inputs)
        if self.critic is not None:
            critic_features = features_of(self.critic, inputs)
        with full_precision(actor_features):
            outputs = self.allowed(self.head(actor_features.float()), inputs)
            return outputs, self.value_head(critic_features.float()).squeeze(-1)

    @staticmethod
    def allowed(outputs: Tensor, inputs: Inputs) -> Tensor:
        """Leaves forbidden actions no probability, in outputs `[B, A]`."""
        if inputs.mask is None:
            return outputs
        # Finite, so that its product with a probability of zero is zero in the entropy.
        return outputs.masked_fill(~inputs.mask, _FORBIDDEN)


_FORBIDDEN = -1e9


def full_precision(like: Tensor) -> torch.autocast:
    """Ends mixed precision before the heads: ratios and targets need more than 8 bits."""
    return torch.autocast(like.device.type, enabled=False)
