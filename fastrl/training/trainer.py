"""The training loop, for all algorithms: collect, update, log, evaluate, save.

An iteration is one rollout and one update. As in other libraries, steps count stored rows:
`num_envs * num_steps` per rank and rollout; `valid_env_steps` excludes the reset rows. The seconds
of the loop exclude start-up, evaluation and checkpoints. With several ranks each runs this loop.
All make the same decisions, because these depend on values reduced over all ranks; only rank 0
writes.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import gymnasium
import torch

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.run import RunConfig
from fastrl.config.trust import signature_of
from fastrl.engine.threads import rare_collections
from fastrl.envs.pools import open_envs, reopened
from fastrl.envs.vector import VectorEnv
from fastrl.processes.pulse import PULSE
from fastrl.processes.signals import StopSignals
from fastrl.runs.checkpoint import Checkpoints, load_checkpoint
from fastrl.runs.fitting import naming
from fastrl.runs.folder import (
    CONFIG_NAME,
    create_run_folder,
    expanded,
    open_run_folder,
    owned,
    write_config,
)
from fastrl.runs.timer import StageTimer
from fastrl.training.agent import Agent
from fastrl.training.counters import TARGET_EPISODES, Counters, IterationCounts
from fastrl.training.player import Player
from fastrl.training.records import Records, TrainResult
from fastrl.training.resuming import (
    check_same_run,
    check_unfinished,
    is_whole,
    restore_envs,
    restored_counters,
    run_state,
    share_of_rank,
    state_of_rank,
)

# Settings that a trainer's own config overrides; the others were fixed when the agent was built.
TRAINER_SETTINGS = (
    "total_timesteps",
    "eval_every",
    "eval_episodes",
    "target_return",
    "checkpoint_every",
    "keep_checkpoints",
    "capture_video",
    "log_dir",
    "exp_name",
)

# The first reset may load assets: allow ten times the timeout.
_SLOWNESS_OF_RESETS = 10

AnyEnvs = VectorEnv | gymnasium.vector.VectorEnv | list[VectorEnv]


class AgentTrainer:
    """Trains an agent: `AgentTrainer().fit(agent)`."""

    def __init__(
        self,
        config: RunConfig | None = None,
        *,
        resume: str | Path | None = None,
    ) -> None:
        """Configures the training.

        Args:
            config: length and output of the run (see TRAINER_SETTINGS); by default the agent's.
            resume: run folder to resume; by default a new one is created. A relative path is
                relative to the current folder when the agent was created.
        """
        self._config, self._resume = config, resume

    def fit(self, agent: Agent, env: AnyEnvs | None = None) -> TrainResult:
        """Trains until the end of the run, the target return, or a signal; evaluates the result.

        Args:
            agent: the agent that learns.
            env: environments to use instead of the agent's own; same number and spaces.

        Raises:
            ValueError: the environments do not fit or fail, or the loss is not finite. Earlier
                checkpoints stay.
        """
        if self._config is not None:
            for name, value in self._config.unlike_defaults().items():
                if name not in TRAINER_SETTINGS and getattr(agent.config, name, None) != value:
                    raise ValueError(
                        f"{name}={value} has no effect: the agent was built without it"
                    )
            settings = {name: getattr(self._config, name) for name in TRAINER_SETTINGS}
            agent.config = agent.config.replace(**settings)
        if env is not None:
            agent.envs = _fitting_envs(agent, env)
        with StopSignals() as signals, rare_collections(), ExitStack() as ownership:
            counters, restored, folder, checkpoint = Counters(), None, None, Path()
            if self._resume is not None:
                folder = open_run_folder(_absolute(self._resume, agent)).path
                if agent.devices.is_global_zero:  # no other process may write from here on
                    ownership.enter_context(owned(folder))
                checkpoint = Checkpoints(folder / "checkpoints").newest()
                restored = load_checkpoint(checkpoint)
                with naming(checkpoint):
                    counters = restored_counters(restored)
                    check_same_run(restored, agent)
                if not is_whole(restored, agent.devices):
                    restored.pop("envs", None)  # they belong to another number of ranks
                check_unfinished(agent, folder, counters)
                counters.restarts += 1
                if "envs" not in restored:
                    agent.envs = reopened(agent.envs, counters.restarts)
            if agent.config.engine == "compile" and agent.devices.is_global_zero:
                print("compiling: seconds to minutes, less when it is done again", flush=True)
            buffer = agent.make_buffer()
            if agent.devices.is_global_zero:
                print(agent.engine.describe(), flush=True)
            timer = StageTimer()
            player = Player(agent, agent.envs, buffer, timer)
            if restored is not None:
                with naming(checkpoint):
                    restored = share_of_rank(restored, agent, counters.restarts)
                    agent.load_state_dict(restored["agent"])
                    if place := agent.not_finite():
                        raise ValueError(f"its {place} is not finite: the training diverged")
                    torch.set_rng_state(restored["torch_random"])
            with PULSE.slow(_SLOWNESS_OF_RESETS):
                if restored is not None and "envs" in restored:
                    with naming(checkpoint):
                        restore_envs(agent.envs, buffer, restored)
                else:
                    player.reset()
            run = _Run(agent, counters, buffer, player, timer, signals)
            if not agent.devices.is_global_zero:
                return run.play(None, restored is not None)
            if folder is None:  # late, so that a new folder gets its first checkpoint soon
                folder = _new_folder(agent)
                ownership.enter_context(owned(folder))
            settings = agent.config.to_dict()
            written = {"algo": agent.algo, **settings, **signature_of(settings)}
            write_config(folder / CONFIG_NAME, written)
            shown = folder
            if not expanded(self._resume or agent.config.log_dir).is_absolute():
                shown = folder.relative_to(agent.start_folder)
            with Records(agent, folder, shown, counters, signals, restored is not None) as records:
                return run.play(records, restored is not None)


class _Run:
    """One call of `fit` on one rank."""

    def __init__(
        self,
        agent: Agent,
        counters: Counters,
        buffer: RolloutBuffer,
        player: Player,
        timer: StageTimer,
        signals: StopSignals,
    ) -> None:
        self.agent, self.config, self.devices = agent, agent.config, agent.devices
        self.counters, self.buffer, self.player, self.timer = counters, buffer, player, timer
        self.signals, self.agreed_signal = signals, 0
        self.ranks: list[dict[str, Any]] = []
        self.ranks_at = -1  # `counters.updates` when they were gathered
        self.steps_per_update = buffer.num_steps * buffer.num_envs * self.devices.world_size

    def play(self, records: Records | None, is_resumed: bool) -> TrainResult:
        """Runs the training loop; `records` is None except on rank 0."""
        counters, agent = self.counters, self.agent
        if not is_resumed:
            self._gather_ranks()
            if records:
                records.save_last(self._state(records))  # makes the run resumable at once
        self.devices.watch_for_hanging(True)
        while counters.updates < agent.num_updates and not self._signal():
            start = perf_counter()
            metrics = self._iterate()
            counters.loop_seconds += perf_counter() - start
            if records and metrics:
                metrics["Time/step_per_second"] = counters.steps_per_second
                records.log(metrics)
            if records:
                records.show()
            self.devices.watch_for_hanging(True)
            if self._target_reached():
                if records:
                    records.seconds_to_target = records.wall_seconds
                break
            self._periodic(records)
        self._take_stage_seconds()
        self._gather_ranks()
        self.devices.watch_for_hanging(False)
        if records:
            # The ranks no longer exchange signals; only rank 0 evaluates, and may still get one.
            return records.finish(
                lambda: self._state(records), lambda: self._signal() or self.signals.number
            )
        return TrainResult(Path(), {}, 128 + self._signal() if self._signal() else 0)

    def _iterate(self) -> dict[str, float]:
        """Runs one rollout and one update; returns the metrics, {} if no row is due."""
        counters = self.counters
        try:
            episodes = self.player.collect()
        except ValueError:
            self._check_weights()  # no environment is to blame for actions that are not finite
            if not bool(self.buffer.actions.isfinite().all()):
                raise self._diverged("an action is not finite") from None
            raise
        metrics = self.agent.update(self.buffer, counters.updates, self.timer)
        num_valid = self.buffer.num_valid
        self.buffer.carry_over()
        counters.updates += 1
        counters.env_steps += self.steps_per_update
        own = IterationCounts.of_rank(self.signals.number, num_valid, episodes)
        counts = IterationCounts.unpack(self.devices.gather(own.pack()))
        self.agreed_signal = counts.signal
        counters.add(counts)
        if not metrics:
            return {}
        self._check_finite(metrics)
        return metrics | counters.take_unlogged() | self._take_stage_seconds()

    def _take_stage_seconds(self) -> dict[str, float]:
        """Adds the seconds since the last row of metrics to the total; returns them as metrics."""
        seconds, total = self.timer.seconds, self.counters.stage_seconds
        for stage, value in seconds.items():
            total[stage] = total.get(stage, 0.0) + value
        self.timer.reset()
        return {f"Time/{stage}_seconds": value for stage, value in seconds.items()}

    def _signal(self) -> int:
        """Returns the signal that ends the run, or 0; the same on all ranks during training."""
        return self.signals.number if self.devices.is_alone else self.agreed_signal

    def _check_finite(self, metrics: dict[str, float]) -> None:
        """Raises ValueError if the training diverged, before the policy acts or is saved."""
        for name, value in metrics.items():
            if name.startswith(("Loss/", "Gradients/")) and not math.isfinite(value):
                place = self.agent.not_finite()
                more = f" and {place} not finite" if place else ""
                raise self._diverged(f"{name} is {value}{more}")

    def _check_weights(self) -> None:
        """Raises ValueError if the training diverged: before weights are saved or tested."""
        if place := self.agent.not_finite():
            raise self._diverged(f"{place} is not finite")

    def _diverged(self, what: str) -> ValueError:
        rates = [x for x in ("learning_rate", "policy_lr", "q_lr") if hasattr(self.config, x)]
        return ValueError(
            f"{self.config.env_id}: {what} after {self.counters.env_steps} steps: the training "
            f"diverged; a lower {' or '.join(rates)} or normalised observations may help. The "
            "saved checkpoints are from before that"
        )

    def _target_reached(self) -> bool:
        target, counters = self.config.target_return, self.counters
        if target is None or len(counters.recent_returns) < TARGET_EPISODES:
            return False
        return counters.mean_return >= target

    def _periodic(self, records: Records | None) -> None:
        config, counters = self.config, self.counters
        has_tests = config.eval_every > 0 and config.eval_episodes > 0
        if has_tests and counters.env_steps - counters.last_eval >= config.eval_every:
            counters.last_eval = counters.env_steps
            self._gather_ranks()  # so that the best policy's checkpoint is complete, too
            if records:
                records.test(lambda: self._state(records))
        steps_since = counters.env_steps - counters.last_checkpoint
        if config.checkpoint_every and steps_since >= config.checkpoint_every:
            counters.last_checkpoint = counters.env_steps
            self._gather_ranks()
            if records:
                records.save_periodic(lambda: self._state(records), has_tests)

    def _gather_ranks(self) -> None:
        """Gathers the state of each rank on rank 0, which saves it with its own."""
        self._check_finite(self.agent.finish_pending())
        self._check_weights()
        if not self.devices.is_alone and self.ranks_at != self.counters.updates:
            self.ranks = self.devices.gather_states(state_of_rank(self.agent, self.buffer))
            self.ranks_at = self.counters.updates

    def _state(self, records: Records) -> dict[str, Any]:
        self.counters.wall_seconds = records.wall_seconds
        state = run_state(self.agent, self.buffer, self.counters)
        if self.ranks and self.ranks_at == self.counters.updates:
            state["ranks"] = self.ranks
        return state


def _new_folder(agent: Agent) -> Path:
    config = agent.config
    names = config.env_id, config.exp_name
    return create_run_folder(_absolute(config.log_dir, agent), agent.algo, *names, config.seed)


def _absolute(path: str | Path, agent: Agent) -> Path:
    return agent.start_folder / expanded(path)


def _fitting_envs(agent: Agent, env: AnyEnvs) -> list[VectorEnv]:
    """Returns the pools of `env`; ValueError if they do not fit the agent."""
    given = env if isinstance(env, list) else [env]
    envs = [pool for part in given for pool in open_envs(part, agent.config)]

    def facts(pools: list[VectorEnv]) -> tuple[Any, ...]:
        spaces = pools[0].single_observation_space, pools[0].single_action_space
        return sum(pool.num_envs for pool in pools), *spaces

    if facts(envs) != facts(agent.envs):
        raise ValueError(
            f"{envs[0].env_id}: the number of environments and their spaces are {facts(envs)}; "
            f"the agent was built for {facts(agent.envs)}"
        )
    return envs
