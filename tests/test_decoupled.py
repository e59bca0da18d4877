"""Players and trainers learn what coupled ranks learn, with the same rows."""

from __future__ import annotations

import functools
from typing import Any, cast

import numpy as np
import pytest
import torch
from quick import quick
from ranks import run_ranks
from test_ranks import NUM_ENVS, SameA2C, SamePPO, arrays, learned, sized
from toy_agents import Loop, make_agent_of, tensors_of

from fastrl.a2c import A2C
from fastrl.agents.running import make_player, make_trainer
from fastrl.config.ppo import PPOConfig
from fastrl.config.ppo_recurrent import PPORecurrentConfig
from fastrl.config.sac import SACConfig
from fastrl.decoupled.channels import exchanged_columns
from fastrl.decoupled.remote import RemoteLearner
from fastrl.droq import DroQ
from fastrl.envs.pools import spaces_of
from fastrl.ppo import PPO
from fastrl.processes.devices import Devices, make_devices
from fastrl.processes.pulse import PULSE
from fastrl.sac import SAC

KINDS: dict[str, Any] = {"share_data": SamePPO, "own_data": SamePPO, "a2c": SameA2C}


def config_of(way: str, players: int, trainers: int, kind: Any, **settings: Any) -> Any:
    """Returns the settings that share the rows of one process out."""

    def make_config(env: str, preset: str, **given: Any) -> Any:
        return kind.config_class.from_dict({"env_id": env, **given})

    settings = {**sized(1, way), **settings}
    settings["num_envs"] = NUM_ENVS // players
    settings["per_rank_batch_size"] //= trainers
    if way == "share_data":
        settings["share_data"] = trainers > 1
    parts = {"decoupled": True, "num_players": players, "num_trainers": trainers}
    return make_agent_of(cast(Any, make_config), "discrete", **settings, **parts)


def play_or_train(way: str, players: int, trainers: int, kind: Any, settings: Any) -> Any:
    """Trains for some updates; what this process has then."""
    kind = kind or KINDS[way]
    config = config_of(way, players, trainers, kind, **settings)
    devices = make_devices(config)
    if not devices.is_player:
        trainer = make_trainer(kind, config, devices)
        assert trainer.serve() == 7
        return {"messages": trainer.messages.num_under_way}
    loop = Loop(make_player(kind, config, devices))
    metrics = loop.run(4)
    loop.agent.finish_pending()
    messages = loop.agent.messages.num_under_way
    loop.agent.shut_down_trainers(7)
    learned = arrays(tensors_of(loop.agent))
    return {"learned": learned, "metrics": metrics, "messages": messages}


@functools.cache
def decoupled(
    way: str, players: int, trainers: int, kind: Any = None, **settings: Any
) -> list[dict[str, Any]]:
    arguments = way, players, trainers, kind, settings
    return run_ranks(players + trainers, play_or_train, *arguments)[:players]


@pytest.mark.parametrize("way", quick(KINDS, "own_data"))
def test_one_player_and_one_trainer_learn_to_the_bit_what_one_process_learns(way):
    (one,), (player,) = learned(1, way), decoupled(way, 1, 1)
    assert player["learned"].keys() == one["learned"].keys()
    for name, expected in one["learned"].items():
        assert np.array_equal(player["learned"][name], expected), name
    for name, expected in one["metrics"].items():
        assert [metrics[name] for metrics in player["metrics"]] == expected, name


@pytest.mark.parametrize("way", quick(KINDS, "share_data"))
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", quick([PPO, A2C], PPO))
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
    compute_advantages = actor.agent.compute_advantages
    for update in range(4):
        actor.num_updates = update
        actor.collect()
        explained = compute_advantages(actor.buffer)
        learner.agent.compute_advantages = lambda rollout, explained=explained: explained
        rows = actor.buffer.sources(), learner.buffer.sources()
        for source, target in zip(*rows, strict=True):
            target.copy_(source)
        learner.buffer.host_valid.copy_(actor.buffer.host_valid)
        before = {name: x.clone() for name, x in learner.agent.policy.state_dict().items()}
        learner.update()
        actor.agent.policy.load_state_dict(before)
    return arrays({**tensors_of(actor.agent), **tensors_of(learner.agent)})


@pytest.mark.parametrize("way", quick(["own_data", "a2c"], "own_data"))
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


class PromptTrainer:
    """Stands for the messages to a trainer and from it, whose reply has its number as a loss."""

    num_replies = 0

    def send(self, *_: Any) -> None:
        pass

    send_state = send

    def flush(self) -> None:
        pass

    def receive(self, *_: Any) -> dict[str, Any]:
        self.num_replies += 1
        metrics = {"Loss/policy_loss": float(self.num_replies)}
        return {"update_seconds": 0.0, "metrics": metrics}

    def receive_state(self, process: int) -> dict[str, Any]:
        return {}


def overlapping_player() -> RemoteLearner:
    config = config_of("own_data", 1, 1, PPO, overlap=True)
    player = RemoteLearner(PPO(config.env_id, config, devices=Devices(torch.device("cpu"))))
    player.messages = cast(Any, PromptTrainer())
    return player


def test_metrics_that_came_while_pending_updates_were_finished_are_in_the_next_row():
    loop, losses = Loop(overlapping_player()), []
    for update in range(5):
        loop.collect()
        losses.append(loop.update().get("Loss/policy_loss"))
        if update == 2:
            loop.agent.finish_pending()  # before a test
            loop.agent.finish_pending()  # and before a checkpoint
    assert losses == [None, 1.0, 2.0, 3.0, 4.0]


def test_metrics_of_the_last_update_are_returned_to_be_checked():
    loop = Loop(overlapping_player())
    loop.run(3)
    assert loop.agent.finish_pending()["Loss/policy_loss"] == 3.0


@pytest.mark.parametrize("overlap", [False, True])
def test_messages_of_earlier_updates_are_let_go(overlap):
    arguments = "own_data", 1, 1, None, {"overlap": overlap}
    for process in run_ranks(2, play_or_train, *arguments):
        # Two of the last update, and one of `finish_pending`.
        assert process["messages"] <= 3


def shared_out(players: int, envs: int, trainers: int, share_data: bool) -> PPOConfig:
    sizes: Any = {"num_players": players, "num_envs": envs, "num_trainers": trainers}
    return PPOConfig(decoupled=True, share_data=share_data, **sizes)


SHARES = pytest.mark.parametrize(("players", "envs", "trainers"), [(1, 5, 3), (3, 4, 5), (4, 1, 2)])
SHARE_DATA = pytest.mark.parametrize("share_data", [False, True])


@SHARES
@SHARE_DATA
def test_every_column_goes_to_one_trainer_or_with_share_data_to_each(
    players, envs, trainers, share_data
):
    config = shared_out(players, envs, trainers, share_data)
    widths = config.columns_of_trainers()
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


@SHARES
@SHARE_DATA
def test_share_of_a_trainer_has_as_many_updates_as_the_run(players, envs, trainers, share_data):
    config = shared_out(players, envs, trainers, share_data)
    shares = [config.share_of_trainer(index) for index in range(trainers)]
    assert {share.num_updates for share in shares} == {config.num_updates}


def test_share_of_a_trainer_leaves_all_else_as_it_is():
    config = SACConfig(decoupled=True, num_players=3, num_trainers=2, total_timesteps=5_002)
    changed = {"num_envs", "num_players", "num_pools", "devices"}
    share = config.share_of_trainer(1)
    differing = {name for name, x in vars(share).items() if x != getattr(config, name)}
    assert differing <= changed
    assert share.num_envs == 3 * config.num_envs


def test_one_process_can_load_what_many_learned():
    config = shared_out(3, 2, 2, share_data=True).replace(per_rank_batch_size=384, overlap=True)
    alone = config.for_one_process()
    changed = alone.unlike_defaults().keys()
    assert changed == {"num_envs", "per_rank_batch_size"}
    assert alone.num_envs == 3 * 2


def test_agent_from_spaces_alone_has_no_environments():
    config = config_of("own_data", 1, 1, PPO)
    agent = PPO(spaces_of(config), config, devices=Devices(torch.device("cpu")))
    assert agent.envs == []
    assert agent.make_buffer().num_envs == config.num_envs


def test_agent_from_spaces_alone_needs_its_settings():
    with pytest.raises(ValueError, match="cannot train on a Spaces"):
        PPO(spaces_of(PPOConfig()))


@pytest.mark.parametrize(
    ("kind", "num_steps"), [(PPO, 10 * 4), (A2C, 4), (SAC, 14), (DroQ, 14 * 20)]
)
def test_failure_detector_hears_of_every_minibatch(kind, num_steps, monkeypatch):
    small: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "per_rank_batch_size": 4}
    small |= {"accelerator": "cpu", "engine": "eager", "total_timesteps": 100}
    if issubclass(kind, SAC):
        small["learning_starts"] = 2
    loop = Loop(kind("Pendulum-v1", preset="none", **small))
    loop.collect()
    monkeypatch.setattr(PULSE, "count", 0)
    loop.update()
    assert PULSE.count == num_steps


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
        PPOConfig(**{"decoupled": True, **settings})


def test_memory_is_refused():
    with pytest.raises(ValueError, match="decoupled is not offered with a recurrent network"):
        PPORecurrentConfig(decoupled=True)


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_agent_in_a_script_says_how_decoupled_runs_start(kind):
    with pytest.raises(ValueError, match=rf"start as python -m fastrl.{kind.algo} --decoupled"):
        kind("Pendulum-v1", preset="none", decoupled=True)
