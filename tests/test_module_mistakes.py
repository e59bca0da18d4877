"""What modules of somebody's own may do, and what they do wrong: learned, told or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from own_modules import mlp
from quick import quick
from test_module import MINIBATCHES, SMALL, fit
from test_resume import metrics_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fastrl import LightningAgentModule

ROWS = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)


class Mine(LightningAgentModule):
    """A policy gradient, of which a test changes one thing."""

    learns_from = "minibatches"

    def __init__(self, network: nn.Module | None = None, how: str = "", **settings: Any) -> None:
        super().__init__(**{**SMALL, **MINIBATCHES, **settings})
        self.network, self.how = network or mlp(4, 2), how
        self.steps: list[tuple[int, int]] = []

    def training_step(self, batch: Any) -> Any:
        assert self.training
        if isinstance(batch, list):  # of data
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])
        log_probs, _, _ = self.evaluate_actions(batch.obs, batch.actions)
        loss = -(batch.weights * log_probs * batch.returns).sum()
        match self.how:
            case "float64":
                return loss.double()
            case "dict":
                return {"loss": loss, "other": 3}
            case "vector":
                return loss.reshape(1)
            case "device":
                return loss + torch.zeros((), device=self.device)
            case "logs":
                self.log_dict({"Mine/a": loss, "Mine/nan": float("nan")}, prog_bar=True)
            case "detached":
                return loss.detach()
            case "nan":
                return loss * float("nan")
            case "tensor":
                self.log("Mine/x", torch.ones(3))
            case "text":
                self.log("Mine/x", "high")
            case "env_steps":
                self.log("env_steps", 1)
            case "counts":
                self.steps.append((self.global_step, self.current_epoch))
        return loss


def trained(folder: Path, module: Any, **how: Any) -> Any:
    return fit(module, "CartPole-v1", folder, **how)


def has_moved(folder: Path, module: Any) -> bool:
    before = module.network[0].weight.detach().clone()
    trained(folder, module)
    return not module.network[0].weight.equal(before)


@pytest.fixture(scope="module")
def learned_plainly(tmp_path_factory) -> Callable[[str], Tensor]:
    """Returns a function of an engine that gives the weights that a plain loss learns."""

    @functools.cache
    def learned(engine: str) -> Tensor:
        module = Mine(engine=engine)
        assert has_moved(tmp_path_factory.mktemp("plain"), module)
        return module.network[0].weight

    return learned


@pytest.mark.parametrize("engine", quick(["auto", "eager"], "auto"))
@pytest.mark.parametrize(
    "how", quick(["float64", "dict", "vector", "device", "logs"], "float64", "dict", "logs")
)
def test_a_loss_in_any_usual_form_is_learned_from(tmp_path, learned_plainly, how, engine):
    module = Mine(how=how, engine=engine)
    assert has_moved(tmp_path, module)
    torch.testing.assert_close(module.network[0].weight, learned_plainly(engine))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nan", "Loss/loss is nan .* the training diverged"),
        ("tensor", r"Mine/x is logged as a tensor \[3\]; it must be one number"),
        ("text", "Mine/x is logged as 'high', which is no number"),
        ("env_steps", "env_steps is logged already"),
    ],
)
@pytest.mark.parametrize("engine", quick(["auto", "eager"], "auto"))
def test_what_cannot_be_learned_from_is_one_line(tmp_path, how, words, engine):
    with pytest.raises(ValueError, match=words) as error:
        trained(tmp_path, Mine(how=how, engine=engine))
    assert "\n" not in str(error.value)


def test_weights_that_no_gradient_reaches_are_told(tmp_path, caplog):
    assert not has_moved(tmp_path, Mine(how="detached", total_timesteps=128))
    assert "no gradient has reached network.0.weight" in caplog.text
    caplog.clear()
    module = Mine(total_timesteps=128)
    module.other = nn.Linear(2, 2)
    trained(tmp_path, module)
    assert "no gradient has reached other.weight, other.bias (6 weights)" in caplog.text
    caplog.clear()
    trained(tmp_path, Mine(total_timesteps=128))
    assert "no gradient" not in caplog.text


def test_steps_and_epochs_are_counted_as_a_training_step_sees_them(tmp_path):
    module = Mine(how="counts", engine="eager")
    trained(tmp_path, module)
    per_update = len(module.steps) // 4
    assert [step for step, _ in module.steps] == list(range(4 * per_update))
    assert [epoch for _, epoch in module.steps] == sorted([0, 1, 2, 3] * per_update)
    assert (module.global_step, module.current_epoch) == (4 * per_update, 4)


@pytest.mark.parametrize("engine", quick(["auto", "eager"], "auto"))
def test_batch_norm_and_dropout_learn_in_training_mode_and_play_in_evaluation_mode(
    tmp_path, engine
):
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    module = Mine(network(), engine=engine)
    folder = trained(tmp_path, module).folder
    assert int(module.network[1].num_batches_tracked) == module.global_step > 0
    assert module.training and (module.predict(ROWS) == module.predict(ROWS)).all()
    restored = Mine(network()).restore(folder)
    assert (restored.predict(ROWS) == module.predict(ROWS)).all()


def test_frozen_layers_stay_and_those_that_no_optimiser_has(tmp_path):
    class Part(Mine):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.network[2].parameters(), 0.01)

    class Groups(Mine):
        def configure_optimizers(self) -> Any:
            still = {"params": self.network[0].parameters(), "lr": 0.0}
            return torch.optim.Adam([still, {"params": self.network[2].parameters(), "lr": 0.01}])

    frozen = Mine(total_timesteps=128)
    frozen.network[0].requires_grad_(False)
    for module in (frozen, Part(total_timesteps=128), Groups(total_timesteps=128)):
        last = module.network[2].weight.detach().clone()
        assert not has_moved(tmp_path, module)
        assert not module.network[2].weight.equal(last)


def test_a_network_that_does_not_fit_the_task_is_one_line(tmp_path):
    module = Mine()
    trained(tmp_path, module)
    with pytest.raises(ValueError, match="of two observations of zeros, the network raised Runt"):
        fit(module, "Acrobot-v1", tmp_path)


def test_a_network_that_is_replaced_or_filled_between_fits_is_trained(tmp_path):
    module = Mine(total_timesteps=128)
    trained(tmp_path, module)
    module.network = mlp(4, 2, seed=3)
    assert has_moved(tmp_path, module)
    filled = Mine(total_timesteps=128)
    filled.load_state_dict(module.state_dict(), strict=False)
    assert filled.network[0].weight.equal(module.network[0].weight)
    assert has_moved(tmp_path, filled)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_either_trainer_goes_on_with_what_the_other_trained(tmp_path):
    module = Mine()
    assert has_moved(tmp_path, module)
    before = module.network[0].weight.detach().clone()
    obs = torch.randn(64, 4)
    loader = DataLoader(TensorDataset(obs, (obs[:, 0] > 0).long()), batch_size=32)
    how: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    lightning.Trainer(max_steps=5, accelerator="cpu", **how).fit(module, loader)
    assert not module.network[0].weight.equal(before)
    assert module.predict(ROWS).shape == (200,)
    assert has_moved(tmp_path, module) and module.current_epoch == 4


def test_python_that_a_training_step_reads_may_change_while_it_trains(tmp_path, caplog):
    class Beta(Mine):
        beta = 1.0

        def training_step(self, batch: Any) -> Tensor:
            self.log("Mine/beta", self.beta)
            return super().training_step(batch)

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.beta = 2.0 if self.current_epoch else 1.0

    module = Beta(engine="auto")
    folder = trained(tmp_path, module).folder
    logged = [float(row["Mine/beta"]) for row in metrics_of(folder)]
    assert logged[0] == 1.0 and logged[-1] == 2.0
    assert "eager from here on: self.beta changed" in caplog.text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda module: torch.optim.Adam(mlp(4, 2).parameters()), "none of the module's param"),
        (lambda module: torch.optim.LBFGS(module.parameters()), "LBFGS asks for the loss several"),
        (lambda module: [torch.optim.Adam(module.parameters())] * 2, r"not \[Adam, Adam\]"),
        (lambda module: None, "not a NoneType"),
    ],
)
def test_an_optimiser_that_cannot_train_the_module_is_one_line(tmp_path, make, words):
    class Configured(Mine):
        def configure_optimizers(self) -> Any:
            return make(self)

    with pytest.raises(ValueError, match=words) as error:
        trained(tmp_path, Configured())
    assert "\n" not in str(error.value)


def test_a_training_step_that_takes_more_than_a_batch_is_told_so(tmp_path):
    class Numbered(Mine):
        def training_step(self, batch: Any, batch_idx: int) -> Any:  # pyright: ignore
            return super().training_step(batch)

    with pytest.raises(ValueError, match=r"Numbered must take \(batch\) alone: .*'batch_idx'"):
        trained(tmp_path, Numbered())
