"""Actor and critic that remember: layers, then an LSTM or GRU, then the heads.

A state is one row `[B, S]`: what the memories hold and, if asked for, the previous action. Zeros
are the state in which an episode begins. Letters: L steps of B sequences, E numbers of a previous
action, F features in front of the heads.
"""

from __future__ import annotations

import math

import gymnasium
import torch
from torch import Tensor, nn

from fastrl.models.actor_critic import full_precision
from fastrl.models.distributions import CategoricalHead
from fastrl.models.encoders import Inputs, Reader, features_of, make_trunk
from fastrl.models.heads import make_action_head
from fastrl.models.layers import linear
from fastrl.models.own import NetworksOf, make_own
from fastrl.models.rnn import Memory


class RecurrentActorCritic(nn.Module):
    """A policy and a value function of all that was seen in an episode."""

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        *,
        rnn: str,
        previous_action: bool,
        hidden_sizes: tuple[int, ...],
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
            rnn: "lstm" or "gru".
            previous_action: the memory sees what was done a step before, too.
            hidden_sizes: widths of the layers; the last is the memory's.
            activation: before the memory, as `layers.activation_class` takes it.
            shared: one memory with two heads, in place of two.
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
            networks: what makes other networks in front of the memory; of `hidden_sizes` only the
                last counts then.

        Raises:
            ValueError: a space is not supported, or a setting has no effect on it; or a network
                gives no features.
        """
        super().__init__()
        self.reader = Reader(observation_space)
        if self.reader.mask_size:
            raise ValueError("an action mask is not offered with a memory; ppo and a2c take one")
        self.normalizer = None
        if normalize_observations:
            self.normalizer = self.reader.make_normalizer(observation_clip, observation_epsilon)
        *widths, num_features = hidden_sizes
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
        self.value_head = linear(num_features, 1, value_gain)
        self.previous_size = 0
        if previous_action:
            is_choice = isinstance(self.head, CategoricalHead)
            self.previous_size = (
                self.head.noise_size if is_choice else math.prod(self.head.action_shape)
            )
        num_memories = 1 if shared else 2
        trunks = [
            make_own(self.reader, networks[which])
            if networks
            else make_trunk(self.reader, widths, activation, ortho_init, encoder)
            for which in ("actor", "critic")[:num_memories]
        ]
        self.encoders = nn.ModuleList(trunk for trunk, _ in trunks)
        memories = [
            Memory(rnn, num_inputs + self.previous_size, num_features, ortho_init)
            for _, num_inputs in trunks
        ]
        self.memories = nn.ModuleList(memories)
        self.memory_sizes = [memory.state_size for memory in memories]
        self.feature_sizes = [num_features] * num_memories
        self.state_size = sum(self.memory_sizes) + self.previous_size

    def forward(self, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the greedy actions `[B, ...]`, as the environment takes them, and the state."""
        features, memory = self.step(observations, state)
        actions = self.head.mode(self.head(self._of_actor(features)))
        return self.head.to_env(actions), self.remember(memory, actions)

    def act(self, observations: Tensor, noise: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """Draws actions.

        Args:
            observations: `[B, *O]`.
            noise: `[B, noise_size]`.
            state: `[B, S]` before the step.

        Returns:
            Actions `[B, *action_shape]`, features `[B, F]` and the state after the step `[B, S]`.
        """
        features, memory = self.step(observations, state)
        actions = self.head.sample(self.head(self._of_actor(features)), noise)
        return actions, features, self.remember(memory, actions)

    def outputs(self, observations: Tensor, state: Tensor) -> Tensor:
        """Returns the parameters `[B, K]` of the distribution over actions in a state `[B, S]`."""
        return self.head(self._of_actor(self.step(observations, state)[0]))

    def step(self, observations: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Takes observations `[B, *O]` in; returns features `[B, F]` and what the memories hold."""
        *memories, previous = state.split([*self.memory_sizes, self.previous_size], 1)
        inputs = self.read(observations)
        held = []
        for encoder, memory, before in zip(self.encoders, self.memories, memories, strict=True):
            assert isinstance(memory, Memory)
            held.append(memory.step(self._with(previous, features_of(encoder, inputs)), before))
        features = [x[:, :size] for x, size in zip(held, self.feature_sizes, strict=True)]
        return _joined(features), _joined(held)

    def remember(self, memory: Tensor, actions: Tensor) -> Tensor:
        """Returns the state `[B, S]` of what the memories hold and of the action just taken."""
        if not self.previous_size:
            return memory
        if isinstance(self.head, CategoricalHead):
            columns = actions.unsqueeze(1) if self.head.single else actions
            ones = [  # one_hot looks at the values, which a fixed graph cannot
                columns[:, dim : dim + 1] == torch.arange(choices, device=actions.device)
                for dim, choices in enumerate(self.head.num_choices)
            ]
            return torch.cat([memory, *(x.to(memory.dtype) for x in ones)], 1)
        return torch.cat([memory, self.head.to_env(actions)], 1)

    def evaluate_features(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s), each `[B]`, of features `[B, F]`."""
        with full_precision(features):
            features = features.float()
            outputs = self.head(self._of_actor(features))
            log_prob, entropy = self.head.log_prob_and_entropy(outputs, actions)
            return log_prob, entropy, self.value(features)

    def value(self, features: Tensor) -> Tensor:
        """Returns V(s) `[B]` of features `[B, F]`."""
        with full_precision(features):
            last = features.float().split(self.feature_sizes, 1)[-1]
            return self.value_head(last).squeeze(-1)

    def evaluate(
        self,
        observations: Tensor,
        actions: Tensor,
        state: Tensor,
        previous: Tensor,
        batch_sizes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s) of sequences, without a loop over steps.

        Args:
            observations: `[L * B, *O]`, step by step.
            actions: `[L * B, *action_shape]`.
            state: `[B, S]` before the first step.
            previous: previous actions `[L * B, E]`, as in a state.
            batch_sizes: int64 `[L]`: how many sequences have a step t, the first ones; None: all.

        Returns:
            Three times `[L * B]`.
        """
        *memories, _ = state.split([*self.memory_sizes, self.previous_size], 1)
        inputs = self.read(observations)
        features = []
        for encoder, memory, before in zip(self.encoders, self.memories, memories, strict=True):
            rows = self._with(previous, features_of(encoder, inputs).float())
            with full_precision(rows):  # an error in a memory lasts
                sequences = rows.unflatten(0, (-1, len(state)))
                features.append(memory(sequences, before, batch_sizes).flatten(0, 1))
        return self.evaluate_features(_joined(features), actions)

    def read(self, observations: Tensor) -> Inputs:
        """Brings observations `[B, *O]`, of any type, to what the networks see."""
        return self.reader.read(observations, self.normalizer)

    def _with(self, previous: Tensor, features: Tensor) -> Tensor:
        """Returns what a memory sees: features and the previous action, if it is asked for."""
        return torch.cat([features, previous], 1) if self.previous_size else features

    def _of_actor(self, features: Tensor) -> Tensor:
        return features.split(self.feature_sizes, 1)[0]


def _joined(parts: list[Tensor]) -> Tensor:
    """Returns tensors `[B, *]` side by side; one alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
