"""A module as the policy that agents hold: it draws, evaluates and saves as `ActorCritic` does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastrl.models.layers import evaluating


class ModulePolicy(nn.Module):
    """The policy of a `LightningAgentModule`; its state is the module's own."""

    normalizer = None

    def __init__(self, agent_module: Any) -> None:
        """Holds a module whose spaces are bound."""
        super().__init__()
        self.agent_module = agent_module
        self.reader = agent_module._reader

    @property
    def head(self) -> Any:
        """The distribution over actions."""
        return self.agent_module.head

    def _seen(self, observations: Any) -> Any:
        """Returns what the network gets of rows or, in an export, of what its reader reads."""
        return self.agent_module._observations.seen(observations, self.reader)

    def forward(self, observations: Tensor) -> Tensor:
        """Returns the greedy actions for observations `[B, *O]`, as the environment takes them."""
        return self.head.to_env(self.head.mode(self.outputs(observations)))

    def outputs(self, observations: Tensor) -> Tensor:
        """Returns the parameters of the distribution over actions, `[B, K]`."""
        return self.agent_module.outputs_and_values(self._seen(observations))[0]

    def to_env(self, actions: Tensor) -> Tensor:
        """Returns stored actions `[B, *action_shape]` as the environment takes them."""
        return self.head.to_env(actions)

    def act(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Draws actions `[B, *action_shape]`, as they are stored, with noise `[B, noise_size]`."""
        return self.agent_module.act(self._seen(observations), noise)

    def evaluate(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s), each `[B]`; V is 0 if there is none."""
        seen = self._seen(observations)
        log_probs, entropy, values = self.agent_module.evaluate_actions(seen, actions)
        return log_probs, entropy, torch.zeros_like(log_probs) if values is None else values

    def value(self, observations: Tensor) -> Tensor:
        """Returns V(s) `[B]`; 0 if there is none."""
        outputs, values = self.agent_module.outputs_and_values(self._seen(observations))
        return outputs.new_zeros(len(outputs)) if values is None else values

    @property
    def has_values(self) -> bool:
        """Whether the network has a value function."""
        space, module = self.reader.space, self.agent_module
        blank = torch.from_numpy(np.zeros((2, *(space.shape or ())), space.dtype))
        with torch.no_grad(), evaluating(module):
            return module.outputs_and_values(blank.to(module.device))[1] is not None

    def state_dict(self, *arguments: Any, **how: Any) -> Any:
        """Returns the module's state, under its own names."""
        return self.agent_module.state_dict(*arguments, **how)

    def load_state_dict(self, state_dict: Any, *arguments: Any, **how: Any) -> Any:
        """Takes the module's state back."""
        return self.agent_module.load_state_dict(state_dict, *arguments, **how)


def bound_policy(agent: Any, agent_module: Any) -> ModulePolicy:
    """Returns a module as an agent's policy: for its spaces, on its device, alike on all ranks."""
    agent_module.bind_spaces(agent.observation_space, agent.action_space)
    agent_module._is_of_data = False  # the actions of rollouts are stored ones
    agent_module.to(agent.device)
    policy = ModulePolicy(agent_module)
    for tensor in policy.state_dict().values():
        agent.devices.broadcast(tensor)
    return policy
