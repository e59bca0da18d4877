"""Calls as other libraries have them: each is answered with our name for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest

import fastrl
from fastrl import A2C, PPO, SAC, AgentTrainer, DroQ, PPORecurrent
from fastrl.config.calls import _OURS, METHODS, missing, names_checked

ALGORITHMS = A2C, PPO, SAC, DroQ, PPORecurrent
CALLS: tuple[Callable[..., Any], ...] = (
    *(PPO.learn, PPO.predict, PPO.evaluate, PPO.save, PPO.export, PPORecurrent.predict),
    *(AgentTrainer.__init__, AgentTrainer.fit, fastrl.LightningAgentModule.predict),
)


@pytest.mark.parametrize(
    ("call", "name", "words"),
    [
        (PPO.predict, "observation", "predict has no 'observation'; did you mean obs?"),
        (PPO.predict, "action_masks", "did you mean action_mask?"),
        (PPO.predict, "state", "PPORecurrent alone has one"),
        (PPORecurrent.predict, "lstm_states", "did you mean state?"),
        (PPORecurrent.predict, "episode_start", "set the rows of the state to zero"),
        (PPO.learn, "callback", r"did you mean callbacks\? \(a list of callbacks\)"),
        (PPO.learn, "total_steps", "did you mean total_timesteps?"),
        (PPO.learn, "progress_bar", "there always is one on a terminal"),
        (PPO.learn, "colour", "known are callbacks, loggers, on_interrupt, total_timesteps"),
        (
            PPO.evaluate,
            "n_eval_episodes",
            "evaluate has no .*did you mean episodes?",
        ),
        (PPO.evaluate, "render", "--video records an episode"),
        (PPO.evaluate, "sed", "did you mean seed?"),
        (PPO.save, "exclude", "a file holds all that it takes to go on"),
        (PPO.export, "format", "did you mean form?"),
        (AgentTrainer, "max_epochs", r"AgentTrainer has no .*did you mean max_steps\? \(in env"),
        (AgentTrainer, "logger", "did you mean loggers?"),
        (AgentTrainer, "strategy", "a setting of the agent"),
        (AgentTrainer.fit, "train_dataloaders", "fit has no .*did you mean dataset?"),
        (AgentTrainer.fit, "ckpt_path", r"AgentTrainer\(resume=RUN\)"),
    ],
)
def test_an_argument_of_another_library_is_answered_with_ours(call, name, words):
    given = () if call is AgentTrainer else (None, None)
    with pytest.raises(ValueError, match=words):
        call(*given, **{name: 1})


def test_every_answer_is_an_argument_of_some_call():
    known = {name for call in CALLS for name in inspect.signature(call).parameters}
    assert {ours for names in _OURS.values() for ours in names} <= known


def test_arguments_of_ours_arrive():
    @names_checked
    def double(number: int, *, times: int = 2) -> int:
        """Multiplies."""
        return number * times

    assert double(3) == 6
    assert double(number=3, times=4) == 12
    assert double.__doc__ == "Multiplies."
    with pytest.raises(TypeError, match="missing 1 required"):
        double()  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_another_library_is_answered_with_what_there_is(name):
    assert not any(name in dir(kind) for kind in ALGORITHMS)
    agent = PPO("CartPole-v1", num_envs=2, num_steps=8)
    with pytest.raises(AttributeError) as error:
        getattr(agent, name)
    assert str(error.value) == f"'PPO' object has no attribute {name!r}; {METHODS[name]}"
    assert (error.value.name, error.value.obj) == (name, agent)


def test_what_nobody_knows_is_an_attribute_error_without_more():
    agent = PPO("CartPole-v1", num_envs=2, num_steps=8)
    assert not hasattr(agent, "colour")
    with pytest.raises(AttributeError, match=r"^'PPO' object has no attribute 'colour'$"):
        agent.colour  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("kind", [property, cached_property])
def test_an_attribute_error_inside_of_a_property_comes_through(kind):
    class Owner:
        __getattr__ = missing

        @kind
        def broken(self) -> int:
            """Fails inside."""
            return None.nothing  # pyright: ignore

    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'nothing'"):
        _ = Owner().broken
