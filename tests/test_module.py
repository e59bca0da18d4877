"""Algorithms of one's own: what a `LightningAgentModule` gets; the loop is that of all others."""

from __future__ import annotations

import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from own_modules import DQN, ActorCritic, PPOAgent, Reinforce, mlp
from quick import quick
from ranks import run_ranks
from test_resume import assert_equal, last_state, metrics_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toy_envs import CountingEnv, EndlessEnv

from fastrl import PPO, AgentTrainer, Callback, LightningAgentModule
from fastrl.buffers.replay import Transitions

STATEFUL = "toy_envs:StatefulEnv"
KINDS = ("rollouts", "minibatches", "replay")
SMALL: dict[str, Any] = {
    "num_envs": 4,
    "num_steps": 16,
    "eval_episodes": 0,
    "accelerator": "cpu",
    "engine": "eager",
    "total_timesteps": 256,
}
MINIBATCHES = {"per_rank_batch_size": 16, "update_epochs": 2, "normalize_advantages": True}
REPLAY = {"num_steps": 4, "learning_starts": 32, "per_rank_batch_size": 8, "log_every": 0}


def module_for(kind: str, num_inputs: int = 4, **settings: Any) -> LightningAgentModule:
    settings = {**SMALL, **settings}
    if kind == "rollouts":
        return Reinforce(mlp(num_inputs, 2), **settings)
    if kind == "minibatches":
        return PPOAgent(ActorCritic(num_inputs), **{**MINIBATCHES, **settings})
    return DQN(mlp(num_inputs, 2), **{**settings, **REPLAY})


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone() for name, x in module.state_dict().items()}


def fit(module: Any, env: Any, folder: Path, **how: Any) -> Any:
    module.given["log_dir"] = str(folder)
    return AgentTrainer(**how).fit(module, env)


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_made_without_an_environment_learns_from_one(tmp_path, kind):
    module = module_for(kind)
    before = weights_of(module)
    result = fit(module, gymnasium.make("CartPole-v1"), tmp_path, max_steps=512)
    assert result.summary["total_env_steps"] == module.step == 512
    assert result.summary["backend"] == "envpool"  # whose task of that id it is
    assert (
        not module.network[0].weight.equal(before["network.0.weight"])
        if kind != ("minibatches")
        else not module.network.actor[0].weight.equal(before["network.actor.0.weight"])
    )
    row = metrics_of(result.folder)[-1]
    own = {"rollouts": "Info/entropy", "minibatches": "Loss/value_loss", "replay": "Info/q_value"}
    assert {own[kind], "Loss/loss", "Gradients/grad_norm", "Info/learning_rate"} <= {
        name for name, value in row.items() if value
    }
    assert module.predict(torch.zeros(4).numpy()) in (0, 1)


@pytest.mark.parametrize("kind", quick(KINDS, "minibatches"))
def test_recorded_steps_are_those_of_eager_to_the_bit(tmp_path, kind):
    runs = []
    for engine in ("eager", "recorded"):
        module = module_for(kind, engine=engine)
        fit(module, "CartPole-v1", tmp_path)
        runs.append(weights_of(module))
    assert_equal(*runs)


@pytest.mark.parametrize("kind", quick(KINDS, "minibatches"))
def test_a_resumed_run_is_bit_identical_where_envs_can_be_saved(tmp_path, kind):
    straight = fit(module_for(kind, 2), STATEFUL, tmp_path).folder
    module = module_for(kind, 2)
    step, stop_at = module.training_step, {"rollouts": 3, "minibatches": 18, "replay": 20}[kind]
    calls = []

    def training_step(batch: Any) -> Any:
        calls.append(1)
        if len(calls) == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return step(batch)

    module.training_step = training_step  # pyright: ignore
    stopped = fit(module, STATEFUL, tmp_path, on_interrupt="return")
    assert stopped.exit_status == 143 and stopped.summary["total_env_steps"] < 256
    fit(module_for(kind, 2), STATEFUL, tmp_path, resume=stopped.folder)
    assert_equal(last_state(stopped.folder), last_state(straight))
    assert metrics_of(stopped.folder) == metrics_of(straight)


def test_another_module_of_the_same_shapes_does_not_take_a_run_over(tmp_path):
    class Other(Reinforce):
        pass

    folder = fit(module_for("rollouts"), "CartPole-v1", tmp_path).folder
    with pytest.raises(ValueError, match=r"of the module own_modules:Reinforce, not of .*Other"):
        fit(Other(mlp(4, 2), **SMALL), "CartPole-v1", tmp_path, resume=folder, max_steps=512)


class Looks(Reinforce):
    """Keeps the batches that it learns from."""

    batches: Any = ()

    def training_step(self, batch: Any) -> torch.Tensor:
        self.batches = (*self.batches, type(batch)(*(x.clone() for x in batch)))
        return super().training_step(batch)


def test_a_rollout_has_true_last_observations_and_no_weight_on_reset_rows(tmp_path):
    module = Looks(mlp(2, 2), **{**SMALL, "num_envs": 1, "total_timesteps": 16, "gamma": 1.0})
    fit(module, CountingEnv, tmp_path)
    batch = module.batches[-1]  # the first one only asks what is logged
    done = (batch.terminated | batch.truncated)[:, 0]
    ends = done.nonzero()[:, 0].tolist()
    length = ends[0] + 1
    assert batch.next_obs[ends[0], 0, 1] == length  # the observation counts the steps
    assert (batch.weights[1:, 0] == 0).tolist() == done[:-1].tolist()
    assert batch.weights.sum().item() == pytest.approx(1)
    rewards = batch.rewards[:length, 0]
    assert batch.returns[:length, 0].tolist() == rewards.flip(0).cumsum(0).flip(0).tolist()


class ReadsAll(Looks):
    """Unpacks the whole batch, as the log-probabilities of who acted may matter."""

    def training_step(self, batch: Any) -> torch.Tensor:
        obs, actions, *_ = batch
        log_probs, _, _ = self.evaluate_actions(obs, actions)
        return super().training_step(batch) + 0 * log_probs.sum()


def test_log_probabilities_are_worked_out_for_a_step_that_reads_them(tmp_path):
    module = ReadsAll(mlp(4, 2), **{**SMALL, "total_timesteps": 64})
    before = module.network.state_dict()
    policy = mlp(4, 2)
    policy.load_state_dict(before)
    fit(module, "CartPole-v1", tmp_path)
    batch = module.batches[-1]
    log_probs = policy(batch.obs).log_softmax(-1).gather(-1, batch.actions.unsqueeze(-1))
    torch.testing.assert_close(batch.log_probs, log_probs.squeeze(-1).detach())


class Critic(nn.Module):
    """Chooses by chance; the value is one weight, if it is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return obs[:, :2] * 0, self.bias.expand(len(obs))


class OnlyValue(LightningAgentModule):
    """Learns the value alone."""

    learns_from = "minibatches"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = Critic()

    def training_step(self, batch: Any) -> torch.Tensor:
        _, _, values = self.evaluate_actions(batch.obs, batch.actions)
        assert values is not None
        return (batch.weights * (values - batch.returns) ** 2).sum()


def test_a_time_limit_bootstraps_from_the_value_of_the_last_observation(tmp_path):
    settings = {**SMALL, "gamma": 0.9, "learning_rate": 0.3, "total_timesteps": 64 * 60}
    module = OnlyValue(**{**settings, "engine": "auto", "update_epochs": 4})
    fit(module, EndlessEnv, tmp_path)  # reward 1 without end, cut after ten steps
    assert module.network.bias.item() == pytest.approx(1 / (1 - 0.9), rel=0.03)


class PlainRegression(lightning.LightningModule):
    """A LightningModule that knows nothing of environments."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Any) -> torch.Tensor:
        loss = (self.layer(batch[0]) - batch[1]).pow(2).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Clones(LightningAgentModule):
    """Behaviour cloning from pairs of observations and actions."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network = mlp(4, 2)

    def training_step(self, batch: Any) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("Loss/loss", loss)
        return loss


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_fit_hands_a_lightning_module_and_its_data_to_lightnings_trainer(quiet):
    torch.manual_seed(0)
    inputs = torch.randn(256, 2)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    model = PlainRegression()
    logger = CSVLogger(".", name="mine")
    how: Any = {"max_steps": 100, "accelerator": "cpu", "devices": 1}
    result = AgentTrainer(**how, loggers=[logger]).fit(model, data)
    assert model.trainer.logger is logger
    assert model.trainer.global_step == 100
    assert result.summary["loss"] < 1e-3 and result.folder.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trainer", quick([lightning.Trainer, AgentTrainer], AgentTrainer))
def test_a_module_learns_from_data_by_either_trainer(quiet, trainer):
    obs = torch.randn(256, 4)
    loader = DataLoader(TensorDataset(obs, (obs[:, 0] > 0).long()), batch_size=64)
    module = Clones(learning_rate=0.01)
    trainer(max_steps=200, accelerator="cpu").fit(module, loader)
    chosen = module.network(obs).argmax(1)
    assert ((chosen == (obs[:, 0] > 0)).float().mean()) > 0.95


@pytest.mark.parametrize(
    ("model", "target", "words"),
    [
        (PlainRegression, "CartPole-v1", "derive it from LightningAgentModule"),
        (lambda: PPO("CartPole-v1", accelerator="cpu"), TensorDataset(torch.ones(1)), "are for a"),
        (lambda: module_for("rollouts"), None, "environment or data are missing"),
        (lambda: Reinforce, "CartPole-v1", "fit takes an agent, an object, .* not <class"),
        (lambda: 3, None, "fit takes an agent, an object, or a LightningModule, not 3"),
    ],
)
def test_a_target_that_a_model_cannot_learn_from_is_refused(model, target, words):
    with pytest.raises(ValueError, match=words):
        AgentTrainer().fit(model(), target)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gae_lambda": 0.9}, "gae_lambda has no effect"),
        ({"buffer_size": 100}, "unknown setting 'buffer_size'"),
        ({"hidden_sizes": (8,)}, "unknown setting 'hidden_sizes'"),
        ({"per_rank_batch_size": 8}, "no effect with learns_from"),
        ({"decoupled": True}, "decoupled is not offered"),
    ],
)
def test_a_setting_without_effect_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        AgentTrainer().fit(Reinforce(mlp(4, 2), **{**SMALL, **settings}), "CartPole-v1")


def test_what_the_trainer_is_asked_for_goes_for_modules_and_is_refused_for_built_agents(tmp_path):
    agent = PPO("CartPole-v1", accelerator="cpu", log_dir=str(tmp_path))
    with pytest.raises(ValueError, match="the agent was built with precision=32-true"):
        AgentTrainer(precision="bf16-mixed").fit(agent)
    module = module_for("rollouts")
    fit(module, "CartPole-v1", tmp_path, precision="bf16-mixed", max_steps=64)
    assert module.settings.precision == "bf16-mixed" and module.settings.total_timesteps == 64


def test_a_run_that_ends_during_its_warm_up_is_refused():
    with pytest.raises(ValueError, match="total_timesteps=32 ends before the first gradient step"):
        AgentTrainer(max_steps=32).fit(module_for("replay"), "CartPole-v1")


def test_a_module_that_has_warmed_up_may_learn_for_less_and_be_restored(tmp_path):
    module = module_for("replay")
    fit(module, "CartPole-v1", tmp_path)
    folder = module.agent.learn(16).result.folder
    again = module_for("replay").restore(folder)
    assert_equal(weights_of(again), weights_of(module))


@pytest.mark.parametrize("returned", [None, torch.ones(3), 1.0])
def test_a_training_step_that_returns_no_loss_is_named(returned):
    module = module_for("rollouts")
    module.training_step = lambda batch: returned  # pyright: ignore
    with pytest.raises(ValueError, match="training_step of Reinforce must return a scalar"):
        AgentTrainer().fit(module, "CartPole-v1")


def test_a_network_of_another_width_is_named():
    with pytest.raises(ValueError, match=r"makes \[2, 3\] of two observations"):
        AgentTrainer().fit(Reinforce(mlp(4, 3), **SMALL), "CartPole-v1")


class Optimised(Reinforce):
    """Takes an optimiser that a test sets."""

    make: Any = None

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


def scheduled(parameters: Any) -> Any:
    optimizer = torch.optim.Adam(parameters, 0.01)
    return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


def test_any_optimiser_of_torchs_takes_the_steps_that_it_takes_itself(tmp_path):
    runs = {}
    for name, make in {
        "adam": lambda x: torch.optim.Adam(x, 0.01),
        "same adam": lambda x: torch.optim.Adam([{"params": list(x), "lr": 0.01}], amsgrad=False),
        "by torch": lambda x: torch.optim.AdamW(x, 0.01, weight_decay=0.0),
        "sgd": lambda x: torch.optim.SGD(x, 0.01, momentum=0.9),
    }.items():
        module = Optimised(mlp(4, 2), **SMALL, max_grad_norm=0.0)
        module.make = make
        fit(module, "CartPole-v1", tmp_path)
        runs[name] = module.network[0].weight.detach()
    torch.testing.assert_close(runs["by torch"], runs["adam"])
    assert runs["same adam"].equal(runs["adam"]) and not runs["sgd"].allclose(runs["adam"])


def test_a_scheduler_takes_a_step_per_update_and_goes_on_in_a_resumed_run(tmp_path):
    def make() -> Any:
        module = Optimised(mlp(4, 2), **SMALL)
        module.make = scheduled
        return module

    folder = fit(make(), "CartPole-v1", tmp_path).folder
    fit(make(), "CartPole-v1", tmp_path, max_steps=384, resume=folder)
    rates = [float(row["Info/learning_rate"]) for row in metrics_of(folder)]
    assert rates == [0.01 * 0.5**index for index in range(6)]


def learned_on_rank(folder: str) -> Any:
    module = module_for("minibatches", num_envs=2, devices=2)
    torch.manual_seed(int(__import__("os").environ["LOCAL_RANK"]))
    for parameter in module.parameters():  # ranks begin with weights of their own
        parameter.data.uniform_(-1, 1)
    fit(module, "CartPole-v1", Path(folder))
    return {name: x.numpy() for name, x in weights_of(module).items()}


@pytest.mark.slow
def test_ranks_stay_equal_whatever_weights_each_began_with(tmp_path):
    first, second = run_ranks(2, learned_on_rank, str(tmp_path))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)


class PlaysItself(Reinforce):
    """Plays by the rollout that is written in Python."""

    num_rollouts = 0

    def rollout(self, total_steps: int) -> None:
        self.num_rollouts += 1
        super().rollout(total_steps)


class SlowDQN(DQN):
    """Plays in Python, and learns from the batches that were dealt, by its own `sample`."""

    def rollout(self, total_steps: int) -> None:
        super().rollout(total_steps)

    def sample(self) -> Any:
        return tuple(super().sample())

    def training_step(self, batch: Any) -> torch.Tensor:
        return super().training_step(Transitions(*batch))


@pytest.mark.parametrize("kind", ["rollouts", "replay"])
def test_the_rollout_in_python_plays_what_the_player_plays_to_the_bit(tmp_path, kind):
    fast, slow = (Reinforce, PlaysItself) if kind == "rollouts" else (DQN, SlowDQN)
    settings = {**SMALL, **(REPLAY if kind == "replay" else {})}
    modules = [make(mlp(4, 2), **settings) for make in (fast, slow)]
    results = [fit(module, "CartPole-v1", tmp_path) for module in modules]
    assert_equal(weights_of(modules[1]), weights_of(modules[0]))
    counts = [metrics_of(result.folder) for result in results]
    assert counts[0] == counts[1]
    assert kind == "replay" or modules[1].num_rollouts == 4


class Draft(LightningAgentModule):
    """The agent of the sources, as they sketch it: it plays, stores and samples by itself."""

    def __init__(self, network: nn.Module, **settings: Any) -> None:
        super().__init__(**settings)
        self.network, self.stored = network, []

    def bind_env(self, env: Any) -> None:
        self._env = env

    def initial_rollout(self) -> None:
        self._obs, _ = self._env.reset()
        self.rollout(self.settings.num_steps)

    def rollout(self, total_steps: int) -> None:
        for _ in range(total_steps):
            obs = self._obs
            action = torch.distributions.Categorical(logits=self.network(obs)).sample()
            self._obs, reward, terminated, _, _ = self._env.step(action)
            self.stored.append((obs, action, reward, terminated))

    def sample(self) -> Any:
        latest = self.stored[-self.settings.num_steps :]
        return [torch.cat(column) for column in zip(*latest, strict=True)]

    def training_step(self, batch: Any) -> torch.Tensor:
        obs, action, reward, _ = batch
        log_probs = self.network(obs).log_softmax(1).gather(1, action.unsqueeze(1))
        return -(log_probs[:, 0] * reward).mean()


def test_an_agent_that_plays_and_samples_by_itself_is_counted_and_tested_as_any_other(tmp_path):
    module = Draft(mlp(4, 2), **{**SMALL, "eval_episodes": 2})
    before = weights_of(module)
    result = fit(module, gymnasium.make("CartPole-v1"), tmp_path)
    assert len(module.stored) == 64 and result.summary["total_env_steps"] == 256
    assert result.summary["episodes"] > 0 and result.summary["eval_return_mean"] > 0
    assert not module.network[0].weight.equal(before["network.0.weight"])


class Firsts(PlaysItself):
    """Counts how often a run began."""

    num_firsts = 0

    def initial_rollout(self) -> None:
        self.num_firsts += 1
        assert self.step == 0
        super().initial_rollout()


def test_a_second_fit_of_a_module_begins_anew(tmp_path):
    module = Firsts(mlp(4, 2), **SMALL)
    for number in (1, 2):
        fit(module, "CartPole-v1", tmp_path)
        assert module.num_firsts == number and module.num_rollouts == 4 * number


@pytest.mark.parametrize("kind", [PlaysItself, SlowDQN])
def test_the_steps_of_a_module_that_plays_itself_stay_recorded(tmp_path, caplog, kind):
    more = REPLAY if kind is SlowDQN else {}
    fit(kind(mlp(4, 2), **{**SMALL, **more, "engine": "auto"}), "CartPole-v1", tmp_path)
    assert "eager from here on" not in caplog.text


class Reopens(Callback):
    """Makes the environments anew before the first rollout."""

    def on_fit_start(self, trainer: Any) -> None:
        trainer.reopen()


def test_a_module_that_plays_itself_does_so_in_reopened_environments_too(tmp_path):
    module = PlaysItself(mlp(4, 2), **SMALL)
    fit(module, "CartPole-v1", tmp_path, callbacks=[Reopens()])
    assert module.num_rollouts == 4


def test_infos_are_read_where_a_module_plays_itself(tmp_path):
    means = []
    for kind in (Reinforce, PlaysItself):
        module = kind(mlp(2, 2), **SMALL, info_metrics=("distance",))
        means.append(fit(module, "goal_envs:GoalEnv", tmp_path).summary["train_info_means"])
    assert means[0] == means[1] and means[0].keys() == {"distance"}


@pytest.mark.parametrize("kind", [PlaysItself, Draft])
def test_what_has_learned_can_be_copied_exported_filled_and_frozen(tmp_path, kind):
    module = kind(mlp(4, 2), **SMALL)
    folder = fit(module, "CartPole-v1", tmp_path).folder
    rows = torch.randn(8, 4)
    assert deepcopy(module)(rows).equal(module(rows))
    module.agent.export(tmp_path / "policy.pt")
    exported = torch.jit.load(tmp_path / "policy.pt")
    assert (exported(rows).numpy() == module.predict(rows.numpy())).all()
    nn.init.zeros_(module.network[0].weight)
    found = module.agent.load_weights(folder)
    assert len(found.fitted) == 4 and module.network[0].weight.any()
    frozen = [f"policy.network.0.{name}" for name in ("weight", "bias")]
    assert module.agent.freeze("network.0") == frozen


@pytest.mark.parametrize("name", ["Loss/loss", "Info/learning_rate", "Time/mine"])
def test_a_name_under_which_the_run_logs_something_else_is_refused(tmp_path, name):
    module = module_for("rollouts")
    module.training_step = lambda batch: module.log(name, batch.rewards.sum())
    with pytest.raises(ValueError, match=f"{name} is logged already"):
        fit(module, "CartPole-v1", tmp_path)


class Lazy(Reinforce):
    """Plays fewer steps than it is asked for."""

    def rollout(self, total_steps: int) -> None:
        super().rollout(total_steps - 1)


def test_a_rollout_of_another_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"rollout\(16\) took 15 steps"):
        fit(Lazy(mlp(4, 2), **SMALL), "CartPole-v1", tmp_path)


class Counts(Reinforce):
    """Has a hook of Lightning's that is called, and one that is not."""

    num_batches = 0

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert batch_idx == self.num_batches
        self.num_batches += 1

    def on_train_epoch_end(self) -> None:
        raise AssertionError


def test_a_hook_that_is_not_called_is_named(tmp_path, caplog):
    module = Counts(mlp(4, 2), **SMALL)
    fit(module, "CartPole-v1", tmp_path)
    assert module.num_batches == 4
    assert "Counts: lightning.Trainer alone calls on_train_epoch_end" in caplog.text


def changing_in_place(module: Any, batch: Any) -> Any:
    batch.obs.mul_(2)
    return Reinforce.training_step(module, batch)


def logging_now_and_then(module: Any, batch: Any) -> Any:
    module.log("Mine/a" if module.step == 0 else "Mine/b", 1.0)
    return Reinforce.training_step(module, batch)


def logging_under_an_odd_name(module: Any, batch: Any) -> Any:
    module.log("Mine/a\nb", 1.0)
    return Reinforce.training_step(module, batch)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (changing_in_place, r"training_step of Reinforce changes batch\.obs in place"),
        (logging_now_and_then, "logs Info/entropy, Mine/b, and Info/entropy, Mine/a at first"),
        (logging_under_an_odd_name, "must be at most 200 letters, digits"),
    ],
)
def test_what_a_training_step_does_wrong_is_one_line(tmp_path, step, words):
    module = module_for("rollouts")
    module.training_step = lambda batch: step(module, batch)  # pyright: ignore
    with pytest.raises(ValueError, match=words):
        fit(module, "CartPole-v1", tmp_path)


def test_a_network_of_a_module_that_changes_its_input_is_refused(tmp_path):
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="must not change its input in place"):
        fit(Reinforce(network, **SMALL), "CartPole-v1", tmp_path)


class ByHand(Reinforce):
    """Changes its optimiser after each step."""

    def __init__(self, change: Any, kind: Any = torch.optim.Adam, **settings: Any) -> None:
        super().__init__(nn.Linear(4, 2), **settings)
        self.change, self.kind = change, kind

    def configure_optimizers(self) -> Any:
        self.made = self.kind(self.parameters(), 1e-2)
        return self.made

    def on_train_batch_end(self, *_: Any) -> None:
        self.change(self)


def stand_still(module: Any) -> None:
    module.made.param_groups[0]["lr"] = 0.0


def stand_still_by_ours(module: Any) -> None:
    module.agent.optimizer.learning_rate = 0.0


@pytest.mark.parametrize("change", [stand_still, stand_still_by_ours])
@pytest.mark.parametrize("kind", quick([torch.optim.Adam, torch.optim.AdamW], torch.optim.Adam))
def test_what_is_done_to_the_optimiser_that_was_configured_takes_effect(tmp_path, change, kind):
    torch.manual_seed(0)
    module = ByHand(change, kind, num_envs=4, num_steps=16)
    before = module.network.weight.detach().clone()
    folder = fit(module, "CartPole-v1", tmp_path, max_steps=320).folder
    moved = (module.network.weight - before).abs().max().item()
    assert 0.005 < moved < 0.012  # by the first step of Adam alone
    assert {row["Info/learning_rate"] for row in metrics_of(folder)} <= {"0.0", ""}


class InGroups(Reinforce):
    """Two layers with a learning rate each, and a scheduler for both."""

    def configure_optimizers(self) -> Any:
        weight, bias = self.parameters()
        groups: Any = [{"params": [weight], "lr": 1e-5}, {"params": [bias], "lr": 1e-2}]
        self.made = torch.optim.AdamW(groups)
        return [self.made], [torch.optim.lr_scheduler.StepLR(self.made, 3)]


def test_a_scheduler_moves_each_group_of_parameters_from_its_own_rate(tmp_path):
    module = InGroups(nn.Linear(4, 2), num_envs=4, num_steps=16, engine="eager")
    fit(module, "CartPole-v1", tmp_path, max_steps=640)
    assert [group["lr"] for group in module.made.param_groups] == pytest.approx([1e-8, 1e-5])


class OfLightning(Reinforce):
    """Returns an optimiser and no scheduler as Lightning's examples do."""

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), 1e-2)], []


def test_an_empty_list_of_schedulers_is_none(tmp_path):
    module = OfLightning(nn.Linear(4, 2), num_envs=4, num_steps=16, engine="eager")
    assert fit(module, "CartPole-v1", tmp_path, max_steps=64).summary["total_env_steps"] == 64


class Joined(LightningAgentModule):
    """Has a gradient that is the end of a larger one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network, self.wanted = nn.Linear(4, 2), None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.network.bias], 1.0)

    def training_step(self, batch: Any) -> Any:
        joined = torch.cat([torch.ones(3), self.network.bias])
        return (joined * torch.arange(5.0)).sum() + 0 * batch.obs.sum()


def test_a_gradient_that_is_part_of_a_larger_one_is_stepped_along(tmp_path):
    module = Joined(num_envs=4, num_steps=16, engine="eager", max_grad_norm=0.0)
    module.network.weight.requires_grad_(False)
    before = module.network.bias.detach().clone()
    fit(module, "CartPole-v1", tmp_path, max_steps=64)
    torch.testing.assert_close(before - module.network.bias, torch.tensor([3.0, 4.0]))


def test_weight_decay_that_adam_comes_to_have_is_refused(tmp_path):
    def decay(module: Any) -> None:
        module.made.param_groups[0]["weight_decay"] = 0.1

    with pytest.raises(ValueError, match="cannot be set in the middle of a run"):
        fit(
            ByHand(decay, num_envs=4, num_steps=16, engine="eager"),
            "CartPole-v1",
            tmp_path,
            max_steps=320,
        )


class OfRewards(LightningAgentModule):
    """Learns from rewards alone, and keeps those that it saw."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.network, self.rewards = nn.Linear(4, 2), []

    def training_step(self, batch: Any) -> Any:
        self.rewards.append(batch.rewards.detach().clone())
        log_probs, _, _ = self.evaluate_actions(batch.obs, batch.actions)
        return -(batch.weights * log_probs * batch.rewards).sum()


def test_a_setting_of_what_training_step_does_not_read_is_told(tmp_path, caplog):
    module = OfRewards(num_envs=4, num_steps=16, engine="eager", normalize_advantages=True)
    fit(module, "CartPole-v1", tmp_path, max_steps=128)
    told = "normalize_advantages has no effect: training_step does not read batch.advantages"
    assert caplog.messages.count(told) == 1
    fit(PPOAgent(ActorCritic(4), **{**SMALL, **MINIBATCHES}), "CartPole-v1", tmp_path)
    assert caplog.messages.count(told) == 1


def test_rewards_are_in_the_units_that_values_are_learned_in(tmp_path):
    module = OfRewards(num_envs=4, num_steps=16, engine="eager", reward_scaling=True)
    fit(module, "CartPole-v1", tmp_path, max_steps=256)
    scale = (module.agent.reward_scale.variance + module.agent.reward_scale.eps).rsqrt()
    assert module.rewards[-1].max().item() == pytest.approx(scale.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("space", "num_outputs"),
    [
        (gymnasium.spaces.Discrete(3, start=1), 3),
        (gymnasium.spaces.MultiDiscrete([2, 3], start=[5, -1]), 5),
        (gymnasium.spaces.Box(-2, 3, (2,)), 2),
    ],
    ids=["Discrete", "MultiDiscrete", "Box"],
)
def test_actions_of_data_are_those_of_the_environment(space, num_outputs):
    module = Reinforce(nn.Linear(4, num_outputs))
    module.bind_spaces(gymnasium.spaces.Box(-1, 1, (4,)), space)
    obs, stored = torch.randn(6, 4), module.head.mode(module.network(torch.randn(6, 4)))
    taken = module.head.to_env(stored)
    log_probs, _, _ = module.evaluate_actions(obs, taken)
    wanted, _ = module.head.log_prob_and_entropy(module.network(obs), module.head.from_env(taken))
    torch.testing.assert_close(log_probs, wanted)
    if space.dtype != np.float32:
        assert torch.equal(module.head.from_env(taken), stored)
        with pytest.raises(ValueError, match="is none of"):
            module.evaluate_actions(obs, taken + 100)
