"""Nothing stands in for somebody's own code, also where that differs on rare rows alone."""

from __future__ import annotations

import sys
from copy import deepcopy
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from quick import quick
from torch import Tensor, nn

from fastrl import PPO, SAC, DroQ, PPORecurrent
from fastrl.callbacks import Callback
from fastrl.engine.native_acting import NativeActing
from fastrl.engine.optimizer import FlatAdam
from fastrl.engine.own_code import PACKAGE, first_own, is_library
from fastrl.engine.rehearsal import tried
from fastrl.kernels.extension import HAS_DENSE
from fastrl.models.actor_critic import ActorCritic
from fastrl.models.distributions import GaussianHead
from fastrl.ops import losses

SMALL: dict[str, Any] = {
    **{"preset": "none", "verbose": 0, "eval_episodes": 0, "seed": 1, "hidden_sizes": (8,)},
    **{"num_envs": 4, "num_steps": 32, "per_rank_batch_size": 64, "total_timesteps": 512},
}
SMALL_SAC: dict[str, Any] = {
    **{"preset": "none", "verbose": 0, "eval_episodes": 0, "seed": 1, "hidden_sizes": (8,)},
    **{"num_envs": 2, "num_steps": 4, "per_rank_batch_size": 16, "total_timesteps": 160},
    **{"learning_starts": 64},
}


def own_code_of(function: Any) -> str:
    """The name of somebody's own code that a call runs; "" if there is none."""
    with tried(function) as reads:
        function()
    return first_own(reads.ran)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Heater(gymnasium.Env):
    """Must not be heated above 80 degrees; counts how often it was."""

    observation_space = spaces.Box(-1000, 1000, (2,))
    action_space = spaces.Discrete(2)
    broken = 0

    def _shown(self) -> np.ndarray:
        self.temperature = float(self.np_random.uniform(0, 100))
        return np.array([self.temperature, self.time], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._shown(), {}

    def step(self, action: Any) -> Any:
        Heater.broken += self.temperature > 80 and action == 1
        self.time += 1
        return self._shown(), float(action), False, self.time == 20, {}


class Shielded(PPO):
    """Never heats what is hot."""

    @torch.no_grad()
    def draw_actions(self, obs: Tensor, noise: Tensor, actions: Tensor) -> Tensor:
        super().draw_actions(obs, noise, actions)
        actions.copy_(torch.where(obs[:, 0] > 80, 0, actions))
        return self.policy.head.to_env(actions)


class HighReturns(PPO):
    """Clamps what no row of a proof reaches."""

    def loss(self, batch: Any) -> Any:
        return super().loss(batch._replace(returns=batch.returns.clamp(-20, 20)))


class Clamped(nn.Module):
    """A layer that clamps far out."""

    def __init__(self, space: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.clamp(-50, 50))


def weights(agent: Any) -> Tensor:
    return torch.cat([optimizer.flat for optimizer, _ in agent.trained()])


def fast_and_slow(kind: Any, env: Any, **settings: Any) -> tuple[Any, Any]:
    fast, slow = (kind(env, engine=engine, **settings).learn() for engine in ("auto", "eager"))
    return fast, slow


@pytest.mark.parametrize(
    "engine", quick(["eager", "recorded", "auto", *["native"] * HAS_DENSE], "auto")
)
def test_a_rule_for_rare_rows_holds_while_acting(engine: str) -> None:
    Heater.broken = 0
    Shielded(Heater, engine=engine, **SMALL).learn()
    assert Heater.broken == 0


@pytest.mark.parametrize(
    "kind", quick([HighReturns, PPO], HighReturns), ids=["own loss", "own network"]
)
def test_a_clamp_far_out_is_learned_with(kind: Any) -> None:
    settings = {**SMALL}
    if kind is PPO:
        settings["network"] = Clamped
        del settings["hidden_sizes"]
    fast, slow = fast_and_slow(kind, Heater, **settings)
    torch.testing.assert_close(weights(fast), weights(slow), atol=2e-5, rtol=1e-4)


def test_a_copy_of_our_code_counts_as_ours(tmp_path: Path, monkeypatch: Any) -> None:
    source = Path(losses.__file__).read_text()
    edited = source.replace("torch.dot(values, weights)", "2 * torch.dot(values, weights)")
    assert edited != source
    (tmp_path / "copied_losses.py").write_text(f"# Another line in front.\n{source}")
    (tmp_path / "edited_losses.py").write_text(edited)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = torch.randn(4), torch.full((4,), 0.25)
    told = {}
    for name in ("copied_losses", "edited_losses"):
        function = import_module(name).weighted_mean
        told[name] = own_code_of(partial(function, *rows))
        sys.modules.pop(name)
    assert told == {"copied_losses": "", "edited_losses": "weighted_mean"}


def test_torch_is_a_library_wherever_it_lies_and_what_builds_on_fastrl_is_none() -> None:
    assert is_library(torch.__file__) and is_library(gymnasium.__file__)
    installed = str(Path(gymnasium.__file__).parent.parent / "somebody" / "ppo.py")
    own = ModuleType("somebody.ppo")
    assert is_library(installed, vars(own))
    vars(own)["PPO"] = PPO
    assert not is_library(installed, vars(own))
    beside_torch = str(Path(torch.__file__).parent) + "_lab/ppo.py"
    assert not is_library(beside_torch, vars(own))
    assert not is_library(str(Path.cwd() / "my_ppo.py"), {})


def test_a_folder_beside_ours_with_a_longer_name_is_not_ours() -> None:
    names: dict[str, Any] = {}
    exec(compile("def rule(x):\n    return x", f"{PACKAGE[:-1]}_lab/mine.py", "exec"), names)
    assert own_code_of(partial(names["rule"], 1)) == "rule"


class Averaged(PPO):
    """Stays near an average of its weights, which gets new memory after each update."""

    def build(self, rollout: Any) -> None:
        self.average = deepcopy(self.policy)
        super().build(rollout)

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        pairs = zip(self.policy.parameters(), self.average.parameters(), strict=True)
        return loss + sum((x - y.detach()).pow(2).sum() for x, y in pairs), metrics

    def update(self, *arguments: Any) -> dict[str, float]:
        metrics = super().update(*arguments)
        for mine, now in zip(self.average.parameters(), self.policy.parameters(), strict=True):
            mine.data = 0.5 * mine.data + 0.5 * now.data
        return metrics


class ByEpoch(PPO):
    """Weighs the second half of an update's steps otherwise, and ends as it began."""

    weight, count = 1.0, 0

    def build(self, rollout: Any) -> None:
        super().build(rollout)
        step = self.step

        def counted(batch: Any) -> bool:
            self.count += 1
            self.weight = 1.0 if self.count % 4 < 2 else 3.0
            return step(batch)

        for name in ("clear", "means", "sum_of"):
            setattr(counted, name, getattr(step, name))
        self.step = counted  # type: ignore

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        return loss + self.weight * metrics[1], metrics


class Mixed(PPO):
    """Keeps its coefficient beside a tensor."""

    def build(self, rollout: Any) -> None:
        self.kept = {"tensor": torch.ones(()), "beta": np.float32(1.0)}
        super().build(rollout)

    def loss(self, batch: Any) -> Any:
        loss, metrics = super().loss(batch)
        return loss + self.kept["beta"] * self.kept["tensor"] * metrics[1], metrics

    def update(self, *arguments: Any) -> dict[str, float]:
        metrics = super().update(*arguments)
        self.kept["beta"] += np.float32(1.0)
        return metrics


@pytest.mark.parametrize("kind", quick([Averaged, ByEpoch, Mixed], Mixed))
def test_what_changes_in_mid_run_takes_effect_as_in_eager(kind: Any) -> None:
    fast, slow = fast_and_slow(kind, "CartPole-v1", **SMALL)
    stock = PPO("CartPole-v1", **SMALL).learn()
    assert (weights(fast) - weights(stock)).abs().max() > 1e-3
    torch.testing.assert_close(weights(fast), weights(slow), atol=2e-5, rtol=1e-4)


def test_sac_uses_the_loss_and_the_optimiser_that_it_has_when_a_run_begins() -> None:
    agent = SAC("Pendulum-v1", **SMALL_SAC)
    whole = agent.critic_loss
    agent.critic_loss = lambda batch: (whole(batch)[0] * 0, whole(batch)[1])  # type: ignore
    before = agent.critic_optimizer.flat.clone()
    agent.learn()
    assert torch.equal(agent.critic_optimizer.flat, before)
    agent = SAC("Pendulum-v1", **SMALL_SAC)
    agent.critic_optimizer = FlatAdam(agent.critics, 1e-3, 1e-8, 0.0)
    before = agent.critic_optimizer.flat.clone()
    agent.learn()
    assert (agent.critic_optimizer.flat - before).abs().max() > 1e-3


def test_networks_of_sac_that_are_one_module_are_refused() -> None:
    one = nn.Sequential(nn.Linear(3, 8), nn.Tanh())
    with pytest.raises(ValueError, match="network returned one module twice"):
        SAC("Pendulum-v1", network=lambda space: one, **SMALL_SAC)


def test_an_optimiser_of_torch_is_refused_by_name() -> None:
    agent = PPO("CartPole-v1", **SMALL)
    agent.optimizer = torch.optim.SGD(agent.policy.parameters(), lr=0.1)  # type: ignore
    with pytest.raises(ValueError, match=r"must be FlatAdam or FlatRMSprop .*, not SGD;"):
        agent.learn()


def test_hooks_that_nothing_would_call_are_refused() -> None:
    agent = PPO("CartPole-v1", **SMALL)
    for parameter in agent.policy.parameters():
        parameter.register_post_accumulate_grad_hook(lambda x: None)
    with pytest.raises(ValueError, match="register_hook works"):
        agent.learn()


def test_a_mark_of_the_profiler_in_a_loss_is_no_error() -> None:
    class Marked(SAC):
        def critic_loss(self, batch: Any) -> Any:
            with torch.profiler.record_function("critic loss"):
                return super().critic_loss(batch)

    Marked("Pendulum-v1", **SMALL_SAC).learn()


class TwoWide(GaussianHead):
    """Takes means and deviations of each state from the network."""

    def __init__(self, num_features: int, bounds: Any) -> None:
        super().__init__(num_features, bounds.low, bounds.high, False, 0.0, None)
        self.means = nn.Linear(num_features, 2 * len(bounds.low))

    def mean_and_log_std(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        means, log_std = outputs.chunk(2, 1)
        return means, log_std.clamp(-5, 2)


def shared_deviation(head: Any) -> None:
    head.log_std = nn.Parameter(torch.zeros(()))


def wider_network(head: Any) -> None:
    head.means = nn.Linear(head.means.in_features, 2)


def double_bounds(head: Any) -> None:
    head.low = head.low.double()


@pytest.mark.parametrize("change", [shared_deviation, wider_network, double_bounds])
def test_a_head_of_sizes_that_the_kernel_does_not_draw_has_none(change: Any) -> None:
    agent = PPO("Pendulum-v1", **SMALL)
    assert not NativeActing.why_not(agent.policy)
    change(agent.policy.head)
    assert NativeActing.why_not(agent.policy) == ["no kernel draws from a head of such sizes"]


def test_a_head_that_takes_twice_its_actions_numbers_acts_as_it_says() -> None:
    class Policy(ActorCritic):
        def __init__(self, obs: Any, actions: Any, **settings: Any) -> None:
            super().__init__(obs, actions, **settings)
            self.head = TwoWide(self.head.means.in_features, actions)

    class Own(PPO):
        policy_class = Policy

    engines: Any = "auto", "eager"
    learned = [Own("Pendulum-v1", **SMALL, engine=x).learn() for x in engines]
    auto, eager = (agent.optimizer.flat for agent in learned)
    torch.testing.assert_close(auto, eager, rtol=1e-3, atol=1e-4)


class Compares(Callback):
    """Sees whether the actions of a rollout are the policy's; calls something in between."""

    def __init__(self, call: Any) -> None:
        self.call, self.are_alike = call, list[bool]()

    @torch.no_grad()
    def on_rollout_end(self, trainer: Any) -> None:
        rollout, policy = trainer.rollout, trainer.agent.policy
        drawn = policy.act(rollout.obs[:-1].flatten(0, 1), rollout.noise.flatten(0, 1))
        self.are_alike.append(torch.equal(drawn, rollout.actions.flatten(0, 1)))

    def on_update_end(self, trainer: Any, metrics: Any) -> None:
        if trainer.updates == 1:
            self.call(trainer.agent)


def share(agent: Any) -> None:
    agent.policy.share_memory()  # as `Queue.put(policy.state_dict())` does


def replace_memory(agent: Any) -> None:
    for parameter in agent.policy.parameters():
        parameter.data = parameter.data.clone()


@pytest.mark.parametrize("engine", quick(["auto", "recorded", "eager"], "auto"))
@pytest.mark.parametrize("call", [share, replace_memory])
def test_weights_in_other_memory_are_those_that_act(call: Any, engine: Any) -> None:
    compares = Compares(call)
    agent = PPO("CartPole-v1", **SMALL, engine=engine, learning_rate=0.01)
    try:
        agent.learn(callbacks=[compares])
    except ValueError as error:
        assert "weights, layers or hooks were replaced" in str(error)
    assert all(compares.are_alike)


@pytest.mark.parametrize("engine", quick(["auto", "recorded", "eager"], "auto"))
@pytest.mark.parametrize("of_class", [False, True])
def test_a_loss_that_is_replaced_in_mid_run_is_used_from_there(engine: Any, of_class: bool) -> None:
    class Own(PPO):
        pass

    before: list[Tensor] = []

    def stand_still(agent: Any) -> None:
        stock = agent.loss
        before.append(agent.optimizer.flat.clone())
        if of_class:
            Own.loss = lambda _, batch: (0 * PPO.loss(agent, batch)[0], PPO.loss(agent, batch)[1])  # pyright: ignore[reportAttributeAccessIssue]
        else:
            agent.loss = lambda batch: (0 * stock(batch)[0], stock(batch)[1])
        agent.optimizer.reset()  # Adam's moments would go on

    agent = Own("CartPole-v1", **SMALL, engine=engine)
    agent.learn(callbacks=[Compares(stand_still)])
    assert torch.equal(agent.optimizer.flat, before[0])


REPLACEABLE = [
    *[(PPO, name) for name in ("draw_actions", "evaluate_rows", "fill_advantages", "last_values")],
    *[(SAC, name) for name in ("draw_actions", "learn_all", "learn_critics", "learn_actor")],
    *[(DroQ, name) for name in ("learn_critics", "learn_actor")],
    (PPO, "value_rows"),
]
QUICK_REPLACEABLE = [(PPO, "draw_actions"), (PPO, "evaluate_rows"), (SAC, "learn_all")]
QUICK_REPLACEABLE += [(DroQ, "learn_critics")]


@pytest.mark.parametrize("engine", quick(["auto", "eager"], "auto"))
@pytest.mark.parametrize(("kind", "name"), quick(REPLACEABLE, *QUICK_REPLACEABLE))
def test_a_method_that_is_replaced_in_mid_run_is_called_from_there(
    kind: Any, name: str, engine: Any
) -> None:
    calls: list[str] = []

    class Replaces(Callback):
        def on_update_end(self, trainer: Any, metrics: Any) -> None:
            stock = getattr(trainer.agent, name)

            def called(*arguments: Any) -> Any:
                calls.append(name)
                return stock(*arguments)

            if trainer.updates == 1:
                setattr(trainer.agent, name, called)

    task = "CartPole-v1" if kind is PPO else "Pendulum-v1"
    settings = SMALL if kind is PPO else SMALL_SAC
    how: dict[str, Any] = {"recompute_advantages": True} if name == "value_rows" else {}
    how |= {"replay_ratio": 1.0} if kind is DroQ else {}
    kind(task, **{**settings, **how, "engine": engine}).learn(callbacks=[Replaces()])
    assert calls


def test_the_refusal_of_a_recording_names_the_line_that_reads_a_value() -> None:
    class Reads(PPO):
        def evaluate_rows(self, rows: Tensor, actions: Tensor) -> Any:
            log_probs, values = super().evaluate_rows(rows, actions)
            return log_probs * float(values.mean() > -1e9), values

    line = Reads.evaluate_rows.__code__.co_firstlineno + 2
    with pytest.raises(ValueError, match=rf"can \({__file__}:{line}\)$"):
        Reads("CartPole-v1", **SMALL, engine="recorded").learn()


@pytest.mark.parametrize("engine", quick(["auto", "eager"], "auto"))
def test_an_environment_that_switches_gradients_off_is_learned_from(engine: Any) -> None:
    class SwitchesOff(gymnasium.Wrapper):
        def step(self, action: Any) -> Any:
            torch.set_grad_enabled(False)
            return self.env.step(action)

    def make() -> Any:
        return SwitchesOff(gymnasium.make("CartPole-v1"))

    with torch.enable_grad():  # put back at the end
        agent = PPO(make, **SMALL, engine=engine, vector="sync")
        before = agent.optimizer.flat.clone()
        agent.learn()
    assert not torch.equal(agent.optimizer.flat, before)


def test_other_memory_for_a_replay_buffer_is_refused() -> None:
    class Shares(Callback):
        def on_update_end(self, trainer: Any, metrics: Any) -> None:
            trainer.agent.replay.rewards.share_memory_()

    with pytest.raises(
        ValueError, match=r"replay\.rewards was moved to other memory.*replay\.rewards\.clone"
    ):
        SAC("Pendulum-v1", **SMALL_SAC).learn(callbacks=[Shares()])


def test_anomalies_are_looked_for_without_a_fixed_graph() -> None:
    with torch.autograd.set_detect_anomaly(True):
        agent = PPO("CartPole-v1", **{**SMALL, "total_timesteps": 128}).learn()
    assert agent.engine.describe().startswith("engine: eager PyTorch (native: torch.autograd.set_")


def test_a_norm_of_layers_is_recorded_without_a_note() -> None:
    def network(space: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(space.shape[0], 8), nn.LayerNorm(8), nn.Tanh())

    shapes = {**SMALL, "hidden_sizes": (64, 64)}
    agent = PPO("CartPole-v1", **shapes, network=network).learn()
    assert not any("TorchScript" in note for note in agent.engine.notes)


def test_values_of_another_shape_are_refused_with_both_shapes() -> None:
    class Policy(ActorCritic):
        def evaluate(self, obs: Tensor, actions: Tensor) -> Any:
            log_probs, entropy, values = super().evaluate(obs, actions)
            return log_probs, entropy, values.unsqueeze(1)

    class Own(PPO):
        policy_class = Policy

    with pytest.raises(ValueError, match=r"evaluate_rows returns \[128, 1\], not \[128\]"):
        Own("CartPole-v1", **SMALL).learn()


MOVED = [
    *[(PPO, name) for name in ("rewards", "obs", "values", "episode_lengths")],
    *[(PPORecurrent, name) for name in ("states", "features")],
    *[(kind, name) for kind in (SAC, DroQ) for name in ("rewards", "obs", "discounted_returns")],
]


@pytest.mark.parametrize(
    ("kind", "name", "hook"),
    quick(
        [(*moved, hook) for hook in ("on_rollout_end", "on_update_end") for moved in MOVED],
        (PPO, "episode_lengths", "on_rollout_end"),
        (PPORecurrent, "states", "on_update_end"),
        (SAC, "obs", "on_update_end"),
    ),
)
def test_other_memory_for_a_rollout_is_refused(kind: Any, name: str, hook: str) -> None:
    def move(_: Any, trainer: Any, *metrics: Any) -> None:
        tensor = getattr(trainer.rollout, name)
        tensor.data = tensor.clone()

    moves = type("Moves", (Callback,), {hook: move})()
    is_off_policy = kind in (SAC, DroQ)
    agent = kind(
        "Pendulum-v1" if is_off_policy else "CartPole-v1", **(SMALL_SAC if is_off_policy else SMALL)
    )
    with pytest.raises(ValueError, match=rf"rollout\.{name} was moved to other memory"):
        agent.learn(callbacks=[moves])


@pytest.mark.parametrize("name", ["max_grad_norm", "adam_eps", "weight_decay", "reward_scaling"])
def test_a_config_with_what_was_read_already_is_refused(name: str) -> None:
    agent = PPO("CartPole-v1", **SMALL)
    new = not agent.config.reward_scaling if name == "reward_scaling" else 0.125
    with pytest.raises(ValueError, match=f"{name} = .* in a new config has no effect"):
        agent.config = agent.config.replace(**{name: new})
