"""Learning rate, clip and entropy coefficient follow their schedules, in every way to give one."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from quick import quick
from ranks import run_ranks
from test_decoupled import decoupled
from test_ranks import learn
from test_resume import (
    StopAfter,
    agent_for,
    assert_equal,
    last_state,
    metrics_of,
    stopped_and_resumed,
)
from toy_agents import make_a2c, make_agent, make_recurrent, run

import fastrl
from fastrl import PPO, SAC, AgentTrainer, cli
from fastrl.config.ppo import PPOConfig
from fastrl.config.schedules import name_of, read_schedule, value_at
from fastrl.ops.schedules import adapted_to_kl, factor, progress_of

STATEFUL = "toy_envs:StatefulEnv"


def quartered(progress: float) -> float:
    """A schedule that a name leads to."""
    return 0.25


def series(agent: Any, name: str, num_updates: int = 4) -> list[float]:
    return [metrics[f"Info/{name}"] for metrics in run(agent, num_updates)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("linear,floor=0.2", [1, 0.8, 0.6, 0.4]),
        ("cosine", [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ("cosine,floor=0.5", [1, 0.75 + 0.25 * 0.5**0.5, 0.75, 0.75 - 0.25 * 0.5**0.5]),
        ("constant,warmup=0.5", [0.1, 0.55, 1, 1]),
        ("linear,floor=0.2,warmup=0.5", [0.1, 0.55, 1, 0.6]),
    ],
)
def test_factors_are_those_worked_out_by_hand(text: str, expected: list[float]) -> None:
    schedule = read_schedule(text)
    assert callable(schedule)
    assert [schedule(update / 4) for update in range(4)] == pytest.approx(expected)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_a_schedule_rises_without_a_jump_and_then_falls_to_its_floor(shape, warmup) -> None:
    factors = [factor(shape, step / 1000, 0.1, warmup) for step in range(1001)]
    peak = round(1000 * warmup)
    assert factors[peak] == pytest.approx(1) and factors[-1] == pytest.approx(0.1)
    assert all(a < b for a, b in itertools.pairwise(factors[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(factors[peak:]))
    assert max(abs(a - b) for a, b in itertools.pairwise(factors)) < 0.01


@pytest.mark.parametrize("make", [make_agent, make_a2c, make_recurrent])
def test_on_policy_algorithms_follow_their_schedules(make) -> None:
    settings: dict[str, Any] = {"learning_rate": 0.4, "lr_schedule": "linear,floor=0.5"}
    settings |= {"ent_coef": 0.04, "ent_schedule": "cosine", "total_timesteps": 16 * 4 * 4}
    ents = [0.04 * (1 + math.cos(math.pi * update / 4)) / 2 for update in range(4)]
    metrics = run(make(**settings), 4)
    assert [x["Info/learning_rate"] for x in metrics] == pytest.approx([0.4, 0.35, 0.3, 0.25])
    assert [x["Info/ent_coef"] for x in metrics] == pytest.approx(ents)
    if make is not make_a2c:
        agent = make(**settings, clip_coef=0.2, clip_schedule="linear,floor=0.5")
        assert series(agent, "clip_coef") == pytest.approx([0.2, 0.175, 0.15, 0.125])


def test_sac_multiplies_all_three_learning_rates() -> None:
    settings: dict[str, Any] = {"policy_lr": 0.4, "q_lr": 0.2, "alpha_lr": 0.1}
    agent = SAC("Pendulum-v1", preset="none", **settings, lr_schedule="linear,floor=0.5")
    agent.anneal(agent.num_updates // 2)
    optimizers = agent.actor_optimizer, agent.critic_optimizer, agent.alpha_optimizer
    assert [float(x.learning_rate) for x in optimizers] == pytest.approx([0.3, 0.15, 0.075])


def test_sac_follows_its_schedule_in_a_run(tmp_path: Path) -> None:
    words = "--env-id Pendulum-v1 --preset none --total-timesteps 400 --learning-starts 100"
    words += " --log-every 100 --hidden-sizes 8 --eval-episodes 0 --policy-lr 0.001"
    words += " --engine eager --per-rank-batch-size 16 --replay-ratio 0.25"
    words += f" --lr-schedule linear --log-dir {tmp_path}"
    assert cli.main("sac", words.split()) == 0
    (folder,) = tmp_path.glob("*/*/*")
    rates = [row["Info/learning_rate"] for row in metrics_of(folder) if row["Info/learning_rate"]]
    # The last of 100 updates of 4 steps each, before rows at 200, 300 and 400 steps.
    last = [1 - update / 100 for update in (49, 74, 99)]
    assert [float(x) for x in rates][-3:] == pytest.approx([1e-3 * x for x in last])


@pytest.mark.parametrize("engine", quick(["recorded", "auto"], "auto"))
def test_no_engine_is_rebuilt_or_left_and_numbers_are_those_of_eager(engine: str) -> None:
    settings: dict[str, Any] = {"lr_schedule": "cosine,warmup=0.4", "clip_schedule": "linear"}
    settings |= {"ent_coef": 0.01, "ent_schedule": lambda progress: (1 - progress) ** 2}
    plain, fast = (make_agent(engine=name, **settings) for name in ("eager", engine))
    run(plain), run(fast)
    assert fast.engine._built and all(built.fast is not None for built in fast.engine._built)
    ours, theirs = fast.optimizer.flat, plain.optimizer.flat
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5)
    moved = make_agent(engine="eager")
    run(moved)
    assert (moved.optimizer.flat - theirs).abs().max() > 1e-3  # so that the schedules count


def test_an_update_by_hand_beyond_the_last_has_the_progress_of_the_last() -> None:
    assert [progress_of(update, 4) for update in range(6)] == [0, 0.25, 0.5, 0.75, 0.75, 0.75]


def test_any_function_of_progress_is_a_factor() -> None:
    seen: list[float] = []

    def squared(progress: float) -> float:
        seen.append(progress)
        return (1 - progress) ** 2

    agent = make_agent(learning_rate=0.4, lr_schedule=squared, total_timesteps=16 * 4 * 4)
    assert series(agent, "learning_rate") == pytest.approx([0.4, 0.225, 0.1, 0.025])
    assert sorted(set(seen)) == [0, 0.25, 0.5, 0.75]


def test_a_function_that_raises_is_named_by_its_setting() -> None:
    with pytest.raises(ValueError, match="lr_schedule raised ZeroDivisionError at progress 0: div"):
        make_agent(lr_schedule=lambda progress: 1 / 0).make_buffer()
    with pytest.raises(ValueError, match="lr_schedule raised TypeError at progress 0: "):
        make_agent(lr_schedule=lambda: 1.0).make_buffer()


def test_an_array_of_numbers_is_no_factor() -> None:
    with pytest.raises(
        ValueError, match=r"lr_schedule gave array\(\[0.5\]\) at progress 0; it must"
    ):
        make_agent(lr_schedule=lambda progress: np.array([0.5])).make_buffer()


@pytest.mark.parametrize("value", [math.nan, -1.0, math.inf, "x", None])
def test_a_function_that_gives_no_such_factor_is_refused_before_the_run(value: Any) -> None:
    with pytest.raises(ValueError, match=f"lr_schedule gave {value!r} at progress 0; it must"):
        make_agent(lr_schedule=lambda progress: value).make_buffer()


def test_a_clip_coefficient_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"clip_schedule gave 0 at progress 0; .* above 0"):
        make_agent(clip_schedule=lambda progress: 0).make_buffer()


def test_a_function_for_a_number_is_answered_with_its_setting() -> None:
    with pytest.raises(ValueError, match="a function of progress belongs in lr_schedule, as a fac"):
        make_agent(learning_rate=lambda remaining: 3e-4 * remaining)


# What is saved of functions


def test_a_function_is_saved_by_a_name_if_one_leads_to_it() -> None:
    assert name_of(quartered) == f"{__name__}:quartered"
    assert name_of(lambda progress: 1.0) == name_of(functools.partial(quartered)) == "python"
    config = PPOConfig(lr_schedule=quartered)  # pyright: ignore[reportArgumentType]
    assert config.to_dict()["lr_schedule"] == f"{__name__}:quartered"
    assert config.replace(num_envs=2).lr_schedule is quartered
    again = PPOConfig.from_dict(config.to_dict())
    assert value_at(again, "learning_rate", 0.5) == again.learning_rate / 4


def test_a_named_function_comes_from_the_command_line_and_resumes_there(tmp_path, capsys) -> None:
    words = f"--env-id {STATEFUL} --preset none --num-envs 4 --num-steps 16 --update-epochs 2"
    words += f" --eval-episodes 0 --total-timesteps 128 --log-dir {tmp_path} --accelerator cpu"
    words += " --engine eager"
    assert cli.main("ppo", [*words.split(), "--lr-schedule", f"{__name__}:quartered"]) == 0
    (folder,) = tmp_path.glob("*/*/*")
    assert cli.main("ppo", ["--resume", str(folder), "--total-timesteps", "256"]) == 0
    rates = [float(row["Info/learning_rate"]) for row in metrics_of(folder)]
    assert rates == pytest.approx([2.5e-4] * 4)


def test_a_module_that_exits_as_it_is_imported_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "exits.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--preset", "none", "--log-dir", str(tmp_path / "logs"), "--lr-schedule", "exits:f"]
    assert cli.main("ppo", words) == 2
    assert "lr_schedule=exits:f: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["no_such_module:f", f"{__name__}:no_such_function"])
def test_a_name_that_leads_nowhere_is_one_line(name: str, tmp_path: Path, capsys) -> None:
    words = ["--preset", "none", "--log-dir", str(tmp_path), "--lr-schedule", name]
    assert cli.main("ppo", words) == 2
    assert f"lr_schedule={name}: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_of_a_nameless_function_goes_on_from_python_alone(tmp_path, capsys) -> None:
    def quadratic(progress: float) -> float:
        return (1 - progress) ** 2

    settings = {"lr_schedule": quadratic, "anneal_lr": False, "engine": "eager"}
    straight = AgentTrainer().fit(agent_for(STATEFUL, tmp_path, **settings)).folder
    resumed = stopped_and_resumed(lambda: STATEFUL, tmp_path, **settings)
    assert_equal(last_state(resumed), last_state(straight))
    assert metrics_of(resumed) == metrics_of(straight)
    assert yaml.safe_load((resumed / "config.yaml").read_text())["lr_schedule"] == "python"
    capsys.readouterr()
    assert cli.main("ppo", ["--resume", str(resumed), "--total-timesteps", "9999"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lr_schedule of this run is a function of Python's that no name leads to" in line
    loaded = fastrl.load(resumed)
    loaded.predict(loaded.observation_space.sample())  # which needs no schedule
    with pytest.raises(ValueError, match="give it again from Python: lr_schedule="):
        loaded.learn(64)
    again = PPO.load(resumed, lr_schedule=quadratic)
    again.make_buffer()
    again.anneal(4)
    assert float(again.optimizer.learning_rate) == pytest.approx(1e-3 / 4)


def test_a_function_that_a_file_from_elsewhere_names_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    agent = make_agent("box", lr_schedule="theirs:f")
    agent.save(tmp_path / "agent.pt")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of another user"))
    with pytest.raises(ValueError, match=r"wants to run .*theirs:f.*name it again .*lr_schedule="):
        PPO.load(tmp_path / "agent.pt", "toy_agents:BoxWalk")
    assert "theirs" not in sys.modules
    PPO.load(tmp_path / "agent.pt", "toy_agents:BoxWalk", lr_schedule="linear")


# Where settings come from


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--anneal-lr --lr-schedule cosine", "anneal_lr is short for lr_schedule=linear, which"),
        ("--lr-schedule square", "lr_schedule must be constant, linear, cosine or adaptive"),
        ("--lr-schedule linear,low=1", "linear takes floor, warmup, from 0 to below 1, not 'low="),
        ("--lr-schedule linear,floor=1", "from 0 to below 1, not 'floor=1'"),
        ("--lr-schedule constant,floor=0.1", "floor has no effect on constant"),
        ("--lr-schedule adaptive,floor=0.1", "adaptive takes kl, low, high, above 0, not 'floor"),
        ("--lr-schedule adaptive,low=1,high=0.1", "adaptive needs kl above 0 and 0 < low < high"),
        ("--lr-schedule adaptive --learning-rate 0.5", "learning_rate=0.5 is not between the low"),
        (
            "--lr-schedule adaptive --update-epochs 1 --per-rank-batch-size 512",
            "has no effect here",
        ),
        ("--clip-schedule adaptive", "clip_schedule=adaptive has no effect here"),
        ("--ent-schedule linear", "ent_schedule has no effect while ent_coef is 0"),
        ("--lr-schedule linear --learning-rate 0", "lr_schedule has no effect while learning_rate"),
        ("--lr-schedule python", "lr_schedule of this run is a function of Python's"),
    ],
)
def test_what_contradicts_or_has_no_effect_is_one_line(words: str, message: str, capsys) -> None:
    assert cli.main("ppo", ["--preset", "none", *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


SHORT_NAMES = [
    ("lr_schedule", "anneal_lr"),
    ("clip_schedule", "anneal_clip_coef"),
    ("ent_schedule", "anneal_ent_coef"),
]
UNLIKE = [("constant", True), ("cosine", True), ("linear", False)]
ENT: dict[str, Any] = {"ent_coef": 0.1}


@pytest.mark.parametrize(("setting", "short"), SHORT_NAMES)
@pytest.mark.parametrize(("schedule", "is_linear"), UNLIKE)
@pytest.mark.parametrize("rest", [[], ["--env-id", "LunarLander-v2"]])
def test_flags_that_contradict_each_other_are_one_line(
    setting, short, schedule, is_linear, rest, capsys
) -> None:
    flags = [f"--{short.replace('_', '-')}={is_linear}", f"--{setting.replace('_', '-')}"]
    assert cli.main("ppo", [*flags, schedule, *rest, "--ent-coef", "0.1", "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    given = f"{setting}={schedule}"
    told = f"{short} is short for {setting}=linear, which {given} contradicts"
    told = told if is_linear else f"{short}=false contradicts {given}"
    assert line == f"error: {told}; give one of them"


@pytest.mark.parametrize(("setting", "short"), SHORT_NAMES)
@pytest.mark.parametrize(("schedule", "is_linear"), UNLIKE)
def test_arguments_that_contradict_each_other_are_refused(
    setting, short, schedule, is_linear, tmp_path
) -> None:
    both = {setting: schedule, short: is_linear}
    with pytest.raises(ValueError, match=f"{short}.* contradicts.*; give one of them"):
        PPO("CartPole-v1", preset="none", **ENT, **both)
    make_agent("box", **ENT).save(tmp_path / "agent.pt")
    with pytest.raises(ValueError, match=f"{short}.* contradicts.*; give one of them"):
        PPO.load(tmp_path / "agent.pt", "toy_agents:BoxWalk", **both)


def test_flags_that_agree_are_taken() -> None:
    words = "--preset none --anneal-lr --lr-schedule linear --no-anneal-clip-coef --clip-schedule"
    config = cli.parse("ppo", [*words.split(), "constant"]).config
    assert value_at(config, "learning_rate", 0.5) == config.learning_rate / 2
    assert value_at(config, "clip_coef", 0.5) == config.clip_coef


def test_all_settings_together_say_what_they_say(tmp_path: Path, capsys) -> None:
    whole = PPOConfig(anneal_lr=True).to_dict()
    assert whole["lr_schedule"] == "constant"
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole))
    words = ["--preset", "none", "--config", str(tmp_path / "whole.yaml")]
    assert cli.parse("ppo", words).config.to_dict() == whole
    assert cli.main("ppo", [*words, "--print-config"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    words[-1] = str(tmp_path / "printed.yaml")
    assert cli.parse("ppo", words).config.to_dict() == whole
    model = PPO(whole.pop("env_id"), preset="none", **whole)
    assert value_at(model.config, "learning_rate", 0.5) == model.config.learning_rate / 2


def test_adaptive_is_refused_where_nothing_measures_a_divergence(capsys) -> None:
    assert cli.main("a2c", ["--lr-schedule", "adaptive"]) == 2
    assert "it is for PPO's learning rate" in capsys.readouterr().err
    assert cli.main("sac", ["--lr-schedule", "adaptive"]) == 2


def test_a_schedule_of_the_user_overrides_that_of_the_preset_by_either_name(tmp_path) -> None:
    argv = ["--env-id", "LunarLander-v2"]
    assert cli.parse("ppo", argv).config.anneal_lr  # or it proves nothing
    config = cli.parse("ppo", [*argv, "--lr-schedule", "cosine"]).config
    assert (config.lr_schedule, config.anneal_lr) == ("cosine", False)
    (tmp_path / "mine.yaml").write_text("lr_schedule: cosine\n")
    file = ["--config", str(tmp_path / "mine.yaml")]
    config = cli.parse("ppo", [*argv, *file, "--anneal-lr"]).config
    assert (config.lr_schedule, config.anneal_lr) == ("constant", True)
    config = cli.parse("ppo", [*argv, *file, "--no-anneal-lr"]).config
    assert (config.lr_schedule, config.anneal_lr) == ("constant", False)
    model = PPO("CartPole-v1", lr_schedule="constant")
    assert not model.config.anneal_lr


@pytest.mark.parametrize(
    ("saved", "given", "half"),
    [
        ({"anneal_lr": True}, {"lr_schedule": "constant"}, 1.0),
        ({"anneal_lr": True}, {"lr_schedule": "linear,floor=0.5"}, 0.75),
        ({"lr_schedule": "linear,floor=0.5"}, {"anneal_lr": True}, 0.5),
        ({"lr_schedule": "linear"}, {"anneal_lr": False}, 1.0),
        ({"anneal_lr": True}, {}, 0.5),
    ],
)
def test_a_schedule_given_to_load_overrides_that_of_the_agent(saved, given, half, tmp_path) -> None:
    make_agent("box", **saved).save(tmp_path / "agent.pt")
    config = PPO.load(tmp_path / "agent.pt", "toy_agents:BoxWalk", **given).config
    assert value_at(config, "learning_rate", 0.5) == pytest.approx(half * config.learning_rate)


def test_annealing_by_its_short_name_is_linear_to_the_bit() -> None:
    settings = {"ent_coef": 0.1}
    short = make_agent(anneal_lr=True, anneal_clip_coef=True, anneal_ent_coef=True, **settings)
    schedules = dict.fromkeys(("lr_schedule", "clip_schedule", "ent_schedule"), "linear")
    long = make_agent(**schedules, **settings)
    run(short), run(long)
    assert torch.equal(short.optimizer.flat, long.optimizer.flat)


# The adaptive learning rate


def test_adaptive_learning_rate_follows_the_rule_of_rsl_rl_and_rl_games() -> None:
    rule = functools.partial(adapted_to_kl, target=0.01, low=1e-4, high=1e-2)
    assert rule(3e-3, 0.021) == pytest.approx(2e-3)
    assert rule(2e-3, 0.0049) == pytest.approx(3e-3)
    assert rule(2e-3, 0.02) == rule(2e-3, 0.005) == 2e-3
    assert rule(1.2e-4, 1.0) == 1e-4 and rule(9e-3, 0.0) == 1e-2


class Observed(PPO):
    """Notes each epoch's KL, and the learning rate before and after."""

    def follow_kl(self, kl: float) -> bool:
        before = float(self.optimizer.learning_rate)
        stops = super().follow_kl(kl)
        self.__dict__.setdefault("seen", []).append((before, kl, self.optimizer.learning_rate * 1))
        return stops


def test_adaptive_learning_rate_moves_with_the_mean_divergence_of_each_epoch() -> None:
    small: dict[str, Any] = {"num_envs": 4, "num_steps": 16, "per_rank_batch_size": 24}
    small |= {"hidden_sizes": (8, 8), "accelerator": "cpu", "eval_episodes": 0, "preset": "none"}
    small |= {"learning_rate": 1e-3, "update_epochs": 4, "total_timesteps": 640}
    agent = Observed("toy_agents:BoxWalk", lr_schedule="adaptive,kl=0.004,high=0.1", **small)
    metrics = run(agent, 10)
    seen = agent.__dict__["seen"]
    for before, kl, after in seen:
        scale = 1 / 1.5 if kl > 0.008 else 1.5 if kl < 0.002 else 1
        assert float(after) == pytest.approx(before * scale)
    rates = [float(after) for *_, after in seen]
    assert any(b > a for a, b in itertools.pairwise(rates))
    assert any(b < a for a, b in itertools.pairwise(rates))
    assert rates[3::4] == pytest.approx([x["Info/learning_rate"] for x in metrics])
    kls = [sum(kl for _, kl, _ in seen[i : i + 4]) / 4 for i in range(0, 40, 4)]
    assert kls == pytest.approx([x["Info/approx_kl"] for x in metrics], rel=1e-3)


def test_minibatch_before_any_step_of_an_update_does_not_raise_the_adaptive_rate() -> None:
    small: dict[str, Any] = {"num_envs": 4, "num_steps": 16, "per_rank_batch_size": 64}
    small |= {"hidden_sizes": (8, 8), "accelerator": "cpu", "eval_episodes": 0, "preset": "none"}
    small |= {"update_epochs": 3, "total_timesteps": 640}
    agent = Observed("toy_agents:BoxWalk", lr_schedule="adaptive,kl=0.004,high=0.1", **small)
    run(agent, 10)
    seen = agent.__dict__["seen"]
    assert len(seen) == 20 and all(kl > 0 for _, kl, _ in seen)


@pytest.mark.parametrize("engine", quick(["eager", "auto"], "auto"))
def test_adaptive_learning_rate_is_resumed_to_the_bit(tmp_path: Path, engine: str) -> None:
    settings = {"lr_schedule": "adaptive,kl=0.001", "anneal_lr": False, "engine": engine}
    straight = AgentTrainer().fit(agent_for(STATEFUL, tmp_path, **settings)).folder
    rates = [row["Info/learning_rate"] for row in metrics_of(straight)]
    assert len(set(rates)) > 2
    resumed = stopped_and_resumed(lambda: STATEFUL, tmp_path, **settings)
    assert_equal(last_state(resumed), last_state(straight))
    assert metrics_of(resumed) == metrics_of(straight)


def test_learning_anew_begins_with_the_learning_rate_of_the_settings(tmp_path: Path) -> None:
    settings = {"lr_schedule": "adaptive,kl=0.001", "anneal_lr": False, "engine": "eager"}
    agent = agent_for(STATEFUL, tmp_path, StopAfter, **settings)
    AgentTrainer(on_interrupt="return").fit(agent)
    assert float(agent.optimizer.learning_rate) != pytest.approx(1e-3)
    loaded = PPO.load(agent.result.folder if agent.result else next(tmp_path.glob("*/*/*")))
    assert float(loaded.optimizer.learning_rate) == float(agent.optimizer.learning_rate)
    loaded.anneal(0)
    assert float(loaded.optimizer.learning_rate) == pytest.approx(1e-3)


ADAPTIVE: dict[str, Any] = {"anneal_lr": False, "lr_schedule": "adaptive,kl=0.002,high=0.1"}


@pytest.mark.slow
def test_ranks_and_trainers_adapt_as_one_process_does() -> None:
    one = learn(1, "own_data", **ADAPTIVE)["metrics"]["Info/learning_rate"]
    assert len(set(one)) > 1
    ranks = run_ranks(2, functools.partial(learn, 2, "own_data", **ADAPTIVE))
    for rank in ranks:
        assert rank["metrics"]["Info/learning_rate"] == pytest.approx(one)
    assert ranks[0]["learning_rate"] == ranks[1]["learning_rate"]  # to the bit
    (player,) = decoupled("own_data", 1, 2, **ADAPTIVE)
    assert [x["Info/learning_rate"] for x in player["metrics"]] == pytest.approx(one)
