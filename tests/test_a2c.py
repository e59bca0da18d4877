"""A2C: one step a rollout, exact returns, every flag felt, and what the sources got wrong."""

import dataclasses
import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from quick import quick
from toy_agents import WALKS, Loop, differing, make_a2c, run, tensors_of
from toy_envs import EndlessEnv, TerminatingEnv

from fastrl import A2C
from fastrl.agents.load import find_saved, load_agent
from fastrl.config.a2c import A2CConfig
from fastrl.config.run import RunConfig
from fastrl.engine.optimizer import FlatAdam
from fastrl.envs.make import make_env
from fastrl.ops.losses import weighted_mean

RMSPROP_STATE = "optimizer.square"


def filled(**settings: Any) -> Loop:
    """Return a loop whose first rollout is played and judged; it has reset rows."""
    loop = Loop(make_a2c(**settings))
    loop.collect()
    loop.agent.compute_advantages(loop.buffer)
    assert loop.buffer.num_valid < loop.buffer.valid.numel()
    return loop


@pytest.mark.parametrize("env", quick([*WALKS, "CartPole-v1"], "box", "CartPole-v1"))
def test_one_seed_gives_one_result(env):
    first, second = make_a2c(env), make_a2c(env)
    assert run(first) == run(second)
    assert not differing(tensors_of(first), tensors_of(second))


@pytest.mark.parametrize("env", quick(WALKS, "discrete", "box"))
def test_recorded_update_equals_the_eager_one_to_the_bit(env):
    eager, recorded = (make_a2c(env, engine=mode) for mode in ("eager", "recorded"))
    assert run(eager) == run(recorded)
    assert not differing(tensors_of(eager), tensors_of(recorded))


# One step a rollout


def plain_losses(agent: A2C, buffer) -> list[torch.Tensor]:
    """Return policy, value and entropy loss as means over the valid rows, the textbook's way."""
    valid = buffer.valid
    obs, actions = buffer.obs[:-1][valid], buffer.actions[valid]
    log_probs, entropy, values = agent.policy.evaluate(obs, actions)
    policy_loss = -(log_probs * buffer.advantages[valid]).mean()
    return [policy_loss, (values - buffer.returns[valid]).square().mean(), -entropy.mean()]


@pytest.mark.parametrize("env", WALKS)
def test_gradient_is_that_of_the_mean_loss_over_the_valid_rows(env):
    """Squared errors, policy and entropy, by autograd; the reset rows are left out."""
    loop = filled(env=env, vf_coef=0.3, ent_coef=0.1, max_grad_norm=0.0)
    agent, buffer = loop.agent, loop.buffer
    policy, value, entropy = plain_losses(agent, buffer)
    loss = policy + 0.3 * value + 0.1 * entropy
    expected, applied = agent.optimizer.gradient(loss), []
    step = agent.optimizer._step
    agent.optimizer._step = lambda gradient: applied.append(gradient.clone()) or step(gradient)
    metrics = loop.update()
    torch.testing.assert_close(applied[0], expected, rtol=1e-4, atol=1e-5)
    assert metrics["Gradients/grad_norm"] == pytest.approx(expected.norm().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("batch_size", "optimizer"),
    quick(itertools.product([1, 7, 24], ["rmsprop", "adam"]), (1, "rmsprop"), (7, "adam")),
)
def test_pieces_of_any_size_add_up_to_the_same_step(batch_size, optimizer):
    settings = {"optimizer": optimizer, "normalize_advantages": True, "ent_coef": 0.01}
    whole = make_a2c(per_rank_batch_size=0, **settings)
    pieces = make_a2c(per_rank_batch_size=batch_size, **settings)
    for one, many in zip(run(whole), run(pieces), strict=True):
        assert one == pytest.approx(many, rel=1e-3, abs=1e-5)
    torch.testing.assert_close(pieces.optimizer.flat, whole.optimizer.flat, rtol=1e-3, atol=1e-5)


def test_each_rollout_makes_one_step():
    agent = make_a2c(optimizer="adam", per_rank_batch_size=7)
    run(agent, 3)
    assert isinstance(agent.optimizer, FlatAdam) and agent.optimizer.steps.item() == 3


def test_logged_losses_are_those_of_their_rollout_alone():
    loop = Loop(make_a2c(per_rank_batch_size=10))
    for _ in range(3):
        loop.collect()
        loop.agent.compute_advantages(loop.buffer)
        expected = [loss.item() for loss in plain_losses(loop.agent, loop.buffer)]
        metrics = loop.update()
        names = ("Loss/policy_loss", "Loss/value_loss", "Loss/entropy_loss")
        assert [metrics[name] for name in names] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_metrics_have_the_names_of_the_glossary():
    assert set(run(make_a2c(), 1)[0]) == {
        "Loss/policy_loss",
        "Loss/value_loss",
        "Loss/entropy_loss",
        "Info/explained_variance",
        "Info/learning_rate",
        "Info/ent_coef",
        "Gradients/grad_norm",
    }


# Returns


def n_step_returns(buffer, gamma: float) -> torch.Tensor:
    """Return discounted sums of rewards up to the rollout's or the episode's end, plus the value.

    A termination is worth nothing more; a time limit is worth the value of the last observation,
    which is in the row after it.
    """
    T, N = buffer.rewards.shape
    returns = torch.zeros(T, N)
    for n in range(N):
        for start in range(T):
            discount, t = 1.0, start
            while True:
                returns[start, n] += discount * buffer.rewards[t, n]
                discount *= gamma
                if buffer.terminated[t, n]:
                    break
                if buffer.truncated[t, n] or t == T - 1:
                    returns[start, n] += discount * buffer.values[t + 1, n]
                    break
                t += 1
    return returns


def test_returns_are_n_step_returns_unless_told_otherwise():
    assert A2CConfig().gae_lambda == 1.0
    loop = filled(gae_lambda=1.0, gamma=0.9)
    buffer = loop.buffer
    assert buffer.terminated.any() and buffer.truncated.any()
    valid = buffer.valid
    torch.testing.assert_close(
        buffer.returns[valid], n_step_returns(buffer, 0.9)[valid], rtol=1e-4, atol=1e-5
    )


GAMMA, LIMIT = 0.9, 5


def learned_value(kind: type, obs: list[float], **changes: Any) -> float:
    """Train on a task of reward 1 that is cut after LIMIT steps; return a value."""
    env = make_env(f"toy_envs:{kind.__name__}", 4, env_kwargs={"time_limit": LIMIT})
    settings: dict[str, Any] = {
        "gamma": GAMMA,
        "learning_rate": 0.05,
        "optimizer": "adam",
        "vf_coef": 1.0,
        "max_grad_norm": 0.0,
        "anneal_lr": True,
        "total_timesteps": 64 * 150,
        "engine": "recorded",
    }
    agent = make_a2c(env, **{**settings, **changes})
    Loop(agent).run(agent.num_updates)
    return agent.policy.value(torch.tensor([obs])).item()


@pytest.mark.parametrize("normalize_advantages", quick([False, True], True))
def test_time_limit_is_no_end(normalize_advantages):
    """The critic learns the raw return, whatever is done to the advantages."""
    value = learned_value(EndlessEnv, [1.0, 1.0], normalize_advantages=normalize_advantages)
    assert value == pytest.approx(1 / (1 - GAMMA), rel=0.05)


def test_termination_is_an_end():
    value = learned_value(TerminatingEnv, [1.0, 0.0])
    assert value == pytest.approx((1 - GAMMA**LIMIT) / (1 - GAMMA), rel=0.07)


# Flags

CHANGES: dict[str, dict[str, Any]] = {
    "num_steps": {"num_steps": 20},
    "per_rank_batch_size": {"per_rank_batch_size": 7},
    "learning_rate": {"learning_rate": 2e-3},
    "lr_schedule": {"lr_schedule": "cosine"},
    "anneal_lr": {"anneal_lr": True},
    "max_grad_norm": {"max_grad_norm": 0.01},
    "gamma": {"gamma": 0.5},
    "gae_lambda": {"gae_lambda": 0.5},
    "normalize_advantages": {"normalize_advantages": True},
    "vf_coef": {"vf_coef": 0.1},
    "ent_coef": {"ent_coef": 0.1},
    "ent_schedule": {"ent_schedule": "cosine"},
    "anneal_ent_coef": {"anneal_ent_coef": True},
    "hidden_sizes": {"hidden_sizes": (8, 4)},
    "critic_hidden_sizes": {"critic_hidden_sizes": (6,)},
    "activation_function": {"activation_function": "elu"},
    "shared_network": {"shared_network": True},
    "ortho_init": {"ortho_init": True},
    "log_std_init": {"log_std_init": -1.0},
    "state_dependent_std": {"state_dependent_std": True},
    "state_dependent_exploration": {"state_dependent_exploration": True},
    "exploration_resample_steps": {"exploration_resample_steps": 4},
    "squash_actions": {"squash_actions": True},
    "observation_normalization": {"observation_normalization": True},
    "observation_clip": {"observation_clip": 0.5},
    "observation_epsilon": {"observation_epsilon": 1.0},
    "reward_scaling": {"reward_scaling": True},
    "optimizer": {"optimizer": "adam"},
    "optimizer_eps": {"optimizer_eps": 1e-1},
    "rmsprop_decay": {"rmsprop_decay": 0.5},
    "adam_beta1": {"adam_beta1": 0.5},
    "adam_beta2": {"adam_beta2": 0.9},
    "weight_decay": {"weight_decay": 0.3},
}
BASES: dict[str, dict[str, Any]] = {
    "exploration_resample_steps": {"state_dependent_exploration": True},
    "adam_beta1": {"optimizer": "adam"},
    "adam_beta2": {"optimizer": "adam"},
    "anneal_ent_coef": {"ent_coef": 0.1},
    "ent_schedule": {"ent_coef": 0.1},
    "observation_clip": {"observation_normalization": True},
    "observation_epsilon": {"observation_normalization": True},
}


def test_every_flag_is_in_the_table():
    shared = {field.name for field in dataclasses.fields(RunConfig)}
    shared |= {"encoder"}  # of pixels alone: tests/test_encoders.py
    shared |= {"decoupled", "num_players", "num_trainers", "overlap"}  # tests/test_decoupled.py
    shared |= {"player_on_gpu"}
    shared |= {"freeze_normalization"}  # of a loaded agent: tests/test_normalization_settings.py
    own = [field.name for field in dataclasses.fields(A2CConfig) if field.name not in shared]
    assert list(CHANGES) == own


@pytest.mark.parametrize("name", CHANGES)
def test_flag_changes_what_is_learned(name):
    base = BASES.get(name, {})
    agents = [make_a2c("box", **base), make_a2c("box", **base, **CHANGES[name])]
    for agent in agents:
        run(agent, 2)
    before, after = (list(agent.policy.parameters()) for agent in agents)
    same_shapes = [x.shape for x in before] == [x.shape for x in after]
    assert not same_shapes or any(not torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_advantages_are_normalised_over_the_valid_rows_of_the_rollout():
    loop = filled(normalize_advantages=True, per_rank_batch_size=7)
    pieces = loop.agent.dealer.deal(0)
    assert len(pieces) == 10
    advantages = torch.cat([piece.advantages[piece.weights > 0] for piece in pieces])
    assert len(advantages) == loop.buffer.num_valid
    assert advantages.mean().item() == pytest.approx(0, abs=1e-5)
    assert advantages.std(correction=0).item() == pytest.approx(1, rel=1e-4)


def first_step(**settings: Any) -> tuple[float, float]:
    """Return the gradient's norm, as RMSprop got it and as it is logged, of one step."""
    agent = make_a2c(rmsprop_decay=0.0, optimizer_eps=1e-20, **settings)
    (metrics,) = run(agent, 1)
    return tensors_of(agent)[RMSPROP_STATE].sum().sqrt().item(), metrics["Gradients/grad_norm"]


def test_gradient_norm_is_bounded_and_logged_as_it_was():
    got, logged = first_step(max_grad_norm=0.25)
    assert got == pytest.approx(0.25, rel=1e-4) and logged > 0.5


def test_gradient_may_go_unclipped():
    got, logged = first_step(max_grad_norm=0.0)
    assert got == pytest.approx(logged, rel=1e-4) and logged > 0.5


def test_annealing_goes_from_the_full_value_to_the_last_share():
    settings = {"learning_rate": 0.4, "anneal_lr": True, "ent_coef": 0.04, "anneal_ent_coef": True}
    metrics = run(make_a2c(total_timesteps=16 * 4 * 4, **settings), 4)
    assert [m["Info/learning_rate"] for m in metrics] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert [m["Info/ent_coef"] for m in metrics] == pytest.approx([0.04, 0.03, 0.02, 0.01])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam", "rmsprop_decay": 0.5}, "rmsprop_decay has no effect"),
        ({"optimizer": "sgd"}, "optimizer must be one of"),
        ({"optimizer_eps": 0.0}, "optimizer_eps must be above 0"),
        ({"rmsprop_decay": 1.5}, "rmsprop_decay"),
        ({"per_rank_batch_size": 65}, "per_rank_batch_size=65 is larger than a rollout"),
        ({"num_steps": 1}, "num_steps"),
    ],
)
def test_setting_without_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_a2c(**settings)


# The agent as a whole


def test_reward_is_learned():
    """The largest actions are the best ones, whatever the state."""
    settings = {"learning_rate": 0.02, "gamma": 0.5, "total_timesteps": 16 * 4 * 100}
    settings |= {"optimizer": "adam", "normalize_advantages": True, "engine": "recorded"}
    agent = make_a2c("multidiscrete", **settings)
    run(agent, 100)
    drawn = agent.predict(np.zeros((200, 2), np.float32), deterministic=False)
    assert (drawn == [1, 2]).mean() > 0.9


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_saved_agent_is_found_by_its_algorithm_and_predicts_as_before(optimizer, tmp_path):
    agent = make_a2c(optimizer=optimizer, observation_normalization=True, reward_scaling=True)
    run(agent)
    agent.save(tmp_path / "agent.pt")
    loaded: Any = load_agent(find_saved(tmp_path / "agent.pt"))
    assert isinstance(loaded, A2C) and not differing(tensors_of(agent), tensors_of(loaded))
    obs = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs), agent.predict(obs))


def test_state_of_the_other_optimiser_is_refused():
    adam, rmsprop = (partial(make_a2c, optimizer=name) for name in ("adam", "rmsprop"))
    with pytest.raises(ValueError, match="does not fit this agent"):
        adam().load_state_dict(rmsprop().state_dict())


def test_a_loss_of_ones_own_may_evaluate_actions_as_that_of_ppo_does(tmp_path):
    class Own(A2C):
        def loss(self, batch):
            loss, metrics = super().loss(batch)
            _, entropy, _ = self.evaluate_actions(batch)
            return loss - 0.1 * weighted_mean(entropy, batch.weights), metrics

    settings = {"preset": "none", "total_timesteps": 200, "eval_episodes": 0, "verbose": 0}
    settings |= {"log_dir": str(tmp_path), "ent_coef": 0.1}
    flat = [
        kind("CartPole-v1", **{**settings, **more}).learn().optimizer.flat
        for kind, more in ((Own, {"ent_coef": 0.0}), (A2C, {}))
    ]
    torch.testing.assert_close(*flat, rtol=1e-4, atol=1e-5)
