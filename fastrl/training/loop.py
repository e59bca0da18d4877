"""The training loop, for all algorithms: collect, update, log, evaluate, save.

An iteration is one rollout and one update. Steps count stored rows: `num_envs * num_steps` per rank
and rollout, also the reset row after each episode, which is no step of the task and which libraries
that reset within a step do not have; `valid_env_steps` excludes them. The seconds of the loop
exclude start-up, evaluation and checkpoints. With several ranks each runs this loop. All make the
same decisions, because these depend on values reduced over all ranks; only rank 0 writes.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from time import perf_counter
from typing import Any

from fastrl.buffers.rollout import RolloutBuffer
from fastrl.callbacks.base import CallbackError
from fastrl.callbacks.hooks import Hooks
from fastrl.envs.pools import reopened
from fastrl.envs.vector import EnvError
from fastrl.processes.alike import check_buffers
from fastrl.processes.errors import one_line
from fastrl.processes.pulse import PULSE
from fastrl.processes.signals import PATIENCE, StopSignals, is_interrupt
from fastrl.runs.timer import SaveClock, StageTimer
from fastrl.training.agent import Agent
from fastrl.training.counters import Counters, IterationCounts
from fastrl.training.hints import idle_weights
from fastrl.training.player import Player, player_of
from fastrl.training.records import Records, TrainResult
from fastrl.training.resuming import (
    ENVS_STATE,
    run_state,
    state_of_rank,
)

_log = logging.getLogger("fastrl")

_PATIENCE_WITH_UPDATES = 60.0  # seconds; only environments are likely never to return
_SIGNAL_SECONDS = 0.1  # a signal to all processes of a run arrives everywhere within this time
_RESTARTS = 10**12  # more than a run has updates: seeds of environments that a callback reopens


class Loop:
    """One call of `fit` on one rank."""

    def __init__(
        self,
        agent: Agent,
        counters: Counters,
        buffer: RolloutBuffer,
        player: Player,
        timer: StageTimer,
        signals: StopSignals,
        hooks: Hooks | None = None,
    ) -> None:
        """Takes what a run consists of; `hooks` is None if it has no callbacks."""
        self.agent, self.config, self.devices = agent, agent.config, agent.devices
        self.counters, self.buffer, self.player, self.timer = counters, buffer, player, timer
        self.signals, self.agreed_signal = signals, 0
        self.hooks, self.is_stopped = hooks, False  # at the target return, or by a callback
        self.ranks: list[dict[str, Any]] = []
        self.ranks_at = -1  # `counters.updates` when they were gathered
        self.is_learning = False  # during an update, when the agent cannot be saved
        self.has_told_of_weights = False
        self.eval_owed_since: int | None = None  # `last_eval` before a test that was cut short
        # Rollouts under way cannot be saved, so runs that overlap save by their steps alone.
        self.save_clock = SaveClock(never=getattr(self.config, "overlap", False))
        self.must_save = False  # by the clock
        self.is_cut = False  # in the middle of a rollout, with which the environments' state went
        self.has_tests = self.config.eval_every > 0 and self.config.eval_episodes > 0
        self.steps_per_update = buffer.num_steps * buffer.num_envs * self.devices.world_size

    def play(self, records: Records | None, is_resumed: bool) -> TrainResult:
        """Runs the training loop; `records` is None except on rank 0."""
        with self.agent.engine.claim.looping():
            return self._play(records, is_resumed)

    def _play(self, records: Records | None, is_resumed: bool) -> TrainResult:
        if self.hooks:
            self.hooks.call("on_fit_start")
            self._reopen_and_agree(self.hooks)
        if not is_resumed:
            with self.save_clock.saving():
                self._gather_ranks()
                if records:
                    records.save_last(lambda: self._state(records))  # resumable at once
        self.devices.watch_for_hanging(True)
        try:
            self._loop(records, is_resumed)
        except (KeyboardInterrupt, RuntimeError, EnvError) as error:
            if not self._can_be_saved_after(error):
                raise
            self.signals.take()
            self.is_cut = True
        self._count_seconds()
        with self.signals.shielded():
            late_metrics = self._gather_ranks()
        self.devices.watch_for_hanging(False)
        if self.hooks and self.hooks.failure:
            if records:
                records.finish_failed(lambda: self._state(records))
            self.hooks.raise_failure()
        if records:
            if not (self._signal() or self.signals.number):
                self._log_the_rest(records, late_metrics)
            # The ranks no longer exchange signals; only rank 0 evaluates, and may still get one.
            result = records.finish(
                lambda: self._state(records), lambda: self._signal() or self.signals.number
            )
        else:
            number = self._signal()
            if self.hooks:
                self.hooks.end(bool(number))
            result = TrainResult(Path(), {}, 128 + number if number else 0)
        if self.hooks:
            self.hooks.agree()
            self.hooks.raise_failure()
        return result

    def _loop(self, records: Records | None, is_resumed: bool) -> None:
        """Iterates until the run is complete, its target is reached, or a signal came."""
        counters, agent = self.counters, self.agent
        if is_resumed:
            self._test_if_due(records)  # one that a signal cut short
        while counters.updates < agent.num_updates and not (self._signal() or self.is_stopped):
            start = perf_counter()
            metrics = self._iterate()
            counters.loop_seconds += perf_counter() - start
            if records:
                records.drop_last_row()
            if metrics:
                metrics |= self._rate()
            try:
                if self.hooks:  # they see the rollout that was learned from
                    metrics = self.hooks.on_update_end(metrics)
            finally:
                self.buffer.carry_over()
            if records and metrics:
                records.log(metrics)
            if records:
                records.show()
            self.devices.watch_for_hanging(True)
            if self._target_reached():
                if records:
                    records.seconds_to_target = records.wall_seconds
                self.is_stopped = True
            else:
                self._test_if_due(records)
                self._save_if_due(records)
            if self.hooks:
                self._reopen_and_agree(self.hooks)

    def _can_be_saved_after(self, error: BaseException) -> bool:
        """Returns whether a signal cut a rollout short, and the agent is as an update left it."""
        if isinstance(error, EnvError):  # its workers may have got the signal first
            time.sleep(_SIGNAL_SECONDS)
        is_cut = is_interrupt(error) or (isinstance(error, EnvError) and self.signals.came())
        return is_cut and self.devices.is_alone and not self.is_learning

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
        if self.hooks:
            self.hooks.call("on_rollout_end")
            self.buffer.places.check()
        self.is_learning, self.signals.patience = True, _PATIENCE_WITH_UPDATES
        metrics = self.agent.update(self.buffer, counters.updates, self.timer)
        num_valid = self.buffer.num_valid
        counters.updates += 1
        counters.env_steps += self.steps_per_update
        check_buffers(self.devices, self.agent.networks(), counters.updates)
        is_due = self.devices.is_global_zero and self.save_clock.is_due  # it alone writes
        own = IterationCounts.of_rank(self.signals.number, is_due, num_valid, episodes)
        happened = IterationCounts.unpack(self.devices.gather(own.pack()))
        self.agreed_signal, self.must_save = happened.signal, happened.must_save
        counters.add(happened, self.config.info_metrics)
        self.is_learning, self.signals.patience = False, PATIENCE
        self._tell_of_idle_weights()
        if not metrics:
            return {}
        self._check_finite(metrics)
        self._count_seconds()
        return metrics | counters.take_unlogged()

    def _log_the_rest(self, records: Records, late: dict[str, float]) -> None:
        """Writes what happened since the last row of metrics, as the row that the run ends with.

        Sums are not cleared, so that a run that is made longer goes on adding to them; `Records`
        then drops this row. Metrics that came late would not come again after a resume, so a row
        with them is final and clears the sums.

        Args:
            records: of rank 0.
            late: metrics that came after the last update.
        """
        counters = self.counters
        if not (late or counters.unlogged_updates):
            return
        happened = counters.take_unlogged() if late else counters.unlogged_metrics()
        row = self.agent.unlogged_metrics() | late | happened | self._rate()
        if self.hooks:
            self.hooks.trainer.metrics = dict(row)
            row = self.hooks.with_logged(row)
        records.log(row)

    def _rate(self) -> dict[str, float]:
        return {"Time/step_per_second": self.counters.steps_per_second}

    def _tell_of_idle_weights(self) -> None:
        """Says once, after the first gradient steps, which weights they did not reach."""
        if not self.has_told_of_weights and self.devices.is_global_zero:
            hint = idle_weights(self.agent)
            self.has_told_of_weights = hint is not None
            if hint:
                _log.warning("hint: %s", hint)

    def _count_seconds(self) -> None:
        self.counters.add_seconds(self.timer.seconds)
        self.timer.reset()

    def _reopen_and_agree(self, hooks: Hooks) -> None:
        """Makes environments anew if a callback wants that; stops if one of any rank does."""
        env_kwargs = hooks.trainer.take_env_kwargs()
        if env_kwargs is not None and not hooks.failure:
            agent, counters = self.agent, self.counters
            restart = (counters.restarts + 1) * _RESTARTS + counters.updates
            try:
                kwargs = {**agent.config.env_settings["env_kwargs"], **env_kwargs}
                config = agent.config.replace(env_kwargs=kwargs)
                with PULSE.unwatched():
                    agent.envs = reopened(agent.envs, config, restart)
                    self.player = player_of(agent, self.buffer, self.timer)
                    self.player.reset()
            except ValueError as error:
                agent.envs = []  # closed
                where = f"{hooks.trainer.caller} reopens the environments with {env_kwargs}"
                hooks.fail(CallbackError(f"{where}: {one_line(error)}"))
        self.is_stopped |= hooks.agree()

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
        target = self.config.target_return
        return target is not None and self.counters.has_reached(target)

    def _test_if_due(self, records: Records | None) -> None:
        """Tests at the end of the rollout in which the steps pass a multiple of `eval_every`.

        Counted from the last test, long rollouts would be tested later and later.
        """
        counters, every = self.counters, self.config.eval_every
        if not self.has_tests or counters.env_steps // every == counters.last_eval // every:
            return
        before, counters.last_eval = counters.last_eval, counters.env_steps
        self._gather_ranks()  # so that the best policy's checkpoint is complete, too
        if records and records.test(lambda: self._state(records)) is None and self.signals.came():
            self.eval_owed_since = before

    def _save_if_due(self, records: Records | None) -> None:
        """Saves a periodic checkpoint by the steps, or the latest one by the clock."""
        config, counters = self.config, self.counters
        steps_since = counters.env_steps - counters.last_checkpoint
        is_periodic = config.checkpoint_every > 0 and steps_since >= config.checkpoint_every
        if not is_periodic and not self.must_save:
            return
        if is_periodic:
            counters.last_checkpoint = counters.env_steps
        with self.save_clock.saving():
            self._gather_ranks()
            if records and is_periodic:
                records.save_periodic(lambda: self._state(records), self.has_tests)
            elif records:
                records.save_last(lambda: self._state(records))

    def _gather_ranks(self) -> dict[str, float]:
        """Gathers the state of each rank on rank 0, which saves it with its own.

        Returns:
            Metrics that came late, which no row holds yet.
        """
        late_metrics = self.agent.finish_pending()
        self._check_finite(late_metrics)
        self._check_weights()
        if not self.devices.is_alone and self.ranks_at != self.counters.updates:
            self.ranks = self.devices.gather_states(state_of_rank(self.agent, self.buffer))
            self.ranks_at = self.counters.updates
        return late_metrics

    def _state(self, records: Records) -> dict[str, Any]:
        self.counters.wall_seconds = records.wall_seconds
        state = run_state(self.agent, self.buffer, self.counters)
        if self.ranks and self.ranks_at == self.counters.updates:
            state["ranks"] = self.ranks
        if self.eval_owed_since is not None:
            state["counters"]["last_eval"] = self.eval_owed_since
        if self.hooks:
            state["callbacks"] = self.hooks.state_dict()
        if self.is_cut:
            state = {name: value for name, value in state.items() if name not in ENVS_STATE}
        return state
