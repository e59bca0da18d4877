"""Settings shared by all algorithms: the task, the devices, the length, what a run writes."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
import threading
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_type_hints

from fastrl.config.bounds import Bounds, OneOf, check_bounds
from fastrl.config.checks import check_info_metrics, check_magnitude, check_names
from fastrl.config.networks import check_arguments, check_network
from fastrl.config.schedules import SCHEDULE_OF, SCHEDULES, name_of
from fastrl.config.search import PowersOfTwo
from fastrl.config.values import as_kind, read_arguments

_ENGINE_OF_COMPILE = {"off": "eager", False: "eager", "on": "compile", True: "compile"}
_PARSING = threading.Lock()
"""Python 3.11 mixes threads up that parse at once ("AST constructor recursion depth mismatch")."""
_MOST_THREADS = 1024
MOST_PROCESSES = 1024  # that a number typed by mistake may start on a machine
MOST_EPISODES = 1_000_000
_MOST_FRAMES = 1000
_LONGEST_NAME = 100
_LARGEST_SIDE = 4096
LOGGERS = ("csv", "tensorboard", "wandb", "mlflow", "trackio")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings shared by all algorithms.

    Steps are environment steps, summed over all environments of all ranks.

    Raises:
        ValueError: a setting is out of range, or has no effect in combination with the others.
    """

    env_id: str = "CartPole-v1"
    """Task: an EnvPool or gymnasium id, or module:callable that returns a gymnasium.Env."""
    exp_name: str = "default"
    """Label of the run, used in the name of its folder."""
    seed: Annotated[int, Bounds(at_least=0)] = 42
    """Seed of the environments, the initial weights, the action noise and the shuffling."""
    total_timesteps: Annotated[int, Bounds(at_least=1)] = 65_536
    """Environment steps to train for, rounded down to whole rollouts."""

    backend: Literal["auto", "envpool", "gymnasium"] = "auto"
    """Library that runs the environments; auto: EnvPool if it has the task, else gymnasium."""
    num_envs: Annotated[int, Bounds(at_least=1), PowersOfTwo(4, 64)] = 4
    """Parallel environments, per rank."""
    num_pools: Annotated[int, OneOf((0, 1, 2))] = 0
    """1: all environments step together. 2: in two halves; one steps while the policy acts on the
    other. 0 (automatic): 2 if EnvPool runs at least 32 environments and either the policy is on a
    GPU, or the task is physics (MuJoCo, Box2D) and there are at least two cores; else 1."""
    num_env_threads: Annotated[int, Bounds(at_least=0, at_most=_MOST_THREADS)] = 0
    """EnvPool's threads, divided between the halves if num_pools is 2; 0: per half, as many as the
    cores this process may use."""
    vector: Literal["sync", "async", "auto"] = "sync"
    """How gymnasium's environments and your own are stepped. sync: one after the other. async: in
    processes beside each other, for those whose step takes long; episodes are the same. auto: async
    if a few steps of one more environment, at the start, take so long that it is faster."""
    num_workers: Annotated[int, Bounds(at_least=0, at_most=_MOST_THREADS)] = 0
    """Processes that step the environments, unless vector is sync; 0: one per core this process may
    use."""
    mask_vel: bool = False
    """Set the velocities in the observations to zero (classic control and LunarLander), so that the
    task requires memory."""
    env_kwargs: tuple[str, ...] = ()
    """Keyword arguments of the environment, as name=value, where None is None and 'None' is
    text; from Python and YAML also a mapping."""
    obs_keys: tuple[str, ...] = ()
    """Keys of a Dict observation to use; all if none are given. Nested keys: outer.inner."""
    obs_kind: Literal["auto", "pixels", "vector"] = "auto"
    """What arrays of bytes (uint8) with two or three dimensions are: pixels, which are scaled to
    [0, 1] and go into convolutions, or a vector of numbers. auto: pixels if their space goes from 0
    to 255 and has at least 7 x 7 of them, else a vector."""
    scale_images: bool = True
    """Divide pixels by 255, or what else is the largest in their space. False: the networks get
    them as they are; with obs_kind=pixels, arrays of any numbers with two or three dimensions are
    pixels then, those of floats too."""
    gray_scale: bool = False
    """Make colour images grey (gymnasium's environments and your own)."""
    resize: Annotated[int, Bounds(at_least=0, at_most=_LARGEST_SIDE)] = 0
    """Width and height to which images are resized (gymnasium's environments and your own); 0: as
    they are."""
    action_repeat: Annotated[int, Bounds(at_least=1, at_most=_MOST_FRAMES)] = 1
    """How often each action is taken, its rewards summed, in a step of gymnasium's environments and
    your own."""
    frame_stack: Annotated[int, Bounds(at_least=1, at_most=_MOST_FRAMES)] = 1
    """Number of latest observations to stack into one. EnvPool's Atari already stacks four."""
    info_action_mask: bool = False
    """Never sample actions that the environment's info["action_mask"] forbids. A key action_mask in
    a Dict observation is used without this flag."""

    network: tuple[str, ...] = ()
    """Networks of your own in front of the heads, as module:callable, which takes the space of the
    inputs; actor=module:callable critic=module:callable for one each."""
    network_kwargs: tuple[str, ...] = ()
    """Further arguments of these callables, as name=value; from Python and YAML also a mapping."""

    accelerator: Literal["auto", "cpu", "cuda", "gpu"] = "auto"
    """Type of device to train on; auto: a GPU if there is one. --cuda is short for --accelerator
    cuda."""
    devices: Annotated[int, Bounds(at_least=1, at_most=MOST_PROCESSES)] = 1
    """Ranks per machine: processes with one device each, started automatically or by torchrun,
    fabric run or SLURM. Sizes given per rank add up over the ranks."""
    num_nodes: Annotated[int, Bounds(at_least=1)] = 1
    """Number of machines to train on."""
    strategy: Literal["auto", "ddp"] = "auto"
    """Strategy of Lightning Fabric for several ranks; auto is ddp, which averages gradients."""
    rank_timeout: Annotated[float, Bounds(at_least=0)] = 7.0
    """Seconds after which a rank that makes no progress ends the run; 0: never."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Floating-point precision of the forward and backward passes."""
    num_threads: Annotated[int, Bounds(at_least=0, at_most=_MOST_THREADS)] = 0
    """CPU threads of an update; 0: one for small minibatches, else one per core this process may
    use. Acting always uses one thread."""
    engine: Literal["auto", "native", "recorded", "compile", "eager"] = "auto"
    """How acting, advantages and updates are executed. eager: plain PyTorch. recorded: traced once
    and replayed as a static graph; bit-identical to eager. native: recorded, with networks and loss
    in C++ kernels. compile: torch.compile, which first compiles for seconds to minutes. auto:
    native where the kernels support the networks and loss, else recorded."""
    torch_deterministic: bool = False
    """Raise an error for every torch operation without a deterministic implementation."""

    eval_every: Annotated[int, Bounds(at_least=0)] = 250_000
    """Environment steps between evaluations during training; 0: none."""
    eval_episodes: Annotated[int, Bounds(at_least=0, at_most=MOST_EPISODES)] = 100
    """Greedy episodes per evaluation, during and after training; 0: no evaluation."""
    info_metrics: tuple[str, ...] = ()
    """Numbers in the info of an episode's last step, such as is_success, whose means over the
    episodes that ended are metrics: Episode/is_success in training, Test/is_success in tests."""
    target_return: float | None = None
    """Stop training once the mean return of the last 100 training episodes reaches this."""
    checkpoint_every: Annotated[int, Bounds(at_least=0)] = 250_000
    """Environment steps between periodic checkpoints; 0: only the best and the last. The last one
    is also saved by the clock, about each minute."""
    keep_checkpoints: Annotated[int, Bounds(at_least=1)] = 3
    """Number of periodic checkpoints, and of videos, to keep: the newest."""
    capture_video: bool = False
    """Record a video of a greedy episode (mp4 and GIF) at each evaluation and after training, of at
    most 1,000 frames, 640 pixels wide."""
    log_dir: str = "logs"
    """Parent folder of the run folders."""
    callback: tuple[str, ...] = ()
    """Callbacks of your own, as module:callable: a class, or a function that returns a callback.
    May be given several times."""
    logger: Annotated[tuple[str, ...], OneOf(LOGGERS)] = ()
    """Where metrics go: wandb, mlflow and trackio come to the CSV and TensorBoard files of the run
    folder; csv or tensorboard: to that file alone of the two. May be given several times."""

    def __post_init__(self) -> None:
        """Checks ranges and sizes; algorithms add their own checks."""
        for name, value in vars(self).items():
            for item in value if isinstance(value, tuple) else (value,):
                check_magnitude(name, item)
        check_bounds(self)
        check_info_metrics(self.info_metrics)
        for name in ("env_kwargs", "network_kwargs"):
            check_arguments(name, getattr(self, name))
        check_network(self)
        for name in self.logger:
            if self.logger.count(name) > 1:
                raise ValueError(f"logger must name each tracker once; {name!r} is given twice")
        for name in self.callback:
            if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", name):
                raise ValueError(f"callback must be written module:callable, not {name!r}")
        name = self.exp_name
        is_text = not any("\ud800" <= x <= "\udfff" for x in name)  # bytes that are not UTF-8
        if not is_text or len(name) > _LONGEST_NAME or not re.search(r"[A-Za-z0-9_]", name):
            raise ValueError(
                f"exp_name names the run's folder: at most {_LONGEST_NAME} characters of text, one "
                f"of them an ASCII letter, a digit or '_'; not {name[:_LONGEST_NAME]!r}"
            )
        if not self.env_id:
            raise ValueError("env_id is empty; name a task, for example LunarLander-v2")
        if self.num_workers > self.num_envs:
            raise ValueError(
                f"num_workers={self.num_workers} leaves some without an environment: there are "
                f"num_envs={self.num_envs}"
            )
        if self.num_pools == 2 and self.num_envs % 2:
            raise ValueError(
                f"num_pools=2 halves the environments: num_envs must be even, not {self.num_envs}"
            )
        if self.capture_video and not self.eval_episodes:
            raise ValueError(
                "capture_video has no effect with eval_episodes=0: videos are made at evaluations"
            )

    def per_rank_sizes(self) -> dict[str, str]:
        """Returns the settings given per rank, each with the words for what it counts."""
        names = {"num_envs": "environments", "per_rank_batch_size": "rows per minibatch"}
        return {name: words for name, words in names.items() if hasattr(self, name)}

    def global_sizes(self) -> str:
        """Returns the totals of the per-rank sizes, in words."""
        ranks = self.devices * self.num_nodes
        return ", ".join(
            f"{ranks} x {getattr(self, name)} = {ranks * getattr(self, name):,} {words}"
            for name, words in self.per_rank_sizes().items()
            if getattr(self, name)
        )

    @property
    def env_settings(self) -> dict[str, Any]:
        """Keyword arguments of `make_env`, the same for training and evaluation."""
        return {
            "vector": self.vector,
            "num_workers": self.num_workers,
            "mask_vel": self.mask_vel,
            "obs_keys": self.obs_keys,
            "obs_kind": self.obs_kind,
            "scale_images": self.scale_images,
            "gray_scale": self.gray_scale,
            "resize": self.resize,
            "action_repeat": self.action_repeat,
            "frame_stack": self.frame_stack,
            "info_mask": self.info_action_mask,
            "env_kwargs": read_arguments(self.env_kwargs),
        }

    def replace(self, **changes: Any) -> Self:
        """Returns a copy with some settings changed, validated again."""
        return type(self).from_dict({**vars(self), **changes}, type(self).__name__)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings and lists, as in config.yaml and checkpoints."""
        values = dataclasses.asdict(self)
        values |= {name: name_of(values[name]) for name in SCHEDULES if name in values}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def unlike_defaults(self) -> dict[str, Any]:
        """Returns the settings that differ from the defaults."""
        default = type(self)()
        return {name: x for name, x in vars(self).items() if x != getattr(default, name)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "config") -> Self:
        """Builds a config from plain values.

        Args:
            values: by name of the setting; lists stand for tuples.
            source: where the values came from, for errors.

        Raises:
            ValueError: an unknown name, a value of the wrong type or out of range.
        """
        return cls(**cls.typed(values, source))

    @classmethod
    def typed(cls, values: dict[str, Any], source: str) -> dict[str, Any]:
        """Returns settings as the types that they have here; arguments and errors as `from_dict`.

        Whether they are in range and go together is not checked.
        """
        if "compile" in values:  # its name before version 0.2
            values = {"engine": _ENGINE_OF_COMPILE.get(values["compile"], "auto"), **values}
            del values["compile"]
        check_names(values, [field.name for field in dataclasses.fields(cls)], source)
        kinds = _kinds_of(cls)
        settings: dict[str, Any] = {}
        for name, value in values.items():
            if name in SCHEDULES and callable(value):
                settings[name] = value
                continue
            try:
                settings[name] = as_kind(kinds[name], value)
            except ValueError as error:
                hint = ""
                if name in SCHEDULE_OF and callable(value):
                    hint = f"; a function of progress belongs in {SCHEDULE_OF[name]}, as a factor"
                raise ValueError(f"{source}: {name} {error}{hint}") from None  # the same words
        return settings


@functools.cache  # it takes 6 ms
def _kinds_of(config_class: type) -> dict[str, Any]:
    return get_type_hints(config_class)


def documentation(*config_classes: type) -> dict[str, str]:
    """Returns the docstring of each setting, on one line."""
    texts: dict[str, str] = {}
    for kind in [kind for last in config_classes for kind in reversed(last.__mro__[:-1])]:
        with _PARSING:
            texts |= _documentation_of(kind)
    return texts


@functools.cache
def _documentation_of(kind: type) -> dict[str, str]:
    texts: dict[str, str] = {}
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    for entry, text in itertools.pairwise(body.body):
        if isinstance(entry, ast.AnnAssign) and isinstance(text, ast.Expr):
            name, words = ast.unparse(entry.target), ast.literal_eval(text.value)
            texts[name] = " ".join(words.split())
    return texts
