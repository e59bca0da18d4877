"""Players and trainers learn what coupled ranks learn, with the same rows."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from ranks import run_ranks
from test_ranks import NUM_ENVS, SameA2C, SamePPO, arrays, learned, sized
from toy_agents import Loop, make_agent_of, tensors_of

from fastrl.a2c import A2C
from fastrl.decoupled import columns_of_trainers, exchanged_columns, make_player, make_trainer
from fastrl.ppo import PPO
from fastrl.run.devices import make_devices

KINDS: dict[str, Any] = {"share_data": SamePPO, "own_data": SamePPO, "a2c": SameA2C}


class Shell:
    """Stands for an algorithm in `make_agent_of`: hands its settings out."""

    @staticmethod
    def config(way: str, players: int, trainers: int, kind: Any, **settings: Any) -> Any:
        settings = {**sized(1, way), **settings}
        settings["num_envs"] = NUM_ENVS // players
        settings["per_rank_batch_size"] //= trainers
        if way == "share_data":
            settings["share_data"] = trainers > 1
        parts = {"decoupled": True, "num_players": players, "num_trainers": trainers}

        def collect(env: str, preset: str, **given: Any) -> Any:
            return kind.config_class.from_dict({"env_id": env, **given})

        return make_agent_of(collect, "discrete", **settings, **parts)


def play_or_train(way: str, players: int, trainers: int, kind: Any, settings: Any) -> Any:
    """Trains for some updates; what the players have then, and None from trainers."""
    kind = kind or KINDS[way]
    config = Shell.config(way, players, trainers, kind, **settings)
    devices = make_devices(config)
    if not devices.is_player:
        assert make_trainer(kind, config, devices).serve() == 7
        return None
    loop = Loop(make_player(kind, config, devices))
    metrics = loop.run(4)
    loop.agent.settle()
    loop.agent.dismiss(7)
    return {"learned": arrays(tensors_of(loop.agent)), "metrics": metrics}


@functools.cache
def decoupled(
    way: str, players: int, trainers: int, kind: Any = None, **settings: Any
) -> list[dict[str, Any]]:
    arguments = way, players, trainers, kind, settings
    return run_ranks(players + trainers, play_or_train, *arguments)[:players]


@pytest.mark.parametrize("way", KINDS)
def test_one_player_and_one_trainer_learn_to_the_bit_what_one_process_learns(way):
    (one,), (player,) = learned(1, way), decoupled(way, 1, 1)
    assert player["learned"].keys() == one["learned"].keys()
    for name, expected in one["learned"].items():
        assert np.array_equal(player["learned"][name], expected), name
    for name, expected in one["metrics"].items():
        assert [metrics[name] for metrics in player["metrics"]] == expected, name


@pytest.mark.parametrize("way", KINDS)
@pytest.mark.parametrize(("players", "trainers"), [(1, 2), (2, 1)])
def test_players_and_trainers_learn_what_one_process_learns(way, players, trainers):
    (one,), everyone = learned(1, way), decoupled(way, players, trainers)
    for name, expected in one["learned"].items():
        actual = everyone[0]["learned"][name]
        np.testing.assert_allclose(actual, expected, 2e-3, 2e-5, err_msg=name)
    for other in everyone[1:]:
        for name, expected in everyone[0]["learned"].items():
            if not name.startswith("optimizer."):  # only player 0 saves
                assert np.array_equal(other["learned"][name], expected), name


@pytest.mark.parametrize("kind", [PPO, A2C])
def test_as_many_trainers_as_players_learn_to_the_bit_what_coupled_ranks_learn(kind):
    from test_ranks import learn

    way = "a2c" if kind is A2C else "own_data"
    coupled = run_ranks(2, learn, 2, way, kind)[0]
    player = decoupled(way, 2, 2, kind)[0]
    for name, expected in coupled["learned"].items():
        assert np.array_equal(player["learned"][name], expected), name
