"""Creation of vector envs from an id: of EnvPool, of gymnasium, or a module's callable."""

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import gymnasium

from fastrl.config.trust import is_part_of_python
from fastrl.envs.async_env import AsyncEnv
from fastrl.envs.choosing import make_chosen
from fastrl.envs.envpool_env import EnvPoolEnv, check_envpool_id, list_envpool_ids
from fastrl.envs.foreign import call, own_line
from fastrl.envs.gym_env import GymEnv
from fastrl.envs.ids import is_registered_anew, unknown_id
from fastrl.envs.masking import MaskVelocity, check_mask_vel
from fastrl.envs.stacking import FrameStack
from fastrl.envs.vector import EnvError, VectorEnv
from fastrl.envs.wrapped_env import WrappedVectorEnv
from fastrl.envs.wrappers import check_no_wrappers, wrapped
from fastrl.spaces.pixels import ObsKind

Backend = Literal["auto", "envpool", "gymnasium"]
Vector = Literal["sync", "async", "auto"]
Purpose = Literal["train", "eval", "video", "collect"]

# Id and settings of what `make_env` returned, so that more of it can be made.
_MADE: WeakKeyDictionary[Any, tuple[str, dict[str, Any]]] = WeakKeyDictionary()


def base_seed(run_seed: int, purpose: Purpose, restart: int = 0) -> int:
    """Returns the seed in [0, 2**31) of the first env, for `make_env`.

    Envs get consecutive seeds, so runs seeded 0, 1, 2 ... would share most env seeds if each
    started at its own seed. The hash separates runs, purposes and restarts, and is the same in
    every process and Python version.
    """
    if purpose not in get_args(Purpose):
        raise ValueError(f"purpose={purpose!r}; it must be one of {get_args(Purpose)}")
    digest = hashlib.sha256(f"fastrl env seed {run_seed} {purpose} {restart}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % 2**31


def make_env(
    env_id: str,
    num_envs: int,
    *,
    seed: int = 0,
    first_env: int = 0,
    backend: Backend = "auto",
    num_threads: int = 0,
    vector: Vector = "sync",
    num_workers: int = 0,
    mask_vel: bool = False,
    render: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
    obs_keys: Sequence[str] = (),
    obs_kind: ObsKind = "auto",
    scale_images: bool = True,
    gray_scale: bool = False,
    resize: int = 0,
    action_repeat: int = 1,
    frame_stack: int = 1,
    info_mask: bool = False,
    testing: bool = False,
) -> VectorEnv:
    """Makes `num_envs` copies of an env.

    Args:
        env_id: an EnvPool id, a registered gymnasium id, or `module:callable` where the callable
            returns a `gymnasium.Env`.
        num_envs: number of envs, at least 1.
        seed: env i gets (seed + first_env + i) mod 2**31; see `base_seed`.
        first_env: number of envs of other ranks and pools before these.
        backend: "auto" uses EnvPool if it has the id, with supported spaces.
        num_threads: EnvPool's threads; 0: one per core this process may use, at most `num_envs`.
        vector: "sync" steps gymnasium's envs one after the other, "async" in processes, "auto" as
            one of both, by the time that a step takes.
        num_workers: number of these; 0: one per core this process may use, at most `num_envs`.
        mask_vel: whether to set velocities to 0 (for the ids in `masking.VELOCITY_INDICES`).
        render: whether `render` will be called; it draws env 0.
        env_kwargs: keyword arguments for EnvPool, `gymnasium.make` or the callable.
        obs_keys: keys of a Dict observation to use; all if empty.
        obs_kind: what arrays of bytes with two or three dimensions are: "pixels", a "vector", or
            "auto", whatever `fastrl.spaces.pixels.is_pixels` says.
        scale_images: whether networks get pixels divided by the largest (see `observation_rows`).
        gray_scale: whether images become grey; like the next two, not for EnvPool's envs.
        resize: width and height of images; 0: as they are.
        action_repeat: how often each action is taken in a step.
        frame_stack: number of latest observations to stack into one.
        info_mask: whether to use the action mask in the info.
        testing: Atari: whether rewards are unclipped and an episode is a whole game.

    Raises:
        ValueError: an argument is out of range, the id is unknown, or a space is not supported.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs={num_envs}; it must be at least 1")
    if num_threads < 0:
        raise ValueError(
            f"num_threads={num_threads}; it must be at least 0 (0: chosen automatically)"
        )
    if backend not in get_args(Backend):
        raise ValueError(f"backend={backend!r}; it must be one of {get_args(Backend)}")
    if vector not in get_args(Vector):
        raise ValueError(f"vector={vector!r}; it must be one of {get_args(Vector)}")
    if mask_vel:
        check_mask_vel(env_id)
    seeds = [(seed + first_env + i) % 2**31 for i in range(num_envs)]

    settings = {
        "vector": vector,
        "num_workers": num_workers,
        "mask_vel": mask_vel,
        "obs_keys": tuple(obs_keys),
        "obs_kind": obs_kind,
        "scale_images": scale_images,
        "gray_scale": gray_scale,
        "resize": resize,
        "action_repeat": action_repeat,
        "frame_stack": frame_stack,
        "info_mask": info_mask,
        "env_kwargs": dict(env_kwargs or {}),
    }
    if uses_envpool(env_id, backend, info_mask):
        if vector == "async" or (vector == "auto" and num_workers):
            setting = "vector=async" if vector == "async" else f"num_workers={num_workers}"
            raise ValueError(
                f"{env_id}: {setting} has no effect, because EnvPool runs it in threads; "
                "backend=gymnasium runs it in processes"
            )
        why = "because EnvPool runs it: its own settings are env_kwargs, or backend=gymnasium"
        wrappers = {"gray_scale": gray_scale, "resize": resize, "action_repeat": action_repeat}
        check_no_wrappers(env_id, why, **wrappers)
        env: VectorEnv = EnvPoolEnv(
            env_id,
            seeds,
            num_threads=num_threads,
            render=render,
            env_kwargs=env_kwargs,
            testing=testing,
            obs_keys=obs_keys,
            obs_kind=obs_kind,
            scale_images=scale_images,
            info_mask=info_mask,
        )
        env = _dressed(env, mask_vel, frame_stack)
    else:
        make_one = _gymnasium_maker(env_id, backend, dict(env_kwargs or {}))
        drawn = partial(make_one, render_mode="rgb_array") if render else make_one
        functions = [drawn] + [make_one] * (num_envs - 1)
        env = vector_env_of(env_id, functions, seeds, **{**settings, "env_kwargs": None})
    _MADE[env] = env_id, {**settings, "testing": testing}
    return env


def settings_of_made(env: Any) -> tuple[str, dict[str, Any]] | None:
    """Returns the id and the settings with which `make_env` made this; None if it did not."""
    try:
        return _MADE.get(env)
    except TypeError:  # it has no hash, or no weak references
        return None


def vector_env_of(
    env_id: str,
    functions: Sequence[Callable[[], gymnasium.Env]],
    seeds: Sequence[int],
    *,
    vector: Vector = "sync",
    num_workers: int = 0,
    mask_vel: bool = False,
    obs_keys: Sequence[str] = (),
    obs_kind: ObsKind = "auto",
    scale_images: bool = True,
    gray_scale: bool = False,
    resize: int = 0,
    action_repeat: int = 1,
    frame_stack: int = 1,
    info_mask: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
) -> VectorEnv:
    """Makes a vector env of the envs that functions return; arguments as of `make_env`."""
    if env_kwargs:
        functions = [partial(make, **env_kwargs) for make in functions]
    if gray_scale or resize or action_repeat > 1:
        how = gray_scale, resize, action_repeat, obs_kind, info_mask
        functions = [partial(wrapped, make, *how) for make in functions]
    reading: Any = {
        "obs_keys": obs_keys,
        "obs_kind": obs_kind,
        "scale_images": scale_images,
        "info_mask": info_mask,
    }
    if vector == "auto":
        env: VectorEnv = make_chosen(env_id, functions, seeds, num_workers, reading)
    elif vector == "async":
        env = AsyncEnv(env_id, functions, seeds, **reading, num_workers=num_workers)
    else:
        env = GymEnv(env_id, functions, seeds, **reading)
    return _dressed(env, mask_vel, frame_stack)


def _dressed(env: VectorEnv, mask_vel: bool, frame_stack: int) -> VectorEnv:
    env = MaskVelocity(env) if mask_vel else env
    return FrameStack(env, frame_stack) if frame_stack > 1 else env


def check_no_kwargs(env_id: str, env_kwargs: Mapping[str, Any] | None) -> None:
    """Raises ValueError for arguments of environments that are made already."""
    if env_kwargs:
        raise ValueError(
            f"{env_id}: env_kwargs has no effect on environments that are made already"
        )


def check_vector(env_id: str, vector: Vector, num_workers: int) -> None:
    """Raises ValueError for processes with environments that are made already."""
    if vector == "async" or (vector == "auto" and num_workers):
        setting = "vector=async" if vector == "async" else f"num_workers={num_workers}"
        raise ValueError(
            f"{env_id}: {setting} has no effect on environments that are made already; give "
            "a function that makes one"
        )


def is_known_id(env_id: str) -> bool:
    """Returns whether `make_env` accepts this as an id; making the env may still fail."""
    return ":" in env_id or env_id in gymnasium.registry or env_id in list_envpool_ids()


def wrap_vector_env(
    env: gymnasium.vector.VectorEnv,
    *,
    seed: int | None = None,
    vector: Vector = "sync",
    num_workers: int = 0,
    mask_vel: bool = False,
    obs_keys: Sequence[str] = (),
    obs_kind: ObsKind = "auto",
    scale_images: bool = True,
    gray_scale: bool = False,
    resize: int = 0,
    action_repeat: int = 1,
    frame_stack: int = 1,
    info_mask: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
) -> VectorEnv:
    """Wraps a caller's vector env of any autoreset mode; `seed` is for its first `reset`."""
    if not isinstance(env, gymnasium.vector.VectorEnv):
        raise ValueError(f"{env!r} is a {type(env).__name__}, not a gymnasium.vector.VectorEnv")
    wrapper = WrappedVectorEnv(env, seed, obs_keys, obs_kind, scale_images)
    check_no_kwargs(wrapper.env_id, env_kwargs)
    check_vector(wrapper.env_id, vector, num_workers)
    why = "on a vector environment: wrap those that it is made of"
    wrappers = {"gray_scale": gray_scale, "resize": resize, "action_repeat": action_repeat}
    check_no_wrappers(wrapper.env_id, why, **wrappers)
    if info_mask:
        raise ValueError(
            f"{wrapper.env_id}: masks in the info are read of single environments: give a function "
            "that makes one, or put the mask into the observation as its key action_mask"
        )
    return _dressed(wrapper, mask_vel, frame_stack)


def uses_envpool(env_id: str, backend: Backend, info_mask: bool) -> bool:
    """Returns whether `make_env` has EnvPool run an id; ValueError if nothing can."""
    if backend == "gymnasium":
        return False
    if backend == "auto" and (":" in env_id or is_registered_anew(env_id)):
        return False
    if env_id not in list_envpool_ids():
        if backend == "envpool":
            raise ValueError(unknown_id(env_id, backend))
        return False
    try:
        check_envpool_id(env_id, info_mask)
    except ValueError:
        # EnvPool's env can't be used here; gymnasium's env of the same id may have other spaces,
        # and may need no extra library.
        if backend == "envpool" or env_id not in gymnasium.registry:
            raise
        return False
    return True


def _gymnasium_maker(
    env_id: str, backend: Backend, env_kwargs: dict[str, Any]
) -> Callable[..., gymnasium.Env]:
    """Returns a function that makes one env; it takes `render_mode` for rendering."""
    module_name, _, name = env_id.rpartition(":")
    if module_name:
        if is_part_of_python(module_name):  # and what it would run is no environment
            raise ValueError(f"{env_id!r}: {module_name} comes with Python and has no environments")
        try:
            where = f"{env_id!r}: importing {module_name!r}"
            module = call(where, importlib.import_module, module_name)
        except EnvError as error:
            cause = error.__cause__
            if not isinstance(cause, ModuleNotFoundError):
                raise
            if cause.name is None or not f"{module_name}.".startswith(f"{cause.name}."):
                what = f"{module_name!r} imports {cause.name!r}{own_line(cause)}"
                raise EnvError(f"{env_id!r}: {what}") from cause
            raise ValueError(f"{env_id!r}: no module {module_name!r} can be imported") from cause
        if callable(getattr(module, name, None)):
            maker = getattr(module, name)
            _check_maker(env_id, maker)
            return partial(maker, **env_kwargs)
        # As in gymnasium, "module:Id-v0" imports a module that registers the id.
        if name not in gymnasium.registry:
            raise ValueError(
                f"{env_id!r}: module {module_name!r} has no callable and no registered env {name!r}"
            )
    elif env_id not in gymnasium.registry:
        raise ValueError(unknown_id(env_id, backend))
    # The checker only inspects the first steps and warns about style; GymEnv checks the shapes.
    # Its spec, because a process of `AsyncEnv` does not know what was registered here.
    spec = gymnasium.spec(name)
    return partial(gymnasium.make, spec, **{"disable_env_checker": True, **env_kwargs})


def _check_maker(env_id: str, maker: Any) -> None:
    """Raises ValueError, before it is called, for what cannot make a `gymnasium.Env`."""
    while isinstance(maker, partial):
        maker = maker.func
    if isinstance(maker, type) and not issubclass(maker, gymnasium.Env):
        raise ValueError(f"{env_id!r} is a class, but not a gymnasium.Env")
    origin = getattr(maker, "__module__", None)
    if isinstance(origin, str) and is_part_of_python(origin):
        raise ValueError(f"{env_id!r} is part of {origin}, which comes with Python")
