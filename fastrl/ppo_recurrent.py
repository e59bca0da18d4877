"""PPO with a memory: an LSTM or GRU between observations and heads.

    python -m fastrl.ppo_recurrent --env-id CartPole-v1 --mask-vel

The loss and the update are those of `ppo.py`. What differs: acting takes a state along, which
starts at zeros where an episode begins; minibatches are whole sequences, each of one episode and
from the state in which the policy acted there (`buffers/sequences.py`); and their log-probabilities
and values come from the LSTM or GRU over all steps at once. The value of an episode's last
observation, which a time limit bootstraps from, is taken with that episode's state.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, so that --help and mistakes answer at once
    from fastrl.cli import main as command_line

    raise SystemExit(command_line("ppo_recurrent", file=__file__))

from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from fastrl.agents.signatures import PPORecurrentSettings
from fastrl.buffers.sequences import SequenceRollout
from fastrl.config.calls import names_checked
from fastrl.config.ppo_recurrent import PPORecurrentConfig
from fastrl.config.values import number_of
from fastrl.models.layers import evaluating
from fastrl.models.recurrent import RecurrentActorCritic
from fastrl.ppo import PPO
from fastrl.spaces.actions import within_bounds


class PPORecurrent(PPO):
    """A recurrent PPO agent: `PPORecurrent("CartPole-v1", mask_vel=True).learn(500_000)`."""

    algo = "ppo_recurrent"
    config_class = PPORecurrentConfig
    config: PPORecurrentConfig
    policy_class: ClassVar[Any] = RecurrentActorCritic
    policy: RecurrentActorCritic

    def __init__(
        self,
        env: Any,
        config: PPORecurrentConfig | None = None,
        **settings: Unpack[PPORecurrentSettings],
    ) -> None:
        """Makes environments, networks and optimiser; arguments as of `BaseAgent`."""
        super().__init__(env, config, **settings)

    def make_policy(self, **more: Any) -> Any:
        """Makes the networks, with their initial weights."""
        memory = {"rnn": self.config.rnn, "previous_action": self.config.previous_action}
        return super().make_policy(**memory, **more)

    def widest_layer(self) -> int:
        """Returns the numbers that the widest layer takes or makes of a row."""
        num_gates = 4 if self.config.rnn == "lstm" else 3
        return max(super().widest_layer(), num_gates * self.config.hidden_sizes[-1])

    def make_rollout(self, batch_size: int, kind: Any = SequenceRollout, **more: Any) -> Any:
        """Allocates a rollout of sequences."""
        return super().make_rollout(
            batch_size,
            kind,
            sequence_length=self.config.sequence_length,
            state_size=self.policy.state_size,
            previous_size=self.policy.previous_size,
            num_features=sum(self.policy.feature_sizes),
            **more,
        )

    # Acting

    def rows_of_pool(self, rollout: Any, columns: slice) -> list[tuple[Tensor, ...]]:
        """Returns the arguments of `draw_actions` for each step, of some environments."""
        states = rollout.states[:, columns].unbind(0)
        valid = rollout.host_valid[:-1, columns].unbind(0)
        features = rollout.features[:, columns].unbind(0)
        rows = super().rows_of_pool(rollout, columns)
        more = zip(valid, states[:-1], states[1:], features, strict=True)
        return [(*row, *memory) for row, memory in zip(rows, more, strict=True)]

    @torch.no_grad()
    def draw_actions(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        obs: Tensor,
        noise: Tensor,
        actions: Tensor,
        valid: Tensor,
        state: Tensor,
        next_state: Tensor,
        features: Tensor,
    ) -> Tensor:
        """Acts on a row `[n]`; fills its actions and features, and the state of the next row.

        Returns what the environments take.
        """
        drawn, seen, after = self.policy.act(obs, noise, state)
        actions.copy_(drawn)
        features.copy_(seen)
        # A row that is not valid holds the last observation of an episode. It is seen with that
        # episode's state, and only the row after it begins the next episode.
        next_state.copy_(after * valid.unsqueeze(1))
        return self.policy.head.to_env(drawn)

    def new_state(self, num_envs: int) -> Tensor:
        """Returns zeros `[n, S]`: the state of n environments in which episodes begin."""
        shape = number_of("num_envs", num_envs, int, 0, 2**31), self.policy.state_size
        return torch.zeros(shape, dtype=torch.float32, device=self.device)

    @names_checked
    @torch.no_grad()
    def predict(
        self,
        obs: Any,
        deterministic: bool = True,
        state: Tensor | None = None,
        action_mask: Any = None,
    ) -> Any:
        """Returns the environments' actions for one observation `[*O]` or a batch `[n, *O]`.

        Args:
            obs: what the environments show; of a Dict, one too, or a row as the rollout stores it.
            deterministic: take the likeliest actions in place of drawing some.
            state: `[n, S]` from `new_state`, changed in place: what was seen before. Set the rows
                to zero whose environments begin an episode. None: all begin one here.
            action_mask: none: with a memory there are no masks.

        Returns:
            As `BaseAgent.predict`.

        Raises:
            ValueError: the state has another shape or dtype, or the observation does not fit.
        """
        arrays, single = self._rows_of(obs, action_mask)
        rows = torch.as_tensor(arrays).to(self.device)
        before = self.new_state(len(rows)) if state is None else state
        if not isinstance(before, Tensor):
            raise ValueError(f"state is a tensor of new_state, not {type(before).__name__}")
        if before.dtype != torch.float32 or 0 in before.stride():  # expanded: rows share memory
            kind = before.dtype if before.dtype != torch.float32 else "an expanded one"
            raise ValueError(f"state is a float32 tensor of new_state, not {kind}")
        if before.shape != (len(rows), self.policy.state_size):
            raise ValueError(
                f"expected a state of shape {(len(rows), self.policy.state_size)} for "
                f"{len(rows)} observations, not {tuple(before.shape)}"
            )
        with self.engine.claim.not_beside_learning(), evaluating(self.policy):
            if deterministic:
                actions, after = self.policy(rows, before)
            else:
                noise = torch.empty(len(rows), self.policy.head.noise_size, device=self.device)
                self.policy.head.draw_noise(noise, self._predict_generator)
                actions, _, after = self.policy.act(rows, noise, before)
                actions = self.policy.head.to_env(actions)
        before.copy_(after)
        actions = within_bounds(self.action_space, actions.cpu().numpy())
        return actions[0] if single else actions

    # Learning

    def rows_to_evaluate(self, rollout: Any) -> tuple[Tensor, Tensor]:
        """Returns views of the features that acting left, and of the actions."""
        return rollout.features.flatten(0, 1), rollout.actions.flatten(0, 1)

    def evaluate_rows(self, rows: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log pi(a|s) and V(s) of rows of features, each `[B]`."""
        log_probs, _, values = self.policy.evaluate_features(rows, actions)
        return log_probs, values

    def last_values(self, rollout: Any) -> Tensor:
        """Returns V of the observations after the last step, `[N]`."""
        features, _ = self.policy.step(rollout.obs[-1], rollout.states[-1])
        return self.policy.value(features)

    def evaluate_actions(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s) of the rows of sequences, each `[L * B]`."""
        steps = batch.weights.unflatten(0, (-1, len(batch.states)))
        batch_sizes = (steps > 0).sum(1)
        return self.policy.evaluate(
            batch.obs, batch.actions, batch.states, batch.previous, batch_sizes
        )


# What `python -m fastrl.ppo_recurrent`, and what `evaluate` and `export` call.
main, load_agent = PPORecurrent.run, PPORecurrent.load_anywhere
