"""What all agents that learn from whole rollouts are alike in: acting, judging, saving.

The player fills a rollout of T steps of N environments (`act`); values, log-probabilities and
advantages of all its rows are then worked out at once (`judge`). What is learned from them is the
algorithm's own file. Letters: O observation dimensions, K noise values a draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fastrl.agents.base import Face
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.on_policy import OnPolicyConfig
from fastrl.decoupled.rollout import RolloutPlaying, RolloutTraining
from fastrl.engine.compiling import build
from fastrl.engine.native import FusedActing
from fastrl.engine.optimizer import FlatOptimizer
from fastrl.engine.parts import side_by_side
from fastrl.engine.threads import num_threads, update_threads
from fastrl.kernels.extension import HAS_DENSE, crew
from fastrl.models.actor_critic import ActorCritic
from fastrl.models.normalization import RewardScale
from fastrl.ops.gae import gae
from fastrl.ops.losses import explained_variance
from fastrl.ops.moments import Moments

# Rows that go through the networks at once, and numbers in them: what is made of them stays in the
# cache.
_CHUNK, _CHUNK_NUMBERS = 2048, 2**23


class OnPolicy(Face):
    """Base of PPO and A2C, whose `make_buffer` and `update` finish it."""

    config_class: ClassVar[type[OnPolicyConfig]]
    policy_class: ClassVar[Callable[..., ActorCritic]] = ActorCritic
    optimizer: FlatOptimizer
    sides = RolloutPlaying, RolloutTraining

    def __init__(self, env: Any, config: OnPolicyConfig | None = None, **settings: Any) -> None:
        """Makes environments and networks; arguments as of `Face`."""
        super().__init__(env, config, **settings)
        self.reward_scale = None
        if self.config.reward_scaling:
            self.reward_scale = RewardScale(self.config.gamma).to(self.device)

    def _make_networks(self) -> None:
        self.policy = self.make_policy().to(self.device)
        # torch.compile has kernels of its own, and the extension's are in float32.
        suits = self.config.compile != "on" and self.config.precision == "32-true"
        self.policy.in_extension = HAS_DENSE and self._on_cpu and suits

    @property
    def _in_extension(self) -> bool:
        """Whether the policy's networks go through the extension, which shares work by itself."""
        policy = self.policy
        return type(policy) is ActorCritic and policy.in_extension and policy.is_dense

    def make_policy(self, **more: Any) -> ActorCritic:
        """Makes the networks, with their initial weights; `more` is what the class takes more."""
        config = self.config
        return self.policy_class(
            self.observation_space,
            self.action_space,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation_function,
            shared=config.shared_network,
            ortho_init=config.ortho_init,
            squash_actions=config.squash_actions,
            log_std_init=config.log_std_init,
            normalize_observations=config.observation_normalization,
            encoder=config.encoder,
            **more,
        )

    # Acting

    def make_buffer(self) -> RolloutBuffer:
        """Allocates the rollout and builds `act` and `advantage` for its shapes."""
        config = self.config
        batch_size = config.per_rank_batch_size or config.num_steps * config.num_envs
        threads = config.num_threads or update_threads(batch_size, self._width)
        # The extension and compiled kernels share the work among threads themselves; recorded ones
        # get parts of it.
        self._num_parts = self._num_threads = self._crew_threads = 1
        if self._in_extension:
            self._crew_threads = threads
        elif config.compile != "on" and self._on_cpu and self._splits(batch_size, threads):
            self._num_parts = threads
        else:
            self._num_threads = threads
        buffer = self._allocate(batch_size)
        self._build_act(buffer, self._acting_mode)
        self._build_judging(buffer, self._acting_mode)
        return buffer

    @property
    def _width(self) -> int:
        """Numbers that the widest layer takes or makes of a row."""
        return max(math.prod(self.policy.reader.pixels_shape), *self.config.hidden_sizes)

    def _splits(self, batch_size: int, num_parts: int) -> bool:
        """Tells whether a minibatch may be worked on in parts, side by side."""
        return not self.policy.reader.pixels_shape  # convolutions share their work themselves

    def _allocate(self, batch_size: int) -> RolloutBuffer:
        return RolloutBuffer(*self._rollout_sizes(batch_size))

    def _rollout_sizes(self, batch_size: int) -> tuple[Any, ...]:
        config, head = self.config, self.policy.head
        action = head.action_shape, head.action_dtype, head.noise_size
        sizes = config.num_steps, config.num_envs, self.observation_space
        return *sizes, *action, batch_size, self.device

    def _build_act(self, buffer: RolloutBuffer, mode: str) -> None:
        for num_envs in {env.num_envs for env in self.envs}:
            if FusedActing.suits(self.policy):
                self._act[num_envs] = FusedActing(self.policy, num_envs)
                continue
            example = tuple(x[0, :num_envs] for x in (buffer.obs, buffer.noise, buffer.actions))
            self._act[num_envs] = build(self._draw_actions, example, mode)

    def begin_rollout(self, buffer: RolloutBuffer) -> None:
        """Draws the noise of a whole rollout at once."""
        self.policy.head.draw_noise(buffer.noise, self.noise_generator)

    def act(self, obs: Tensor, noise: Tensor, stored: Tensor) -> np.ndarray:
        """Draws actions for `obs` `[n, O]` with `noise` `[n, K]` into `stored`.

        Returns:
            The actions as the environments take them.
        """
        actions = self._act[obs.shape[0]](obs, noise, stored)
        return actions.numpy() if self._on_cpu else actions.cpu().numpy()

    @torch.no_grad()
    def _draw_actions(self, obs: Tensor, noise: Tensor, stored: Tensor) -> Tensor:
        actions = self.policy.act(obs, noise)
        stored.copy_(actions)
        return self.policy.head.to_env(actions)

    def _sample(self, rows: Tensor) -> Tensor:
        noise = torch.empty(len(rows), self.policy.head.noise_size, device=self.device)
        self.policy.head.draw_noise(noise, self._predict_generator)
        return self.policy.head.to_env(self.policy.act(rows, noise))

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Sets the threads of what follows a rollout."""
        with num_threads(self._num_threads), crew(self._crew_threads):
            yield

    # Judging

    def judge(self, buffer: RolloutBuffer) -> Tensor:
        """Fills the rollout's values, log-probabilities, advantages and returns.

        Returns:
            The explained variance of the values, a scalar.
        """
        rewards, valid = buffer.rewards, buffer.valid
        terminated, truncated = buffer.terminated, buffer.truncated
        if self.reward_scale is not None:
            done, running = terminated | truncated, buffer.discounted_returns
            self.reward_scale.update(rewards, done, valid, running, self.devices.merge)
            rewards = self.reward_scale(rewards)
        for fill in self._fill_rows:
            fill()
        self._advantage(rewards, terminated, truncated)
        over_ranks = None if self.devices.is_alone else self.devices.merge
        return explained_variance(buffer.values[:-1], buffer.returns, valid, over_ranks)

    def take_in_observations(
        self, buffer: RolloutBuffer, merge: Callable[[Moments], Moments] | None = None
    ) -> None:
        """Updates the normaliser: after learning, whose first ratios are of the acting policy.

        Args:
            buffer: the rollout.
            merge: brings in the moments of other ranks; by default all of them.
        """
        if self.policy.normalizer is not None:
            rows = self.policy.reader.read(buffer.obs[:-1].flatten(0, 1)).vector
            assert rows is not None  # what the normaliser is for
            merge = merge or self.devices.merge
            self.policy.normalizer.update(rows, buffer.valid.flatten(), merge)

    def _build_judging(self, buffer: RolloutBuffer, mode: str) -> None:
        """Builds what judges the rollout: its rows span by span, then its advantages."""
        inputs, actions = self._rows_to_judge(buffer)
        fields = inputs, actions, buffer.log_probs.view(-1), buffer.values[:-1].view(-1)
        self._chunk = max(1, min(_CHUNK, _CHUNK_NUMBERS // inputs[0].numel()))
        pieces = [field.split(self._num_parts * self._chunk) for field in fields]
        self._spans = list(zip(*pieces, strict=True))
        self._fill_rows = self._build_per_span(self._evaluate_span, self._spans, mode)
        caused = (buffer.rewards, buffer.terminated, buffer.truncated)
        self._advantage = build(partial(self._compute_advantages, buffer), caused, mode)

    @staticmethod
    def _build_per_span(
        function: Callable[..., Tensor], spans: list[tuple[Tensor, ...]], mode: str
    ) -> list[Callable[[], Tensor]]:
        """Builds a function of some of a span's fields; returns its call for each span."""
        examples = {len(span[0]): span for span in spans}  # the last may be shorter
        built = {num_rows: build(function, span, mode) for num_rows, span in examples.items()}
        return [partial(built[len(span[0])], *span) for span in spans]

    def _rows_to_judge(self, buffer: RolloutBuffer) -> tuple[Tensor, Tensor]:
        """Returns views of what `_judge_rows` takes: rows and the actions taken in them."""
        return buffer.obs[:-1].flatten(0, 1), buffer.actions.flatten(0, 1)

    def _judge_rows(self, rows: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log pi(a|s), the entropy and V(s) of some rows."""
        return self.policy.evaluate(rows, actions)

    @torch.no_grad()
    def _evaluate_span(
        self, rows: Tensor, actions: Tensor, log_probs: Tensor, values: Tensor
    ) -> Tensor:
        """Fills `log_probs` and `values` of some chunks of rows, side by side; returns `values`."""
        given = list(zip(rows.split(self._chunk), actions.split(self._chunk), strict=True))
        with self.devices.autocast():
            judged = side_by_side(self._judge_rows, given)
        filled = zip(log_probs.split(self._chunk), values.split(self._chunk), strict=True)
        for result, (own_log_probs, own_values) in zip(judged, filled, strict=True):
            own_log_probs.copy_(result[0])
            own_values.copy_(result[2])
        return values

    @torch.no_grad()
    def _compute_advantages(
        self, buffer: RolloutBuffer, rewards: Tensor, terminated: Tensor, truncated: Tensor
    ) -> Tensor:
        """Fills the last row of values `[T + 1, N]`, advantages and returns `[T, N]`."""
        with self.devices.autocast():
            buffer.values[-1].copy_(self._last_values(buffer))
        discounts = (self.config.gamma, self.config.gae_lambda)
        advantages = gae(rewards, buffer.values, terminated, truncated, *discounts)
        buffer.advantages.copy_(advantages)
        return buffer.returns.copy_(advantages + buffer.values[:-1])

    def _last_values(self, buffer: RolloutBuffer) -> Tensor:
        """Returns V of the observations after the last step, `[N]`."""
        return self.policy.value(buffer.obs[-1])

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, normalisers, optimiser and random states."""
        return {
            "config": self.config.to_dict(),
            "policy": self.policy.state_dict(),
            "reward_scale": None if self.reward_scale is None else self.reward_scale.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "noise_generator": self.noise_generator.get_state(),
            "noise_device": self.device.type,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back; raises ValueError if it is another network's."""
        try:
            self.policy.load_state_dict(state["policy"])
            if self.reward_scale is not None:
                self.reward_scale.load_state_dict(state["reward_scale"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["noise_device"] == self.device.type:  # another's state means nothing here
                self.noise_generator.set_state(state["noise_generator"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"the checkpoint does not fit this agent: {error}") from error
