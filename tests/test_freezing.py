"""What is frozen stays to the bit: before learning, after it, after loading, in resumed runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from quick import quick, slow
from seam import KINDS, SAC, make, ran, weights_of
from torch import Tensor, nn

from fastrl import AgentTrainer, Callback
from fastrl.agents.networks import frozen_names


def freeze_first(agent: Any) -> None:
    layer = next(x for x in agent.policy.modules() if isinstance(x, nn.Linear))
    layer.requires_grad_(False)


def freeze_policy(agent: Any) -> None:
    agent.policy.requires_grad_(False)


def freeze_head(agent: Any) -> None:
    agent.policy.head.requires_grad_(False)


def freeze_all(agent: Any) -> None:
    for network in agent.networks().values():
        network.requires_grad_(False)


def assert_frozen_alone_stays(agent: Any, before: dict[str, Tensor]) -> None:
    now, frozen = weights_of(agent), set(frozen_names(agent.networks()))
    assert {name for name, x in before.items() if torch.equal(x, now[name])} == frozen


@pytest.mark.parametrize("name", quick(KINDS, "ppo", "ppo_recurrent", "sac"))
@pytest.mark.parametrize(
    ("engine", "freeze"),
    [("auto", freeze_policy), slow(("recorded", freeze_head)), slow(("auto", freeze_all))],
)
def test_frozen_parts_stay_and_the_others_learn(name, engine, freeze: Callable[[Any], None]):
    found = ran(KINDS[name], engine, freeze)
    assert frozen_names(found.agent.networks())
    assert_frozen_alone_stays(found.agent, found.before)


@pytest.mark.parametrize("name", quick(KINDS, "ppo"))
def test_frozen_after_learning_and_kept_by_load_and_resume_until_thawed(name, tmp_path):
    kind: Any = KINDS[name]
    steps = 160 if issubclass(kind, SAC) else 128
    agent = make(kind, "recorded", log_dir=str(tmp_path), total_timesteps=steps)
    agent.learn()
    freeze_first(agent)
    before = weights_of(agent)
    agent.learn()
    assert_frozen_alone_stays(agent, before)

    agent.save(tmp_path / "agent.pt")
    loaded = kind.load(tmp_path / "agent.pt")  # with moments of Adam
    before = weights_of(loaded)
    loaded.learn()
    assert frozen_names(loaded.networks())
    assert_frozen_alone_stays(loaded, before)

    other = make(kind, "recorded", log_dir=str(tmp_path), total_timesteps=2 * steps)
    assert agent.result is not None
    AgentTrainer(resume=agent.result.folder).fit(other)
    assert frozen_names(other.networks()) == frozen_names(agent.networks())
    assert_frozen_alone_stays(other, weights_of(agent))

    loaded.policy.requires_grad_(True)
    before = weights_of(loaded)
    loaded.learn()
    assert_frozen_alone_stays(loaded, before)


@pytest.mark.parametrize("name", quick(KINDS, "sac"))
def test_a_layer_frozen_after_loading_does_not_move_by_what_the_optimiser_remembers(name, tmp_path):
    kind: Any = KINDS[name]
    found = ran(kind, "recorded")
    found.agent.save(tmp_path / "agent.pt")
    loaded = kind.load(tmp_path / "agent.pt", log_dir=str(tmp_path))
    freeze_first(loaded)
    before = weights_of(loaded)
    loaded.learn()
    assert_frozen_alone_stays(loaded, before)


@pytest.mark.parametrize("engine", quick(["native", "recorded", "eager"], "native", "eager"))
@pytest.mark.parametrize("name", quick(["ppo", "a2c"], "ppo"))
def test_a_layer_frozen_in_a_callback_stays_from_there(name, engine, caplog):
    agent = make(KINDS[name], engine, total_timesteps=256)
    before: dict[str, Tensor] = {}

    class Freezes(Callback):
        def on_rollout_end(self, trainer: Any) -> None:
            rollout, policy = trainer.rollout, agent.policy
            with torch.no_grad():
                drawn = policy.act(rollout.obs[:-1].flatten(0, 1), rollout.noise.flatten(0, 1))
            torch.testing.assert_close(drawn, rollout.actions.flatten(0, 1))

        def on_update_end(self, trainer: Any, metrics: Any) -> None:
            if not before:
                agent.freeze("actor.0")
                before.update(weights_of(agent))

    agent.learn(callbacks=[Freezes()])
    assert_frozen_alone_stays(agent, before)
    told = [x.getMessage() for x in caplog.records if "eager from here on" in x.getMessage()]
    assert len(told) == (engine != "eager")
    assert all("layers were frozen or thawed" in line for line in told)


def test_other_frozen_layers_than_those_of_the_run_are_refused(tmp_path):
    kind = KINDS["ppo"]
    agent = make(kind, "eager")
    freeze_first(agent)
    agent.save(tmp_path / "agent.pt")
    other = make(kind, "eager")
    freeze_head(other)
    with pytest.raises(ValueError, match=r"frozen are policy\.actor\.0\.weight, policy"):
        other.load_state_dict(agent.state_dict())
