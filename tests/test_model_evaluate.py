"""`model.evaluate`: what it returns, what it plays, and that the training does not notice."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from goal_envs import GoalEnv
from gymnasium.vector import SyncVectorEnv
from toy_agents import Loop, make_agent, make_recurrent

from fastrl import A2C, PPO, SAC, DroQ, PPORecurrent
from fastrl.envs.make import base_seed
from fastrl.evaluate import main as command_line
from fastrl.ops.intervals import bootstrap_interval
from fastrl.training.greedy import _owned

GOAL = "goal_envs:GoalEnv"
CARTPOLE = "CartPole-v1"
SMALL = {"preset": "none", "hidden_sizes": (8,), "num_envs": 2, "accelerator": "cpu"}


def make(kind: Any = PPO, env: Any = GOAL, **settings: Any) -> Any:
    """Return a small agent; off-policy ones have a Box action."""
    more: dict[str, Any] = {"num_steps": 16, "eval_episodes": 0, "engine": "eager"}
    if kind in (SAC, DroQ):
        more |= {"num_steps": 1, "learning_starts": 8, "per_rank_batch_size": 8}
        more["replay_ratio"] = 0.5
        more |= {"env_kwargs": {"box": True}} if env == GOAL else {}
    elif kind is not A2C:
        more |= {"update_epochs": 1, "per_rank_batch_size": 16}
    if kind is PPORecurrent:
        more["sequence_length"] = 8
    return kind(env, **{**SMALL, **more, **settings})


ALGORITHMS = [PPO, A2C, PPORecurrent, SAC, DroQ]


# What comes of it


def test_returns_lengths_and_last_infos_are_those_of_whole_episodes():
    agent = make(env_kwargs={"gain": 2.0})
    agent.policy.head.logits.bias.data[:] = torch.tensor([9.0, -9.0])  # always action 0
    agent.policy.head.logits.weight.data.zero_()
    result = agent.evaluate(7, seed=5)
    first = base_seed(5, "eval")
    lengths = [2 + (first + i) % 3 for i in range(7)]
    assert result.lengths.tolist() == lengths
    assert result.returns.tolist() == [2.0 * length for length in lengths]
    assert [info["distance"] for info in result.infos] == [2.0 * length for length in lengths]
    is_even = [(first + i) % 2 == 0 for i in range(7)]
    assert result.info("is_success").tolist() == is_even
    assert [info["words"] for info in result.infos] == ["none"] * 7
    bonus = result.info("bonus")
    assert np.isnan(bonus).tolist() == [not even for even in is_even] and np.nanmax(bonus) == 7
    assert result.mean == np.mean(result.returns) and result.std == np.std(result.returns)
    assert result.ci95[0] < result.mean < result.ci95[1]
    with pytest.raises(ValueError, match=r"has 'colour'; it has bonus, distance, is_success, wo"):
        result.info("colour")
    with pytest.raises(ValueError, match=r"returned info\['words'\] 'none', which is not one num"):
        result.info("words")


def test_arrays_of_an_info_are_copied_in_whatever_they_lie():
    array = np.zeros(2)
    owned: Any = _owned({"pair": (array, 1), "list": [array], "dict": {"array": array}})
    array += 1
    assert owned["pair"][0].tolist() == owned["list"][0].tolist() == [0, 0]
    assert owned["dict"]["array"].tolist() == [0, 0]


def test_a_result_is_a_line():
    result = make(info_metrics=("is_success", "distance")).evaluate(6, seed=0)
    low, high = result.ci95
    assert repr(result) == (
        f"return {result.mean:.1f} +- {result.std:.1f} over 6 episodes (length 3.0), "
        f"95 % interval of the mean {low:.1f} to {high:.1f}; is_success 0.5; distance 3"
    )
    assert "interval" not in repr(make().evaluate(1))


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_drawn_actions_follow_the_seed_and_greedy_ones_do_not_draw(kind):
    agent = make(kind)
    drawn = [agent.evaluate(6, deterministic=False, seed=seed).returns for seed in (3, 3, 4)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    greedy = [agent.evaluate(6, seed=3).returns for _ in range(2)]
    assert np.array_equal(*greedy) and not np.array_equal(greedy[0], drawn[0])


def test_a_memory_begins_anew_with_every_episode():
    agent = make_recurrent("CartPole-v1", mask_vel=True, backend="gymnasium", num_envs=2, seed=1)
    result = agent.evaluate(3, seed=9)
    returns = []
    for i in range(3):
        env = gymnasium.make(CARTPOLE)
        obs, _ = env.reset(seed=(base_seed(9, "eval") + i) % 2**31)
        state, total, done = agent.new_state(1), 0.0, False
        while not done:
            hidden = (np.asarray(obs, np.float32) * [1, 0, 1, 0]).astype(np.float32)
            action = agent.predict(hidden[None], state=state)[0]
            obs, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    assert result.returns.tolist() == returns


@pytest.mark.parametrize("shown", ["masked", "info"])
def test_masks_hold_for_drawn_actions(shown):
    """The target alone is allowed, so that each of the eight steps pays 1."""
    settings = {"info_action_mask": True} if shown == "info" else {}
    agent = make_agent("toy_envs:TargetEnv", env_kwargs={"shown": shown}, **settings)
    assert agent.evaluate(5, deterministic=False).returns.tolist() == [8.0] * 5


# The training does not notice


def state_of(agent: Any) -> dict[str, Any]:
    """Return the tensors of an agent and of the global generators, by name."""
    found: dict[str, Any] = {"torch": torch.get_rng_state(), "random": random.getstate()}
    found["numpy"] = np.random.get_state()[1]

    def collect(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                collect(part, f"{name}.{key}")
        elif isinstance(value, torch.Tensor):
            found[name] = value.clone()

    collect(agent.state_dict(), "")
    return found


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_training_goes_on_to_the_bit_as_if_nothing_had_been_evaluated(kind):
    states = []
    for evaluates in (False, True):
        random.seed(1)
        np.random.seed(2)
        torch.manual_seed(3)
        agent = make(kind)
        loop = Loop(agent)
        for _ in range(2):
            loop.run(8 if kind in (SAC, DroQ) else 2)
            if evaluates:
                agent.evaluate(3)
                agent.evaluate(
                    2, partial(GoalEnv, box=kind in (SAC, DroQ)), deterministic=False, seed=5
                )
        drawn = agent.predict(np.zeros((4, 2), np.float32), deterministic=False)
        states.append({**state_of(agent), "drawn": drawn, "obs": loop.buffer.obs.clone()})
    plain, evaluated = states
    assert plain.keys() == evaluated.keys()
    for name, value in plain.items():
        if name == "random":
            assert value == evaluated[name]
        else:
            assert np.array_equal(value, evaluated[name], equal_nan=True), name


# What is played


def test_what_is_played_can_be_said_in_every_way():
    agent = make(env=CARTPOLE, backend="gymnasium")
    limited = partial(gymnasium.make, CARTPOLE, max_episode_steps=5)
    one = limited()
    for env in (limited, one, SyncVectorEnv([limited] * 2)):
        assert agent.evaluate(3, env).lengths.tolist() == [5] * 3
    one.reset()  # it is not closed
    one.step(0)
    assert agent.evaluate(3, CARTPOLE, env_kwargs={"max_episode_steps": 6}).mean_length == 6
    assert agent.evaluate(3, env_kwargs={"max_episode_steps": 7}).mean_length == 7


def test_eval_env_is_played_by_default():
    limited = partial(gymnasium.make, CARTPOLE, max_episode_steps=5)
    assert make(env=CARTPOLE, eval_env=limited).evaluate(3).lengths.tolist() == [5] * 3
    with pytest.raises(ValueError, match=r"no new environments .* can be made: eval_env=None"):
        make(env=CARTPOLE, eval_env=None).evaluate(3)
    assert make(env=CARTPOLE, eval_env=None).evaluate(3, limited).mean_length == 5


def test_env_kwargs_of_the_run_are_not_for_an_eval_env_that_is_a_function():
    agent = make(env_kwargs={"gain": 3.0}, eval_env=partial(GoalEnv, gain=0.5))
    assert agent.evaluate(4).info("distance").max() <= 2


@pytest.mark.parametrize(
    "env",
    [
        GOAL,
        GoalEnv,
        lambda: SyncVectorEnv([GoalEnv] * 2),
        lambda: gymnasium.make(gymnasium.envs.registration.EnvSpec("Goal-v0", GoalEnv)),
        lambda: gymnasium.make_vec(gymnasium.envs.registration.EnvSpec("Goal-v0", GoalEnv), 2),
    ],
)
def test_env_kwargs_reach_environments_that_are_made_anew(env):
    agent = make(env=env() if getattr(env, "__name__", "") == "<lambda>" else env)
    before, after = (agent.evaluate(4, env_kwargs=x) for x in (None, {"gain": -1.0}))
    assert np.array_equal(after.info("distance"), -before.info("distance"))
    assert np.array_equal(after.returns, before.returns - 2 * before.lengths)


def test_env_kwargs_that_are_not_named_stay():
    agent = make(env_kwargs={"gain": 3.0})
    assert agent.evaluate(2, env_kwargs=("render_mode=rgb_array",)).info("distance").min() >= 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "episodes is 0; it must be at least 1 and at most 1,000,000"),
        ({"episodes": 2.5}, "episodes must be a whole number, not 2.5"),
        ({"episodes": (1, 2)}, r"for a minibatch call evaluate_actions\(batch\)"),
        ({"seed": -1}, "seed is -1; it must be at least 0 and"),
        ({"env": 3}, "env must be a function that returns a gymnasium.Env, .* not 3"),
        ({"env": "NoSuch-v0"}, "unknown env 'NoSuch-v0'"),
        ({"env": CARTPOLE}, "new environments have the spaces"),
        ({"env_kwargs": {"colour": 1}}, "TypeError: .*unexpected keyword argument 'colour'"),
        ({"env_kwargs": ("gain",)}, "env_kwargs must be written name=value, not 'gain'"),
        ({"env": GoalEnv(), "env_kwargs": {"gain": 1}}, "env_kwargs has no effect on env"),
        ({"info_metrics": ("colour",)}, "no info at the end of an episode has 'colour'; it has"),
        ({"info_metrics": ("words",)}, r"GoalEnv: .* info\['words'\] 'none', which is not one nu"),
        ({"info_metrics": ("a", "a")}, "info_metrics: 'a' is given twice"),
    ],
)
def test_mistake_is_told(arguments, message):
    agent = make()
    with pytest.raises(ValueError, match=message):
        agent.evaluate(**{"episodes": 2, **arguments})


def test_environments_that_are_trained_on_are_not_reset():
    env = SyncVectorEnv([GoalEnv] * 2)
    agent = make(env=env)
    for played in (env, env.envs[0], agent.envs[0]):
        with pytest.raises(ValueError, match="trained on, which an evaluation would reset"):
            agent.evaluate(2, played)
    one = GoalEnv()
    with pytest.raises(ValueError, match="trained on, which an evaluation would reset"):
        make(env=one, num_envs=1).evaluate(2, one)
    with pytest.raises(ValueError, match="returns an environment that is in use already"):
        make(env=one, num_envs=1).evaluate(2, lambda: one)


# The command line


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Return the file of an untrained agent."""
    path = tmp_path_factory.mktemp("agents") / "agent.pt"
    make(env_kwargs={"gain": 2.0}, info_metrics=("distance",)).save(path)
    return path


def test_command_plays_as_the_method(saved, tmp_path, capsys):
    file = tmp_path / "result.json"
    words = ["--episodes", "6", "--seed", "3", "--stochastic", "--env-kwargs", "gain=-1"]
    names = ["--info-metrics", "is_success", "bonus", "--json", str(file)]
    assert command_line([str(saved), *words, *names]) == 0
    kwargs = {"gain": -1}
    result = PPO.load(saved).evaluate(
        6,
        deterministic=False,
        env_kwargs=kwargs,
        seed=3,
        info_metrics=("is_success", "bonus"),
    )
    assert capsys.readouterr().out == f"{result}\n"
    facts = json.loads(file.read_text())
    assert facts["returns"] == result.returns.tolist()
    assert facts["eval_return_ci95"] == list(result.ci95)
    assert facts["eval_info_means"] == {"is_success": 0.5, "bonus": 7.0}
    assert [x is None for x in facts["infos"]["bonus"]] == [
        not x for x in facts["infos"]["is_success"]
    ]
    assert facts["lengths"] == result.lengths.tolist() and facts["env_kwargs"] == kwargs
    assert (facts["deterministic"], facts["seed"]) == (False, 3)


def test_command_takes_what_it_is_not_told_from_the_run(saved, capsys):
    assert command_line([str(saved), "--episodes", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["eval_info_means"]["distance"] >= 4  # 2 steps or more of the run's gain of 2
    assert facts["deterministic"] and facts["eval_return_ci95"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env-kwargs", "gain"], "env_kwargs must be written name=value, not 'gain'"),
        (["--env-kwargs", "colour=1"], "unexpected keyword argument 'colour'"),
        (["--info-metrics", "colour"], "no info at the end of an episode has 'colour'"),
        (["--info-metrics", "a", "a"], "info_metrics: 'a' is given twice"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0"),
        (["--json", "{tmp}"], "is a folder; only a regular file may be replaced"),
        (["--json", "{saved}"], "is the checkpoint that is evaluated"),
    ],
)
def test_mistake_on_the_command_line_is_one_line(words, message, saved, tmp_path, capsys):
    before = saved.read_bytes()
    words = [word.format(tmp=tmp_path, saved=saved) for word in words]
    assert command_line([str(saved), "--episodes", "2", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert saved.read_bytes() == before


# The interval


def test_interval_of_equal_values_has_no_width_and_of_one_value_there_is_none():
    assert bootstrap_interval(np.full(9, 3.0)) == (3.0, 3.0)
    assert np.isnan(bootstrap_interval(np.ones(1))).all()
    for values, level in ((np.empty(0), 0.95), (np.ones((2, 2)), 0.95), (np.ones(3), 1.0)):
        with pytest.raises(ValueError, match="expected"):
            bootstrap_interval(values, level)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(generator.exponential(2.0, 60))
        hits += low < 2.0 < high
    assert 0.88 <= hits / 200 <= 0.98  # 0.95, but for chance and the skewness of so few values


def test_interval_is_about_that_of_the_normal_distribution_for_many_values():
    values = np.random.default_rng(7).normal(5, 2, 4_000)
    expected = values.mean() + 1.96 * values.std() / 4_000**0.5 * np.array([-1, 1])
    np.testing.assert_allclose(bootstrap_interval(values), expected, atol=0.01)
    assert bootstrap_interval(values) == bootstrap_interval(values)
