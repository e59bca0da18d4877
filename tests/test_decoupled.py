"""Players and trainers learn what coupled ranks learn, with the same rows."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import pytest
from ranks import run_ranks
from test_ranks import NUM_ENVS, SameA2C, SamePPO, arrays, learned, sized
from toy_agents import Loop, make_agent_of, tensors_of

from fastrl.a2c import A2C
from fastrl.config.ppo_recurrent import PPORecurrentConfig
from fastrl.decoupled.processes import (
    columns_of_trainers,
    exchanged_columns,
    make_player,
    make_trainer,
)
from fastrl.decoupled.rollout import RolloutPlaying
from fastrl.ppo import PPO
from fastrl.processes.devices import make_devices
from fastrl.runs.timer import StageTimer
from fastrl.sac import SAC

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
    """Trains for some updates; what this process has then."""
    kind = kind or KINDS[way]
    config = Shell.config(way, players, trainers, kind, **settings)
    devices = make_devices(config)
    if not devices.is_player:
        trainer = make_trainer(kind, config, devices)
        assert trainer.serve() == 7
        return {"parcels": len(trainer.mail._under_way)}
    loop = Loop(make_player(kind, config, devices))
    metrics = loop.run(4)
    loop.agent.settle()
    parcels = len(loop.agent.mail._under_way)
    loop.agent.dismiss(7)
    learned = arrays(tensors_of(loop.agent))
    return {"learned": learned, "metrics": metrics, "parcels": parcels}


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


def plain_overlap(kind: Any, way: str) -> dict[str, np.ndarray]:
    """Learns in one process as players and trainers with `overlap` do: a plain twin."""
    actor, learner = (Loop(make_agent_of(kind, "discrete", **sized(1, way))) for _ in range(2))
    judge = actor.agent.judge
    for update in range(4):
        actor.num_updates = update
        actor.collect()
        judged = judge(actor.buffer)
        learner.agent.judge = lambda buffer, judged=judged: judged
        rows = actor.buffer.sources(), learner.buffer.sources()
        for source, target in zip(*rows, strict=True):
            target.copy_(source)
        learner.buffer.host_valid.copy_(actor.buffer.host_valid)
        before = {name: x.clone() for name, x in learner.agent.policy.state_dict().items()}
        learner.update()
        actor.agent.policy.load_state_dict(before)
    return arrays({**tensors_of(actor.agent), **tensors_of(learner.agent)})


@pytest.mark.parametrize("way", ["own_data", "a2c"])
def test_overlap_learns_to_the_bit_what_a_plain_loop_with_old_weights_learns(way):
    expected = plain_overlap(KINDS[way], way)
    (player,) = decoupled(way, 1, 1, overlap=True)
    for name, actual in player["learned"].items():
        if not name.startswith("reward_scale."):  # the actor's, which the twin overwrote
            assert np.array_equal(actual, expected[name]), name


def test_overlap_acts_with_the_policy_of_one_update_before():
    (player,) = decoupled("own_data", 1, 1, overlap=True)
    assert [metrics.get("Info/policy_lag") for metrics in player["metrics"]] == [None, 0, 1, 1]


def test_ratios_of_overlap_are_of_the_policy_that_acted():
    # In the only step of an update, the ratio is 1 unless the policy is another than the one that
    # acted.
    once = {"update_epochs": 1, "observation_normalization": False}
    (strict,) = decoupled("own_data", 1, 1, **once)
    (overlapped,) = decoupled("own_data", 1, 1, overlap=True, **once)
    assert max(abs(metrics["Info/approx_kl"]) for metrics in strict["metrics"]) < 1e-7
    assert overlapped["metrics"][2]["Info/approx_kl"] > 1e-6


class LonePlayer(RolloutPlaying):
    """A player whose trainer answers at once, with the number of its answer as a loss."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(
            num_players=1, num_trainers=1, num_envs=2, trainers_get_all_rows=False, overlap=True
        )
        self.devices: Any = SimpleNamespace(global_rank=0)
        self.answers = 0
        self.mail: Any = Mock(receive=self.answer)
        self.judge: Any = lambda _: 0.0
        self.learning: Any = nullcontext

    def answer(self, *_: Any) -> dict[str, Any]:
        self.answers += 1
        metrics = {"Loss/policy_loss": float(self.answers)}
        return {"update_seconds": 0.0, "metrics": metrics}

    def rows(self, *_: Any) -> list[Any]:
        return []

    weights = memory = rows

    def receive_memory(self, process: int) -> None:
        pass


def test_metrics_that_came_while_an_overlapping_run_settled_are_in_the_next_row():
    player, buffer, losses = LonePlayer(), SimpleNamespace(num_envs=2), []
    for update in range(5):
        row = player.update(cast(Any, buffer), update, StageTimer())
        losses.append(row.get("Loss/policy_loss"))
        if update == 2:
            player.settle()  # before a test
            player.settle()  # and before a checkpoint
    assert losses == [None, 1.0, 2.0, 3.0, 4.0]
    assert player.settle()["Loss/policy_loss"] == 5.0  # of the last update, to be checked too


@pytest.mark.parametrize("overlap", [False, True])
def test_parcels_of_earlier_updates_are_let_go(overlap):
    arguments = "own_data", 1, 1, None, {"overlap": overlap}
    for process in run_ranks(2, play_or_train, *arguments):
        # Two of the last update, and one of `settle`.
        assert process["parcels"] <= 3


@pytest.mark.parametrize(("players", "envs", "trainers"), [(1, 5, 3), (3, 4, 5), (4, 1, 2)])
@pytest.mark.parametrize("share_data", [False, True])
def test_every_column_goes_to_one_trainer_or_with_share_data_to_each(
    players, envs, trainers, share_data
):
    config = SimpleNamespace(
        num_players=players, num_envs=envs, num_trainers=trainers, trainers_get_all_rows=share_data
    )
    widths = columns_of_trainers(config)
    for trainer in range(trainers):
        landed: list[int] = []
        for player in range(players):
            sent, received = exchanged_columns(config, player, trainer)
            assert sent.stop - sent.start == received.stop - received.start
            landed += range(received.start, received.stop)
        assert landed == list(range(widths[trainer].stop - widths[trainer].start))
    sizes = [columns.stop - columns.start for columns in widths]
    assert sum(sizes) == players * envs * (trainers if share_data else 1)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_trainers": 5}, "num_trainers=5 is more than the 1 x 4 environments"),
        ({"num_trainers": 2, "devices": 2}, "are 3 processes, not devices=2"),
        ({"num_trainers": 2, "per_rank_batch_size": 257}, "larger than a rollout of a trainer"),
        ({"share_data": True}, "share_data has no effect with one trainer"),
        ({"recompute_advantages": True}, "recompute_advantages is not offered with decoupled"),
        ({"precision": "bf16-mixed"}, "precision=bf16-mixed is not offered with decoupled"),
        ({"player_on_gpu": True, "accelerator": "cpu"}, "player_on_gpu has no effect"),
        ({"decoupled": False, "overlap": True}, "overlap has no effect without decoupled"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PPO.config_class(**{"decoupled": True, **settings})


def test_memory_is_refused():
    with pytest.raises(ValueError, match="decoupled is not offered with a recurrent network"):
        PPORecurrentConfig(decoupled=True)


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_agent_in_a_script_says_how_decoupled_runs_start(kind):
    with pytest.raises(ValueError, match=rf"start as python -m fastrl.{kind.algo} --decoupled"):
        kind("Pendulum-v1", preset="none", decoupled=True)
