"""What the agents of modules share: the gradient step of a `training_step`, and what is saved."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fastrl.agents.naming import class_name
from fastrl.buffers.replay import Transitions
from fastrl.buffers.rollout import Minibatch
from fastrl.callbacks.names import PREFIXES, check_characters
from fastrl.config.resume import check_task
from fastrl.config.trust import signature_of
from fastrl.engine.gradient_step import GradientStep
from fastrl.engine.logged import logged_metrics
from fastrl.engine.optimizer import FlatOptimizer
from fastrl.engine.rehearsal import buffers_kept, tried
from fastrl.envs.edited import plain_id
from fastrl.envs.envpool_env import list_envpool_ids
from fastrl.module.batches import Rollout
from fastrl.module.optimizers import ConfiguredOptimizer, flat_optimizer, read_configured
from fastrl.module.playing import ModulePlayer
from fastrl.module.sums import LoadedSums
from fastrl.processes.pulse import PULSE
from fastrl.training.player import Player

_log = logging.getLogger("fastrl")

LOSS = "Loss/loss"
GRADIENT_NORM = "Gradients/grad_norm"
_LOGGED_ALREADY = {
    *(LOSS, GRADIENT_NORM, "Rewards/rew_avg", "Rewards/rew_avg_100", "Game/ep_len_avg"),
    *("Info/learning_rate", "Info/gradient_steps", "Info/valid_env_steps", "env_steps"),
}
_HOOKS_NOT_CALLED = (
    "setup",
    "prepare_data",
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "optimizer_step",
    "optimizer_zero_grad",
    "backward",
    "configure_gradient_clipping",
    "configure_callbacks",
    "lr_scheduler_step",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
)


def learning_environment(env: Any) -> Any:
    """Returns what is played for an environment that the user made: EnvPool's, if it has the same.

    So it is where the id says all about the environment: no wrappers, no arguments, and nothing
    was changed since.
    """
    env_id = plain_id(env) if isinstance(env, gymnasium.Env) else ""
    return env_id if env_id in list_envpool_ids() else env


class ModuleLearner:
    """A module's loss as an agent's gradient step, and its part in checkpoints."""

    def __init__(self, agent: Any, module: Any) -> None:
        """Binds the module to an agent that is made.

        Raises:
            ValueError: the module optimises by itself.
        """
        if not module.automatic_optimization:
            raise ValueError("automatic_optimization = False is not offered by AgentTrainer")
        self._agent, self._module = agent, module
        self.samples_itself = is_overridden(module, "sample")
        self.plays_itself = any(is_overridden(module, x) for x in ("rollout", "initial_rollout"))
        self.hooks_after_step = is_overridden(module, "on_train_batch_end")
        self.num_steps = 0
        """Gradient steps so far."""
        self._optimizer: FlatOptimizer = agent.optimizer
        self._step: GradientStep | None = None
        self._loaded = LoadedSums()
        self._logs: tuple[str, ...] = ()  # names that `training_step` logs
        self.fields_read: set[str] = set()
        """Names in a rollout or minibatch that `training_step` makes use of."""
        self.dealt: Any = None
        """The batch that the agent dealt last."""
        module.agent, module.settings = agent, agent.config
        self.count_steps(0)  # an earlier `fit` has left its own
        self.is_named = agent.task.is_named
        """Whether id and settings of the run say all about the environments that are played."""
        agent.task = agent.task._replace(is_named=False)  # the command line cannot make a module
        # The others have their gradient step, and so their sums, before a state is loaded.
        sums = ("metric_sums", "metric_names") if self.samples_itself else ()
        agent.checked_apart = ("schedule", *sums)
        if hooks := [name for name in _HOOKS_NOT_CALLED if is_overridden(module, name)]:
            kind = type(module).__name__
            _log.warning("%s: lightning.Trainer alone calls %s", kind, ", ".join(hooks))

    @property
    def player(self) -> Callable[..., Player]:
        """What plays: the usual player, or the module's own `rollout`."""
        return ModulePlayer if self.plays_itself else Player

    # The step

    def build_step(self, example: Any) -> None:
        """Has the engine build a step for batches like this one."""
        if self.samples_itself:
            self._agent.engine.notes.append("updates eager: sample() is the module's own")
            return
        names = self._names_of_metrics(example)
        engine, parts = self._agent.engine, (self.loss, self._optimizer, names, example)
        self._step = engine.gradient_step(*parts, over_ranks="mean")

    def take_step(self, batch: Any) -> None:
        """Takes a gradient step on a batch, of ours or of the module's own `sample`."""
        self.dealt = batch
        if self.samples_itself:
            batch = self._module.sample()
            step = self._step or self._unbuilt_step(batch)
            PULSE.count += 1
            step.take(batch)
            step.num_steps += 1
        else:
            assert self._step is not None
            self._step(batch)
        if self.hooks_after_step:
            self._module.on_train_batch_end(None, self.seen(batch), self.num_steps)
            self._agent.schedule.follow(self._optimizer)
        self.num_steps += 1

    def _unbuilt_step(self, batch: Any) -> GradientStep:
        names, engine = self._names_of_metrics(batch), self._agent.engine
        step = engine.gradient_step(self.loss, self._optimizer, names, over_ranks="mean")
        self._loaded.hand_to(step)
        self._step = step
        return step

    @property
    def _sums(self) -> GradientStep | LoadedSums:
        return self._step or self._loaded

    def take_metrics(self) -> dict[str, float]:
        """Returns the means of what was logged since the last call; {} if there was no step."""
        metrics = self.metrics()
        self.clear_metrics()
        return metrics

    def metrics(self) -> dict[str, float]:
        """Returns what `take_metrics` would, and leaves it there."""
        return self._sums.means() if self._sums.num_steps else {}

    def clear_metrics(self) -> None:
        """Begins to add metrics up anew."""
        self._loaded = self._loaded.cleared()
        if self._step is not None:
            self._step.clear()

    def is_finite(self) -> bool:
        """Returns whether what was logged since `clear_metrics` is finite."""
        return bool(self._sums.sums.sum().isfinite())

    def loss(self, batch: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Returns what `training_step` does, and what it logged.

        Raises:
            ValueError: it returned no scalar.
        """
        with logged_metrics() as metrics:
            loss = self._module.training_step(self.seen(batch))
        loss = loss.get("loss") if isinstance(loss, dict) else loss
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            name = type(self._module).__name__
            raise ValueError(f"training_step of {name} must return a scalar, the loss, not {what}")
        if metrics.keys() != set(self._logs):
            now, first = (", ".join(sorted(x)) or "nothing" for x in (metrics, self._logs))
            raise ValueError(
                f"training_step of {type(self._module).__name__} logs {now}, and {first} at first; "
                "it must log the same names in every step"
            )
        logged = (metrics[name].to(loss.device) for name in self._logs)
        return loss.reshape(()), (loss.detach().reshape(()).float(), *logged)

    def seen(self, batch: Any) -> Any:
        """Returns a batch of ours with observations as the network gets them, by key if so."""
        observations = self._module._observations
        if not observations.are_parts or not isinstance(batch, Rollout | Minibatch | Transitions):
            return batch
        names = [x for x in ("obs", "next_obs") if isinstance(getattr(batch, x, None), Tensor)]
        return batch._replace(**{x: observations.seen(getattr(batch, x)) for x in names})

    def _names_of_metrics(self, example: Any) -> tuple[str, ...]:
        """Runs `training_step` once, leaving nothing behind, for the names that it logs."""
        step = self._module.training_step
        try:
            inspect.signature(step).bind(example)
        except TypeError as error:
            name = type(self._module).__name__
            raise ValueError(f"training_step of {name} must take (batch) alone: {error}") from None
        read: set[str] = set()
        batch = given = self.seen(tree_map_only(Tensor, Tensor.clone, example))
        if isinstance(batch, Rollout | Minibatch):
            given = _watched(batch, read)
        devices, before = self._agent.devices, _versions(batch)
        kept = buffers_kept([self._module])
        with devices.apart(), devices.autocast(), logged_metrics() as metrics, kept, tried(step):
            step(given)
            self.fields_read = {*read}  # a copy, because the trial's own set is put back
        if changed := [x for x, number in _versions(batch).items() if number != before[x]]:
            raise ValueError(
                f"training_step of {type(self._module).__name__} changes batch.{changed[0]} in "
                "place, which the next steps learn from too; let it make a new tensor"
            )
        for name in metrics:
            check_characters(name)
        if taken := [x for x in metrics if x in _LOGGED_ALREADY or x.startswith(PREFIXES)]:
            raise ValueError(f"{taken[0]} is logged already; take another name")
        self._logs = tuple(metrics)
        return LOSS, *metrics, GRADIENT_NORM

    def count_steps(self, num_env_steps: int) -> None:
        """Notes how many environment steps all ranks took."""
        self._module._num_env_steps = num_env_steps

    # Saving

    @contextmanager
    def traceable(self) -> Iterator[None]:
        """Context in which torch may look at all attributes of the module, or of a copy.

        Elsewhere Lightning raises an error for `trainer` where there is none of its own.
        """
        self._module._jit_is_scripting = True
        try:
            yield
        finally:
            del self._module._jit_is_scripting

    def labels(self, labels: dict[str, Any]) -> dict[str, Any]:
        """Returns an agent's labels as those of the module's class."""
        own = {"agent": class_name(type(self._module))}
        labels = {**labels, **own}
        labels.pop("signature", None)
        if self.is_named:
            labels.pop("handed_over", None)
        return {**labels, **signature_of({**self._agent.config.to_dict(), **own})}

    def state_dict(self, schedule: ConfiguredOptimizer) -> dict[str, Any]:
        """Returns what a module has beside what all agents save."""
        names = {"metric_names": list(self._sums.names)} if self.samples_itself else {}
        return {
            "module_class": class_name(type(self._module)),
            "handed_over": not self.is_named,
            "schedule": schedule.state_dict(),
            "num_module_steps": [self.num_steps, self._module.step],
            "metric_sums": self._sums.sums.tolist(),
            "num_summed": self._sums.num_steps,
            **names,
        }

    def check(self, state: Any) -> None:
        """Raises ValueError if a state is of another class of modules, task or optimiser."""
        state = state if isinstance(state, dict) else {}
        saved = state.get("module_class")
        if saved != (own := class_name(type(self._module))):
            raise ValueError(f"it is of the module {saved}, not of {own}")
        if self.is_named:
            check_task(self._agent.config, state.get("config"), state.get("handed_over"))
        self._agent.schedule.check(state.get("schedule"))
        if self.samples_itself:
            LoadedSums.check(state)

    def load_state_dict(
        self, state: dict[str, Any], schedule: ConfiguredOptimizer, optimizer: FlatOptimizer
    ) -> None:
        """Takes back what `state_dict` returned."""
        schedule.load_state_dict(state["schedule"], optimizer)
        self.num_steps, num_env_steps = state["num_module_steps"]
        self.count_steps(num_env_steps)
        self._loaded = LoadedSums.of(state)
        if self._step is not None:
            self._loaded.hand_to(self._step)


def optimizer_of(
    module: Any, policy: nn.Module, config: Any
) -> tuple[FlatOptimizer, ConfiguredOptimizer]:
    """Returns the optimiser that a module configures, and its schedule."""
    module.settings = config
    configured, scheduler = read_configured(module.configure_optimizers())
    optimizer = flat_optimizer(policy, configured, config.max_grad_norm)
    return optimizer, ConfiguredOptimizer(configured, scheduler)


def widest_layer(module: nn.Module) -> int:
    """Returns the largest side of any parameter."""
    return max((max(x.shape, default=1) for x in module.parameters()), default=1)


def is_overridden(module: Any, name: str) -> bool:
    """Tells whether a method is the user's, in place of Lightning's or ours."""
    origin = getattr(getattr(type(module), name), "__module__", "")
    return not origin.startswith(("lightning.", "fastrl.module."))


def _watched(batch: Any, read: set[str]) -> Any:
    """Returns a batch that notes which of its fields are read, one by one or all together."""
    kind: Any = type(batch)

    class Watched(kind):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

        def __getitem__(self, index: Any) -> Any:
            read.update(kind._fields)
            return super().__getitem__(index)

        def __iter__(self) -> Iterator[Any]:
            read.update(kind._fields)
            return super().__iter__()

    return Watched._make(batch)


def _versions(batch: Any) -> dict[str, int]:
    """Returns how often each field of a batch of ours was changed in place."""
    fields = batch._asdict() if isinstance(batch, Rollout | Minibatch | Transitions) else {}
    return {
        name: sum(x._version for x in tree_leaves(field) if isinstance(x, Tensor))
        for name, field in fields.items()
    }
