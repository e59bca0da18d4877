"""The training loop: collect, update, log, test, save. It knows no algorithm.

An iteration is one rollout and one update. Steps count stored rows, `num_envs * num_steps` a
rollout, as every library counts; `valid_env_steps` leaves the reset rows out. Seconds of the loop
leave start-up, tests and checkpoints out.
"""

from __future__ import annotations

import math
import shlex
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import gymnasium
import torch

from fastrl.agent import Agent
from fastrl.buffers.rollout import RolloutBuffer
from fastrl.config.run import RunConfig
from fastrl.envs.pools import TaskPools, open_envs
from fastrl.envs.vector import VectorEnv
from fastrl.evaluate import Evaluation, evaluate_agent, record_agent
from fastrl.player import Player
from fastrl.run.checkpoint import Checkpoints, load_checkpoint
from fastrl.run.folder import create_run_folder, open_run_folder, owned, write_config
from fastrl.run.logger import Logger, machine_facts, versions, write_summary
from fastrl.run.progress import Progress
from fastrl.run.signals import StopSignals
from fastrl.run.start import seconds_since_process_start
from fastrl.run.timer import StageTimer
from fastrl.state import Counters, check_unfinished, restore_envs, restored_counters, run_state

TARGET_EPISODES = 100  # training episodes that a mean return is taken over

# What a trainer's own config says about a run. The rest is the agent's, which is built already.
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

AnyEnvs = VectorEnv | gymnasium.vector.VectorEnv | list[VectorEnv]


@dataclass(frozen=True)
class TrainResult:
    """What came of a run."""

    folder: Path
    """The run folder."""
    summary: dict[str, Any]
    """What summary.json holds."""
    exit_status: int
    """0, or 128 plus the signal that ended the run early."""


class AgentTrainer:
    """Trains an agent: `AgentTrainer().fit(agent)`."""

    def __init__(
        self,
        config: RunConfig | None = None,
        *,
        resume: str | Path | None = None,
    ) -> None:
        """Remembers how to train.

        Args:
            config: length of the run and what is written down; by default as the agent's.
            resume: run folder to go on in; by default a new one is made.
        """
        self._config, self._resume = config, resume

    def fit(self, agent: Agent, env: AnyEnvs | None = None) -> TrainResult:
        """Trains to the end of the run, its target return, or a signal, and tests the result.

        Args:
            agent: who learns.
            env: environments to play, in place of the agent's own; of the same number and spaces.

        Raises:
            ValueError: the environments do not fit or fail, or the loss is not finite; what was
                saved before stays.
        """
        if self._config is not None:
            settings = {name: getattr(self._config, name) for name in TRAINER_SETTINGS}
            agent.config = agent.config.replace(**settings)
        if env is not None:
            agent.envs = _fitting_envs(agent, env)
        with StopSignals() as signals:
            counters, restored, folder = Counters(), None, None
            if self._resume is not None:
                folder = open_run_folder(self._resume).path
                restored = load_checkpoint(Checkpoints(folder / "checkpoints").newest())
                counters = restored_counters(restored)
                check_unfinished(agent, folder, counters)
                counters.restarts += 1
                if "envs" not in restored and isinstance(agent.envs, TaskPools):
                    agent.envs = agent.envs.reopened(counters.restarts)
            buffer = agent.make_buffer()
            timer = StageTimer()
            player = Player(agent, agent.envs, buffer, timer)
            if restored is not None:
                agent.load_state_dict(restored["agent"])
                torch.set_rng_state(restored["torch_random"])
            if restored is not None and "envs" in restored:
                restore_envs(agent.envs, buffer, restored)
            else:
                player.reset()
            # Late, so that a run folder has a checkpoint almost as soon as it is there.
            folder = folder or _new_folder(agent)
            with owned(folder):
                write_config(folder / "config.yaml", {"algo": agent.algo, **agent.config.to_dict()})
                run = _Run(agent, folder, counters, buffer, player, timer)
                return run.play(signals, is_resumed=restored is not None)


class _Run:
    """One call of `fit`, ready to play."""

    def __init__(
        self,
        agent: Agent,
        folder: Path,
        counters: Counters,
        buffer: RolloutBuffer,
        player: Player,
        timer: StageTimer,
    ) -> None:
        self.agent, self.config, self.folder, self.counters = agent, agent.config, folder, counters
        self.buffer, self.player, self.timer = buffer, player, timer
        self.checkpoints = Checkpoints(folder / "checkpoints", self.config.keep_checkpoints)
        self.returns = deque(counters.recent_returns, TARGET_EPISODES)
        self.lengths = deque(counters.recent_lengths, TARGET_EPISODES)
        self.seconds_before = counters.wall_seconds
        self.seconds_to_target: float | None = None
        self.steps_per_update = buffer.num_steps * buffer.num_envs

    def play(self, signals: StopSignals, is_resumed: bool) -> TrainResult:
        counters, self.signals = self.counters, signals
        beyond = counters.env_steps if is_resumed else None
        self.logger = Logger(self.folder, resume=is_resumed, resume_step=beyond)
        total_steps = self.agent.num_updates * self.steps_per_update
        with self.logger, Progress(total_steps, initial=counters.env_steps) as progress:
            if not is_resumed:
                self.checkpoints.save_last(self._state())  # whenever it is killed, it can go on
                self.logger.log_text("hyperparameters", _table(self.config.to_dict()), 0)
            progress.print(f"run folder: {self.folder}")
            while counters.updates < self.agent.num_updates and not signals.number:
                start = perf_counter()
                metrics = self._iterate()
                counters.loop_seconds += perf_counter() - start
                metrics["Time/step_per_second"] = self.steps_per_second
                self.logger.log(metrics, counters.env_steps)
                progress.update(counters.env_steps, self.steps_per_second, self.mean_return)
                if self._target_reached():
                    break
                self._periodic(progress)
            return self._finish(progress)

    def _iterate(self) -> dict[str, float]:
        """One rollout and one update; returns the metrics."""
        counters = self.counters
        self.timer.reset()
        episodes = self.player.collect()
        metrics = self.agent.update(self.buffer, counters.updates, self.timer)
        counters.valid_env_steps += self.buffer.num_valid
        self.buffer.carry_over()
        counters.updates += 1
        counters.env_steps += self.steps_per_update
        counters.episodes += len(episodes.returns)
        self.returns.extend(episodes.returns.tolist())
        self.lengths.extend(episodes.lengths.tolist())
        self._check_finite(metrics)
        if len(episodes.returns):
            metrics["Rewards/rew_avg"] = float(episodes.returns.mean())
            metrics["Game/ep_len_avg"] = float(episodes.lengths.mean())
        if self.returns:
            metrics["Rewards/rew_avg_100"] = self.mean_return
        for stage, seconds in self.timer.seconds.items():
            metrics[f"Time/{stage}_seconds"] = seconds
            counters.stage_seconds[stage] = counters.stage_seconds.get(stage, 0.0) + seconds
        return metrics

    def _check_finite(self, metrics: dict[str, float]) -> None:
        """Raises before a broken policy acts or is saved."""
        for name, value in metrics.items():
            if name.startswith(("Loss/", "Gradients/")) and not math.isfinite(value):
                raise ValueError(
                    f"{self.config.env_id}: {name} is {value} after {self.counters.env_steps} "
                    "steps: the training diverged; a lower learning_rate or normalised "
                    f"observations may help. Checkpoints in {self.folder} are from before"
                )

    @property
    def steps_per_second(self) -> float:
        """Steps over the seconds of the loop, all parts of a resumed run together."""
        return self.counters.env_steps / max(self.counters.loop_seconds, 1e-9)

    @property
    def mean_return(self) -> float:
        """Mean return of the latest training episodes; NaN before the first has ended."""
        return sum(self.returns) / len(self.returns) if self.returns else math.nan

    @property
    def wall_seconds(self) -> float:
        """Seconds since the process began, those of the earlier parts of a resumed run included."""
        return self.seconds_before + seconds_since_process_start()

    def _target_reached(self) -> bool:
        target = self.config.target_return
        if target is None or len(self.returns) < TARGET_EPISODES or self.mean_return < target:
            return False
        self.seconds_to_target = self.wall_seconds
        return True

    def _periodic(self, progress: Progress) -> None:
        config, counters = self.config, self.counters
        has_tests = config.eval_every > 0 and config.eval_episodes > 0
        if has_tests and counters.env_steps - counters.last_eval >= config.eval_every:
            counters.last_eval = counters.env_steps
            self._test(progress)
        steps_since = counters.env_steps - counters.last_checkpoint
        if config.checkpoint_every and steps_since >= config.checkpoint_every:
            counters.last_checkpoint = counters.env_steps
            if not has_tests:
                self._keep_if_best(self.mean_return)  # the best by training episodes
            self.checkpoints.save_periodic(self._state(), counters.env_steps)

    def _keep_if_best(self, mean_return: float) -> None:
        if mean_return > self.counters.best_return:  # never so for NaN
            self.counters.best_return = mean_return
            self.checkpoints.save_best(self._state())

    def _test(self, progress: Progress) -> Evaluation | None:
        """Plays greedy episodes, if the task can be made anew; keeps the best policy so far."""
        config, env_steps = self.config, self.counters.env_steps
        stopped = self.signals.came
        result = evaluate_agent(self.agent, config.eval_episodes, env_steps, stopped)
        if result is None:
            return None
        metrics = {"Test/cumulative_reward": result.mean, "Test/return_std": result.std}
        self.logger.log(metrics, env_steps)
        self._keep_if_best(result.mean)
        progress.print(
            f"greedy test at {env_steps:,} steps: return {result.mean:.1f} +- {result.std:.1f} "
            f"over {len(result.returns)} episodes"
        )
        if config.capture_video:
            name = f"step_{env_steps:012d}"
            for path in record_agent(self.agent, self.folder / "videos", name, env_steps):
                progress.print(f"video: {path}")
        return result

    def _finish(self, progress: Progress) -> TrainResult:
        counters = self.counters
        self.checkpoints.save_last(self._state())  # first: the test may take long or be killed
        result = None
        if not self.signals.number:
            if self.config.eval_episodes:
                result = self._test(progress)
            if result is None:
                self._keep_if_best(self.mean_return)
            self.checkpoints.save_last(self._state())  # now with the best return so far
        signal_number = self.signals.number
        summary = self._summary(result, bool(signal_number))
        write_summary(self.folder, summary)
        if signal_number:
            resume = f"python -m fastrl.{self.agent.algo} --resume {shlex.quote(str(self.folder))}"
            progress.print(f"interrupted at {counters.env_steps:,} steps; go on with: {resume}")
        else:
            line = f"{counters.env_steps:,} steps in {counters.loop_seconds:.1f} s, "
            line += f"{self.steps_per_second:,.0f} steps/s"
            if self.seconds_to_target is not None:
                line += f"; target return reached {self.seconds_to_target:.1f} s after the start"
            progress.print(line)
        progress.print(f"run folder: {self.folder}")
        return TrainResult(self.folder, summary, 128 + signal_number if signal_number else 0)

    def _summary(self, result: Evaluation | None, is_interrupted: bool) -> dict[str, Any]:
        config, counters = self.config, self.counters
        return {
            "algo": self.agent.algo,
            "env_id": config.env_id,
            "backend": self.agent.envs[0].backend,
            "seed": config.seed,
            "total_env_steps": counters.env_steps,
            "valid_env_steps": counters.valid_env_steps,
            "episodes": counters.episodes,
            "restarts": counters.restarts,
            "wall_seconds": self.wall_seconds,
            "loop_seconds": counters.loop_seconds,
            "steps_per_second": self.steps_per_second,
            "stage_seconds": dict(counters.stage_seconds),
            "train_return_mean": self.mean_return if self.returns else None,
            "eval_return_mean": result.mean if result else None,
            "eval_return_std": result.std if result else None,
            "eval_episodes": len(result.returns) if result else 0,
            "eval_length_mean": result.mean_length if result else None,
            "target_return": config.target_return,
            "seconds_to_target": self.seconds_to_target,
            "steps_to_target": counters.env_steps if self.seconds_to_target else None,
            "interrupted": is_interrupted,
            "versions": versions(),
            "machine": machine_facts(),
        }

    def _state(self) -> dict[str, Any]:
        counters = self.counters
        counters.recent_returns, counters.recent_lengths = list(self.returns), list(self.lengths)
        counters.wall_seconds = self.wall_seconds
        return run_state(self.agent, self.buffer, counters)


def _new_folder(agent: Agent) -> Path:
    config = agent.config
    names = config.env_id, config.exp_name
    return create_run_folder(config.log_dir, agent.algo, *names, config.seed)


def _fitting_envs(agent: Agent, env: AnyEnvs) -> list[VectorEnv]:
    """Returns the pools of `env`; ValueError if the agent was not built for such ones."""
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


def _table(settings: dict[str, Any]) -> str:
    rows = "\n".join(f"|{name}|{value}|" for name, value in settings.items())
    return f"|setting|value|\n|-|-|\n{rows}"
