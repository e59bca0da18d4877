"""`LightningAgentModule`: an algorithm of one's own, of a network and a loss.

`AgentTrainer().fit(module, env)` plays and learns by the loop of all algorithms here; it asks the
module for its agent (`make_agent`), which hands it what `training_step` learns from:

    learns_from     training_step gets
    "rollouts"      a `Rollout`: T steps of N environments, in order, `[T, N]`
    "minibatches"   a `Minibatch`: B rows of a rollout, shuffled, without reset rows, `[B]`
    "replay"        `Transitions`: B rows of a replay buffer, `[B]`

`lightning.Trainer().fit(module, DataLoader(...))` trains the same object on data. Letters: T steps,
N environments, B rows, O observation and A action dimensions, K numbers that a distribution takes.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import lightning
import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from fastrl.config.calls import names_checked
from fastrl.config.module import ModuleConfig, ReplayConfig, RolloutConfig
from fastrl.engine.logged import take_metric
from fastrl.models.actor_critic import ActorCritic
from fastrl.models.distributions import ActionHead
from fastrl.models.encoders import Inputs, Reader
from fastrl.models.layers import evaluating
from fastrl.models.own import CHANGES_INPUT
from fastrl.module.heads import head_over
from fastrl.module.observations import Observations, rows_space
from fastrl.module.replay import ReplayAgent
from fastrl.module.restoring import restore
from fastrl.module.rollouts import RolloutAgent
from fastrl.processes.errors import one_line
from fastrl.spaces.values import on_one_line

_SOURCES: dict[str, tuple[Any, type[ModuleConfig]]] = {
    "rollouts": (RolloutAgent, RolloutConfig),
    "minibatches": (RolloutAgent, RolloutConfig),
    "replay": (ReplayAgent, ReplayConfig),
}


class LightningAgentModule(lightning.LightningModule):
    """Base of algorithms of one's own: set `network`, write `training_step`."""

    learns_from: ClassVar[Literal["rollouts", "minibatches", "replay"]] = "rollouts"
    """What `training_step` gets; see the top of this file."""
    network: Any
    """From observations `[B, *O]`, or of several parts a dict of them by key
    (`module/observations.py`), to the parameters `[B, K]` of the distribution over actions:
    logits of a choice, means of a Box; values of actions if `act` says so. With a value function it
    returns a pair, these and V `[B]` or `[B, 1]`."""
    head: Any
    """The distribution over actions, once there is an environment."""
    env: Any = None
    """What `bind_env` was given."""
    agent: Any = None
    """What plays and learns for this module, once `fit` was called."""

    def __init__(self, **settings: Any) -> None:
        """Takes settings of `RolloutConfig` or, if the module learns from replay, `ReplayConfig`.

        Raises:
            ValueError: an unknown setting, or a value out of range.
        """
        super().__init__()
        if self.learns_from not in _SOURCES:
            allowed = ", ".join(_SOURCES)
            raise ValueError(f"learns_from must be one of {allowed}, not {self.learns_from!r}")
        self.given = dict(settings)
        config_class = _SOURCES[self.learns_from][1]
        self.settings: Any = config_class.from_dict(settings, type(self).__name__)
        if self.learns_from == "rollouts" and settings.get("per_rank_batch_size"):
            raise ValueError('per_rank_batch_size has no effect with learns_from = "rollouts"')
        self._num_env_steps = 0

    # What an algorithm is made of

    def forward(self, obs: Any) -> Any:
        """Returns what `network` makes of observations: `[B, *O]`, or parts `[B, *shape]` by key.

        Rows of a buffer are taken apart. An action mask among them is not shown to the network.
        """
        if hasattr(self, "_bound"):
            obs = self._bound.for_network(self._bound.seen(obs))
        return self.network(obs)

    def training_step(self, batch: Any) -> Any:
        """Returns the loss of a batch, a scalar; `self.log` takes what metrics.csv shall have.

        `batch.weights` sum to 1 over the rows that count, the reset rows after each episode do not;
        with several ranks, over those of all, as a mean over ranks.
        """
        raise NotImplementedError(f"{type(self).__name__} has no training_step(batch) -> loss")

    def configure_optimizers(self) -> Any:
        """Returns Adam over all parameters; or any optimiser of torch's, with a scheduler or not.

        A scheduler takes a step after each update. Adam without extras becomes part of the recorded
        step; other optimisers run as they are.
        """
        return torch.optim.Adam(self.parameters(), self.settings.learning_rate)

    def act(self, obs: Any, noise: Tensor) -> Tensor:
        """Draws actions `[B, *A]`, as they are stored, for `obs` `[B, *O]`; noise is `[B, K]`.

        The noise is standard Gumbel for choices and standard normal for a Box. It is drawn ahead,
        so that this is a function of its arguments, which the engine can record.
        """
        return self._head.sample(self.outputs_and_values(obs)[0], noise)

    def outputs_and_values(self, obs: Any) -> tuple[Tensor, Tensor | None]:
        """Returns the distribution's parameters `[B, K]`, and V `[B]` or None."""
        seen = self._observations.seen(obs)
        made = self(self._observations.for_network(seen))
        outputs, values = made if isinstance(made, tuple) else (made, None)
        mask = self._observations.mask_of(seen)
        outputs = ActorCritic.allowed(outputs, Inputs(None, None, mask))
        return outputs.float(), None if values is None else values.float().reshape(len(outputs))

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns log pi(a|s), the entropy and V(s) of rows, each with the rows' shape.

        Args:
            obs: `[B, *O]` or `[T, N, *O]`; of several parts a dict by key.
            actions: `[B, *A]` or `[T, N, *A]`: of a data set after `bind_spaces`, as the
                environment takes them; in a `fit` on environments as rollouts store them.
        """
        shape = actions.shape[: actions.dim() - len(self._head.action_shape)]
        seen = self._observations.flattened(self._observations.seen(obs))
        outputs, values = self.outputs_and_values(seen)
        rows = actions.flatten(0, len(shape) - 1)
        rows = self._head.from_env(rows) if self._is_of_data else rows
        log_probs, entropy = self._head.log_prob_and_entropy(outputs, rows)
        values = None if values is None else values.view(shape)
        return log_probs.view(shape), entropy.view(shape), values

    def value(self, obs: Any) -> Tensor:
        """Returns V of observations `[B, *O]` or `[T, N, *O]`, with the rows' shape."""
        seen = self._observations.seen(obs)
        values = self.outputs_and_values(self._observations.flattened(seen))[1]
        if values is None:
            raise ValueError(f"the network of {type(self).__name__} returns no values")
        return values.view(self._observations.lead_of(seen))

    # What plays

    # By default the usual player plays, and the engine records `act`. A module with a `rollout` or
    # `initial_rollout` of its own plays by that, and one with a `sample` learns from its batches.

    def bind_env(self, env: Any) -> None:
        """Takes what `rollout` plays: a `BoundEnv`, N environments with gymnasium's calls.

        It is called only where `rollout` or `initial_rollout` is the module's own.
        """
        self.env = env

    def initial_rollout(self) -> None:
        """Plays the first rollout of a run; by default as all others."""
        self.rollout(self.settings.num_steps)

    def rollout(self, total_steps: int) -> None:
        """Plays steps of all environments; their rows are kept by `self.env.step`.

        This is the player's loop as a few lines of Python, and gives the same rows.
        """
        for _ in range(total_steps):
            is_random = getattr(self.agent, "is_warming_up", False)
            act = self.agent.random_actions if is_random else self.act
            self.env.step(act(self.env.obs, self.env.noise))

    def sample(self) -> Any:
        """Returns the batch of the next gradient step, by default the one that the agent dealt.

        There are as many steps as `update_epochs` says, with one batch or the minibatches of a
        rollout in each or, of replay, as many as the replay ratio allows. A `sample` of the
        module's own may return any batch; its steps run as they are, by autograd.
        """
        return self.agent.learner.seen(self.agent.learner.dealt)

    @property
    def step(self) -> int:
        """Environment steps so far, over all ranks."""
        return self._num_env_steps

    def restore(
        self,
        run: str | Path,
        env: Any = None,
        *,
        checkpoint: str | None = None,
        trust: bool = False,
        **settings: Any,
    ) -> Self:
        """Takes a run's weights, so that `predict`, and `evaluate` and `export` of `agent`, work.

        Args:
            run: run folder of a module of this class, or a checkpoint file.
            env: what to play, as for `fit`; by default the task that was trained on.
            checkpoint: "last" (the default) or "best" of a run folder, or a file.
            trust: import what the run names, whoever wrote it.
            **settings: settings to change, by name.

        Raises:
            ValueError: it is a run of something else, or its layers are others.
        """
        restore(self, run, env, checkpoint, trust, **settings)
        return self

    @property
    def global_step(self) -> int:
        """Gradient steps so far, as in `lightning.Trainer`, over all fits of its own."""
        return self.agent.learner.num_steps if self._is_by_agent else super().global_step

    @property
    def current_epoch(self) -> int:
        """Updates so far; in `lightning.Trainer`, its epochs."""
        if not self._is_by_agent:
            return super().current_epoch
        return self.step // self.agent.config.steps_per_update

    @property
    def _is_by_agent(self) -> bool:
        """Whether `AgentTrainer` trains the module, or did so last."""
        return self.agent is not None and not getattr(self._trainer, "training", False)

    @names_checked
    @torch.no_grad()
    def predict(self, obs: Any, deterministic: bool = True, action_mask: Any = None) -> np.ndarray:
        """Returns the environments' actions, as `PPO.predict`; after `fit`."""
        if self.agent is None:
            raise ValueError("predict needs an environment's spaces: call fit or restore first")
        return self.agent.predict(obs, deterministic, action_mask)

    def log(self, name: str, value: Any, *arguments: Any, **how: Any) -> None:
        """Logs a number: to metrics.csv and loggers of the run, or as Lightning's trainer does."""
        if not take_metric(name, value):
            super().log(name, value, *arguments, **how)

    # How `AgentTrainer` makes an agent of it

    def make_agent(self, env: Any, settings: dict[str, Any]) -> Any:
        """Returns what plays `env` and learns for this module, as the training loop has it.

        Args:
            env: a task's id, environments, or a function that makes one.
            settings: that go before those of `__init__`.
        """
        kind, _ = _SOURCES[self.learns_from]
        return kind(self, env, {**self.given, **settings})

    def bind_spaces(self, observation_space: Space, action_space: Space) -> None:
        """Takes the spaces of observations and of actions: sets `head`.

        `fit` does it for an environment's. For data, call it with those of the data set.

        Args:
            observation_space: of stored rows, or a Dict or Tuple as an environment has it.
            action_space: of the environment.

        Raises:
            ValueError: the network returns something else than these actions take.
        """
        observation_space = rows_space(observation_space, action_space)
        self._reader, self._is_of_data = Reader(observation_space), True
        self._bound = Observations(self._reader)
        head = head_over(action_space)
        if "head" in self._modules:  # from an earlier fit, with its spread
            head.load_state_dict(self.head.state_dict())
        self.head = head
        example = torch.zeros(2, *(observation_space.shape or ()), device=self.device)
        dtype = torch.from_numpy(np.empty(0, observation_space.dtype)).dtype
        example = example.to(dtype)
        with torch.no_grad(), evaluating(self):  # batch norm has no mean of these rows to take
            version = example._version
            try:
                outputs, _ = self.outputs_and_values(example)
            except (RuntimeError, LookupError, TypeError, AttributeError) as error:
                *_, last = traceback.extract_tb(error.__traceback__)
                words = f"{type(error).__name__}: {one_line(error)} ({last.filename}:{last.lineno})"
                words = f"of two observations of zeros, the network raised {words}"
                raise ValueError(f"{type(self).__name__}: {words}") from error
        if example._version != version:
            raise ValueError(f"{type(self).__name__}: {CHANGES_INPUT}")
        if tuple(outputs.shape) != (2, head.noise_size):
            raise ValueError(
                f"the network of {type(self).__name__} makes {list(outputs.shape)} of two "
                f"observations; {on_one_line(action_space)} takes {[2, head.noise_size]}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy gets: all but what plays, which a copy gets by a `fit` of its own."""
        state = dict(super().__getstate__())
        return {name: x for name, x in state.items() if name not in ("agent", "env")}

    @property
    def _observations(self) -> Observations:
        if not hasattr(self, "_bound"):
            raise ValueError("what the network gets is not known before fit or bind_spaces")
        return self._bound

    @property
    def _head(self) -> ActionHead:
        if "head" not in self._modules:
            raise ValueError(
                "no distribution over actions is known before fit binds an environment"
            )
        return self.head
