"""Command lines: flags with right, odd and absurd values, twice, cut, misspelt, of other tasks."""

from __future__ import annotations

import dataclasses
import random
import shlex
import types
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fastrl.config.command import Command
from fastrl.config.describing import config_class_of
from fastrl.config.flags import SourceFlags

ALGORITHMS = ("ppo", "ppo_recurrent", "a2c", "sac", "droq")

# What a run in this process must not be given: it would start others, or write elsewhere.
OF_OTHER_PROCESSES = {
    "accelerator",
    "config",
    "decoupled",
    "devices",
    "engine",
    "log_dir",
    "num_nodes",
    "num_players",
    "num_trainers",
    "resume",
}

TASKS = shlex.split(
    "CartPole-v1 Pendulum-v1 LunarLander-v2 MountainCar-v0 FrozenLake-v1 Blackjack-v1 Taxi-v3 "
    "Acrobot-v1 CartPole-v9 cartpole no_such:Env os:system os.path:join toy_envs:CountingEnv "
    "toy_envs:NoSuch toy_envs : .. / :: json:loads builtins:print gymnasium:make Pong-v5 Humanoid"
)
ODD_TEXTS = [
    *("", " ", "-", "--", "=", "None", "null", "nan", "inf", "-inf", "1e400", "0x10", "1_000"),
    *("\u0660", "\u2028", "a" * 900, "../../x", "~nobody", "$HOME", "%s%n", "{}"),
    *("true", "no", "[1, 2]", "!!python/name:os.system x", "\x1b[31mred", "\u202egnp.exe", "\n"),
]
NUMBERS = shlex.split(
    "0 1 2 3 7 64 -1 -0 -0.0 0.5 1.0 1e3 1e-3 1e6 1e30 3e38 1e39 1e308 1e-320 2147483647 "
    "2147483648 9223372036854775807 9223372036854775808 100000000000000000000 "
    "nan inf -inf 0.1.2 1,5 5% 1/2"
)


def flag(name: str) -> str:
    """Returns the flag of a setting."""
    return "--" + name.replace("_", "-")


def kinds_of(algo: str) -> dict[str, Any]:
    """Returns the type of each flag of an algorithm."""
    config_class = config_class_of(algo)
    names = [entry.name for entry in dataclasses.fields(config_class)]
    hints = get_type_hints(config_class)
    return get_type_hints(SourceFlags) | {name: hints[name] for name in names}


def words_for(kind: Any, name: str, chance: random.Random) -> list[str]:
    """Returns the words of a value: four of five times of the right kind."""
    if chance.random() < 0.2:
        return chance.sample(ODD_TEXTS + list(NUMBERS), chance.choice([0, 1, 1, 1, 2]))
    if name == "env_id":
        return [chance.choice(TASKS)]
    if name == "env_kwargs":
        pairs = "max_episode_steps=7 max_episode_steps=abc x= =1 x=1=2 time_limit=3 seed=1 x=!!int"
        return chance.sample([*pairs.split(), "x={a: &a [*a]}", "x=[", "frame_skip=0"], 1)
    if isinstance(kind, types.UnionType):
        kind = chance.choice(get_args(kind))
        if kind is types.NoneType:
            return ["None"]
    if get_origin(kind) is Literal:
        return [chance.choice(get_args(kind))]
    if kind is bool:
        return chance.choice([[], [], ["true"], ["false"], ["yes"], ["maybe"]])
    if kind is int:
        small = ["1", "2", "4", "8", "16", "32", "64", "128", "512"]
        return [chance.choice([*small, *small, *NUMBERS])]
    if kind is float:
        usual = ["0", "0.1", "0.5", "0.9", "1", "1e-3", "10"]
        return [chance.choice([*usual, *usual, *NUMBERS])]
    if kind == tuple[int, ...]:
        return chance.choices(["8", "16", "1", *NUMBERS], k=chance.randint(0, 3))
    return [chance.choice(["a", "logs", "obs", "x=1", *ODD_TEXTS])]


def command_line(algo: str, chance: random.Random) -> list[str]:
    """Returns one to six flags of an algorithm with values, and sometimes a slip of the hand."""
    kinds = kinds_of(algo)
    words: list[str] = []
    for name in chance.sample(sorted(kinds), chance.randint(1, 6)):
        value = words_for(kinds[name], name, chance)
        spelt = flag(name)
        if kinds[name] is bool and not value and chance.random() < 0.3:
            spelt = flag(f"no_{name}")
        words += [f"{spelt}={value[0]}"] if value and chance.random() < 0.2 else [spelt, *value]
    slip = chance.random()
    if slip < 0.06:  # the same flag again
        words += chance.choice([words[:2], [words[0]]])
    elif slip < 0.1:
        words.insert(chance.randrange(len(words) + 1), chance.choice([*ODD_TEXTS, "--hepl", "-x"]))
    elif slip < 0.13:
        index = chance.randrange(len(words))
        words[index] = words[index][: chance.randint(0, len(words[index]))]
    return words


_LENGTHS = ("total_timesteps", "num_steps", "eval_episodes", "num_envs", "replay_ratio")


def line_for_a_run(algo: str, chance: random.Random, log_dir: str) -> list[str]:
    """Returns a command line that this process may run, tiny unless its flags say otherwise."""
    sizes = {"preset": "none", "accelerator": "cpu", "engine": "eager", "log_dir": log_dir}
    sizes |= {"num_envs": "2", "eval_episodes": "1", "total_timesteps": "64", "hidden_sizes": "8"}
    sizes |= {"num_steps": "1", "learning_starts": "8", "per_rank_batch_size": "8"}
    sizes |= {"buffer_size": "100", "replay_ratio": "0.5"}
    if algo not in ("sac", "droq"):
        sizes |= {"num_steps": "16", "update_epochs": "1"}
    kinds = kinds_of(algo)
    words: list[str] = []
    names = sorted(kinds.keys() - OF_OTHER_PROCESSES)
    for name in chance.sample(names, chance.randint(1, 4)):
        value = words_for(kinds[name], name, chance)
        if name in _LENGTHS:
            value = [chance.choice(["1", "2", "4", "32", "0", "-1", "x"])]  # seconds, not hours
        words += [flag(name), *value]
        sizes.pop(name, None)
    for name, value in sizes.items():
        if name in kinds:
            words += [flag(name), value]
    return words


# Settings without effect, each with when: a line that sets one must be refused.
_WITHOUT_EFFECT: dict[str, Callable[[Any], bool]] = {
    "rank_timeout": lambda config: config.devices * config.num_nodes == 1,
    "eval_every": lambda config: config.eval_episodes == 0,
    "keep_checkpoints": lambda config: config.checkpoint_every == 0,
    "num_env_threads": lambda config: config.backend == "gymnasium",
    "num_pools": lambda config: config.backend == "gymnasium",
    "alpha_lr": lambda config: not config.tune_alpha,
    "target_entropy": lambda config: not config.tune_alpha,
    "anneal_ent_coef": lambda config: config.ent_coef == 0,
    "anneal_lr": lambda config: config.learning_rate == 0,
    "ent_schedule": lambda config: config.ent_coef == 0,
    "lr_schedule": lambda config: getattr(config, "learning_rate", 1) == 0,
    "rmsprop_decay": lambda config: config.optimizer == "adam",
    "num_players": lambda config: not config.decoupled,
    "num_trainers": lambda config: not config.decoupled,
    "overlap": lambda config: not config.decoupled,
    "player_on_gpu": lambda config: not config.decoupled,
    "capture_video": lambda config: config.eval_episodes == 0,
    "clip_vloss": lambda config: config.vf_coef == 0,
    "vf_clip_coef": lambda config: not config.clip_vloss,
    "vf_clip_rule": lambda config: not config.clip_vloss,
    "kl_stop": lambda config: config.target_kl is None,
    "critic_hidden_sizes": lambda config: config.shared_network,
}


def dropped(words: list[str], command: Command) -> str:
    """Returns which flag of an accepted line is without effect, or "".

    A flag at its default value says nothing, whatever it would do, and 0 switches off what is off.
    """
    flags = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
    named = [one.removeprefix("--no-").removeprefix("--") for one in flags]
    twice = sorted({one for one in named if named.count(one) > 1} - {"config"})
    if twice:
        return f"accepts a flag given twice: '--{twice[0]}'"
    for name in command.explicit:
        is_dead = _WITHOUT_EFFECT.get(name)
        default = getattr(type(command.config)(), name)
        value = getattr(command.config, name)
        if value != command.explicit[name] and value == value:
            return f"{flag(name)} is {command.explicit[name]!r}, the config has {value!r}"
        if is_dead and is_dead(command.config) and value not in (0, default):
            return f"accepts {flag(name)}, which is without effect here"
    if "--env-kwargs" in words and not command.config.env_kwargs:
        return "accepts --env-kwargs without a value"
    return ""
