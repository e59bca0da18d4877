"""What every algorithm's run is told: the task, the devices, the length, what is written down."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, Self, get_type_hints

from fastrl.config.values import as_kind, read_value

# What other libraries call settings, and ours that mean the same; which of them there are depends
# on the algorithm.
OTHER_NAMES = {
    "batch_size": ("per_rank_batch_size",),
    "compile": ("engine",),
    "clip_range": ("clip_coef",),
    "device": ("accelerator", "devices"),
    "env": ("env_id",),
    "env_name": ("env_id",),
    "epochs": ("update_epochs",),
    "eval_freq": ("eval_every",),
    "learning_rate": ("learning_rate", "policy_lr", "q_lr"),
    "lr": ("learning_rate", "policy_lr", "q_lr"),
    "minibatch_size": ("per_rank_batch_size",),
    "n_envs": ("num_envs",),
    "n_epochs": ("update_epochs",),
    "n_steps": ("num_steps",),
    "n_timesteps": ("total_timesteps",),
    "net_arch": ("hidden_sizes",),
    "num_epochs": ("update_epochs",),
    "rollout_steps": ("num_steps",),
    "total_steps": ("total_timesteps",),
    "utd_ratio": ("replay_ratio",),
}

_ENGINE_OF_COMPILE = {"off": "eager", False: "eager", "on": "compile", True: "compile"}
_STEPS = ("total_timesteps", "eval_every", "checkpoint_every", "log_every", "learning_starts")
_MOST_THREADS = 1024
_MOST_EPISODES = 1_000_000
_MOST_FRAMES = 1000


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings that all algorithms share.

    Steps are environment steps, summed over all environments of all ranks.

    Raises:
        ValueError: a setting is out of range, or has no effect together with the others.
    """

    env_id: str = "CartPole-v1"
    """Task: an EnvPool or gymnasium id, or module:callable that returns a gymnasium.Env."""
    exp_name: str = "default"
    """Label of the run, part of its folder's name."""
    seed: int = 42
    """Seed of the environments, the weights, the action noise and the shuffles."""
    total_timesteps: int = 65_536
    """Environment steps to train for; an incomplete last rollout is dropped."""

    backend: Literal["auto", "envpool", "gymnasium"] = "auto"
    """Who steps the environments; auto takes EnvPool where it has the task."""
    num_envs: int = 4
    """Environments stepped side by side, per rank."""
    num_pools: int = 0
    """1: all environments in step. 2: two halves in turn, one steps while the policy acts on the
    other. 0: halves of 32 or more in EnvPool for a policy on a GPU, and on two cores or more for
    physics (MuJoCo, Box2D); else one."""
    num_env_threads: int = 0
    """Threads that step EnvPool's environments, shared out among halves; 0: for each half as many
    as this process may use cores."""
    mask_vel: bool = False
    """Hide the velocities in the observation (classic control and LunarLander), so that the task
    needs memory."""
    env_kwargs: tuple[str, ...] = ()
    """Settings of the environment itself, as name=value; from Python and YAML a mapping will do."""
    obs_keys: tuple[str, ...] = ()
    """Which keys of a Dict observation to take; all if none are named. Inner keys: outer.inner."""
    frame_stack: int = 1
    """Show the last so many observations at once. EnvPool's Atari stacks four by itself."""
    info_action_mask: bool = False
    """Never draw actions that the environment's info["action_mask"] forbids. A key action_mask in a
    Dict observation counts by itself."""

    accelerator: Literal["auto", "cpu", "cuda", "gpu"] = "auto"
    """Device to train on, as Lightning Fabric names it; auto takes a GPU if there is one. --cuda is
    short for --accelerator cuda."""
    devices: int = 1
    """Ranks to train with on each machine: processes with one device each. They start by
    themselves; torchrun, fabric run and SLURM may start them too. What is said to be per rank grows
    with their number."""
    num_nodes: int = 1
    """Machines to train on."""
    strategy: Literal["auto", "ddp"] = "auto"
    """Fabric's strategy: equal ranks that average gradients."""
    rank_timeout: float = 7.0
    """Seconds after which a rank that gets no step done ends the run; 0 lets it hang."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Number format of the forward and backward passes."""
    num_threads: int = 0
    """Threads of one update on the CPU; 0: one, or for large minibatches the cores this process may
    use. Acting always uses one."""
    engine: Literal["auto", "native", "recorded", "compile", "eager"] = "auto"
    """How acting, advantages and updates run. eager: plain PyTorch. recorded: one run of them as a
    static graph, replayed; the numbers of eager to the bit. native: with networks and loss in the
    C++ kernels. compile: through torch.compile, after some seconds or minutes of compiling. auto:
    native where the kernels compute the same, else recorded."""
    torch_deterministic: bool = False
    """Refuse every torch operation that has no deterministic form."""

    eval_every: int = 250_000
    """Steps between greedy tests during training; 0 switches them off."""
    eval_episodes: int = 100
    """Episodes of a greedy test, during and after training; 0 switches both off."""
    target_return: float | None = None
    """End the run once the mean return of the last 100 training episodes reaches this."""
    checkpoint_every: int = 250_000
    """Steps between periodic checkpoints; 0 keeps only the best and the last."""
    keep_checkpoints: int = 3
    """Periodic checkpoints that are kept."""
    capture_video: bool = False
    """Record a greedy episode (mp4 and GIF) at each test and after training."""
    log_dir: str = "logs"
    """Folder that holds the run folders."""

    def __post_init__(self) -> None:
        """Checks what holds for every algorithm; algorithms add their own."""
        for name, value in vars(self).items():
            for item in value if isinstance(value, tuple) else (value,):
                _check_magnitude(name, item)
        in_range(self, 0, _MOST_THREADS, "num_env_threads", "num_threads")
        in_range(self, 0, _MOST_EPISODES, "eval_episodes")
        at_least(self, 1, "num_envs", "devices", "num_nodes", "total_timesteps", "keep_checkpoints")
        in_range(self, 1, _MOST_FRAMES, "frame_stack")
        for setting in self.env_kwargs:
            name, equals, value = setting.partition("=")
            if not name.isidentifier() or not equals:
                raise ValueError(f"env_kwargs are written name=value, not {setting!r}")
            try:
                read_value(value)
            except ValueError as error:
                raise ValueError(f"env_kwargs: of {name}, {error}") from error
        at_least(self, 0, "seed", "eval_every", "checkpoint_every", "rank_timeout")
        one_of(self, "strategy", "auto", "ddp")
        one_of(self, "num_pools", 0, 1, 2)
        one_of(self, "backend", "auto", "envpool", "gymnasium")
        one_of(self, "accelerator", "auto", "cpu", "cuda", "gpu")
        one_of(self, "precision", "32-true", "bf16-mixed")
        one_of(self, "engine", "auto", "native", "recorded", "compile", "eager")
        if not self.env_id:
            raise ValueError("env_id is empty; name a task, for example LunarLander-v2")
        if self.num_pools == 2 and self.num_envs % 2:
            raise ValueError(
                f"num_pools=2 halves the environments: num_envs must be even, not {self.num_envs}"
            )
        if self.capture_video and not self.eval_episodes:
            raise ValueError(
                "capture_video records greedy tests, and eval_episodes=0 switches them off"
            )

    def per_rank_sizes(self) -> dict[str, str]:
        """Returns the settings that each rank has as many of, and what they count."""
        names = {"num_envs": "environments", "per_rank_batch_size": "rows a minibatch"}
        return {name: words for name, words in names.items() if hasattr(self, name)}

    def global_sizes(self) -> str:
        """Spells what the sizes of one rank come to over all ranks."""
        ranks = self.devices * self.num_nodes
        return ", ".join(
            f"{ranks} x {getattr(self, name)} = {ranks * getattr(self, name):,} {words}"
            for name, words in self.per_rank_sizes().items()
            if getattr(self, name)
        )

    @property
    def env_settings(self) -> dict[str, Any]:
        """What `make_env` is told, the same for training and tests."""
        pairs = (setting.partition("=") for setting in self.env_kwargs)
        return {
            "mask_vel": self.mask_vel,
            "obs_keys": self.obs_keys,
            "frame_stack": self.frame_stack,
            "info_mask": self.info_action_mask,
            "env_kwargs": {name: read_value(value) for name, _, value in pairs},
        }

    def replace(self, **changes: Any) -> Self:
        """Returns a copy with some settings changed, checked again."""
        return type(self).from_dict({**self.to_dict(), **changes}, type(self).__name__)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings and lists, as config.yaml and checkpoints hold them."""
        values = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def unlike_defaults(self) -> dict[str, Any]:
        """Returns the settings whose values are not the defaults."""
        default = type(self)()
        return {name: x for name, x in vars(self).items() if x != getattr(default, name)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "config") -> Self:
        """Builds a config from plain values.

        Args:
            values: setting names and values; lists stand for tuples.
            source: what to call the place the values came from, in errors.

        Raises:
            ValueError: an unknown name, a value of the wrong type or out of range.
        """
        if "compile" in values:  # as versions before 0.2 called it
            values = {"engine": _ENGINE_OF_COMPILE.get(values["compile"], "auto"), **values}
            del values["compile"]
        check_names(values, [field.name for field in dataclasses.fields(cls)], source)
        kinds = get_type_hints(cls)
        settings: dict[str, Any] = {}
        for name, value in values.items():
            try:
                settings[name] = as_kind(kinds[name], value)
            except ValueError as error:
                raise ValueError(f"{source}: {name} {error}") from error
        return cls(**settings)


def documentation(*config_classes: type) -> dict[str, str]:
    """Returns what stands under each setting, in one line."""
    texts: dict[str, str] = {}
    for kind in [kind for last in config_classes for kind in reversed(last.__mro__[:-1])]:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(body, ast.ClassDef)
        for entry, text in itertools.pairwise(body.body):
            if isinstance(entry, ast.AnnAssign) and isinstance(text, ast.Expr):
                name, words = ast.unparse(entry.target), ast.literal_eval(text.value)
                texts[name] = " ".join(words.split())
    return texts


def check_names(values: dict[str, Any], known: list[str], source: str) -> None:
    """Refuses unknown setting names, with the nearest known ones."""
    for name in values:
        if name not in known:
            near = near_names(str(name), known)
            hint = (
                f"; did you mean {' or '.join(near)}?"
                if near
                else f"; known are {', '.join(sorted(known))}"
            )
            raise ValueError(f"{source}: unknown setting {name!r}{hint}")


def near_names(name: str, known: Collection[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """Returns the known names that may be meant by one that is not.

    Args:
        name: in snake case.
        known: the names there are.
        most: how many to return of those that are spelt alike.
        cutoff: how much alike, from 0 to 1.
    """
    import difflib

    ours = [meant for meant in OTHER_NAMES.get(name, ()) if meant in known]
    return ours or difflib.get_close_matches(name, known, n=most, cutoff=cutoff)


def at_least(config: object, low: float, *names: str) -> None:
    """Refuses values under `low`."""
    for name in names:
        value = getattr(config, name)
        if not value >= low:
            raise ValueError(f"{name} must be at least {low}, not {value}")


def in_range(config: object, low: float, high: float, *names: str) -> None:
    """Refuses values outside `[low, high]`."""
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"{name} must be between {low} and {high}, not {value}")


def _check_magnitude(name: str, value: object) -> None:
    """Refuses numbers that float32 cannot hold, and sizes that no memory can."""
    if isinstance(value, float) and not abs(value) < 3e38:
        raise ValueError(f"{name} must be finite and below 3e38, not {value}")
    bits = 63 if name in ("seed", *_STEPS) else 31
    if isinstance(value, int) and value >= 2**bits:
        raise ValueError(f"{name} must be below 2**{bits}, not {value}")


def one_of(config: object, name: str, *allowed: object) -> None:
    """Refuses values outside a list."""
    value = getattr(config, name)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, not {value!r}")
