"""Output of a run: metrics, evaluations, checkpoints, the summary, the progress line.

Only rank 0 writes any of it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fastrl.callbacks.hooks import Hooks
from fastrl.processes.pulse import PULSE
from fastrl.processes.signals import StopSignals, is_interrupt
from fastrl.processes.start import seconds_since_process_start
from fastrl.runs.checkpoint import Checkpoints
from fastrl.runs.folder import VIDEOS_NAME
from fastrl.runs.logger import Logger, machine_facts, versions, write_summary
from fastrl.runs.progress import Progress
from fastrl.runs.trackers import Trackers, files_to_write
from fastrl.runs.video import MAX_FRAMES, MAX_WIDTH, remove_old_videos
from fastrl.training.agent import Agent
from fastrl.training.counters import ROW_OF_TRAINING, Counters
from fastrl.training.film import record_agent
from fastrl.training.greedy import Evaluation, can_be_tested, evaluate_agent

State = dict[str, Any]


@dataclass(frozen=True)
class TrainResult:
    """Result of a run."""

    folder: Path
    """Absolute path of the run folder; an empty path on ranks other than 0."""
    summary: dict[str, Any]
    """Contents of summary.json; empty on ranks other than 0."""
    exit_status: int
    """0, or 128 plus the signal that ended the run early."""


class Records:
    """Writer of a run's output; a context for the duration of the run."""

    def __init__(
        self,
        agent: Agent,
        folder: Path,
        shown: Path,
        counters: Counters,
        signals: StopSignals,
        is_resumed: bool,
        began_at: float,
        hooks: Hooks | None = None,
        loggers: Sequence[Any] = (),
        speaks: bool = True,
    ) -> None:
        """Opens the files in a folder to which no other process writes.

        Args:
            agent: the agent that learns.
            folder: absolute path of the run folder.
            shown: the same path as shown to the user.
            counters: progress of the run, updated by the trainer.
            signals: stop requests, which end an evaluation early.
            is_resumed: whether to append to existing files.
            began_at: seconds from the start of this process to that of the run.
            hooks: the callbacks, if there are any.
            loggers: objects of the caller's that metrics go to, besides those of the settings.
            speaks: whether lines are printed.
        """
        self._hooks = hooks
        self.agent, self.config, self.folder, self.counters = agent, agent.config, folder, counters
        self._shown, self._can_be_tested = shown, can_be_tested(agent)
        self.checkpoints = Checkpoints(folder / "checkpoints", self.config.keep_checkpoints)
        self._signals, self._stopped, self._is_resumed = signals, signals.came, is_resumed
        self._seconds_before, self._began_at = counters.wall_seconds, began_at
        self.seconds_to_target: float | None = None
        self._latest_test: Evaluation | None = None
        self._tested_at = -1  # environment steps
        beyond = counters.env_steps if is_resumed else None
        names = self.config.logger
        files = files_to_write(names)
        self._logger = Logger(folder, resume=is_resumed, resume_step=beyond, files=files)
        self._last_row_at = counters.env_steps if counters.unlogged_updates else None
        self._trackers = Trackers(names, loggers, folder, is_resumed, is_silent=not speaks)
        ranks = agent.devices.world_size
        total_steps = agent.num_updates * self.config.num_steps * self.config.num_envs * ranks
        self._progress = Progress(total_steps, initial=counters.env_steps, speaks=speaks)

    def __enter__(self) -> Self:
        self._logger.__enter__()
        self._progress.__enter__()
        if not self._is_resumed:
            self._logger.log_text("hyperparameters", _table(self.config.to_dict()), 0)
        self._trackers.begin({"algo": self.agent.algo, **self.config.to_dict()})
        at = f", from step {self.counters.env_steps:,}" if self._is_resumed else ""
        self._progress.print(f"run folder: {self._shown}{at}")
        if self.config.eval_episodes and not self._can_be_tested:
            what = "no evaluation and no videos" if self.config.capture_video else "no evaluation"
            again = f"python -m fastrl.evaluate {shlex.quote(str(self._shown))}"
            why_not = self.agent.task.why_not
            if not self.agent.task.is_own:
                why_not += "; eval_env= says what to test"
            self._progress.print(f"{what}: {why_not}; afterwards: {again} --env-id module:callable")
        return self

    def __exit__(self, *exception: Any) -> None:
        self._progress.__exit__(*exception)
        self._logger.__exit__(*exception)
        self._trackers.close("failed")  # unless the run came to its end

    @property
    def wall_seconds(self) -> float:
        """Seconds of the run, including start-up and the time before it was resumed."""
        return self._seconds_before + seconds_since_process_start() - self._began_at

    def drop_last_row(self) -> None:
        """Drops the row that the run ended with before it was made longer, at the first call.

        The next row covers its updates again.
        """
        if self._last_row_at is not None:
            self._logger.drop_rows(self._last_row_at, ROW_OF_TRAINING)
            self._last_row_at = None

    def log(self, metrics: dict[str, float]) -> None:
        """Writes a row of metrics."""
        metrics = {**metrics, "Time/wall_seconds": self.wall_seconds}
        self._logger.log(metrics, self.counters.env_steps)
        self._trackers.log(metrics, self.counters.env_steps)

    def show(self) -> None:
        """Updates the progress line."""
        counters = self.counters
        self._progress.update(counters.env_steps, counters.steps_per_second, counters.mean_return)

    def save_last(self, state: Callable[[], State]) -> None:
        """Saves the checkpoint from which the run can be resumed."""
        with PULSE.unwatched(), self._signals.shielded():
            self._tell(self.checkpoints.save_last(state()))

    def save_periodic(self, state: Callable[[], State], has_tests: bool) -> None:
        """Saves a periodic checkpoint, and the best one if nothing else decides which that is."""
        with PULSE.unwatched(), self._signals.shielded():
            if not (has_tests and self._can_be_tested):
                self._keep_if_best(self.counters.mean_return, state)  # judged by training episodes
            self._tell(self.checkpoints.save_periodic(state(), self.counters.env_steps))

    def _keep_if_best(self, mean_return: float, state: Callable[[], State]) -> None:
        if mean_return > self.counters.best_return:  # false for NaN
            self.counters.best_return = mean_return
            self._tell(self.checkpoints.save_best(state()))

    def _tell(self, checkpoint: Path) -> None:
        if self._hooks:
            self._hooks.call("on_checkpoint", checkpoint)

    def test(self, state: Callable[[], State]) -> Evaluation | None:
        """Evaluates the agent, if new environments can be created; saves the best policy so far."""
        if not self._can_be_tested:
            return None
        config, env_steps = self.config, self.counters.env_steps
        words, result = f"evaluation at {env_steps:,} steps", None
        with self._cut_short(), self._progress.stage(words, "episodes") as show:
            parts = config.eval_episodes, env_steps, self._stopped, show
            result = evaluate_agent(self.agent, *parts)
        self._latest_test, self._tested_at = result, env_steps
        if result is None:
            return None
        metrics = {"Test/cumulative_reward": result.mean, "Test/return_std": result.std}
        metrics |= {f"Test/{name}": mean for name, mean in result.info_means.items()}
        self.log(metrics)
        with self._signals.shielded():
            self._keep_if_best(result.mean, state)
        self._progress.print(
            f"{words}: return {result.mean:.1f} +- {result.std:.1f} "
            f"over {len(result.returns)} episodes"
        )
        if config.capture_video:
            self._film()
        if self._hooks:
            self._hooks.call("on_evaluation_end", result)
        return result

    def _film(self) -> None:
        """Records a video of an episode; only the newest videos are kept."""
        env_steps, videos = self.counters.env_steps, self.folder / VIDEOS_NAME
        words = f"video at {env_steps:,} steps"
        bounds = f"at most {MAX_FRAMES:,} frames, {MAX_WIDTH} pixels wide"
        self._progress.print(f"{words}: drawing one episode, {bounds}")
        name = f"step_{env_steps:012d}"
        files: list[Path] = []
        with (
            PULSE.unwatched(),
            self._cut_short(),
            self._progress.stage(words, "frames") as show,
        ):
            files = record_agent(self.agent, videos, name, env_steps, self._stopped, show)
        for path in files:
            self._progress.print(f"video: {self._shown / VIDEOS_NAME / path.name}")
            if path.suffix == ".mp4":
                self._trackers.log_video(path, env_steps)
        if files:
            remove_old_videos(videos, env_steps, self.config.keep_checkpoints)

    @contextmanager
    def _cut_short(self) -> Iterator[None]:
        """Context of a test or video that a second Ctrl-C ends at once; the run is saved then."""
        try:
            yield
        except (KeyboardInterrupt, RuntimeError) as error:
            if not (is_interrupt(error) and self.agent.devices.is_alone):
                raise
            self._signals.take()

    def finish(self, state: Callable[[], State], signal_number: Callable[[], int]) -> TrainResult:
        """Evaluates the final policy and writes the summary.

        Args:
            state: returns the state to save.
            signal_number: returns the signal that ended the run early, or 0.
        """
        counters = self.counters
        self.save_last(state)  # first, since the evaluation may take long or be killed
        result = None
        if not signal_number():
            if self.config.eval_episodes:
                is_tested = self._tested_at == counters.env_steps
                result = self._latest_test if is_tested else self.test(state)
            if result is None and not self._stopped():  # one that was stopped tells nothing
                self._keep_if_best(counters.mean_return, state)
        if self._hooks:
            self._hooks.end(bool(signal_number()))
            if logged := self._hooks.trainer.take_logged():
                self.log(logged)
        if self._hooks or not signal_number():
            self.save_last(state)  # now with the final best return
        with self._signals.shielded():
            return self._close(result, signal_number())

    def finish_failed(self, state: Callable[[], State]) -> None:
        """Saves a run that a callback ends by an error, and says how to go on with it."""
        self.save_last(state)
        self._progress.print(
            f"saved at {self.counters.env_steps:,} steps; resume with: {self._resume_command}"
        )

    @property
    def _resume_command(self) -> str:
        if self.agent.task.is_named:
            return f"python -m fastrl.{self.agent.algo} --resume {shlex.quote(str(self._shown))}"
        # The command line cannot make the environments.
        return f"AgentTrainer(resume={str(self._shown)!r}).fit(agent)"

    def _close(self, result: Evaluation | None, number: int) -> TrainResult:
        counters = self.counters
        summary = self._summary(result, bool(number))
        write_summary(self.folder, summary)
        self._trackers.end(summary, counters.env_steps)
        reason = self._hooks.trainer.stop_reason if self._hooks else ""
        if number:
            self._progress.print(
                f"interrupted at {counters.env_steps:,} steps; resume with: {self._resume_command}"
            )
        else:
            if reason:
                self._progress.print(f"stopped at {counters.env_steps:,} steps: {reason}")
            steps = f"{counters.env_steps:,} steps"
            if counters.valid_env_steps < counters.env_steps:
                steps += f" ({counters.valid_env_steps:,} without resets)"
            line = f"{steps} in {counters.loop_seconds:.1f} s, "
            line += f"{counters.steps_per_second:,.0f} steps/s"
            if self.seconds_to_target is not None:
                line += f"; target return reached {self.seconds_to_target:.1f} s after the start"
            self._progress.print(line)
        self._progress.print(f"run folder: {self._shown}")
        return TrainResult(self.folder, summary, 128 + number if number else 0)

    def _summary(self, result: Evaluation | None, is_interrupted: bool) -> dict[str, Any]:
        config, counters = self.config, self.counters
        return {
            "algo": self.agent.algo,
            "env_id": config.env_id,
            "backend": self.agent.envs[0].backend,
            "seed": config.seed,
            "num_ranks": self.agent.devices.world_size,
            "total_env_steps": counters.env_steps,
            "valid_env_steps": counters.valid_env_steps,
            "episodes": counters.episodes,
            "restarts": counters.restarts,
            # As in the checkpoint just written, from which a resumed run continues to count.
            "wall_seconds": counters.wall_seconds,
            "loop_seconds": counters.loop_seconds,
            "steps_per_second": counters.steps_per_second,
            "stage_seconds": dict(counters.stage_seconds),
            "train_return_mean": counters.mean_return if counters.recent_returns else None,
            "eval_return_mean": result.mean if result else None,
            "eval_return_std": result.std if result else None,
            "eval_episodes": len(result.returns) if result else 0,
            "eval_length_mean": result.mean_length if result else None,
            "train_info_means": counters.info_means,
            "eval_info_means": result.info_means if result else {},
            "target_return": config.target_return,
            "seconds_to_target": self.seconds_to_target,
            "steps_to_target": counters.env_steps if self.seconds_to_target else None,
            "interrupted": is_interrupted,
            "stop_reason": (self._hooks.trainer.stop_reason or None) if self._hooks else None,
            "versions": versions(),
            "machine": machine_facts(),
        }


def _table(settings: dict[str, Any]) -> str:
    rows = "\n".join(f"|{name}|{value}|" for name, value in settings.items())
    return f"|setting|value|\n|-|-|\n{rows}"
