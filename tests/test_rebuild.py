"""What is tested and resumed is the task that is trained on, or nothing is, and a line says so."""

from __future__ import annotations

import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import toy_envs
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import ClipReward, RecordEpisodeStatistics
from quick import quick, slow

from fastrl import PPO, AgentTrainer, make_env
from fastrl.cli import main as command_line
from fastrl.config.ppo import PPOConfig
from fastrl.envs import makers
from fastrl.envs.edited import difference, name_of
from fastrl.envs.makers import from_functions
from fastrl.envs.rebuild import without_processes
from fastrl.evaluate import main as evaluate
from fastrl.runs.checkpoint import load_checkpoint
from fastrl.runs.folder import read_config

LIMIT = 7  # steps; an untrained policy survives more
CARTPOLE = "CartPole-v1"


class Halved(gymnasium.RewardWrapper):
    """A wrapper that no spec describes."""

    def reward(self, reward: Any) -> float:
        return 0.5 * reward


def limited(**more: Any) -> gymnasium.Env:
    return gymnasium.make(CARTPOLE, max_episode_steps=LIMIT, **more)


def halved() -> gymnasium.Env:
    return Halved(limited())


def recorded() -> gymnasium.Env:
    """Returns an environment whose wrapper is part of its spec."""
    return gymnasium.wrappers.TransformReward(limited(), lambda reward: 0.5 * float(reward))


class OwnVector(SyncVectorEnv):
    """A vector environment of somebody's own, which may do anything."""


class Changed(gymnasium.vector.VectorEnv):
    """A vector environment of somebody's own that claims to be a known task."""

    def __init__(self) -> None:
        self.env = gymnasium.make_vec(CARTPOLE, 2)
        self.spec, self.num_envs, self.metadata = gymnasium.spec(CARTPOLE), 2, self.env.metadata
        self.single_observation_space = self.env.single_observation_space
        self.single_action_space = self.env.single_action_space


def vectorised(**more: Any) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec(CARTPOLE, 2, max_episode_steps=LIMIT, **more)


def agent_for(env: Any, folder: Path, **settings: Any) -> PPO:
    small = {
        "num_envs": 2,
        "num_steps": 16,
        "per_rank_batch_size": 16,
        "update_epochs": 1,
        "total_timesteps": 32,
        "hidden_sizes": (8,),
        "eval_episodes": 3,
        "engine": "eager",
        "accelerator": "cpu",
        "log_dir": str(folder),
    }
    return PPO(env, preset="none", **{**small, **settings})


def result_of(agent: PPO) -> tuple[Any, Any]:
    """Trains; returns mean return and length of the final test, None if there was none."""
    result = agent.learn().result
    assert result is not None
    return result.summary["eval_return_mean"], result.summary["eval_length_mean"]


MAKERS = {
    "custom vector": vectorised,
    "make_vec sync": partial(vectorised, vectorization_mode="sync"),
    "make_vec async": partial(vectorised, vectorization_mode="async"),
    "recorded statistics": lambda: RecordEpisodeStatistics(vectorised()),
    "functions": lambda: SyncVectorEnv([limited] * 2),
    "functions of processes": lambda: AsyncVectorEnv([limited] * 2),
    "our own": lambda: make_env(CARTPOLE, 2, env_kwargs={"max_episode_steps": LIMIT}),
    "one with a spec": limited,
    "a function": lambda: limited,
}


@pytest.mark.parametrize("how", quick(MAKERS, *[x for x in MAKERS if "processes" not in x]))
def test_limits_of_what_was_handed_over_hold_in_tests(how, tmp_path):
    agent = agent_for(MAKERS[how](), tmp_path)
    assert result_of(agent) == (LIMIT, LIMIT)
    assert not agent.task.is_named
    for env in agent.envs:
        env.close()


WRAPPED = {
    "functions": lambda: SyncVectorEnv([halved] * 2),
    "lambdas with an argument": lambda: SyncVectorEnv([lambda: Halved(limited())] * 2),
    "make_vec": lambda: vectorised(vectorization_mode="sync", wrappers=[Halved]),
    "in the spec": lambda: SyncVectorEnv([recorded] * 2),
    "one with its wrappers in the spec": recorded,
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers_of_what_was_handed_over_are_there_in_tests(how, tmp_path):
    assert result_of(agent_for(WRAPPED[how](), tmp_path)) == (LIMIT / 2, LIMIT)


UNKNOWN = {
    "no spec describes the wrapper ClipReward": lambda: ClipReward(vectorised(), 0, 0.5),
    "no spec describes the Halved that was given": halved,
    "nothing says how the OwnVector that was given was made": lambda: OwnVector([limited] * 2),
}


@pytest.mark.parametrize("reason", UNKNOWN)
def test_nothing_is_guessed_and_the_best_policy_is_that_of_training(reason, tmp_path, capsys):
    settings = {"num_envs": 1} if "Halved" in reason else {}
    agent = agent_for(UNKNOWN[reason](), tmp_path, checkpoint_every=16, **settings)
    assert result_of(agent) == (None, None)
    out = capsys.readouterr().out
    assert out.count(f"no evaluation: {reason}; eval_env= says what to test;") == 1
    assert agent.result is not None
    best = load_checkpoint(agent.result.folder / "checkpoints" / "best.pt")["counters"]
    assert np.isfinite(best["best_return"]) and best["recent_returns"]


def test_a_vector_environment_that_claims_an_id_is_not_made_from_it():
    from fastrl.envs.rebuild import task_of

    env: Any = Changed()
    fake: Any = [type("Pool", (), {"env_id": CARTPOLE, "backend": "gymnasium"})]
    task = task_of(env, fake, PPOConfig(num_envs=2))
    assert task.make is None and not task.is_named and "Changed" in task.why_not


@pytest.mark.parametrize(
    "eval_env",
    [
        limited,
        slow(limited()),
        vectorised(),
        slow(partial(gymnasium.make, CARTPOLE, max_episode_steps=LIMIT)),
    ],
    ids=["function", "one", "vector", "partial"],
)
def test_eval_env_is_what_is_tested_as_often_as_asked(eval_env, tmp_path):
    agent = agent_for(CARTPOLE, tmp_path, eval_env=eval_env, eval_every=16)
    assert result_of(agent) == (LIMIT, LIMIT)
    assert result_of(agent) == (LIMIT, LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"vector": "async"}, {"vector": "auto", "num_workers": 2}])
def test_processes_are_of_the_environments_that_are_trained_on(settings, tmp_path):
    for eval_env in (limited(), vectorised(), CARTPOLE):
        agent = agent_for(limited, tmp_path, eval_env=eval_env, **settings)
        assert agent.task.make is not None
        length = result_of(agent)[1]
        assert length > LIMIT if eval_env == CARTPOLE else length == LIMIT
        assert agent.evaluate(2, limited()).lengths.tolist() == [LIMIT, LIMIT]
        assert agent.evaluate(2, CARTPOLE).lengths.min() > LIMIT
        agent.envs[0].close()


@pytest.mark.slow
def test_an_id_that_is_played_in_threads_is_tested_beside_processes(tmp_path):
    agent = agent_for("test_rebuild:limited", tmp_path, eval_env=CARTPOLE, vector="async")
    assert result_of(agent)[1] > LIMIT
    assert agent.evaluate(2, CARTPOLE).lengths.min() > LIMIT
    agent.envs[0].close()
    assert agent.result is not None
    folder = agent.result.folder
    for env in (CARTPOLE, vectorised(), make_env(CARTPOLE, 2)):
        assert PPO.load(folder, env).config.vector == "sync"
    loaded = PPO.load(folder, limited)
    assert loaded.config.vector == "async"
    loaded.envs[0].close()
    with pytest.raises(ValueError, match="vector=async has no effect"):
        PPO.load(folder, CARTPOLE, vector="async")


def test_eval_env_none_means_no_tests_and_that_is_said(tmp_path, capsys):
    assert result_of(agent_for(CARTPOLE, tmp_path, eval_env=None)) == (None, None)
    assert "no evaluation: eval_env=None; afterwards: python -m" in capsys.readouterr().out


def test_eval_env_of_another_kind_is_refused(tmp_path):
    env = vectorised()
    for wrong, words in ((3, "must be a function"), (env, "that is trained on")):
        with pytest.raises(ValueError, match=words):
            agent_for(env, tmp_path, eval_env=wrong)
    with pytest.raises(ValueError, match="takes the id that make_env takes"):
        agent_for(CARTPOLE, tmp_path, eval_env=make_env(CARTPOLE, 2))


def test_a_function_that_returns_the_training_environment_is_not_tested(tmp_path, caplog):
    env = limited()
    agent = agent_for(SyncVectorEnv([lambda: env]), tmp_path, num_envs=1)
    assert result_of(agent) == (None, None)
    assert "returns an environment that is in use already" in caplog.messages[0]


@pytest.mark.parametrize("episodes", [1, 3])
def test_no_function_leads_a_test_to_the_training_environment(episodes, tmp_path, caplog):
    env = limited()

    def given() -> gymnasium.Env:
        return env

    how: dict[str, Any] = {"num_envs": 1, "eval_episodes": episodes, "verbose": 0}
    for trained, tested in (
        (env, given),
        (env, lambda: Halved(env)),
        (Halved(env), given),
    ):
        agent = agent_for(trained, tmp_path, eval_env=tested, **how)
        with pytest.raises(ValueError, match="an environment that is in use already"):
            agent.learn()
    assert result_of(agent_for(given, tmp_path, **how)) == (None, None)
    assert "an environment that is in use already" in caplog.messages[0]


def test_what_cannot_be_tested_is_told_before_the_run_begins(tmp_path):
    with pytest.raises(ValueError, match="eval_env: unknown env 'NoSuch-v0'"):
        agent_for(CARTPOLE, tmp_path, eval_env="NoSuch-v0")
    for tested in ("Acrobot-v1", lambda: gymnasium.make("Acrobot-v1")):
        with pytest.raises(ValueError, match="new environments have the spaces"):
            agent_for(CARTPOLE, tmp_path, eval_env=tested).learn()
    one = limited()
    with pytest.raises(ValueError, match="an environment that is in use already"):
        agent_for(CARTPOLE, tmp_path, eval_env=lambda: one).learn()
    assert not list(tmp_path.iterdir())


def test_no_test_resets_an_environment_below_or_above_the_one_that_is_trained_on(tmp_path):
    env = limited()
    vector = SyncVectorEnv([lambda: env])
    for trained, tested in ((env, Halved(env)), (Halved(env), env), (vector, env), (env, vector)):
        with pytest.raises(ValueError, match="that is trained on, which a test would reset"):
            agent_for(trained, tmp_path, num_envs=1, eval_env=tested)
        agent = agent_for(trained, tmp_path, num_envs=1)
        with pytest.raises(ValueError, match="that is trained on, which an evaluation would reset"):
            agent.evaluate(1, tested)


@pytest.mark.parametrize("env", [CARTPOLE, limited], ids=["id", "function"])
def test_what_is_trained_on_may_be_named_as_what_is_tested(env, tmp_path):
    assert result_of(agent_for(env, tmp_path, eval_env=env))[1] >= LIMIT


def test_attributes_of_an_environment_are_its_own(tmp_path):
    class Holding(toy_envs.CountingEnv):
        def __init__(self) -> None:
            super().__init__()
            self.env, self.envs = CARTPOLE, 3

    assert agent_for(Holding, tmp_path).evaluate(2, Holding()).lengths.min() > 1


def test_fit_tests_the_environments_it_is_given(tmp_path):
    result = AgentTrainer().fit(agent_for(CARTPOLE, tmp_path), vectorised())
    assert result.summary["eval_length_mean"] == LIMIT
    own = agent_for(CARTPOLE, tmp_path, eval_env=partial(gymnasium.make, CARTPOLE))
    assert AgentTrainer().fit(own, vectorised()).summary["eval_length_mean"] > LIMIT


def test_pools_that_are_made_alike_are_tested_and_others_are_not(tmp_path, capsys):
    agent = agent_for(CARTPOLE, tmp_path, num_envs=4, total_timesteps=64)
    short = {"max_episode_steps": LIMIT}
    for first, second, is_tested, is_named in (
        ({}, {}, True, True),
        ({"env_kwargs": short}, {"env_kwargs": short}, True, False),
        ({}, {"env_kwargs": short}, False, False),
        ({}, {"backend": "gymnasium"}, False, False),
    ):
        pools: Any = [make_env(CARTPOLE, 2, seed=i, **x) for i, x in enumerate((first, second))]
        result = AgentTrainer().fit(agent, pools)
        assert (result.summary["eval_return_mean"] is not None) == is_tested
        assert agent.task.is_named == is_named
    assert capsys.readouterr().out.count("no evaluation: the pools that were given are not") == 2


def normalised() -> gymnasium.Env:
    return gymnasium.wrappers.NormalizeObservation(limited())


@pytest.mark.parametrize(
    ("env", "vector"),
    [
        (normalised, "sync"),
        (normalised(), "sync"),
        ("test_rebuild:normalised", "sync"),
        ("toy_envs:normalised", "async"),  # whose processes import little
    ],
)
def test_statistics_of_observations_that_tests_begin_anew_are_told(env, vector, tmp_path, capsys):
    told = "NormalizeObservation begins anew in each environment, in tests and in resumed runs"
    agent_for(env, tmp_path, vector=vector, eval_episodes=0).learn()
    assert capsys.readouterr().out.count(told) == 1
    agent_for(limited, tmp_path).learn()
    assert told not in capsys.readouterr().out


def changed_after_it_was_made() -> gymnasium.Env:
    env: Any = limited()
    env.unwrapped.gravity = 30.0
    return env


def vectorised_and_changed() -> gymnasium.vector.VectorEnv:
    env = vectorised(vectorization_mode="sync")
    env.set_attr("gravity", 30.0)  # pyright: ignore[reportAttributeAccessIssue]
    return env


@pytest.mark.parametrize("make", [changed_after_it_was_made, vectorised_and_changed])
def test_what_was_changed_after_it_was_made_is_not_tested_without_the_change(
    make, tmp_path, capsys
):
    settings = {} if make is vectorised_and_changed else {"num_envs": 1}
    assert result_of(agent_for(make(), tmp_path, **settings)) == (None, None)
    told = "no evaluation: gravity of the CartPoleEnv that was given is 30.0, of a new one 9.8;"
    assert told in capsys.readouterr().out


class Dated(CartPoleEnv):
    """Has attributes that are others in every new one, and one that is not a number yet."""

    def __init__(self, gain: float = 1.0, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.created, self.name = time.perf_counter(), uuid.uuid4().hex
        self.best, self.gain = float("nan"), gain


def test_what_is_another_value_in_every_new_environment_is_no_change(tmp_path):
    gymnasium.register("Dated-v0", Dated, max_episode_steps=LIMIT)
    try:
        env = gymnasium.make("Dated-v0")
        assert difference([env], [partial(gymnasium.make, "Dated-v0")]) == ""
        assert result_of(agent_for(env, tmp_path, num_envs=1))[0] is not None
        cast(Any, env.unwrapped).gain = 2.0
        why_not = difference([env], [partial(gymnasium.make, "Dated-v0")])
        assert why_not == "gain of the Dated that was given is 2.0, of a new one 1.0"
    finally:
        del gymnasium.registry["Dated-v0"]


class Aimed(CartPoleEnv):
    """Has a goal that may be set later."""

    goal: float | None

    def __init__(self) -> None:
        super().__init__()
        self.goal = None


def test_a_setting_that_was_none_is_a_setting():
    env = Aimed()
    assert difference([env], [Aimed]) == ""
    env.goal = 5.0
    told = difference([env], [Aimed])
    assert told == "goal of the Aimed that was given is 5.0, of a new one None"


class WithMasses(gymnasium.vector.SyncVectorEnv):
    """Has a number for each of its environments."""

    def __init__(self, num_envs: int = 1, **_: Any) -> None:
        super().__init__([CartPoleEnv] * num_envs)
        self.masses = np.ones(num_envs)


def test_a_vector_with_a_number_for_each_environment_is_made_anew(tmp_path):
    gymnasium.register("Masses-v0", vector_entry_point=WithMasses)
    try:
        env: Any = gymnasium.make_vec("Masses-v0", 4, vectorization_mode="vector_entry_point")
        assert agent_for(env, tmp_path, num_envs=4, total_timesteps=64).task.checked().why_not == ""
    finally:
        del gymnasium.registry["Masses-v0"]


def test_an_environment_below_a_new_wrapper_is_no_new_one(tmp_path):
    inner = CartPoleEnv()
    make = from_functions("Inner", lambda: TimeLimit(inner, 5), PPOConfig(env_id="Inner"))
    make(1, seed=0)
    with pytest.raises(ValueError, match="returns an environment that is in use already"):
        make(1, seed=0)


def test_what_auto_chose_for_a_function_is_not_chosen_again_for_its_tests(tmp_path, monkeypatch):
    agent = agent_for(limited, tmp_path, vector="auto")
    monkeypatch.setattr(makers, "choose", lambda *_: pytest.fail("it chooses again"))
    assert len(agent.evaluate(2).returns) == 2


class Laid(CartPoleEnv):
    """Draws its gravity when it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.gravity = np.random.uniform(5, 15)


def test_a_layout_that_was_drawn_when_the_environment_was_made_is_not_tested_as_another():
    assert difference([Laid()], [Laid]).startswith("gravity of the Laid that was given is ")


def test_a_partial_of_a_class_has_the_name_of_the_class():
    assert name_of(partial(partial(Dated, 1.0), render_mode=None)) == "Dated"


def test_tests_of_a_vector_with_a_window_open_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    made: list[Any] = []
    make_vec = gymnasium.make_vec
    monkeypatch.setattr(gymnasium, "make_vec", lambda *x, **y: made.append(x) or make_vec(*x, **y))
    env = make_vec(CARTPOLE, 2, vectorization_mode="sync", render_mode="human")
    agent_for(env, tmp_path).evaluate(2)
    assert made and all("render_mode" not in spec.kwargs for (spec,) in made)


def plain_and_changed() -> gymnasium.Env:
    env: Any = gymnasium.make(CARTPOLE)
    env.unwrapped.gravity = 30.0
    return env


def custom_and_changed() -> gymnasium.vector.VectorEnv:
    env: Any = gymnasium.make_vec(CARTPOLE, 2)
    env.unwrapped.gravity = 30.0
    return env


def one_of_two_changed() -> gymnasium.vector.VectorEnv:
    env: Any = gymnasium.make_vec(CARTPOLE, 2, vectorization_mode="sync")
    env.envs[1].unwrapped.gravity = 30.0
    return env


CHANGED = [plain_and_changed, custom_and_changed, one_of_two_changed]


@pytest.mark.parametrize("make", quick(CHANGED, plain_and_changed))
@pytest.mark.parametrize("episodes", [0, 3])
def test_what_was_changed_after_it_was_made_is_no_task_that_its_id_names(make, episodes, tmp_path):
    count = 1 if make is plain_and_changed else 2
    agent = agent_for(make(), tmp_path, num_envs=count, eval_episodes=episodes)
    assert result_of(agent) == (None, None) and "gravity" in agent.task.checked().why_not
    assert agent.result is not None
    folder = agent.result.folder
    with pytest.raises(ValueError, match="environments of CartPole-v1 that were handed over"):
        PPO.load(folder)
    longer: dict[str, Any] = {"num_envs": count, "eval_episodes": 0, "total_timesteps": 64}
    with pytest.raises(ValueError, match="give the agent such environments to go on"):
        AgentTrainer(resume=folder).fit(agent_for(CARTPOLE, tmp_path, **longer))
    again = agent_for(make(), tmp_path, **longer)
    assert AgentTrainer(resume=folder).fit(again).summary["total_env_steps"] == 64


@pytest.mark.parametrize("make", quick(CHANGED, one_of_two_changed))
def test_what_is_played_is_told_from_what_was_changed(make, tmp_path):
    env: Any = {
        plain_and_changed: lambda: gymnasium.make(CARTPOLE),
        custom_and_changed: lambda: gymnasium.make_vec(CARTPOLE, 2),
        one_of_two_changed: lambda: gymnasium.make_vec(CARTPOLE, 2, vectorization_mode="sync"),
    }[make]()
    count = 1 if make is plain_and_changed else 2
    agent = agent_for(env, tmp_path, num_envs=count, total_timesteps=640)
    assert result_of(agent)[1] > LIMIT and result_of(agent)[1] > LIMIT
    assert agent.task.is_named
    assert agent_for(env, tmp_path, num_envs=count).task.is_named


def test_the_backend_that_the_config_would_choose_is_part_of_the_task(tmp_path):
    agent = agent_for(CARTPOLE, tmp_path)
    result = AgentTrainer().fit(agent, gymnasium.make_vec(CARTPOLE, 2))
    assert result.summary["backend"] == "gymnasium"
    with pytest.raises(ValueError, match="environments of CartPole-v1 that were handed over"):
        PPO.load(result.folder)


def test_atari_as_it_is_tested_is_another_task_than_as_it_is_trained_on(tmp_path):
    assert agent_for(make_env(CARTPOLE, 2), tmp_path).task.is_named
    assert not agent_for(make_env(CARTPOLE, 2, testing=True), tmp_path).task.is_named


def test_what_was_changed_after_it_was_made_is_not_made_anew_to_be_trained_on(tmp_path):
    with pytest.raises(ValueError, match=r"gravity of the CartPoleEnv that was given is 30\.0"):
        agent_for(changed_after_it_was_made(), tmp_path)


def test_what_was_played_before_is_tested_all_the_same(tmp_path):
    env = limited()
    env.reset(seed=3)
    env.step(0)
    assert result_of(agent_for(env, tmp_path)) == (LIMIT, LIMIT)


class Remembering(gymnasium.Env):
    """Changes its flags and numbers when an episode ends, or the next one begins, alone."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, size: int = 1) -> None:
        self.done, self.best, self.num_episodes, self.num_steps = False, 0.0, 0, 0
        self.word, self.size = "new", size

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.word = "again" if self.num_episodes else "first"
        self.done, self.num_steps = False, 0
        return np.zeros(2, np.float32), self._info()

    def step(self, action: Any) -> Any:
        if action != self.num_steps % 3:
            raise RuntimeError("a forbidden action")
        self.num_steps += 1
        if self.num_steps == 30:
            self.done, self.best, self.num_episodes = True, 30.0, self.num_episodes + 1
        return np.zeros(2, np.float32), 1.0, self.done, False, self._info()

    def _info(self) -> Any:
        return {"action_mask": np.arange(3) == self.num_steps % 3}


@pytest.mark.parametrize("num_resets", [1, 2])
def test_what_playing_changes_at_an_episodes_end_is_no_change(num_resets, tmp_path):
    gymnasium.register("Remembering-v0", Remembering)
    env: Any = gymnasium.make("Remembering-v0")
    for _ in range(num_resets):
        env.reset()
        for step in range(30):
            env.step(step % 3)
    agent = agent_for(env, tmp_path, info_action_mask=True)
    assert result_of(agent) == (30, 30)
    env.unwrapped.size = 2
    with pytest.raises(ValueError, match="size of the Remembering that was given is 2, of a new"):
        agent_for(env, tmp_path, info_action_mask=True)
    del gymnasium.registry["Remembering-v0"]


def test_a_run_on_another_task_than_its_config_names_is_not_resumed_by_it(tmp_path):
    entry = "gymnasium.envs.classic_control:CartPoleEnv"
    gymnasium.register("OtherCart-v0", entry, max_episode_steps=LIMIT)
    agent = agent_for(CARTPOLE, tmp_path)
    result = AgentTrainer().fit(agent, gymnasium.make_vec("OtherCart-v0", 2))
    assert agent.labels()["handed_over"] and result.summary["eval_length_mean"] == LIMIT
    del gymnasium.registry["OtherCart-v0"]


# One environment


def test_one_environment_is_made_as_many_times_as_asked_and_that_is_said(tmp_path, capsys):
    result = AgentTrainer().fit(agent_for(CARTPOLE, tmp_path), gymnasium.make(CARTPOLE))
    assert result.summary["total_env_steps"] == 32
    told = "CartPole-v1: 2 environments, made from the spec of the one that was given"
    assert capsys.readouterr().out.count(told) == 1


def test_one_environment_without_a_spec_is_played_itself():
    env = toy_envs.CountingEnv()
    agent = PPO(env, preset="none", num_steps=16, per_rank_batch_size=16, accelerator="cpu")
    assert agent.config.num_envs == 1
    pool: Any = agent.envs[0]
    assert pool.envs == [env]


def test_several_of_an_environment_without_a_spec_are_refused_in_one_line(tmp_path):
    for env in (toy_envs.CountingEnv(), halved()):
        with pytest.raises(ValueError, match="no spec describes it") as error:
            agent_for(env, tmp_path, num_envs=2)
        assert "\n" not in str(error.value)


def test_settings_that_have_no_effect_on_environments_that_are_made_are_refused(tmp_path):
    with pytest.raises(ValueError, match="env_kwargs has no effect"):
        agent_for(vectorised(), tmp_path, env_kwargs={"gravity": 1.0})
    with pytest.raises(ValueError, match="masks in the info"):
        agent_for(vectorised(), tmp_path, info_action_mask=True)
    hidden = agent_for(vectorised(), tmp_path, mask_vel=True).envs[0].reset()
    assert (hidden[:, [1, 3]] == 0).all()


SETTINGS_OF_MAKE_ENV: dict[str, Any] = {
    "info_action_mask": True,
    "frame_stack": 4,
    "mask_vel": True,
    "env_kwargs": {"max_episode_steps": 20},
    "obs_keys": ("image",),
    "obs_kind": "vector",
    "scale_images": False,
    "backend": "gymnasium",
    "vector": "async",
}


@pytest.mark.parametrize("name", SETTINGS_OF_MAKE_ENV)
@pytest.mark.parametrize("is_known", [True, False])
def test_settings_beside_what_make_env_made_are_refused_where_it_made_something_else(
    name, is_known, tmp_path
):
    env = make_env(CARTPOLE, 2)
    if not is_known:
        env = Foreign(env)
    value = SETTINGS_OF_MAKE_ENV[name]
    with pytest.raises(ValueError, match=rf"CartPole-v1: {name}=.* has no effect on environments"):
        agent_for(env, tmp_path, **{name: value})


class Foreign:
    """A `VectorEnv` of somebody's own."""

    def __init__(self, env: Any) -> None:
        self.__dict__.update({name: getattr(env, name) for name in dir(env) if name[0] != "_"})


def test_settings_that_say_what_make_env_made_already_are_taken(tmp_path):
    settings: dict[str, Any] = {"frame_stack": 2, "mask_vel": True, "backend": "gymnasium"}
    settings["env_kwargs"] = {"max_episode_steps": LIMIT}
    agent = agent_for(make_env(CARTPOLE, 2, **settings), tmp_path, **settings)
    assert result_of(agent) == (LIMIT, LIMIT)
    assert agent.task.is_named
    assert agent.result is not None
    folder = agent.result.folder
    assert command_line("ppo", ["--resume", str(folder), "--total-timesteps", "64"]) == 0
    loaded = PPO.load(folder, make_env(CARTPOLE, 2, **settings))
    assert loaded.evaluate(3).lengths.max() == LIMIT


def test_the_backend_of_what_make_env_made_is_that_of_the_resumed_run(tmp_path):
    agent = agent_for(make_env(CARTPOLE, 2, backend="gymnasium"), tmp_path).learn()
    assert agent.result is not None
    assert read_config(agent.result.folder / "config.yaml")["backend"] == "gymnasium"
    assert PPO.load(agent.result.folder).envs[0].backend == "gymnasium"


def test_of_what_is_handed_over_no_halves_or_threads_are_made_and_a_line_says_so(tmp_path, caplog):
    agent_for(limited, tmp_path, num_pools=2)
    agent_for(make_env(CARTPOLE, 2), tmp_path, num_env_threads=2)
    told = [message.partition(":")[0] for message in caplog.messages]
    assert told == [
        "num_pools=2 gains nothing on limited",
        "num_env_threads=2 gains nothing on CartPole-v1",
    ]


# Going on


def test_a_run_of_a_plain_task_goes_on_by_its_id(tmp_path, capsys):
    agent = agent_for(gymnasium.make_vec(CARTPOLE, 2), tmp_path).learn()
    assert agent.result is not None
    folder = agent.result.folder
    assert "handed_over" not in read_config(folder / "config.yaml")
    assert command_line("ppo", ["--resume", str(folder), "--total-timesteps", "64"]) == 0
    assert evaluate([str(folder), "--episodes", "2"]) == 0
    assert PPO.load(folder).envs[0].backend == "gymnasium"


def test_a_run_of_another_task_than_its_id_goes_on_from_python_alone(tmp_path, capsys):
    agent = agent_for(vectorised(), tmp_path).learn()
    assert agent.result is not None
    folder = agent.result.folder
    assert read_config(folder / "config.yaml")["handed_over"] is True
    longer = ["--total-timesteps", "64"]
    assert command_line("ppo", ["--resume", str(folder), *longer]) == 2
    assert evaluate([str(folder), "--episodes", "2"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 2 and errors.count("handed over") == 2
    with pytest.raises(ValueError, match="handed over; give the agent such environments"):
        AgentTrainer(resume=folder).fit(agent_for(CARTPOLE, tmp_path, total_timesteps=64))
    other = agent_for(vectorised(), tmp_path, total_timesteps=64)
    result = AgentTrainer(resume=folder).fit(other)
    assert result.summary["total_env_steps"] == 64
    assert result.summary["eval_length_mean"] == LIMIT
    assert evaluate([str(folder), "--env-id", CARTPOLE, "--episodes", "2"]) == 0
    loaded = PPO.load(folder, vectorised())
    assert loaded.task.make is not None


def test_an_environment_is_made_again_once_to_see_whether_it_was_changed(tmp_path):
    made: list[Any] = []

    class Noted(Remembering):
        def __init__(self, **more: Any) -> None:
            super().__init__(**more)
            made.append(self)

    gymnasium.register("Noted-v0", Noted)
    env = gymnasium.make("Noted-v0")
    agent = agent_for(env, tmp_path, info_action_mask=True, num_envs=1)
    assert len(made) == 2
    assert agent.task.is_named and agent.task.check is None  # tests need not look again
    del gymnasium.registry["Noted-v0"]


@pytest.mark.parametrize(
    ("env", "settings", "keeps"),
    [
        ("LunarLander-v3", {"backend": "gymnasium"}, True),
        ("LunarLander-v3", {}, False),
        (None, {"num_envs": 2}, True),
        (None, {"num_envs": 1}, False),
    ],
)
def test_processes_are_kept_where_what_the_caller_sets_lets_them_be(env, settings, keeps):
    config = PPOConfig(env_id="LunarLander-v2", backend="envpool")
    env = gymnasium.make(CARTPOLE) if env is None else env
    assert without_processes(env, config, settings) == (
        {} if keeps else {"vector": "sync", "num_workers": 0}
    )


@pytest.mark.parametrize("vector", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_settings_of_a_function_are_its_arguments_in_training_and_tests(tmp_path, vector):
    how = {"vector": vector, "env_kwargs": {"sutton_barto_reward": True}}
    agent = agent_for(limited, tmp_path, **how)
    assert agent.learn().result.summary["eval_return_mean"] in (0.0, -1.0)  # 0 a step, -1 at a fall
    assert agent.evaluate(episodes=2).mean <= 0.0
    assert agent.evaluate(episodes=2, env_kwargs={"sutton_barto_reward": False}).mean == LIMIT
    assert agent.evaluate(env=limited, episodes=2).mean == LIMIT  # another function


def test_an_id_that_is_registered_anew_is_what_gymnasium_makes_of_it(tmp_path, monkeypatch):
    before = gymnasium.registry[CARTPOLE]
    monkeypatch.setitem(gymnasium.registry, CARTPOLE, before)  # put back at the end
    with pytest.warns(UserWarning, match="Overriding environment"):
        gymnasium.register(CARTPOLE, entry_point=toy_envs.CountingEnv)
    agent = agent_for(CARTPOLE, tmp_path)
    pool: Any = agent.envs[0]
    assert all(type(env.unwrapped) is toy_envs.CountingEnv for env in pool.envs)
    folder = agent.learn().result.folder
    gymnasium.registry[CARTPOLE] = before  # as in another process
    with pytest.raises(ValueError, match="handed over"):
        PPO.load(folder)


def test_a_run_of_an_id_that_a_script_registers_says_so_where_it_is_unknown(tmp_path, capsys):
    gymnasium.register("OfAScript-v0", toy_envs.CountingEnv)
    agent = agent_for("OfAScript-v0", tmp_path)
    folder = agent.learn().result.folder
    spec = gymnasium.registry.pop("OfAScript-v0")  # as in another process
    assert command_line("ppo", ["--resume", str(folder), "--total-timesteps", "64"]) == 2
    assert evaluate([str(folder)]) == 2
    resumed, evaluated = capsys.readouterr().err.splitlines()
    told = "OfAScript-v0, an id that is not registered in this process"
    assert told in resumed and "--env-id module:OfAScript-v0" in resumed
    assert told in evaluated and "module:Id-v0" in evaluated
    gymnasium.registry["OfAScript-v0"] = spec
    again = agent_for("OfAScript-v0", tmp_path, total_timesteps=64)
    assert AgentTrainer(resume=folder).fit(again).summary["total_env_steps"] == 64
