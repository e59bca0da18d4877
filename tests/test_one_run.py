"""An agent learns in one run at a time, in its own process and thread; nothing spoils that run."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick import quick

from fastrl import PPO, SAC, AgentTrainer, Callback

SMALL: dict[str, Any] = {"preset": "none", "num_envs": 4, "eval_episodes": 0, "verbose": 0}
SMALL |= {"accelerator": "cpu", "seed": 3}
OF_SAC = {**SMALL, "total_timesteps": 64, "learning_starts": 16, "hidden_sizes": (8,)}
OF_SAC |= {"per_rank_batch_size": 16}
OF_PPO = {**SMALL, "num_steps": 16, "total_timesteps": 512, "update_epochs": 2}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Second(Callback):
    """Calls something in the second update."""

    def __init__(self, call: Any) -> None:
        self.call, self.count = call, 0

    def on_update_end(self, trainer: Any, metrics: Any) -> None:
        self.count += 1
        if self.count == 2:
            self.call(trainer.agent)


def refused(call: Any, words: str) -> Any:
    def run(agent: Any) -> None:
        with pytest.raises(ValueError, match=words):
            call(agent)

    return run


@pytest.mark.parametrize("how", quick(["learn", "fit"], "learn"))
def test_an_agent_that_learns_does_not_begin_another_run(how: str) -> None:
    calls = {"learn": lambda agent: agent.learn(64), "fit": AgentTrainer(verbose=0).fit}
    plain = PPO("CartPole-v1", **OF_PPO).learn()
    agent = PPO("CartPole-v1", **OF_PPO)
    agent.learn(callbacks=[Second(refused(calls[how], "is learning already"))])
    assert agent.result is not None and agent.result.summary["total_env_steps"] == 512
    assert torch.equal(agent.optimizer.flat, plain.optimizer.flat)
    agent.learn(64)  # once it is over


def test_another_agent_may_learn_in_between() -> None:
    plain = SAC("Pendulum-v1", **OF_SAC).learn()
    inner: list[Any] = []

    def learn_another(_: Any) -> None:
        inner.append(PPO("CartPole-v1", **OF_PPO).learn())

    agent = SAC("Pendulum-v1", **OF_SAC)
    agent.learn(callbacks=[Second(learn_another)])
    assert torch.equal(agent.actor_optimizer.flat, plain.actor_optimizer.flat) and inner


def test_predict_of_another_thread_is_refused_while_the_agent_learns() -> None:
    agent, told = PPO("CartPole-v1", **OF_PPO), []

    def predict() -> None:
        try:
            agent.predict(np.zeros(4, np.float32))
        except ValueError as error:
            told.append(str(error))

    def from_a_thread(learning: Any) -> None:
        thread = threading.Thread(target=predict)
        thread.start()
        thread.join()
        learning.predict(np.zeros(4, np.float32))  # in the thread that learns

    agent.learn(callbacks=[Second(from_a_thread)])
    assert len(told) == 1 and "is learning in another thread" in told[0]
    predict()
    assert len(told) == 1


class ActorWithDropout(torch.nn.Sequential):
    """An actor with dropout."""

    def __init__(self, space: Any) -> None:
        super().__init__(torch.nn.Linear(space.shape[0], 8), torch.nn.Dropout(0.5))


@pytest.mark.parametrize("call", ["predict", "evaluate"])
def test_nothing_is_played_by_another_thread_while_a_run_is_prepared(
    call: str, monkeypatch
) -> None:
    agent, told = PPO("CartPole-v1", network=ActorWithDropout, **OF_PPO), []
    arguments = (np.zeros(4, np.float32),) if call == "predict" else (1,)

    def play() -> None:
        before = torch.get_rng_state()
        try:
            getattr(agent, call)(*arguments)
        except ValueError as error:
            told.append(str(error))
        assert torch.equal(torch.get_rng_state(), before)
        told.append("drew nothing")

    prepare = agent.engine.build

    def build(*given: Any, **more: Any) -> Any:
        thread = threading.Thread(target=play)
        thread.start()
        thread.join()
        return prepare(*given, **more)

    monkeypatch.setattr(agent.engine, "build", build)
    agent.learn()
    assert "is learning in another thread" in told[0] and told[1] == "drew nothing"
    monkeypatch.undo()
    getattr(agent, call)(*arguments)


def _learn_here(agent: Any, answers: Any) -> None:
    try:
        agent.learn()
        answers.put("learned")
    except ValueError as error:
        answers.put(str(error))


def test_an_agent_of_envpool_s_is_refused_in_a_process_that_was_forked() -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_learn_here, args=(PPO("CartPole-v1", **OF_PPO), answers))
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        pytest.fail("it hangs")
    assert not answers.empty(), f"the child ended with status {process.exitcode}"
    assert "made before the process was forked" in answers.get()


class Looks(Callback):
    """Compares the values in the rollout with those of the policy."""

    def __init__(self) -> None:
        self.is_same: list[bool] = []
        self.valid: list[bool] = []

    def on_rollout_end(self, trainer: Any) -> None:
        self.before = trainer.rollout.valid.clone()

    @torch.no_grad()
    def on_update_end(self, trainer: Any, metrics: Any) -> None:
        rollout, policy = trainer.rollout, trainer.agent.policy
        values = policy.value(rollout.obs[:-1].flatten(0, 1)).view_as(rollout.values[:-1])
        self.is_same.append(torch.allclose(values, rollout.values[:-1], atol=1e-4))
        self.valid.append(torch.equal(rollout.valid, self.before))


def test_a_callback_sees_the_rollout_that_was_learned_from() -> None:
    looks = Looks()
    PPO("CartPole-v1", **OF_PPO, learning_rate=0.0).learn(callbacks=[looks])
    assert looks.is_same == looks.valid == [True] * 8
