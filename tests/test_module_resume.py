"""Runs of modules that are stopped and resumed: equal to one that never stopped, to the bit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from own_modules import DQN, Reinforce, mlp
from quick import quick
from test_module import REPLAY, SMALL, STATEFUL, fit
from test_resume import assert_equal, last_state, metrics_of

from fastrl import Callback
from fastrl.module.optimizers import ConfiguredOptimizer, flat_optimizer
from fastrl.runs.checkpoint import load_checkpoint, save_checkpoint


class SamplesRollouts(Reinforce):
    """Learns from what its own `sample` returns, of whole rollouts."""

    def sample(self) -> Any:
        return super().sample()


class SamplesReplay(DQN):
    """The same, of minibatches."""

    def sample(self) -> Any:
        return super().sample()


class StopsAfter(Callback):
    """Asks the run to stop after one of its updates."""

    def __init__(self, num_updates: int) -> None:
        self.num_updates = num_updates

    def on_update_end(self, trainer: Any, metrics: Any) -> None:
        if trainer.updates == self.num_updates:
            signal.raise_signal(signal.SIGTERM)


def made(kind: Any, **settings: Any) -> Any:
    more = REPLAY if issubclass(kind, DQN) else {}
    return kind(mlp(2, 2), **{**SMALL, **more, **settings})


def stopped_and_resumed(kind: Any, folder: Path, stop: int, **settings: Any) -> tuple[Path, Path]:
    """Returns the folders of a run that was stopped and resumed, and of one that was not."""
    straight = fit(made(kind, **settings), STATEFUL, folder).folder
    module, callbacks = made(kind, **settings), [StopsAfter(stop)]
    stopped = fit(module, STATEFUL, folder, on_interrupt="return", callbacks=callbacks)
    assert stopped.exit_status == 143
    fit(made(kind, **settings), STATEFUL, folder, resume=stopped.folder)
    return stopped.folder, straight


def check_equal(resumed: Path, straight: Path) -> None:
    states = [last_state(folder) for folder in (resumed, straight)]
    for state in states:
        del state["counters"]["unlogged_seconds"]  # by the clock
    assert_equal(*states)
    assert metrics_of(resumed) == metrics_of(straight)


# Modules with a `sample` of their own


@pytest.mark.parametrize("stop", quick([8, 15], 8))
def test_metrics_that_a_sampling_module_has_not_logged_yet_are_in_the_next_row(tmp_path, stop):
    settings = {"log_every": 96, "replay_ratio": 0.2}
    check_equal(*stopped_and_resumed(SamplesReplay, tmp_path, stop, **settings))


def test_a_row_between_resuming_and_the_first_step_has_what_was_logged_before(tmp_path):
    settings = {"num_steps": 1, "log_every": 8, "replay_ratio": 1 / 24, "learning_starts": 28}
    # The first gradient step comes after 52 environment steps, the row after 56, a step after 76.
    folders = stopped_and_resumed(SamplesReplay, tmp_path, 13, **settings)
    assert [row["Loss/loss"] != "" for row in metrics_of(folders[1])[6:8]] == [True, False]
    check_equal(*folders)


def test_a_sampling_module_that_learns_from_rollouts_goes_on_to_the_bit(tmp_path):
    check_equal(*stopped_and_resumed(SamplesRollouts, tmp_path, 2))


@pytest.mark.parametrize("kind", quick([SamplesRollouts, SamplesReplay], SamplesReplay))
def test_a_complete_run_of_a_sampling_module_can_be_made_longer(kind, tmp_path):
    folder = fit(made(kind), STATEFUL, tmp_path).folder
    longer = fit(made(kind, total_timesteps=512), STATEFUL, tmp_path, resume=folder)
    assert longer.summary["total_env_steps"] == 512


class LogsMore(SamplesReplay):
    """Logs under one more name than the run that it resumes, if it is told to."""

    is_told = False

    def training_step(self, batch: Any) -> torch.Tensor:
        if self.is_told:
            self.log("Mine/more", 1.0)
        return super().training_step(batch)


def test_sums_of_other_metrics_than_a_sampling_module_logs_are_refused(tmp_path):
    folder = fit(made(LogsMore), STATEFUL, tmp_path).folder
    module = made(LogsMore, total_timesteps=512)
    module.is_told = True
    with pytest.raises(ValueError, match=r"it has the sums of Loss/loss, .*; here .* Mine/more"):
        fit(module, STATEFUL, tmp_path, resume=folder)


def test_sums_that_are_no_numbers_are_refused(tmp_path):
    folder = fit(made(SamplesReplay), STATEFUL, tmp_path).folder
    edit(folder, lambda agent: agent.update(metric_sums=["a", "b", "c"]))
    with pytest.raises(ValueError, match=r"its metric_sums\[0\] must be a number, not a string"):
        fit(made(SamplesReplay, total_timesteps=512), STATEFUL, tmp_path, resume=folder)


def edit(folder: Path, change: Any) -> None:
    """Changes what a run's last checkpoint says of the agent."""
    path = folder / "checkpoints" / "last.pt"
    state = load_checkpoint(path)
    change(state["agent"])
    save_checkpoint(path, state)


# Optimisers and schedulers


class Cyclic(Reinforce):
    """Its scheduler moves Adam's betas with the learning rate."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 1e-3)
        return [optimizer], [torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-4, 1e-2, 5)]


class OneCycle(Reinforce):
    """Its scheduler says in a word how it moves."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 1e-3)
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, 20)]


@pytest.mark.parametrize("kind", quick([Cyclic, OneCycle], OneCycle))
def test_a_scheduler_that_moves_betas_goes_on_to_the_bit(kind, tmp_path):
    check_equal(*stopped_and_resumed(kind, tmp_path, 7, num_steps=4))


class ChangesOnce(DQN):
    """Changes a number of its optimiser after its third step."""

    change: ClassVar[dict[str, Any]]

    def configure_optimizers(self) -> Any:
        self.made = torch.optim.Adam(self.parameters(), 1e-3)
        return self.made

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            self.made.param_groups[0].update(self.change)


class ChangesEps(ChangesOnce):
    change: ClassVar = {"eps": 1e-2}


class ChangesBetas(ChangesOnce):
    change: ClassVar = {"betas": (0.5, 0.9)}


@pytest.mark.parametrize("kind", quick([ChangesEps, ChangesBetas], ChangesBetas))
def test_a_number_of_the_optimiser_that_was_changed_by_hand_goes_on_to_the_bit(kind, tmp_path):
    check_equal(*stopped_and_resumed(kind, tmp_path, 11))


@pytest.mark.parametrize("kind", quick([Cyclic, OneCycle], Cyclic))
def test_a_file_that_has_learning_rates_alone_is_read(kind, tmp_path):
    def age(agent: dict[str, Any]) -> None:
        groups, scheduler = agent["schedule"]["groups"], agent["schedule"]["scheduler"]
        numbers = {k: x for k, x in scheduler.items() if type(x) in (int, float, bool, list)}
        assert numbers.keys() != scheduler.keys()
        agent["schedule"] = {"rates": [x["lr"] for x in groups], "scheduler": numbers}

    folder = fit(made(kind, num_steps=16), STATEFUL, tmp_path).folder
    edit(folder, age)
    module = made(kind, num_steps=16, total_timesteps=320)
    fit(module, STATEFUL, tmp_path, resume=folder)
    straight = fit(made(kind, num_steps=16, total_timesteps=320), STATEFUL, tmp_path).folder
    rates = [[row["Info/learning_rate"] for row in metrics_of(x)] for x in (folder, straight)]
    assert rates[0] == rates[1]


def test_a_schedule_of_another_kind_of_scheduler_is_refused(tmp_path):
    folder = fit(made(Cyclic), STATEFUL, tmp_path).folder
    edit(folder, lambda agent: agent["schedule"]["scheduler"].pop("total_size"))
    with pytest.raises(ValueError, match=r"its schedule\.scheduler\.total_size must be a number"):
        fit(made(Cyclic, total_timesteps=512), STATEFUL, tmp_path, resume=folder)


class Remembers(torch.optim.lr_scheduler.LRScheduler):
    """Has a value that is None at first, and a function, which no file can hold."""

    best: Any = None

    def __init__(self, optimizer: Any) -> None:
        self.best, self.function = None, lambda rate: rate / 2
        super().__init__(optimizer)

    def get_lr(self) -> Any:
        self.best = {"rate": self.function(self.optimizer.param_groups[0]["lr"])}
        return [self.best["rate"]]


def test_a_value_of_a_scheduler_that_came_to_be_set_is_taken_back():
    def fresh() -> tuple[Any, ConfiguredOptimizer, Any]:
        layer = torch.nn.Linear(2, 2)
        optimizer = torch.optim.Adam(layer.parameters(), 1.0)
        scheduler = Remembers(optimizer)
        return (
            scheduler,
            ConfiguredOptimizer(optimizer, scheduler),
            flat_optimizer(layer, optimizer, 0.0),
        )

    scheduler, schedule, flat = fresh()
    schedule.advance(flat)
    state = schedule.state_dict()
    again, configured, optimizer = fresh()
    again.best = None
    configured.check(state)
    configured.load_state_dict(state, optimizer)
    assert again.best == scheduler.best and callable(again.function)
    assert float(optimizer.learning_rate) == float(flat.learning_rate)
