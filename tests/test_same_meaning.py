"""Spaces of one size that mean something else are told apart, and odd environments by a line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import MaxAndSkipObservation, TimeLimit, TransformReward
from quick import quick, slow

from fastrl import PPO, SAC, AgentTrainer
from fastrl.envs.vector import EnvError

SMALL: dict[str, Any] = {
    **{"preset": "none", "verbose": 0, "eval_episodes": 2, "hidden_sizes": (8,), "seed": 3},
    **{"num_envs": 2, "num_steps": 16, "per_rank_batch_size": 16, "update_epochs": 1},
    **{"total_timesteps": 64, "accelerator": "cpu", "engine": "eager"},
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Task(gymnasium.Env):
    """Episodes of seven steps and a reward of one each, in any spaces."""

    observation_space: Any = spaces.Box(-1, 1, (3,), np.float32)
    action_space: Any = spaces.Discrete(2)
    length = 7

    def __init__(self, render_mode: str | None = None, **attributes: Any) -> None:
        self.render_mode = render_mode
        vars(self).update(attributes)

    def shown(self) -> Any:
        return self.observation_space.sample()

    def pay(self) -> float:
        return 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.shown(), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self.shown(), self.pay(), self.time >= self.length, False, {}


def task_of(observations: Any = None, actions: Any = None) -> type[Task]:
    class Made(Task):
        observation_space = observations or Task.observation_space
        action_space = actions or Task.action_space

    return Made


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-1, 1, shape)


UNLIKE = {
    "choices": ((None, spaces.MultiDiscrete([2, 4])), (None, spaces.MultiDiscrete([3, 3]))),
    "pairs": ((None, spaces.Discrete(4)), (None, spaces.MultiDiscrete([2, 2]))),
    "start": ((spaces.Discrete(3), None), (spaces.Discrete(3, start=1), None)),
    "one-hot": ((spaces.Discrete(3), None), (box(3), None)),
    "parts": (
        (spaces.Dict(a=box(2), b=box(1)), None),
        (spaces.Dict(a=box(1), b=box(2)), None),
    ),
    "kinds of parts": (
        (spaces.Dict(a=spaces.MultiDiscrete([2, 4])), None),
        (spaces.Dict(a=spaces.MultiDiscrete([3, 3])), None),
    ),
    "shapes of parts": ((spaces.Dict(a=box(2, 3)), None), (spaces.Dict(a=box(3, 2)), None)),
}


@pytest.mark.parametrize("name", quick(UNLIKE, "start", "one-hot", "parts", "kinds of parts"))
def test_spaces_of_one_size_that_mean_something_else_are_refused(name: str) -> None:
    first, second = (task_of(*pair) for pair in UNLIKE[name])
    agent = PPO(first, **SMALL).learn()
    folder = agent.result.folder
    with pytest.raises(ValueError, match="new environments have the spaces"):
        agent.evaluate(2, env=second)
    with pytest.raises(ValueError, match="the checkpoint does not fit this agent: its "):
        PPO.load(folder, env=second)
    longer = {**SMALL, "total_timesteps": 128}
    with pytest.raises(ValueError, match="the checkpoint does not fit this agent: its "):
        AgentTrainer(resume=folder, verbose=0).fit(PPO(second, **longer))
    assert PPO.load(folder, env=first).evaluate(2).mean == 7


def test_a_range_that_a_policy_was_stretched_to_is_part_of_what_it_learned() -> None:
    small = {x: y for x, y in SMALL.items() if x != "update_epochs"}
    near, far = (task_of(None, spaces.Box(-x, x, (2,))) for x in (1, 5))
    path = SAC(near, **small, learning_starts=16).learn().result.folder
    with pytest.raises(ValueError, match=r"from -1\.0 to 1\.0, here numbers .* from -5\.0 to 5\.0"):
        SAC.load(path, env=far)
    path = PPO(near, **SMALL).learn().result.folder  # clipped: its means are in the task's units
    PPO.load(path, env=far)


class Goal(Task):
    """Pays what its goal sums up to."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.goal, self.rules = np.zeros(3), {"bonus": [0.0, 1.0]}

    def pay(self) -> float:
        return float(self.goal.sum()) + self.rules["bonus"][0]


def registered_goal() -> gymnasium.Env:
    if "SameMeaningGoal-v0" not in gymnasium.registry:
        gymnasium.register("SameMeaningGoal-v0", lambda **how: Goal(**how))
    return gymnasium.make("SameMeaningGoal-v0")


def with_goal(env: Any) -> Any:
    env.unwrapped.goal = np.ones(3)
    return env


def with_bonus(env: Any) -> Any:
    env.unwrapped.rules["bonus"][0] = 2.0
    return env


def with_function(env: Any) -> Any:
    wrapped = TransformReward(env, lambda reward: reward + 1)
    wrapped.func = lambda reward: 5.0
    return wrapped


@pytest.mark.parametrize("change", [with_goal, with_bonus, with_function])
def test_an_environment_that_was_changed_is_not_made_anew(change: Any) -> None:
    with pytest.raises(
        ValueError, match=r"cannot make 2 environments of one: .* that was given is"
    ):
        PPO(change(registered_goal()), **SMALL)
    alone = PPO(change(registered_goal()), **{**SMALL, "num_envs": 1}).learn()
    assert alone.result.summary["eval_return_mean"] is None


def test_one_of_a_vector_that_was_changed_is_not_tested_as_it_was() -> None:
    vector = SyncVectorEnv([registered_goal] * 2)
    vector.set_attr("goal", np.ones(3))
    summary = PPO(vector, **SMALL).learn().result.summary
    assert summary["train_return_mean"] == 21 and summary["eval_return_mean"] is None


def test_a_limit_in_a_place_that_no_spec_describes_is_not_moved() -> None:
    def skipping() -> gymnasium.Env:
        return TimeLimit(MaxAndSkipObservation(gymnasium.make("Pendulum-v1"), skip=4), 20)

    def longer() -> gymnasium.Env:
        return TimeLimit(gymnasium.make("Pendulum-v1"), 400)  # inside of it 200 count

    for make in (skipping, longer):
        with pytest.raises(ValueError, match="limits of steps are"):
            PPO(make(), **SMALL)
        summary = PPO(make(), **{**SMALL, "num_envs": 1}).learn().result.summary
        assert summary["eval_return_mean"] is None
    shorter = PPO(TimeLimit(gymnasium.make("Pendulum-v1"), 30), **SMALL)
    assert set(shorter.evaluate(2).lengths) == {30}


def test_one_environment_in_two_rows_is_refused() -> None:
    env = Task()
    for given in (lambda: env, SyncVectorEnv([lambda: env] * 2)):
        with pytest.raises(ValueError, match="several of the environments are the same one"):
            PPO(given, **SMALL)


class Lasting(Task):
    """Can be saved, and ends by its limits alone."""

    length = 1000

    def state_dict(self) -> dict[str, Any]:
        shown = self.observation_space.np_random.bit_generator.state
        return {"time": self.time, "shown": shown}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.time = state["time"]
        self.observation_space.np_random.bit_generator.state = state["shown"]


def test_limits_inside_of_limits_are_resumed_to_the_step() -> None:
    def make(render_mode: str | None = None) -> gymnasium.Env:
        own = spaces.Box(-1, 1, (3,))
        return TimeLimit(TimeLimit(Lasting(observation_space=own), 25), 40)

    settings = {**SMALL, "eval_episodes": 0}
    straight = PPO(make, **{**settings, "total_timesteps": 256}).learn()
    half = PPO(make, **{**settings, "total_timesteps": 128}).learn()
    resumed = PPO(make, **{**settings, "total_timesteps": 256})
    AgentTrainer(resume=half.result.folder, verbose=0).fit(resumed)
    pairs = zip(straight.policy.parameters(), resumed.policy.parameters(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


def masked(value: Any, key: str = "action_mask", inside: bool = False) -> type[Task]:
    inner = spaces.Dict(obs=box(3), **{key: spaces.Box(-np.inf, np.inf, (3,))})

    class Masked(Task):
        observation_space = spaces.Dict(agent=inner) if inside else inner
        action_space = spaces.Discrete(3)

        def shown(self) -> Any:
            parts = {"obs": np.zeros(3, np.float32), key: np.array(value, np.float32)}
            return {"agent": parts} if inside else parts

    return Masked


def test_masks_are_of_0_and_1_at_the_top_and_in_one_place() -> None:
    for value in ([0.6, 0.4, 0], [1, -1e8, 2], [7, 0, -3]):
        with pytest.raises(EnvError, match=r"an action mask with .*, neither 0 nor 1"):
            PPO(masked(value), **SMALL).learn()
    with pytest.raises(ValueError, match=r"'agent\.action_mask' is inside of another part"):
        PPO(masked([1, 0, 0], inside=True), **SMALL)
    with pytest.raises(ValueError, match="observations have an action mask already"):
        PPO(masked([1, 0, 0]), info_action_mask=True, **SMALL)
    PPO(masked([1, 0, 0]), **SMALL).learn()


def test_each_repeat_of_an_action_gets_the_action() -> None:
    taken = []

    class Doubling(Task):
        action_space = spaces.Box(-1, 1, (1,))

        def step(self, action: Any) -> Any:
            taken.append(float(action[0]))
            action *= 2
            return super().step(action)

    PPO(Doubling, action_repeat=3, **{**SMALL, "eval_episodes": 0, "num_envs": 1}).learn()
    assert taken[0] == taken[1] == taken[2] and max(map(abs, taken)) <= 1


def test_a_box_of_truths_is_chosen_from() -> None:
    taken = set()

    class Switches(Task):
        action_space = spaces.Box(0, 1, (2,), np.bool_)

        def step(self, action: Any) -> Any:
            assert action.dtype == np.bool_
            taken.add(tuple(action.tolist()))
            return super().step(action)

    agent = PPO(Switches, **SMALL).learn()
    assert len(taken) == 4 and agent.predict(np.zeros(3, np.float32)).dtype == np.bool_


@pytest.mark.parametrize(
    "value",
    [slow([1.0]), slow(((1.0,),)), torch.tensor(1.0)],
    ids=["list", "tuple", "torch"],
)
def test_infos_of_processes_are_those_of_one(value: Any) -> None:
    class Telling(Task):
        def step(self, action: Any) -> Any:
            return (*super().step(action)[:4], {"is_success": value})

    # Each process imports this file, and with it torch, so there are no more of them than needed.
    settings = {**SMALL, "eval_episodes": 0}
    means = [
        PPO(Telling, vector=vector, info_metrics=("is_success",), **settings)
        .learn()
        .result.summary["train_info_means"]
        for vector in ("sync", "async")
    ]
    assert means == [{"is_success": 1.0}] * 2


def test_infos_of_a_test_are_those_of_their_episodes() -> None:
    class Counting(Task):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.info: dict[str, Any] = {"nested": {"steps": 0}, "list": [0]}

        def step(self, action: Any) -> Any:
            self.info["nested"]["steps"] += 1
            self.info["list"][0] += 1
            return (*super().step(action)[:4], self.info)

    infos = PPO(Counting, **SMALL).learn().evaluate(3, env=Counting()).infos
    assert [(x["nested"]["steps"], x["list"][0]) for x in infos] == [(7, 7), (14, 14), (21, 21)]


def test_a_part_of_another_shape_is_refused_though_its_size_is_right() -> None:
    class Turned(Task):
        observation_space = spaces.Dict(a=box(2, 3), b=box(1))

        def shown(self) -> Any:
            return {"a": np.zeros((3, 2), np.float32), "b": np.zeros(1, np.float32)}

    with pytest.raises(EnvError, match=r"'a' of shape \(3, 2\), expected \(2, 3\)"):
        PPO(Turned, **SMALL).learn()
    agent = PPO(task_of(spaces.Dict(a=box(2), b=box(1))), **SMALL)
    with pytest.raises(ValueError, match="an observation whose parts are"):
        agent.predict({"a": np.zeros((3, 2)), "b": np.zeros((2, 1))})


def test_an_environment_that_draws_from_its_own_space_is_the_same_for_a_seed() -> None:
    def make(render_mode: str | None = None) -> Task:
        return Task(observation_space=spaces.Box(-1, 1, (3,)))

    first, second = (PPO(make, **SMALL).learn() for _ in range(2))
    pairs = zip(first.policy.parameters(), second.policy.parameters(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


def test_odd_environments_are_told_in_a_line() -> None:
    class Growing(Task):
        def reset(self, **how: Any) -> Any:
            self.action_space = spaces.Discrete(5)
            return super().reset(**how)

    class Several(Task):
        def observation_space(self, agent: str) -> Any:  # type: ignore
            return box(3)

    with pytest.raises(EnvError, match=r"env 0 has other spaces after its reset: .*Discrete\(5\)"):
        PPO(Growing, **SMALL).learn()
    with pytest.raises(EnvError, match="is no space of gymnasium's"):
        PPO(Several, **SMALL)
    with pytest.raises(
        ValueError, match=r"unsupported action space Box\(-128, 127, \(2,\), int8\)"
    ):
        SAC(task_of(None, spaces.Box(-128, 127, (2,), np.int8)))


def test_an_environment_of_envpool_is_asked_for_by_id() -> None:
    envpool = pytest.importorskip("envpool")
    env = envpool.make_gymnasium("CartPole-v1", num_envs=2)
    with pytest.raises(ValueError, match="environments of EnvPool are given by their id"):
        PPO(env, **SMALL)


def test_a_run_that_goes_on_with_other_settings_says_which(caplog: Any) -> None:
    folder = PPO("CartPole-v1", **SMALL).learn().result.folder
    longer = {**SMALL, "total_timesteps": 192}
    with caplog.at_level(logging.WARNING):
        AgentTrainer(resume=folder, verbose=0).fit(PPO("CartPole-v1", gamma=0.5, **longer))
    told = [x.getMessage() for x in caplog.records]
    assert (
        told.count("the run goes on with other settings than before: gamma=0.5 (before: 0.99)") == 1
    )
    with pytest.raises(
        ValueError, match=r"keeps the size of its rollouts, but .* num_envs=4 .*: 2\)"
    ):
        AgentTrainer(resume=folder, verbose=0).fit(PPO("CartPole-v1", **{**longer, "num_envs": 4}))
