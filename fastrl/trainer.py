"""The training loop: collect, update, log, test, save. It knows no algorithm.

An iteration is one rollout and one update. Steps count stored rows, `num_envs * num_steps` a rollout, as every library counts;
`valid_env_steps` leaves the reset rows out. Seconds of the loop leave start-up, tests and checkpoints out.
"""

from __future__ import annotations

import math
import signal
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

import torch

from fastrl.agent import Agent
from fastrl.config.run import RunConfig
from fastrl.envs.vector import HasState, VectorEnv
from fastrl.evaluate import Evaluation, evaluate_agent, record_agent
from fastrl.player import Player
from fastrl.run.checkpoint import Checkpoints, load_checkpoint
from fastrl.run.devices import Devices
from fastrl.run.folder import create_run_folder, open_run_folder, write_config
from fastrl.run.logger import Logger, machine_facts, versions, write_summary
from fastrl.run.progress import Progress
from fastrl.run.start import seconds_since_process_start
from fastrl.run.timer import StageTimer

TARGET_EPISODES = 100  # training episodes that a mean return is taken over


@dataclass
class Counters:
    """How far a run is; saved and restored whole."""

    updates: int = 0
    env_steps: int = 0
    valid_env_steps: int = 0
    episodes: int = 0
    restarts: int = 0
    loop_seconds: float = 0.0
    best_return: float = -math.inf
    last_eval: int = 0
    last_checkpoint: int = 0
    recent_returns: list[float] = field(default_factory=list)
    recent_lengths: list[int] = field(default_factory=list)


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
        self, config: RunConfig | None = None, devices: Devices | None = None, *, resume: str | Path | None = None
    ) -> None:
        """Remembers how to train.

        Args:
            config: length of the run and what is written down; by default the agent's.
            devices: where this process trains; by default the agent's place.
            resume: run folder to go on in; by default a new one is made.
        """
        self._config, self._devices, self._resume = config, devices, resume
        self._signal = 0

    def fit(self, agent: Agent, env: VectorEnv | list[VectorEnv] | None = None) -> TrainResult:
        """Trains to the end of the run, to its target return, or to a signal, and tests the result.

        Args:
            agent: who learns.
            env: environments to play, in place of the agent's own.

        Raises:
            ValueError: the environments failed, or the loss is not finite; what was saved before stays.
        """
        config = self._config or agent.config
        if env is not None:
            agent.envs = env if isinstance(env, list) else [env]
        counters = Counters()
        restored: dict[str, Any] = {}
        if self._resume is None:
            folder = create_run_folder(config.log_dir, agent.algo, config.env_id, config.exp_name, config.seed)
        else:
            folder = open_run_folder(self._resume).path
            restored = load_checkpoint(Checkpoints(folder / "checkpoints", config.keep_checkpoints).newest())
            counters = Counters(**restored["counters"])
            counters.restarts += 1
        write_config(folder / "config.yaml", {"algo": agent.algo, **config.to_dict()})
        run = _Run(agent, config, folder, counters, restored, resumed=self._resume is not None)
        with self._signals_noted():
            return run.play(lambda: self._signal)

    def _signals_noted(self) -> _SignalsNoted:
        return _SignalsNoted(self)


class _SignalsNoted:
    """Ctrl-C and SIGTERM end the run after the iteration at hand; a second Ctrl-C ends it at once."""

    def __init__(self, trainer: AgentTrainer) -> None:
        self._trainer = trainer
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._trainer._signal = 0
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread: the caller's handlers stay
            pass

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._trainer._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._trainer._signal = number


class _Run:
    """One call of `fit`."""

    def __init__(
        self, agent: Agent, config: RunConfig, folder: Path, counters: Counters, restored: dict[str, Any], resumed: bool
    ) -> None:
        self.agent, self.config, self.folder, self.counters = agent, config, folder, counters
        self.timer = StageTimer()
        self.logger = Logger(folder, resume=resumed, resume_step=counters.env_steps if resumed else None)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.keep_checkpoints)
        self.returns = deque(counters.recent_returns, TARGET_EPISODES)
        self.lengths = deque(counters.recent_lengths, TARGET_EPISODES)
        self.seconds_to_target: float | None = None
        self.stage_seconds: dict[str, float] = {}
        self.buffer = agent.make_buffer()
        self.player = Player(agent, agent.envs, self.buffer, self.timer)
        if restored:
            agent.load_state_dict(restored["agent"])
            torch.set_rng_state(restored["torch_random"])
        self._restore_envs(restored)

    def play(self, signalled: Any) -> TrainResult:
        config, counters = self.config, self.counters
        steps_per_update = self.buffer.num_steps * self.buffer.num_envs
        if counters.updates == 0:
            self.logger.log_text("hyperparameters", _table(config.to_dict()), 0)
        with self.logger, Progress(self.agent.num_updates * steps_per_update, initial=counters.env_steps) as progress:
            progress.print(f"run folder: {self.folder}")
            while counters.updates < self.agent.num_updates and not signalled():
                start = perf_counter()
                metrics = self._iterate(steps_per_update)
                counters.loop_seconds += perf_counter() - start
                self.logger.log(metrics, counters.env_steps)
                progress.update(counters.env_steps, self.steps_per_second, self.mean_return)
                if self._target_reached():
                    break
                self._periodic(progress)
            return self._finish(signalled(), progress)

    def _iterate(self, steps_per_update: int) -> dict[str, float]:
        """One rollout and one update; returns the metrics."""
        counters = self.counters
        self.timer.reset()
        episodes = self.player.collect()
        metrics = self.agent.update(self.buffer, counters.updates, self.timer)
        counters.valid_env_steps += self.buffer.num_valid
        self.buffer.carry_over()
        counters.updates += 1
        counters.env_steps += steps_per_update
        counters.episodes += len(episodes.returns)
        self.returns.extend(episodes.returns.tolist())
        self.lengths.extend(episodes.lengths.tolist())
        for name, value in metrics.items():
            if name.startswith("Loss/") and not math.isfinite(value):
                raise ValueError(
                    f"{name} is {value} after {counters.env_steps} steps: the training diverged; a lower learning_rate or "
                    f"normalised observations may help. Checkpoints in {self.folder} are from before"
                )
        if len(episodes.returns):
            metrics["Rewards/rew_avg"] = float(episodes.returns.mean())
            metrics["Game/ep_len_avg"] = float(episodes.lengths.mean())
        if self.returns:
            metrics["Rewards/rew_avg_100"] = self.mean_return
        metrics["Time/step_per_second"] = self.steps_per_second
        metrics.update({f"Time/{stage}_seconds": seconds for stage, seconds in self.timer.seconds.items()})
        for stage, seconds in self.timer.seconds.items():
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + seconds
        return metrics

    @property
    def steps_per_second(self) -> float:
        """Steps over the seconds of the loop, all parts of a resumed run together."""
        return self.counters.env_steps / self.counters.loop_seconds if self.counters.loop_seconds else 0.0

    @property
    def mean_return(self) -> float:
        """Mean return of the latest training episodes; NaN before the first has ended."""
        return sum(self.returns) / len(self.returns) if self.returns else math.nan

    def _target_reached(self) -> bool:
        target = self.config.target_return
        if target is None or len(self.returns) < TARGET_EPISODES or self.mean_return < target:
            return False
        self.seconds_to_target = seconds_since_process_start()
        return True

    def _periodic(self, progress: Progress) -> None:
        config, counters = self.config, self.counters
        if config.eval_every and config.eval_episodes and counters.env_steps - counters.last_eval >= config.eval_every:
            counters.last_eval = counters.env_steps
            self._test(progress)
        if config.checkpoint_every and counters.env_steps - counters.last_checkpoint >= config.checkpoint_every:
            counters.last_checkpoint = counters.env_steps
            if not (config.eval_every and config.eval_episodes) and self.returns:
                self._keep_if_best(self.mean_return)  # no tests: the best by training episodes
            self.checkpoints.save_periodic(self._state(), counters.env_steps)

    def _keep_if_best(self, mean_return: float) -> None:
        if mean_return > self.counters.best_return:
            self.counters.best_return = mean_return
            self.checkpoints.save_best(self._state())

    def _test(self, progress: Progress) -> Evaluation | None:
        """Plays greedy episodes, if the task can be made anew, and keeps the policy if it is the best so far."""
        result = evaluate_agent(self.agent, self.config.eval_episodes, self.counters.env_steps)
        if result is None:
            return None
        self.logger.log({"Test/cumulative_reward": result.mean, "Test/return_std": result.std}, self.counters.env_steps)
        progress.print(
            f"greedy test at {self.counters.env_steps:,} steps: return {result.mean:.1f} +- {result.std:.1f} "
            f"over {len(result.returns)} episodes"
        )
        self._keep_if_best(result.mean)
        if self.config.capture_video:
            name = f"step_{self.counters.env_steps:012d}"
            for path in record_agent(self.agent, self.folder / "videos", name, self.counters.env_steps):
                progress.print(f"video: {path}")
        return result

    def _finish(self, signal_number: int, progress: Progress) -> TrainResult:
        config, counters = self.config, self.counters
        self.checkpoints.save_last(self._state())
        result = None
        if config.eval_episodes and not signal_number:
            result = self._test(progress)
        summary = {
            "algo": self.agent.algo,
            "env_id": config.env_id,
            "backend": self.agent.envs[0].backend,
            "seed": config.seed,
            "total_env_steps": counters.env_steps,
            "valid_env_steps": counters.valid_env_steps,
            "episodes": counters.episodes,
            "restarts": counters.restarts,
            "wall_seconds": seconds_since_process_start(),
            "loop_seconds": counters.loop_seconds,
            "steps_per_second": self.steps_per_second,
            "stage_seconds": self.stage_seconds,
            "train_return_mean": self.mean_return if self.returns else None,
            "eval_return_mean": result.mean if result else None,
            "eval_return_std": result.std if result else None,
            "eval_episodes": len(result.returns) if result else 0,
            "eval_length_mean": result.mean_length if result else None,
            "target_return": config.target_return,
            "seconds_to_target": self.seconds_to_target,
            "steps_to_target": counters.env_steps if self.seconds_to_target else None,
            "interrupted": bool(signal_number),
            "versions": versions(),
            "machine": machine_facts(),
        }
        write_summary(self.folder, summary)
        if signal_number:
            resume = f"python -m fastrl.{self.agent.algo} --resume {self.folder}"
            progress.print(f"interrupted at {counters.env_steps:,} steps; go on with: {resume}")
        else:
            progress.print(
                f"{counters.env_steps:,} steps in {counters.loop_seconds:.1f} s, {self.steps_per_second:,.0f} steps/s"
                + (f"; target return reached {self.seconds_to_target:.1f} s after the start" if self.seconds_to_target else "")
            )
        progress.print(f"run folder: {self.folder}")
        return TrainResult(self.folder, summary, 128 + signal_number if signal_number else 0)

    def _state(self) -> dict[str, Any]:
        counters = self.counters
        counters.recent_returns, counters.recent_lengths = list(self.returns), list(self.lengths)
        envs = [env.state_dict() if isinstance(env, HasState) else None for env in self.agent.envs]
        state = {
            "algo": self.agent.algo,
            "counters": dict(vars(counters)),
            "agent": self.agent.state_dict(),
            "torch_random": torch.get_rng_state(),
        }
        if all(env is not None for env in envs):
            state["envs"], state["rollout"] = envs, self.buffer.state_dict()
        return state

    def _restore_envs(self, restored: dict[str, Any]) -> None:
        """Goes on in the saved environments, or starts new episodes where they cannot be saved (EnvPool)."""
        if "envs" not in restored:
            self.player.reset()
            return
        for env, state in zip(self.agent.envs, restored["envs"], strict=True):
            assert isinstance(env, HasState)
            env.load_state_dict(state)
        self.buffer.load_state_dict(restored["rollout"])


def _table(settings: dict[str, Any]) -> str:
    rows = "\n".join(f"|{name}|{value}|" for name, value in settings.items())
    return f"|setting|value|\n|-|-|\n{rows}"
