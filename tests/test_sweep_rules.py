"""The rules of a sweep: what is searched, who is stopped, who is best, what the words mean."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import yaml

from fastrl.config.ppo import PPOConfig
from fastrl.config.search import Choices
from fastrl.runs.folder import write_config
from fastrl.sweep import confirmation, pruning
from fastrl.sweep.arguments import read
from fastrl.sweep.asking import asked_by
from fastrl.sweep.confirmation import (
    HALVED_AFTER,
    MOST_FINALISTS,
    NUM_FINALISTS,
    facts_of,
    num_seeds_that_fit,
    reserve,
    run_final,
)
from fastrl.sweep.length import length_for
from fastrl.sweep.objective import Objective
from fastrl.sweep.report import confirmation_in_words, verdict
from fastrl.sweep.request import Asked, combinations, expanded_ranges, flags_of
from fastrl.sweep.space import Numbers, Space, Words, defaults_of
from fastrl.sweep.starting import first_trials, middle_of_presets
from fastrl.sweep.trial import Trial, TrialRun, next_seed
from fastrl.sweep.trust import check_asked, settings_flag

# Who is stopped.


def test_the_best_two_fifths_go_on():
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    stopped = [
        value for value in values if pruning.is_behind(value, [x for x in values if x != value])
    ]
    assert stopped == [1, 2, 3, 4, 5, 6]


def test_where_hardly_any_has_found_anything_all_go_on():
    assert not pruning.is_behind(-200.0, [-200.0] * 50)
    assert not pruning.is_behind(-200.0, [-200.0] * 48 + [-150.0] * 2)


def test_once_three_have_found_something_the_others_are_stopped():
    assert pruning.is_behind(-200.0, [-200.0] * 47 + [-150.0] * 3)


def test_equals_of_the_best_go_on():
    assert not pruning.is_behind(500.0, [500.0] * 50 + [20.0])


def test_the_first_few_all_go_on():
    assert not pruning.is_behind(0.0, [1.0] * (pruning.FEWEST - 1))
    assert pruning.is_behind(0.0, [1.0] * pruning.FEWEST)


# What is searched.


def test_what_the_user_gives_is_not_searched():
    config = PPOConfig(total_timesteps=100_000)
    space = Space.of(config, frozenset({"gamma"}))
    assert "gamma" not in space.ranges
    assert "learning_rate" in space.ranges


def test_values_that_the_user_lists_take_the_place_of_the_range():
    space = Space.of(PPOConfig(), frozenset(), listed={"gamma": (0.9, 0.99)})
    assert space.parameters()["gamma"] == Words((0.9, 0.99))


def test_only_the_named_settings_are_searched():
    space = Space.of(PPOConfig(), frozenset(), ("gamma",))
    assert list(space.ranges) == ["gamma"]


def test_a_setting_without_a_range_needs_values():
    with pytest.raises(ValueError, match="adam_eps: it has no range"):
        Space.of(PPOConfig(), frozenset(), ("adam_eps",))


def test_powers_of_two_and_discounts_are_moved_on_their_own_scales():
    parameters = Space.of(PPOConfig(), frozenset()).parameters()
    assert parameters["log2 num_envs"] == Numbers(2, 6, False, True)
    low, high, is_log, _ = parameters["1 - gamma"]
    assert (low, high, is_log) == (pytest.approx(1e-4), pytest.approx(0.1), True)


def test_settings_come_back_from_their_parameters():
    space = Space.of(PPOConfig(), frozenset())
    settings = {**defaults_of(PPOConfig, space.ranges), "ent_coef": 0.01}
    assert space.decoded(space.encoded(settings)) == settings


def test_what_lies_outside_a_range_is_told_to_the_sampler_as_the_nearest_in_it():
    space = Space.of(PPOConfig(), frozenset(), ("ent_coef",))
    assert space.encoded({"ent_coef": 0.0}) == {"ent_coef": 1e-5}


@pytest.mark.parametrize("total", [2_000, 65_536])
def test_settings_are_cut_until_they_go_together(total):
    config = PPOConfig(total_timesteps=total, num_envs=4, num_steps=16)
    space = Space.of(config, frozenset())
    wide = {"num_envs": 64, "num_steps": 512, "per_rank_batch_size": 2048}
    fitted = space.fitted({**defaults_of(PPOConfig, space.ranges), **wide}, config)
    config.replace(**fitted)  # is accepted
    assert fitted["num_envs"] * fitted["num_steps"] <= total // 16
    assert fitted["per_rank_batch_size"] <= fitted["num_envs"] * fitted["num_steps"]


def test_a_rollout_is_cut_to_the_length_that_a_trial_has_of_its_own():
    config = PPOConfig(total_timesteps=1_000_000)
    space = Space.of(config, frozenset(), listed={"total_timesteps": (2048, 4096)})
    settings = {**defaults_of(PPOConfig, space.ranges), "total_timesteps": 2048}
    fitted = space.fitted(settings, config)
    assert fitted["num_envs"] * fitted["num_steps"] <= 128


def test_settings_of_the_layers_are_not_searched_with_a_network_of_ones_own():
    space = Space.of(PPOConfig(network=("my:make",)), frozenset())
    assert not {"hidden_sizes", "activation_function"} & space.ranges.keys()


def test_a_search_begins_with_what_presets_of_other_tasks_have_in_common():
    presets = {
        "A-v1": {"gamma": 0.9, "anneal_lr": True},
        "B-v1": {"gamma": 0.999, "anneal_lr": True},
        "C-v1": {"anneal_lr": True},
        "C-v2": {"anneal_lr": True},
        "D-v0": {"gamma": 0.5},
    }
    defaults = {"gamma": 0.99, "anneal_lr": False, "hidden_sizes": [64, 64]}
    middle = middle_of_presets(presets, defaults, "D-v3")  # what is tuned for the task is left out
    assert middle == {"gamma": 0.99, "anneal_lr": True, "hidden_sizes": [64, 64]}
    assert middle_of_presets({"A-v1": presets["A-v1"]}, defaults, "D-v3") == {}


def test_the_first_trials_keep_to_the_values_that_the_user_lists():
    base = PPOConfig(env_id="Acrobot-v1")
    space = Space.of(base, frozenset(), ("gamma",), {"gamma": (0.5, 0.6)})
    trials = first_trials("ppo", base, {}, space, False)
    assert trials == [("defaults", {"gamma": 0.5}), ("middle of presets", {"gamma": 0.5})]


# Who is best.


def trial(number: int, value: float, seconds: float = 1.0, **changes) -> Trial:
    run = TrialRun(1, "x", "complete", value, seconds, changes.pop("to_target", None))
    return Trial(number, {}, state="complete", runs=(run,), value=value, seconds=seconds)


def test_the_highest_return_is_best_and_of_equal_ones_the_fastest():
    trials = [trial(0, 10.0), trial(1, 500.0, 3.0), trial(2, 500.0, 2.0)]
    assert [x.number for x in Objective("return").ranked(trials)] == [2, 1, 0]


def test_fewest_seconds_are_best_and_who_misses_the_target_comes_last():
    trials = [trial(0, 250.0, 1.0), trial(1, 201.0, 9.0, to_target=9.0)]
    trials.append(trial(2, 200.0, 7.0, to_target=7.0))
    goal = Objective("seconds", 200.0)
    assert [x.number for x in goal.ranked(trials)] == [2, 1, 0]
    assert goal.values_of(trials[0])[0] > 1e3


def test_a_miss_is_worse_than_any_time_to_the_target():
    slow, miss = trial(0, 200.0, 1e6, to_target=1e6), trial(1, 199.9, 1.0)
    goal = Objective("seconds", 200.0)
    assert [x.number for x in goal.ranked([miss, slow])] == [0, 1]
    assert goal.values_of(miss) > goal.values_of(slow)


def test_of_the_trials_near_the_best_return_the_fastest_is_best():
    trials = [trial(0, 0.0, 1.0), trial(1, 100.0, 9.0), trial(2, 96.0, 2.0), trial(3, 90.0, 1.0)]
    goal = Objective("return-and-seconds")
    assert [x.number for x in goal.ranked(trials)] == [2, 1, 3, 0]
    assert goal.values_of(trials[1]) == [100.0, 9.0]


def test_only_intervals_that_are_apart_are_told_apart():
    sides = {"best": {"interval": [5, 9]}, "defaults": {"interval": [1, 4]}}
    assert verdict(sides, Objective("return")) == "better"
    sides["defaults"] = {"interval": [1, 6]}
    assert verdict(sides, Objective("return")) == "not told apart"
    seconds = {"best": {"seconds_interval": [5, 9]}, "defaults": {"seconds_interval": [10, 14]}}
    assert verdict(seconds, Objective("seconds", 1.0)) == "better"


def test_a_confirmation_says_the_interval_of_the_seconds_that_its_verdict_compares():
    def runs(*seconds: float | None) -> list[TrialRun]:
        return [TrialRun(1, "x", "complete", 200.0, 9.0, x) for x in seconds]

    all_reached, one_missed = facts_of(runs(3.0, 4.0, 5.0)), facts_of(runs(3.0, None))
    low, high = all_reached["seconds_interval"]
    words, others = confirmation_in_words({"best": all_reached, "preset": one_missed})
    interval = f"95 % interval {low:.1f} to {high:.1f} s"
    assert words.endswith(f"3 of 3, after 4.0 s on average, {interval}")
    assert others.endswith("1 of 2, after 3.0 s on average")


def test_the_next_seed_is_the_first_without_a_complete_run():
    runs = (TrialRun(1, state="complete"), TrialRun(2, state="running"))
    assert next_seed(Trial(0, {}, runs=runs), (1, 2, 3)) == 2


# How long.


def test_runs_are_as_long_as_the_time_allows():
    assert length_for(65_536, 40_000, 600, 2) == 8 * 65_536
    assert length_for(65_536, 10_000, 600, 2) == 2 * 65_536
    assert length_for(65_536, 0, 600, 2) == 65_536


# Who wins.


class OneAfterTheOther:
    """In place of a pool: its runs return at once what a function says."""

    num_slots = 2

    def __init__(self, monkeypatch, return_of):
        self.made = []
        self._return_of = return_of
        monkeypatch.setattr(confirmation, "measured", self._measured)

    def _measured(self, ended):
        number, seed = ended.job.of_what, ended.job.seed
        value = self._return_of(number, seed)
        if value is None:
            return TrialRun(seed, state="failed", error="it diverged")
        return TrialRun(seed, state="complete", mean_return=value, seconds=1.0)

    def work_through(self, jobs, on_end, on_tick):
        for job in jobs:
            self.made.append((job.of_what, job.seed))
            on_end(SimpleNamespace(job=job))


def final_of(pool, folder, returns, end=math.inf):
    """Runs the end of a search in which each trial had these returns with its first seeds."""
    asked = Asked("search", "ppo", (), minutes=10.0, final_seeds=tuple(range(1, 11)))
    trials = []
    for number, values in enumerate(returns):
        trial = Trial(number, {}, state="complete", folder=folder / str(number))
        for seed, value in enumerate(values, 1):
            trial = trial.with_run(TrialRun(seed, state="complete", mean_return=value, seconds=1.0))
        trials.append(trial)
    clock = SimpleNamespace(enter=str, tick=None, seconds=0.0)
    ranked = asked.goal.ranked(trials)
    found = run_final(pool, asked, lambda trial: (), ranked, clock, end, str)
    return asked.goal.ranked(found)


def test_a_trial_that_was_lucky_with_its_first_seeds_does_not_win(monkeypatch, tmp_path):
    pool = OneAfterTheOther(monkeypatch, lambda number, seed: 100.0 if number == 3 else 50.0)
    returns = [[110.0] * 3] * 3 + [[100.0] * 3] + [[90.0] * 3] * 6
    found = final_of(pool, tmp_path, returns)
    assert found[0].number == 3
    assert len(found) == NUM_FINALISTS
    assert {len(trial.complete_runs) for trial in found} == {10}
    made = Counter(number for number, _ in pool.made)
    assert (
        sorted(made.values())
        == [HALVED_AFTER - 3] * (MOST_FINALISTS - NUM_FINALISTS) + [7] * NUM_FINALISTS
    )


def test_without_time_the_best_of_those_with_the_most_seeds_wins(monkeypatch, tmp_path):
    pool = OneAfterTheOther(monkeypatch, lambda number, seed: 0.0)
    found = final_of(pool, tmp_path, [[10.0], [9.0, 9.0, 9.0], [8.0, 8.0, 8.0]], end=0.0)
    assert ([trial.number for trial in found], pool.made) == ([1, 2], [])


def test_a_finalist_is_not_best_because_it_has_one_seed_more(monkeypatch, tmp_path):
    pool = OneAfterTheOther(monkeypatch, lambda number, seed: 0.0)
    found = final_of(pool, tmp_path, [[7.0] * 6, [9.0] * 5, [8.0] * 5], end=0.0)
    assert found[0].number == 1


def test_of_some_trials_seconds_decide_as_they_do_of_all():
    trials = [trial(0, 20.0, 9.0), trial(1, 100.0, 10.0), trial(2, 98.0, 4.0), trial(3, 99.0, 5.0)]
    goal = Objective("return-and-seconds")
    assert goal.ranked(trials)[0].number == goal.ranked(trials[1:], trials[0])[0].number == 2


def test_a_finalist_that_fails_with_another_seed_is_out(monkeypatch, tmp_path):
    pool = OneAfterTheOther(monkeypatch, lambda number, seed: None if number == 0 else 1.0)
    found = final_of(pool, tmp_path, [[10.0] * 3, [1.0] * 3])
    assert [trial.number for trial in found] == [1]
    assert Trial.load(tmp_path / "0").state == "failed"


def test_the_confirmation_has_fewer_seeds_where_it_would_take_half_of_the_time():
    asked = Asked("search", "ppo", (), minutes=1.0)
    assert num_seeds_that_fit(asked, 4.0, 2) == 5
    assert num_seeds_that_fit(asked, 8.0, 2) == 3
    assert num_seeds_that_fit(asked, 600.0, 2) == 2
    assert reserve(asked, 4.0, 2) < 60 - 20


def test_the_time_of_the_finalists_is_that_of_the_runs_they_may_make():
    asked = Asked("search", "ppo", (), minutes=100.0, final_seeds=tuple(range(1, 11)))
    without = Asked("search", "ppo", (), minutes=100.0)
    more = MOST_FINALISTS * 2 + NUM_FINALISTS * 5
    assert reserve(asked, 1.0, 1) - reserve(without, 1.0, 1) == pytest.approx(1.15 * more)


# What the words mean.


def asked(*words: str) -> Asked:
    return asked_by(read(words), words)


def test_ranges_of_seeds_are_all_their_numbers():
    assert expanded_ranges(["1..3", "7"]) == ["1", "2", "3", "7"]
    with pytest.raises(ValueError, match="upwards"):
        expanded_ranges(["5..1"])


def test_lists_make_a_grid_of_their_combinations():
    grid = asked(
        *("ppo", "--learning-rate", "3e-4", "1e-3", "--hidden-sizes", "64 64", "32"),
        *("--anneal-lr", "true", "false", "--gamma", "0.98", "--seed", "1..3"),
    )
    assert (grid.kind, grid.seeds, grid.flags) == ("grid", (1, 2, 3), ("--gamma", "0.98"))
    shown = [flags_of(settings) for settings in combinations(grid.grid)]
    assert len(shown) == 8
    assert shown[1] == ["--learning-rate=0.0003", "--hidden-sizes", "64", "64", "--anneal-lr=false"]


def test_several_tasks_are_a_grid():
    grid = asked("ppo", "--env-id", "CartPole-v1", "Acrobot-v1", "--preset", "none")
    assert grid.grid == {"env_id": ["CartPole-v1", "Acrobot-v1"]}


def test_widths_that_are_not_quoted_are_one_value():
    grid = asked("ppo", "--hidden-sizes", "64", "64", "--seed", "1..2")
    assert grid.flags == ("--hidden-sizes", "64", "64")


def test_arguments_in_quotes_are_values_of_a_grid():
    words = ("--env-kwargs", "gravity=-5 ", "gravity=-10 wind=1", "--preset", "none")
    grid = asked("ppo", *words)
    assert grid.grid == {"env_kwargs": [["gravity=-5"], ["gravity=-10", "wind=1"]]}


@pytest.mark.parametrize("word", ["None", "none", "null"])
def test_none_is_a_value_of_what_may_be_none(word):
    grid = asked("ppo", "--target-kl", word, "0.01", "--preset", "none")
    assert grid.grid == {"target_kl": [None, 0.01]}
    assert flags_of(combinations(grid.grid)[0]) == ["--target-kl=None"]
    search = asked("ppo", "--target-kl", word, "0.01", "--minutes", "1", "--preset", "none")
    assert search.search["target_kl"]["values"] == [None, 0.01]


def test_without_lists_it_is_a_search_of_ten_minutes():
    search = asked("ppo", "--env-id", "Acrobot-v1", "--preset", "none")
    assert (search.kind, search.minutes, search.total_timesteps) == ("search", 10.0, None)


def test_lists_in_a_search_are_what_is_tried_and_single_values_stay():
    search = asked("ppo", "--minutes", "1", "--gamma", "0.98", "0.99", "--clip-coef", "0.1")
    assert search.search["gamma"] == Choices((0.98, 0.99)).to_dict()
    assert "clip_coef" not in search.search
    assert search.total_timesteps == 100_000  # of the preset of CartPole


def test_seconds_are_measured_one_run_at_a_time():
    search = asked("ppo", "--objective", "seconds", "--target-return", "200")
    assert search.processes == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ppo --minutes 0", "--minutes takes a number from 0.01"),
        ("ppo --minutes 1 --minutes 2", "--minutes is given twice"),
        ("ppo --objective speed", "one of return, seconds, return-and-seconds"),
        ("ppo --objective seconds", "needs --target-return"),
        ("ppo --target-return 200", "ends runs early"),
        ("ppo --eval-every 100", "--eval-every is not for sweeps"),
        ("ppo --learning-rate 1 x", "--learning-rate takes a number, not 'x'"),
        ("ppo --learning-rte 1e-3", "unknown flag --learning-rte"),
        ("ppo --seed 1 1", "names a seed twice"),
        ("ppo --minutes 1 --total-timesteps 1e5 2e5", "only --objective seconds"),
        ("ppo --minutes 1 --env-id A B", "a search is of one task"),
        ("pp0 --minutes 1", "expected one of a2c, droq"),
        ("--minutes 1", "say what to train"),
        ("ppo --search", "--search takes names"),
        ("ppo --search gamma --gamma 0.9", "its value is given"),
        ("ppo --resume x --gamma 0.9", "--gamma cannot change"),
        ("ppo --trial 3 --minutes 1", "--minutes has no effect with --trial"),
        ("ppo --per-rank-batch-size 8192 64 --preset none", "larger than a rollout"),
        (
            "ppo --env-kwargs gravity=-5 gravity=-10 --seed 1..3",
            'name each argument once; .*: --env-kwargs "gravity=-5 " "gravity=-10 "$',
        ),
        ("ppo --learning-rate None 1e-3", "--learning-rate takes a number, not 'None'"),
    ],
)
def test_mistakes_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        asked(*words.split())


# Whose words they are.


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"flags": ("--env-id", "evil:make")}, "evil:make()"),
        ({"flags": ("--env_id=evil:make",)}, "evil:make()"),
        ({"flags": ("--env-kwargs", "maker=evil:make")}, "(maker=evil:make)"),
        ({"flags": ("--agent", "evil:Agent")}, "evil:Agent()"),
        ({"flags": ("--network", "actor=evil:a", "critic=evil:b")}, "evil:a evil:b()"),
        ({"flags": ("--callback", "a:A", "--callback", "b:B")}, "a:A b:B()"),
        ({"flags": ("--lr-schedule", "evil:rate")}, "evil:rate()"),
        ({"flags": ("--config", "a\n.yaml")}, r"what 'a\n.yaml' names"),
        ({"flags": ("--preset", "a.yml", "--agent=a:A")}, "a:A() and what 'a.yml' names"),
        ({"flags": ("--resume", "run")}, "what 'run' names"),
        ({"grid": {"env_id": ["CartPole-v1", "evil:make"]}}, "CartPole-v1 evil:make()"),
        ({"grid": {"callback": [["evil:A"], ["evil:B"]]}}, "evil:A evil:B()"),
        ({"grid": {"obs_keys": [["x"], ["--callback=evil:A"]]}}, "evil:A()"),
        ({"grid": {"gamma": [0.9], "callback=evil:A": [1]}}, "evil:A=1()"),
        ({"search": {"network": Choices((("evil:a",),)).to_dict()}}, "evil:a()"),
    ],
    ids=str,
)
def test_code_that_a_sweep_of_another_user_names_is_told_and_must_be_trusted(
    tmp_path, more, wanted
):
    kind = "search" if "search" in more else "grid"
    theirs = Asked(**{"kind": kind, "algo": "ppo", "flags": (), **more})
    with pytest.raises(ValueError) as told:
        check_asked(tmp_path, theirs)
    assert str(told.value) == (
        f"{tmp_path} wants to run {wanted}, but is not signed as a sweep of yours; to allow it, "
        "pass --trust"
    )
    check_asked(tmp_path, theirs, trust=True)
    theirs.save(tmp_path)  # now it is this user's
    check_asked(tmp_path, Asked.load(tmp_path))


def test_a_sweep_of_another_user_that_names_no_code_needs_no_trust(tmp_path):
    flags = ("--env-id", "CartPole-v1", "--preset", "none", "--env-kwargs", "gravity=5")
    check_asked(tmp_path, Asked("grid", "ppo", flags, grid={"hidden_sizes": [[64, 64], [8]]}))


@pytest.fixture(scope="module")
def lists() -> Asked:
    words = ("ppo", "--gamma", "0.9", "0.99", "--target-kl", "None", "1e-5", "--seed", "1..3")
    return asked(*words)


@pytest.mark.parametrize(
    "change",
    [
        {"flags": ["--env-id", "evil:make"]},
        {"command": "python -m fastrl.sweep ppo"},
        {"grid": {"gamma": [0.9]}},
        {"signature": ""},
        {"signature": "é"},
    ],
    ids=str,
)
def test_a_sweep_is_this_users_only_as_and_where_it_was_written(tmp_path, lists, change):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    lists.save(here)
    assert Asked.load(here).is_own(here)
    assert not Asked.load(here).is_own(there)
    file = here / "sweep.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **change}))
    assert not Asked.load(here).is_own(here)


@pytest.mark.parametrize(
    "change",
    [{"algo": "evil"}, {"flags": "x"}, {"seeds": ["1"]}, {"grid": {"a": 1}}, {"grid": {1: []}}],
    ids=str,
)
def test_a_sweep_with_values_of_other_kinds_is_damaged(tmp_path, change):
    asked("ppo", "--seed", "1..3").save(tmp_path)
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **change}))
    with pytest.raises(ValueError, match="is damaged"):
        Asked.load(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"callback": ["evil:A"]},
        {"agent": "evil:Agent"},
        {"defaults": ["other.yaml"]},
        {"env_id": "evil:make"},
        {"env_kwargs": ["path=/"]},
        {"learning_rate": 0.1},
    ],
    ids=str,
)
def test_the_file_of_a_trial_sets_only_what_the_sweep_tries(tmp_path, settings):
    env_ids = Choices(("CartPole-v1", "my:make")).to_dict()
    of_search = {"env_id": env_ids, "env_kwargs": Choices((("a=1",),)).to_dict()}
    gamma = Space.of(PPOConfig(), frozenset(), ("gamma",)).ranges["gamma"].to_dict()
    search = Asked("search", "ppo", (), search={**of_search, "gamma": gamma, "agent": env_ids})
    one, file = Trial(0, {}, folder=tmp_path), tmp_path / "settings.yaml"
    write_config(file, {"env_id": "my:make", "env_kwargs": ["a=1"], "gamma": 0.5})
    assert settings_flag(search, one) == ("--config", str(file))
    write_config(file, {"env_id": "my:make", "env_kwargs": [], **settings})
    with pytest.raises(ValueError, match=f"sets {min(settings)}=.* this sweep does not try"):
        settings_flag(search, one)


def test_facts_of_several_seeds_have_an_interval():
    runs = [TrialRun(seed, "", "complete", float(seed), 1.0) for seed in range(1, 6)]
    facts = facts_of([*runs, TrialRun(9, "", "failed")])
    assert (facts["seeds"], facts["mean"], facts["iqm"], facts["worst"]) == (
        [1, 2, 3, 4, 5],
        3.0,
        3.0,
        1.0,
    )
    low, high = facts["interval"]
    assert 1 < low < 3 < high < 5
    assert facts_of(runs[:1])["interval"] is None
