"""Trains an agent: begins a run or goes on with one, and hands it to the training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Literal

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.callbacks.base import Callback
from fastrl.callbacks.hooks import Hooks, check_callbacks
from fastrl.callbacks.naming import callback_named
from fastrl.callbacks.trainer import Trainer
from fastrl.config.calls import names_checked
from fastrl.config.run import RunConfig
from fastrl.engine.modes import training_modes
from fastrl.engine.threads import rare_collections
from fastrl.envs.pools import AnyEnvs, fitting_envs, reopened
from fastrl.processes.generators import generators_seeded, restore_generators
from fastrl.processes.pulse import PULSE
from fastrl.processes.signals import StopSignals, pass_on
from fastrl.processes.start import seconds_since_process_start
from fastrl.runs.checkpoint import Checkpoints, load_checkpoint
from fastrl.runs.fitting import naming
from fastrl.runs.folder import (
    CONFIG_NAME,
    check_run_files,
    create_run_folder,
    expanded,
    open_run_folder,
    write_config,
)
from fastrl.runs.owner import owned_by_this_process
from fastrl.runs.progress import check_verbose, waiting
from fastrl.runs.timer import StageTimer
from fastrl.runs.trackers import check_loggers
from fastrl.training.agent import TRAINER_SETTINGS, Agent
from fastrl.training.counters import Counters
from fastrl.training.greedy import check_tested
from fastrl.training.hints import check_learns, lines_about
from fastrl.training.loop import Loop
from fastrl.training.player import Player, player_of
from fastrl.training.records import Records, TrainResult
from fastrl.training.resuming import (
    check_frozen_statistics,
    check_same_run,
    check_unfinished,
    check_warm_up,
    is_whole,
    restore_envs,
    restored_counters,
    share_of_rank,
)
from fastrl.training.targets import Asked, agent_for, fit_data, is_data, only_target

# The first reset may load assets: allow ten times the timeout.
_SLOWNESS_OF_RESETS = 10


class AgentTrainer:
    """Trains an agent: `AgentTrainer().fit(agent)`."""

    result: TrainResult | None = None
    """What came of the latest `fit`, also if that raised after a signal."""
    began_at: float | None = None
    """Seconds from the start of the process to that of the run; None: it begins with `fit`."""

    @names_checked
    def __init__(
        self,
        config: RunConfig | None = None,
        *,
        max_steps: int | None = None,
        devices: int | None = None,
        precision: str | None = None,
        accelerator: str | None = None,
        resume: str | Path | None = None,
        on_interrupt: Literal["raise", "return"] = "raise",
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Any] = (),
        verbose: int | None = None,
    ) -> None:
        """Configures the training.

        Args:
            config: length and output of the run (see TRAINER_SETTINGS); by default the agent's.
            max_steps: environment steps to train for, over all environments; of a model that learns
                from data, steps of its optimiser.
            devices: how many ranks. This and what follows go for a `LightningAgentModule` and for
                models that learn from data; an agent was built with its own.
            precision: as in Lightning: "32-true" or "bf16-mixed".
            accelerator: "auto", "cpu" or "cuda".
            resume: run folder to resume; by default a new one is created. A relative path is
                relative to the current folder when the agent was created.
            on_interrupt: what `fit` does once a run that a signal ended is saved: "raise"
                KeyboardInterrupt or SystemExit, or "return" the result.
            callbacks: called as the run goes, in this order and after those that the setting
                `callback` names; see docs/callbacks.md.
            loggers: objects of Lightning's class Logger, which get the settings, the metrics,
                videos and the summary; besides those that the setting `logger` names.
            verbose: 0: print nothing to stdout; warnings still come. 1: the lines of a run. None:
                what the agent was made with.
        """
        if on_interrupt not in ("raise", "return"):
            raise ValueError(f"on_interrupt must be raise or return, not {on_interrupt!r}")
        if not isinstance(callbacks, list | tuple):
            raise ValueError(f"callbacks must be a list of callbacks, not {callbacks!r}")
        self._config, self._resume, self._on_interrupt = config, resume, on_interrupt
        self._asked = Asked(max_steps, devices, precision, accelerator)
        self._callbacks, self._loggers = callbacks, loggers
        self._verbose = verbose if verbose is None else check_verbose(verbose)
        if config is not None and max_steps is not None:
            raise ValueError("give a config or max_steps, not both")

    @names_checked
    def fit(self, model: Any, target: Any = None, *, env: Any = None, dataset: Any = None) -> Any:
        """Trains until the end of the run, the target return, or a signal; evaluates the result.

        Args:
            model: what learns: an agent; a `LightningAgentModule`, of which an agent is made; or,
                from data, any `LightningModule`, which `lightning.Trainer` trains then.
            target: what it learns from: environments, or a DataLoader or Dataset. Of an agent,
                environments to use instead of its own; same number and spaces. A single one is made
                as many times as there are environments, from its spec.
            env: `target`, by another name.
            dataset: `target`, by another name.

        Returns:
            A `TrainResult`; of a model that learned from data, Lightning's folder and metrics.

        Raises:
            ValueError: the environments do not fit or fail, or the loss is not finite. Earlier
                checkpoints stay.
            KeyboardInterrupt: Ctrl-C ended the run, which is saved; see `on_interrupt`.
        """
        began_at = seconds_since_process_start() if self.began_at is None else self.began_at
        target = only_target(target, env, dataset)
        if is_data(model, target):
            given = self._config, self._resume, self._verbose, *self._callbacks
            if any(x is not None for x in given):
                raise ValueError("config, resume, verbose and callbacks have no effect on data")
            check_loggers((), self._loggers)
            self.result = fit_data(model, target, self._asked, self._loggers)
            return self.result
        agent, env = agent_for(model, target, self._asked)
        with agent.engine.claim.held(agent.envs):
            return self._claimed_fit(agent, env, began_at)

    def _claimed_fit(self, agent: Agent, env: AnyEnvs | None, began_at: float) -> TrainResult:
        lead, is_alone = agent.devices.is_global_zero, agent.devices.is_alone
        verbose = getattr(agent, "verbose", 1) if self._verbose is None else self._verbose
        speaks = lead and verbose == 1
        signals, self.result = StopSignals(speaks=speaks, is_alone=is_alone), None
        with training_modes(), signals:
            result = self._fit(agent, env, signals, speaks, began_at)
        if signals.came():  # maybe only once everything was written
            result = dataclasses.replace(result, exit_status=128 + signals.number)
        self.result = result
        if self._on_interrupt == "raise":
            pass_on(result.exit_status)
        return result

    def _fit(
        self,
        agent: Agent,
        env: AnyEnvs | None,
        signals: StopSignals,
        speaks: bool,
        began_at: float,
    ) -> TrainResult:
        callbacks, lead = self._prepared(agent, env), agent.devices.is_global_zero
        with rare_collections(), ExitStack() as ownership:
            origin = self._origin(agent, speaks, ownership)
            check_learns(agent)
            if agent.task.note and speaks:
                print(agent.task.note, flush=True)
            buffer, timer = _built(agent, speaks), StageTimer()
            # What environments draw from the global generators follows from the seed, too.
            own_seed = agent.devices.stream_seed(agent.config.seed, -1, origin.counters.restarts)
            ownership.enter_context(generators_seeded(own_seed))
            player = _started(agent, buffer, timer, origin, speaks)
            check_frozen_statistics(agent)
            check_warm_up(agent, origin.counters)
            signals.hold()
            if speaks:
                print(*lines_about(agent, buffer.obs[0]), sep="\n", flush=True)
            folder = origin.folder
            if folder is None and lead:  # late, so that it gets its first checkpoint soon
                folder = _new_folder(agent)
                ownership.enter_context(owned_by_this_process(folder))
            is_resumed, counters = origin.state is not None, origin.counters
            trainer = Trainer(agent, buffer, counters, folder if lead else None, is_resumed)
            hooks = Hooks(callbacks, trainer)
            lines: list[str] = []
            if origin.state is not None:
                with naming(origin.checkpoint):
                    lines = hooks.load_state_dict(origin.state.get("callbacks", []))
                origin.state = None  # the replay buffer in it may be large
            called = hooks if callbacks else None
            run = Loop(agent, counters, buffer, player, timer, signals, called)
            if not lead or folder is None:
                return run.play(None, is_resumed)
            if lines and speaks:
                print(*lines, sep="\n", flush=True)
            shown = shown_folder(agent, folder, self._resume)
            # First, since it refuses damaged metrics while nothing is changed yet.
            parts = agent, folder, shown, counters, signals, is_resumed, began_at
            records = Records(*parts, called, self._loggers, speaks)
            write_config(folder / CONFIG_NAME, {**agent.labels(), **agent.config.to_dict()})
            with records:
                return run.play(records, is_resumed)

    def _prepared(self, agent: Agent, env: AnyEnvs | None) -> list[Callback]:
        """Gives an agent the trainer's settings and environments; returns the run's callbacks."""
        if self._config is not None:
            _take_settings(agent, self._config)
        if agent.devices.is_global_zero:
            check_loggers(agent.config.logger, self._loggers)
        callbacks = [*map(callback_named, agent.config.callback), *self._callbacks]
        callbacks = check_callbacks(callbacks, agent.devices)
        if env is not None:
            rank = agent.devices.global_rank
            agent.envs, agent.task = fitting_envs(env, agent.config, rank, agent.envs, agent.task)
        if agent.devices.is_global_zero:
            check_tested(agent)
        return callbacks

    def _origin(self, agent: Agent, speaks: bool, ownership: ExitStack) -> _Origin:
        """Returns where the run starts from.

        Raises:
            ValueError: the checkpoint is damaged, or is not of such a run; or another process
                writes the run.
        """
        if self._resume is None:
            return _Origin(Counters())
        folder = open_run_folder(_absolute(self._resume, agent)).path
        if agent.devices.is_global_zero:  # no other process may write from here on
            ownership.enter_context(owned_by_this_process(folder))
            check_run_files(folder)
        checkpoint = Checkpoints(folder / "checkpoints").newest()
        state = load_checkpoint(checkpoint)
        with naming(checkpoint):
            counters = restored_counters(state)
            counters.keep_infos(agent.config.info_metrics)
            check_same_run(state, agent)
        if not is_whole(state, agent.devices):
            state.pop("envs", None)  # they belong to another number of ranks
        check_unfinished(agent, folder, counters)
        agent.match(state["agent"])
        counters.restarts += 1
        if "envs" not in state:
            again = counters.restarts, agent.devices.global_rank, speaks
            agent.envs = reopened(agent.envs, agent.config, *again)
        with naming(checkpoint):
            state = share_of_rank(state, agent, counters.restarts)
        return _Origin(counters, folder, checkpoint, state)


def shown_folder(agent: Agent, folder: Path, resume: str | Path | None) -> Path:
    """Returns a run folder as users name it: relative where the path that they gave is."""
    if expanded(resume or agent.config.log_dir).is_absolute():
        return folder
    return folder.relative_to(agent.start_folder)


def _take_settings(agent: Agent, config: RunConfig) -> None:
    """Gives an agent the trainer's own settings; ValueError for those that would be ignored."""
    for name, value in config.unlike_defaults().items():
        if name not in TRAINER_SETTINGS and getattr(agent.config, name, None) != value:
            raise ValueError(f"{name}={value} has no effect: the agent was built without it")
    settings = {name: getattr(config, name) for name in TRAINER_SETTINGS}
    agent.config = agent.config.replace(**settings)


@dataclasses.dataclass
class _Origin:
    """Where a run starts from: zero counters, or a checkpoint of the run that is resumed."""

    counters: Counters
    folder: Path | None = None
    checkpoint: Path = Path()
    state: dict[str, Any] | None = None


def _started(
    agent: Agent, buffer: RolloutBuffer, timer: StageTimer, origin: _Origin, speaks: bool
) -> Player:
    """Gives agent and environments the state that was saved, if any; returns what steps them."""
    state = origin.state
    if state is not None:
        with naming(origin.checkpoint):
            agent.load_state_dict(state["agent"])
            if place := agent.not_finite():
                raise ValueError(f"its {place} is not finite: the training diverged")
    with PULSE.slow(_SLOWNESS_OF_RESETS):
        with naming(origin.checkpoint):
            goes_on = _restored_envs(agent, buffer, state, origin.counters.restarts, speaks)
        player = player_of(agent, buffer, timer)
        if not goes_on:
            player.reset()
    if state is not None and "torch_random" in state:
        with naming(origin.checkpoint):  # last: resets may draw from the generators
            restore_generators(state)
    return player


def _restored_envs(
    agent: Agent,
    buffer: RolloutBuffer,
    restored: dict[str, Any] | None,
    restart: int,
    speaks: bool,
) -> bool:
    """Returns whether the environments are where a checkpoint left them; else they are new."""
    if restored is None or "envs" not in restored:
        return False
    if restore_envs(agent.envs, buffer, restored):
        return True
    again = restart, agent.devices.global_rank, speaks
    agent.envs = reopened(agent.envs, agent.config, *again)
    return False


def _built(agent: Agent, speaks: bool) -> RolloutBuffer:
    """Has the agent allocate and build what a run needs, and says how it will run."""
    words = "compiling: seconds to minutes, less when it is done again"
    with waiting(words) if speaks and agent.config.engine == "compile" else nullcontext():
        buffer = agent.make_buffer()
    if speaks:
        print(agent.engine.describe(), flush=True)
    return buffer


def _new_folder(agent: Agent) -> Path:
    config = agent.config
    names = config.env_id, config.exp_name
    return create_run_folder(_absolute(config.log_dir, agent), agent.algo, *names, config.seed)


def _absolute(path: str | Path, agent: Agent) -> Path:
    return agent.start_folder / expanded(path)
