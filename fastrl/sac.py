"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905).

    python -m fastrl.sac --env-id LunarLanderContinuous-v2

One iteration: the policy takes T steps of N environments, most often one; they go into the replay
buffer; then as many gradient steps as the replay ratio allows, each on a fresh minibatch of B
transitions. A gradient step moves the critics along `critic_loss`, their temporal difference; the
actor along `actor_loss`, towards what the critics value plus entropy; the temperature towards the
target entropy; and the target critics after the critics. All that is random is drawn before it and
handed in. `engine/` decides how all of it runs, and runs what is written here.
Letters: O observation dimensions, A action dimensions, E critics, P parameters.
"""

from __future__ import annotations

if __name__ == "__main__":  # before torch is imported, so that --help and mistakes answer at once
    from fastrl.cli import main as command_line

    raise SystemExit(command_line("sac", file=__file__))

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from fastrl.agents.coefficients import Coefficients
from fastrl.agents.off_policy import OffPolicyAgent
from fastrl.agents.signatures import SACSettings
from fastrl.buffers.replay import Transitions
from fastrl.config.sac import SACConfig
from fastrl.config.schedules import value_at
from fastrl.engine.optimizer import FlatAdam, FlatParameters
from fastrl.models.critics import Critics, SquashedGaussianActor
from fastrl.models.layers import frozen
from fastrl.models.own import check_apart, make_own
from fastrl.ops.losses import soft_target, temporal_difference_loss
from fastrl.ops.schedules import progress_of
from fastrl.processes.pulse import PULSE

CRITIC_METRICS = ("Loss/value_loss", "Info/q_value", "Gradients/critic_norm")
ACTOR_METRICS = ("Loss/policy_loss", "Info/entropy", "Loss/alpha_loss", "Gradients/actor_norm")
LEARNERS = (
    "policy",
    "critics",
    "target_critics",
    "temperature",
    "actor_optimizer",
    "critic_optimizer",
    "alpha_optimizer",
)
LEARNING_RATES = ("policy_lr", "q_lr", "alpha_lr")
MOST_DRAWN = 64  # minibatches whose noise and row numbers are drawn at once


class Drawn(NamedTuple):
    """A minibatch of B transitions, as `Transitions`, and the noise that is drawn for it."""

    obs: Tensor
    actions: Tensor
    next_obs: Tensor
    rewards: Tensor
    discounts: Tensor
    next_noise: Tensor
    """Standard normal `[B, A]`, for the next actions."""
    noise: Tensor
    """Standard normal `[B, A]`, for the actor's actions."""
    target_masks: Tensor | None = None
    """Dropout in the target critics, if there is any."""
    masks: Tensor | None = None
    """Dropout in the critics."""


class Temperature(nn.Module):
    """The weight of the entropy, as its logarithm."""

    def __init__(self, alpha: float) -> None:
        """Starts at `alpha`; 0 is allowed where it is not tuned."""
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(alpha).log())


class SAC(OffPolicyAgent):
    """A SAC agent: `SAC("LunarLanderContinuous-v2", seed=1).learn(100_000)`."""

    algo = "sac"
    config_class = SACConfig

    target_entropy: float
    """Entropy in nats that a tuned temperature aims at."""

    def __init__(
        self, env: Any, config: SACConfig | None = None, **settings: Unpack[SACSettings]
    ) -> None:
        """Makes environments, networks and optimiser; arguments as of `BaseAgent`."""
        super().__init__(env, config, **settings)

    def _make_networks(self) -> None:
        config = self.config
        self.policy = SquashedGaussianActor(
            self.observation_space,
            self.action_space,
            config.hidden_sizes,
            self.own_networks.get("actor"),
            config.activation_function,
        ).to(self.device)
        self.critics = self._make_critics().to(self.device)
        self.target_critics = self._make_critics().to(self.device)
        check_apart(self.policy, self.critics, self.target_critics)
        self.target_critics.requires_grad_(False)
        self.temperature = Temperature(config.alpha).to(self.device)
        wanted = config.target_entropy
        self.target_entropy = -float(self.policy.num_actions) if wanted is None else wanted
        self.make_optimizers()
        for optimizer in (self.actor_optimizer, self.critic_optimizer):
            self.devices.broadcast(optimizer.flat)
        self.target_critics.load_state_dict(self.critics.state_dict())

    def make_optimizers(self) -> None:
        """Makes the optimisers and the gradient steps of critics and actor."""
        config = self.config
        eps, max_norm = config.adam_eps, config.max_grad_norm
        adam: dict[str, Any] = {"betas": (config.adam_beta1, config.adam_beta2)}
        decay = {**adam, "weight_decay": config.weight_decay}
        self.actor_optimizer = FlatAdam(self.policy, config.policy_lr, eps, max_norm, **decay)
        self.critic_optimizer = FlatAdam(self.critics, config.q_lr, eps, max_norm, **decay)
        self.alpha_optimizer = FlatAdam(self.temperature, config.alpha_lr, eps, 0.0, **adam)
        settings = {name: float(getattr(config, name)) for name in LEARNING_RATES}
        self.learning_rates: dict[str, Tensor] = {}
        self.coefficients = Coefficients(self.learning_rates, settings)
        self.target = FlatParameters(self.target_critics, lambda: self.critics)
        # 0 in gradient steps that leave the target critics alone.
        self._tau = torch.tensor(config.tau, device=self.device)
        self.make_steps()
        self._summed_steps = [0, 0]  # of the critics and of the actor, since the last row

    def make_steps(self) -> None:
        """Makes the gradient steps of critics and actor, of the losses and optimisers as they are.

        A run begins with that.
        """
        step = self.engine.gradient_step
        # The losses are found anew each time: a callback may replace them.
        self.critic_step = step(
            lambda batch: self.critic_loss(batch),
            self.critic_optimizer,
            CRITIC_METRICS,
            over_ranks="mean",
        )
        self.actor_step = step(
            lambda batch: self.actor_loss(batch),
            self.actor_optimizer,
            ACTOR_METRICS,
            over_ranks="mean",
        )
        optimizers = self.actor_optimizer, self.critic_optimizer, self.alpha_optimizer
        for name, optimizer in zip(LEARNING_RATES, optimizers, strict=True):
            self.learning_rates[name] = optimizer.learning_rate

    def _make_critics(self, **more: Any) -> Critics:
        config, num_features = self.config, self.policy.num_inputs
        if self.own_networks:
            own = self.own_networks["critic"]
            more["encoder"], num_features = make_own(self.policy.reader, own)
        num_inputs = num_features + self.policy.num_actions
        more["activation"] = config.activation_function
        return Critics(num_inputs, config.hidden_sizes, config.num_critics, **more)

    @property
    def alpha(self) -> float:
        """The temperature."""
        return self.temperature.log_alpha.detach().exp().item()

    def networks(self) -> dict[str, nn.Module]:
        """Returns the networks that learn, by name."""
        return {name: getattr(self, name) for name in ("policy", "critics", "temperature")}

    def trained(self) -> list[tuple[FlatParameters, nn.Module]]:
        """Returns the networks, each with the vector that its parameters are part of."""
        pairs: list[tuple[FlatParameters, nn.Module]] = [
            (self.actor_optimizer, self.policy),
            (self.critic_optimizer, self.critics),
            (self.target, self.target_critics),
        ]
        if self.config.tune_alpha:  # else it stays, and its logarithm may be that of 0
            pairs.append((self.alpha_optimizer, self.temperature))
        return pairs

    def anneal(self, update_index: int) -> None:
        """Sets the learning rates to where their schedule is."""
        config, progress = self.config, progress_of(update_index, self.num_updates)
        for name in LEARNING_RATES:
            start = float(getattr(config, name))
            value = value_at(config, "learning_rate", progress, start)
            self.coefficients.follow(name, value, moves=True)

    def build(self, minibatch: Transitions) -> None:
        """Has the engine build the gradient steps: of all networks, and of the critics alone."""
        config = self.config
        noise_shape = (MOST_DRAWN, 2, config.per_rank_batch_size, self.policy.num_actions)
        self._noise = torch.zeros(noise_shape, device=self.device)
        example = (*minibatch, *self._noise[0])
        build = self.engine.build  # methods are found anew each time: a callback may replace one
        self._take_full_step = build(lambda *fields: self.learn_all(*fields), example)
        if config.policy_frequency > 1:
            self._take_critic_step = build(lambda *fields: self.learn_critics(*fields), example)

    def _learn(self, num_steps: int) -> None:
        """Takes gradient steps, each on transitions of its own."""
        assert self.replay is not None
        for rows, noise in self._rows_and_noise(num_steps):
            minibatch = self.replay.gather(rows)
            step = self._take_full_step if self._begin_step() else self._take_critic_step
            step(*minibatch, *noise)

    def _rows_and_noise(self, num_steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the row numbers and the noise of each gradient step, drawn for many at once."""
        for first in range(0, num_steps, MOST_DRAWN):
            count = min(num_steps - first, MOST_DRAWN)
            indices = self._draw_rows(count)
            self._noise[:count].normal_(generator=self._step_generator)
            yield from zip(indices, self._noise[:count], strict=True)

    def _begin_step(self) -> bool:
        """Counts a gradient step of the critics; returns whether the actor has one too."""
        config = self.config
        PULSE.count += 1  # a long update does not hang
        self.num_gradient_steps += 1
        if config.target_network_frequency > 1:
            is_due = self.num_gradient_steps % config.target_network_frequency == 0
            self._tau.fill_(config.tau if is_due else 0)
        has_actor_step = self.num_gradient_steps % config.policy_frequency == 0
        self._summed_steps[0] += 1
        self._summed_steps[1] += has_actor_step
        return has_actor_step

    def learn_all(self, *fields: Tensor) -> Tensor:
        """One gradient step of all networks, on the fields of `Drawn`."""
        self.learn_critics(*fields)
        return self.learn_actor(*fields)

    def learn_critics(self, *fields: Tensor) -> Tensor:
        """One gradient step of the critics; the target critics follow."""
        sums = self.critic_step.take(Drawn(*fields))
        with torch.no_grad():
            self.target.flat.lerp_(self.critic_optimizer.flat, self._tau)
        return sums

    def learn_actor(self, *fields: Tensor) -> Tensor:
        """One gradient step of the actor, and of the temperature if it is tuned."""
        step = self.actor_step
        gradient, metrics = step.exchange(*step.gradient(Drawn(*fields)))
        entropy, log_alpha = metrics[1], self.temperature.log_alpha
        alpha_loss = torch.zeros_like(entropy)
        if self.config.tune_alpha:
            # The gradient is that of log alpha, as in the authors' code; the entropy that of all
            # ranks, so that all take the same step.
            alpha_loss = log_alpha * (entropy - self.target_entropy)
            self.alpha_optimizer.apply(self.alpha_optimizer.gradient(alpha_loss))
        return step.apply(gradient, torch.cat([metrics, alpha_loss.detach().unsqueeze(0)]))

    def critic_loss(self, batch: Drawn) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns the critics' temporal-difference loss, and it and their mean value as metrics."""
        with torch.no_grad():
            next_actions, next_log_probs = self.policy.sample(batch.next_obs, batch.next_noise)
            next_inputs = self.policy.read(batch.next_obs)
            next_values = self.target_critics(next_inputs, next_actions, batch.target_masks).amin(0)
            targets = soft_target(
                batch.rewards,
                batch.discounts,
                next_values,
                next_log_probs,
                self.temperature.log_alpha.exp(),
            )
        values = self.critics(self.policy.read(batch.obs), batch.actions, batch.masks)
        loss = temporal_difference_loss(values, targets)
        return loss, (loss, values.mean())

    def actor_loss(self, batch: Drawn) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns alpha log pi(a|s) - Q(s, a), and it and the entropy as metrics."""
        actions, log_probs = self.policy.sample(batch.obs, batch.noise)
        with frozen(self.critics):
            inputs = self.policy.read(batch.obs)
            values = self._combine(self.critics(inputs, actions, batch.masks))
        alpha = self.temperature.log_alpha.detach().exp()
        loss = (alpha * log_probs - values).mean()
        return loss, (loss, -log_probs.mean())

    def _combine(self, values: Tensor) -> Tensor:
        """Returns what the actor climbs, `[B]`, of the critics' values `[E, B]`."""
        return values.min(0).values

    def unlogged_metrics(self) -> dict[str, float]:
        """Returns means since the last row of metrics, and leaves their sums for the next row."""
        metrics = {"Info/gradient_steps": float(self.num_gradient_steps), "Info/alpha": self.alpha}
        if self.config.lr_schedule != "constant":
            metrics["Info/learning_rate"] = float(self.actor_optimizer.learning_rate)
        parts = (CRITIC_METRICS, self.critic_step.sums), (ACTOR_METRICS, self.actor_step.sums)
        for (names, sums), count in zip(parts, self._summed_steps, strict=True):
            if count:
                metrics.update(zip(names, (sums / count).tolist(), strict=True))
        return metrics

    def _clear_metrics(self) -> None:
        """Begins to add metrics up anew."""
        self.critic_step.sums.zero_()
        self.actor_step.sums.zero_()
        self._summed_steps = [0, 0]

    def _is_finite(self) -> bool:
        """Returns whether all metrics since the last call are finite, so that the weights are."""
        sums = torch.cat([self.critic_step.sums, self.actor_step.sums])
        return bool(sums.sum().isfinite())

    def begin_anew(self, settings: Collection[str]) -> None:
        """Starts anew from such settings as `alpha`, in place of what a loaded file holds."""
        super().begin_anew(settings)
        if "alpha" in settings:
            with torch.no_grad():
                self.temperature.log_alpha.fill_(self.config.alpha).log_()
            self.alpha_optimizer.reset()

    def state_dict(self) -> dict[str, Any]:
        """Returns weights, optimisers, counters, random states and, during a run, the replay."""
        learners = {name: getattr(self, name).state_dict() for name in LEARNERS}
        sums = {"critic": self.critic_step.sums, "actor": self.actor_step.sums}
        return {
            **super().state_dict(),
            **learners,
            "metric_sums": sums,
            "summed_steps": list(self._summed_steps),
        }

    def _load_networks(self, state: dict[str, Any]) -> None:
        for name in LEARNERS:
            getattr(self, name).load_state_dict(state[name])
        self.critic_step.sums.copy_(state["metric_sums"]["critic"])
        self.actor_step.sums.copy_(state["metric_sums"]["actor"])
        self._summed_steps = list(state["summed_steps"])


# What `python -m fastrl.sac`, and what `evaluate` and `export` call.
main, load_agent = SAC.run, SAC.load_anywhere
