"""Base class of the agents that learn from rollouts: acting, values and advantages, saving.

The player fills a rollout of T steps of N environments (`act`). `compute_advantages` then evaluates
all its rows at once and runs GAE. What is learned from them is in the algorithm's own file, whose
functions `fastrl/engine/` runs. Letters: O observation dimensions, K noise values a draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fastrl.agents.base import BaseAgent
from fastrl.agents.coefficients import Coefficients
from fastrl.agents.networks import describe_networks
from fastrl.agents.renamed import refuse_old_hook
from fastrl.agents.states import check_spaces, check_state, describe_spaces, load_noise
from fastrl.buffers.dealing import Dealer, SharedRows
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.on_policy import OnPolicyConfig
from fastrl.config.schedules import SCHEDULE_OF, adaptive_of, moves, value_at
from fastrl.decoupled.channels import RolloutChannel
from fastrl.engine.modes import training_modes
from fastrl.engine.optimizer import FlatOptimizer, checked_flat
from fastrl.models.actor_critic import ActorCritic
from fastrl.models.layers import evaluated
from fastrl.models.normalization import RewardScale
from fastrl.ops.gae import gae
from fastrl.ops.losses import explained_variance
from fastrl.ops.schedules import progress_of


class OnPolicyAgent(BaseAgent):
    """Base of PPO and A2C. A subclass gives `make_optimizer`, `build`, `loss` and `update`."""

    config_class: ClassVar[type[OnPolicyConfig]]
    policy_class: ClassVar[Callable[..., ActorCritic]] = ActorCritic
    policy: Any
    optimizer: FlatOptimizer
    dealer: Dealer

    channel = RolloutChannel
    """What players and trainers in processes of their own send each other."""

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuses a class whose `evaluate` would no longer be called by the loss."""
        super().__init_subclass__(**more)
        refuse_old_hook(cls)

    @training_modes()
    def __init__(self, env: Any, config: OnPolicyConfig | None = None, **settings: Any) -> None:
        """Makes environments, networks and optimiser; arguments as of `BaseAgent`."""
        super().__init__(env, config, **settings)
        self.reward_scale = None
        if self.config.reward_scaling:
            self.reward_scale = RewardScale(self.config.gamma).to(self.device)
        self.optimizer = checked_flat(self.make_optimizer())
        names = [name for name in SCHEDULE_OF if hasattr(self.config, name)]
        settings = {name: float(getattr(self.config, name)) for name in names}
        # Coefficients are tensors changed in place, so that a schedule rebuilds nothing.
        self.scheduled = {x: torch.tensor(y, device=self.device) for x, y in settings.items()}
        self.scheduled["learning_rate"] = self.optimizer.learning_rate
        self.coefficients = Coefficients(self.scheduled, settings)
        self.ent_coef = self.scheduled["ent_coef"]
        self.devices.broadcast(self.optimizer.flat)

    @property
    def rows_are_evaluated(self) -> bool:
        """Whether rows come with values and advantages, from players in other processes."""
        return not self.devices.is_player

    @property
    def has_all_rows(self) -> bool:
        """Whether the rollout holds the rows of all ranks that learn, not of this one alone."""
        return self.config.decoupled and self.config.trainers_get_all_rows

    def _make_networks(self) -> None:
        self.policy = self.make_policy().to(self.device)

    def make_policy(self, **more: Any) -> ActorCritic:
        """Makes the networks, with their initial weights; `more` is what the class takes more."""
        config = self.config
        # A policy class of the user's own need not know what is as by default.
        for name in (
            *("critic_hidden_sizes", "state_dependent_std", "state_dependent_exploration"),
            *("exploration_resample_steps", "observation_clip", "observation_epsilon"),
        ):
            if getattr(config, name) != getattr(OnPolicyConfig, name):
                more[name] = getattr(config, name)
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
            **({"networks": self.own_networks} if self.own_networks else {}),
            **more,
        )

    def make_optimizer(self) -> FlatOptimizer:
        """Returns the optimiser of the policy's parameters."""
        raise NotImplementedError

    def build(self, rollout: Any) -> None:
        """Has the engine build the algorithm's functions for a rollout's shapes."""
        raise NotImplementedError

    # Acting

    def make_acting(self) -> RolloutBuffer:
        """Allocates the rollout and has the engine build what acts on it and evaluates its rows."""
        config = self.config
        batch_size = config.per_rank_batch_size or config.num_steps * config.num_envs
        self.engine.prepare(self.trained, batch_size, self.widest_layer())
        rollout = self.make_rollout(batch_size)
        pools = [self.rows_of_pool(rollout, columns) for columns in self.columns_of_pools()]
        # Methods are found anew each time: a callback may replace one.
        self._act = [
            self.engine.act(lambda *row: self.draw_actions(*row), rows, self.policy)
            for rows in pools
        ]
        rows, values = self.rows_to_evaluate(rollout), rollout.values[:-1].view(-1)
        filled = rollout.log_probs.view(-1), values
        self._evaluate_rows = self.engine.over_rows(
            "evaluate_rows", lambda *x: self.evaluate_rows(*x), rows, filled
        )
        if getattr(config, "recompute_advantages", False):
            self._value_rows = self.engine.over_rows(
                "value_rows", lambda x: self.value_rows(x), rows[:1], (values,)
            )
        caused = rollout.rewards, rollout.terminated, rollout.truncated
        fill = evaluated(lambda *x: self.fill_advantages(rollout, *x), [self.policy])
        self._advantages = self.engine.build(fill, caused)
        return rollout

    def make_learning(self, buffer: RolloutBuffer) -> None:
        """Has the engine build what learns from a rollout."""
        refuse_old_hook(self)
        if self.scheduled:  # by another optimiser, maybe
            self.scheduled["learning_rate"] = self.optimizer.learning_rate
        for name in self.scheduled:  # a mistake in one is told before the run begins
            value_at(self.config, name, 0.0)
        self.build(buffer)

    def trained(self) -> list[tuple[FlatOptimizer, nn.Module]]:
        """Returns the networks, each with the vector that its parameters are part of."""
        return [(self.optimizer, self.policy)]

    def widest_layer(self) -> int:
        """Returns the numbers that the widest layer takes or makes of a row."""
        config, row = self.config, math.prod(self.policy.reader.pixels_shape)
        if config.network:
            row = math.prod(self.observation_space.shape or ())
            widths = [max(x.shape, default=1) for x in self.policy.parameters()]
            return max(row, *widths)
        return max(row, *config.hidden_sizes, *config.critic_hidden_sizes)

    def make_rollout(self, batch_size: int, kind: Any = RolloutBuffer, **more: Any) -> Any:
        """Allocates a rollout whose minibatches have `batch_size` rows; `more` is of its kind."""
        config, head = self.config, self.policy.head
        sizes = config.num_steps, config.num_envs, self.observation_space
        action = head.action_shape, head.action_dtype, head.noise_size
        return kind(*sizes, *action, batch_size, self.device, **more)

    def make_dealer(self, rollout: Any, *, share_data: bool = False, **how: Any) -> Dealer:
        """Returns what deals the rollout's rows, or those of all ranks, into minibatches.

        Args:
            rollout: this rank's.
            share_data: deal the rows of all ranks as one rank with all of them would.
            **how: further settings of `Dealer`.
        """
        config, ranks = self.config, self.devices
        seed = (config.seed, 0 if share_data else ranks.global_rank)
        if share_data:
            batch_size = config.per_rank_batch_size
            rollout = SharedRows(rollout, batch_size, ranks, self.has_all_rows)
        return Dealer(rollout, ranks, seed, config.normalize_advantages, self.engine.build, **how)

    def rows_of_pool(self, rollout: Any, columns: slice) -> list[tuple[Tensor, ...]]:
        """Returns the arguments of `draw_actions` for each step, of some environments.

        They are views, made once: slicing a tensor costs as much as a small matrix product.
        """
        rows = rollout.obs[:-1, columns], rollout.noise[:, columns], rollout.actions[:, columns]
        return list(zip(*(x.unbind(0) for x in rows), strict=True))

    def begin_rollout(self, rollout: RolloutBuffer) -> None:
        """Draws the noise of a whole rollout at once."""
        self.engine.check()
        self.policy.head.draw_noise(rollout.noise, self.noise_generator)

    def act(self, t: int, pool: int) -> np.ndarray:
        """Draws actions for step t of a pool's environments, into the rollout.

        Returns:
            The actions as the environments take them.
        """
        return self._act[pool](t)

    @torch.no_grad()
    def draw_actions(self, obs: Tensor, noise: Tensor, actions: Tensor) -> Tensor:
        """Fills `actions` `[n, *A]` for `obs` `[n, *O]` and `noise` `[n, K]`.

        Returns what the environments take.
        """
        actions.copy_(self.policy.act(obs, noise))
        return self.policy.head.to_env(actions)

    def _sample(self, rows: Tensor) -> Tensor:
        noise = torch.empty(len(rows), self.policy.head.noise_size, device=self.device)
        self.policy.head.draw_noise(noise, self._predict_generator)
        return self.policy.head.to_env(self.policy.act(rows, noise))

    def anneal(self, update_index: int) -> None:
        """Sets the coefficients to where their schedules are; one that adapts goes its own way."""
        progress = progress_of(update_index, self.num_updates)
        for name in self.scheduled:
            adapts = name == "learning_rate" and adaptive_of(self.config) is not None
            how = {"moves": moves(self.config, name), "anew": adapts and update_index == 0}
            self.coefficients.follow(name, value_at(self.config, name, progress), **how)

    # Values and advantages

    def compute_advantages(self, rollout: RolloutBuffer) -> Tensor:
        """Evaluates all rows, then GAE: fills log-probabilities, values, advantages and returns.

        Args:
            rollout: full.

        Returns:
            The explained variance of the values, a scalar.
        """
        if self.rows_are_evaluated:
            return torch.full((), torch.nan)
        valid, merge = rollout.valid, self.devices.merge
        rewards, ends = rollout.rewards, (rollout.terminated, rollout.truncated)
        scale = self.reward_scale
        if scale is not None and scale.training and not self.config.freeze_normalization:
            done, running = ends[0] | ends[1], rollout.discounted_returns
            scale.update(rewards, done, valid, running, merge)
        self._evaluate_rows()
        self._fill_advantages(rewards, *ends)
        return explained_variance(rollout.values[:-1], rollout.returns, valid, merge)

    def recompute_advantages(self, rollout: RolloutBuffer) -> None:
        """Fills values, advantages and returns anew, with the critic as it has become since.

        Andrychowicz et al. 2021 (arXiv 2006.05990) find that old advantages slow learning down.
        Log-probabilities stay: they are those of the policy that acted.
        """
        self._value_rows()
        self._fill_advantages(rollout.rewards, rollout.terminated, rollout.truncated)

    def _fill_advantages(self, rewards: Tensor, terminated: Tensor, truncated: Tensor) -> None:
        if self.reward_scale is not None:
            rewards = self.reward_scale(rewards)
        self._advantages(rewards, terminated, truncated)

    def rows_to_evaluate(self, rollout: Any) -> tuple[Tensor, Tensor]:
        """Returns the arguments of `evaluate_rows`: views of rows and of the actions in them."""
        return rollout.obs[:-1].flatten(0, 1), rollout.actions.flatten(0, 1)

    def evaluate_rows(self, rows: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log pi(a|s) and V(s) of rows, each `[B]`."""
        log_probs, _, values = self.policy.evaluate(rows, actions)
        return log_probs, values

    def value_rows(self, rows: Tensor) -> tuple[Tensor]:
        """Returns V(s) of rows, `[B]`, alone."""
        return (self.policy.value(rows),)

    @torch.no_grad()
    def fill_advantages(
        self, rollout: Any, rewards: Tensor, terminated: Tensor, truncated: Tensor
    ) -> Tensor:
        """Fills the last row of values `[T + 1, N]`, advantages and returns `[T, N]`."""
        with self.devices.autocast():
            rollout.values[-1].copy_(self.last_values(rollout))
        discounts = (self.config.gamma, self.config.gae_lambda)
        advantages = gae(rewards, rollout.values, terminated, truncated, *discounts)
        rollout.advantages.copy_(advantages)
        return rollout.returns.copy_(advantages + rollout.values[:-1])

    def last_values(self, rollout: Any) -> Tensor:
        """Returns V of the observations after the last step, `[N]`."""
        return self.policy.value(rollout.obs[-1])

    def update_obs_normalizer(self, rollout: RolloutBuffer) -> None:
        """Updates the observation normaliser with this rollout, after learning from it.

        The statistics of acting must be those of the update, so that its first ratios are 1.
        With `freeze_normalization`, or in evaluation mode (`policy.normalizer.eval()`), a
        normaliser stays as it is.
        """
        if self.config.freeze_normalization:
            return
        if self.policy.normalizer is not None and self.policy.normalizer.training:
            rows = self.policy.reader.read(rollout.obs[:-1].flatten(0, 1)).vector
            assert rows is not None  # what the normaliser is for
            merge = {} if self.has_all_rows else {"over_ranks": self.devices.merge}
            self.policy.normalizer.update(rows, rollout.valid.flatten(), **merge)

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, normalisers, optimiser and random states."""
        return {
            "config": self.config.to_dict(),
            **describe_networks(self.networks()),
            "spaces": describe_spaces(self),
            "policy": self.policy.state_dict(),
            "reward_scale": None if self.reward_scale is None else self.reward_scale.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "coefficients": self.coefficients.state_dict(),
            "noise_generator": self.noise_generator.get_state(),
            "noise_device": self.device.type,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back; raises ValueError, before it takes any, if it is another agent's."""
        check_spaces(self, state)
        self.match(state)
        state = self._with_coefficients(state)
        check_state(self, state)
        self.policy.load_state_dict(state["policy"])
        if self.reward_scale is not None:
            self.reward_scale.load_state_dict(state["reward_scale"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.coefficients.load_state_dict(state["coefficients"])
        load_noise(self, state)

    def _with_coefficients(self, state: dict[str, Any]) -> dict[str, Any]:
        """Returns a state with its coefficients: older files have at most the learning rate."""
        coefficients = self.coefficients.state_dict()
        if "learning_rate" in coefficients and "learning_rate" in state:
            coefficients["learning_rate"][1] = float(state["learning_rate"])
        return {"coefficients": coefficients, **state}
