"""PPO with a memory: an LSTM or GRU between observations and heads.

    python -m fastrl.ppo_recurrent --env-id CartPole-v1 --mask-vel

What differs from `ppo.py`: acting takes a state along, which starts at zeros where an episode
begins; minibatches are whole sequences, each of one episode and from the state in which the policy
acted there (`buffers/sequences.py`); and their log-probabilities and values come from the library's
LSTM or GRU over all steps at once. The value of an episode's last observation, which a time limit
bootstraps from, is taken with that episode's state.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, so that --help and mistakes answer at once
    from fastrl.cli import main as command_line

    raise SystemExit(command_line("ppo_recurrent"))

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fastrl.buffers.sequences import SequenceMinibatch, SequenceRollout
from fastrl.config.ppo_recurrent import PPORecurrentConfig
from fastrl.engine.compiling import build
from fastrl.models.recurrent import RecurrentActorCritic
from fastrl.ppo import PPO
from fastrl.spaces.observations import rows_of


class PPORecurrent(PPO):
    """A recurrent PPO agent: `PPORecurrent("CartPole-v1", mask_vel=True).learn(500_000)`."""

    algo = "ppo_recurrent"
    config_class = PPORecurrentConfig
    config: PPORecurrentConfig
    minibatch_class = SequenceMinibatch
    policy_class: ClassVar[Any] = RecurrentActorCritic
    policy: RecurrentActorCritic

    def make_policy(self, **more: Any) -> Any:
        """Makes the networks, with their initial weights."""
        memory = {"rnn": self.config.rnn, "previous_action": self.config.previous_action}
        return super().make_policy(**memory, **more)

    # Acting

    @property
    def _width(self) -> int:
        num_gates = 4 if self.config.rnn == "lstm" else 3
        return max(super()._width, num_gates * self.config.hidden_sizes[-1])

    def _splits(self, batch_size: int, num_parts: int) -> bool:
        num_sequences = batch_size // self.config.sequence_length
        return num_sequences % num_parts == 0 and super()._splits(batch_size, num_parts)

    def _allocate(self, batch_size: int) -> SequenceRollout:
        return SequenceRollout(
            *self._rollout_sizes(batch_size),
            sequence_length=self.config.sequence_length,
            num_parts=self._num_parts,
            state_size=self.policy.state_size,
            previous_size=self.policy.previous_size,
            num_features=sum(self.policy.feature_sizes),
        )

    def _build_act(self, buffer: Any, mode: str) -> None:
        # `act` is told which row it fills by where that row's actions are to be stored. The views
        # are made once: slicing a tensor costs as much as a small matrix product.
        self._memories: dict[int, tuple[Tensor, ...]] = {}
        first_env = 0
        for env in self.envs:
            columns = slice(first_env, first_env + env.num_envs)
            for t in range(buffer.num_steps):
                rows = buffer.states[t], buffer.states[t + 1], buffer.features[t]
                views = (buffer.host_valid[t, columns], *(x[columns] for x in rows))
                self._memories[buffer.actions[t, columns].data_ptr()] = views
            drawn = tuple(x[0, columns] for x in (buffer.obs, buffer.noise, buffer.actions))
            if env.num_envs not in self._act:
                memory = self._memories[drawn[2].data_ptr()]
                example = (*drawn, memory[0].to(self.device), *memory[1:])
                self._act[env.num_envs] = build(self._draw_with_memory, example, mode)
            first_env += env.num_envs

    def act(self, obs: Tensor, noise: Tensor, stored: Tensor) -> np.ndarray:
        """Draws actions for `obs` `[n, O]` with `noise` `[n, K]` into `stored`.

        Returns:
            The actions as the environments take them.
        """
        valid, *states = self._memories[stored.data_ptr()]
        valid = valid if self._on_cpu else valid.to(self.device)
        actions = self._act[obs.shape[0]](obs, noise, stored, valid, *states)
        return actions.numpy() if self._on_cpu else actions.cpu().numpy()

    @torch.no_grad()
    def _draw_with_memory(
        self,
        obs: Tensor,
        noise: Tensor,
        stored: Tensor,
        valid: Tensor,
        state: Tensor,
        next_state: Tensor,
        features: Tensor,
    ) -> Tensor:
        """Acts on a row `[n]`; fills its actions and features, and the state of the next row."""
        actions, seen, after = self.policy.act(obs, noise, state)
        stored.copy_(actions)
        features.copy_(seen)
        # A row that is not valid holds the last observation of an episode. It is seen with that
        # episode's state, and only the row after it begins the next episode.
        next_state.copy_(after * valid.unsqueeze(1))
        return self.policy.head.to_env(actions)

    def new_state(self, num_envs: int) -> Tensor:
        """Returns zeros `[n, S]`: the state of n environments in which episodes begin."""
        return torch.zeros(num_envs, self.policy.state_size, device=self.device)

    @torch.no_grad()
    def predict(
        self, obs: Any, deterministic: bool = True, state: Tensor | None = None
    ) -> np.ndarray:
        """Returns the environments' actions for one observation `[*O]` or a batch `[n, *O]`.

        Args:
            obs: what the environments show; of a Dict, one too, or a row as the rollout stores it.
            deterministic: take the likeliest actions in place of drawing some.
            state: `[n, S]` from `new_state`, changed in place: what was seen before. Set the rows
                to zero whose environments begin an episode. None: all begin one here.
        """
        arrays, single = rows_of(self.observation_space, obs)
        rows = torch.as_tensor(arrays).to(self.device)
        before = self.new_state(len(rows)) if state is None else state
        if before.shape != (len(rows), self.policy.state_size):
            raise ValueError(
                f"expected a state of shape {(len(rows), self.policy.state_size)} for "
                f"{len(rows)} observations, not {tuple(before.shape)}"
            )
        if deterministic:
            actions, after = self.policy(rows, before)
        else:
            noise = torch.empty(len(rows), self.policy.head.noise_size, device=self.device)
            self.policy.head.draw_noise(noise, self._predict_generator)
            actions, _, after = self.policy.act(rows, noise, before)
            actions = self.policy.head.to_env(actions)
        before.copy_(after)
        return actions[0].cpu().numpy() if single else actions.cpu().numpy()

    # Learning

    def _rows_to_judge(self, buffer: Any) -> tuple[Tensor, Tensor]:
        """Returns the features that acting left, and the actions."""
        return buffer.features.flatten(0, 1), buffer.actions.flatten(0, 1)

    def _judge_rows(self, rows: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.policy.judge(rows, actions)

    def _last_values(self, buffer: Any) -> Tensor:
        features, _ = self.policy.step(buffer.obs[-1], buffer.states[-1])
        return self.policy.value(features)

    def _deal(self, buffer: Any, update_index: int, epoch: int) -> list[Any]:
        """Deals the sequences; as many minibatches on each rank, however many episodes ended."""
        if not epoch:
            self._num_minibatches = int(self.devices.gather(np.array([buffer.cut()])).max())
        key = self.config.seed, self.devices.global_rank, update_index, epoch
        minibatches = buffer.minibatches(*key, num_minibatches=self._num_minibatches)
        self.devices.balance(minibatches, self.config.normalize_advantages)
        return minibatches

    def _evaluate(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s) of the rows `[L * B]`."""
        steps = batch.weights.unflatten(0, (-1, len(batch.states)))
        alive = (steps > 0).sum(1)
        return self.policy.evaluate(batch.obs, batch.actions, batch.states, batch.previous, alive)


# What `python -m fastrl.ppo_recurrent`, and what `evaluate` and `export` call.
main, load_agent = PPORecurrent.run, PPORecurrent.load_anywhere
