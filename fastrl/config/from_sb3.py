"""Arguments of Stable-Baselines3's PPO as settings of ours, with its defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_DEFAULTS: dict[str, Any] = {
    "learning_rate": 3e-4,
    "n_steps": 2048,
    "batch_size": 64,
    "n_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "clip_range_vf": None,
    "normalize_advantage": True,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "target_kl": None,
    "n_envs": 1,
}
_NAMES = {
    "n_steps": "num_steps",
    "batch_size": "per_rank_batch_size",
    "n_epochs": "update_epochs",
    "normalize_advantage": "normalize_advantages",
    "use_sde": "state_dependent_exploration",
    "n_envs": "num_envs",
    "device": "accelerator",
    "tensorboard_log": "log_dir",
    "tb_log_name": "exp_name",
    **{name: name for name in ("gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm")},
    **{name: name for name in ("seed", "total_timesteps")},
}
# What has no counterpart: the value at which it changes nothing, and what to do otherwise.
_LACKING: dict[str, tuple[Any, str]] = {
    "rollout_buffer_class": (None, "the rollout is part of the algorithm"),
    "rollout_buffer_kwargs": (None, "the rollout is part of the algorithm"),
    "stats_window_size": (100, "means are over 100 episodes"),
    "monitor_wrapper": (True, "episodes are always counted"),
    "_init_setup_model": (True, "networks are always made at once"),
}
_POLICY_LACKING: dict[str, tuple[Any, str]] = {
    "share_features_extractor": (True, "see shared_network"),
    "features_extractor_class": (None, "see network, which takes a function that makes a module"),
    "features_extractor_kwargs": (None, "see network_kwargs"),
    "use_sde": (False, "it is an argument of PPO itself"),
    "full_std": (True, "each feature and dimension has a deviation of its own"),
    "use_expln": (False, "deviations are exponentials"),
    "squash_output": (False, "see squash_actions"),
}


def from_sb3(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns our settings for arguments of Stable-Baselines3's `PPO`.

    `PPO(env, **fastrl.from_sb3(dict(n_steps=1024, clip_range=0.1)))`. What is not given has SB3's
    default, and presets are off.

    Args:
        settings: SB3's arguments by name, but for `env`; also `n_envs` (of `make_vec_env`, 1 by
            default) and `total_timesteps`. Schedules are functions of the remaining progress.

    Raises:
        ValueError: an argument that SB3 does not have, or one without a counterpart, with the
            reason.
    """
    given = {**_DEFAULTS, **settings}
    policy = given.pop("policy", "MlpPolicy")
    if policy not in ("MlpPolicy", "CnnPolicy", "MultiInputPolicy"):
        raise ValueError(
            f"policy={policy!r} has no counterpart; a class of your own overrides make_policy"
        )
    kwargs = dict(given.pop("policy_kwargs", None) or {})
    ours: dict[str, Any] = {"preset": "none"}
    if not kwargs.pop("normalize_images", True):
        # SB3 flattens images for this policy, and takes arrays of any numbers for the others.
        is_flat = policy == "MlpPolicy"
        ours |= {"obs_kind": "vector"} if is_flat else {"obs_kind": "pixels", "scale_images": False}
    ours |= _of_policy(kwargs)
    for name, schedule in (("learning_rate", "lr_schedule"), ("clip_range", "clip_schedule")):
        value: Any = given.pop(name)
        setting = "clip_coef" if name == "clip_range" else name
        if callable(value):
            course: Any = value
            ours[setting], ours[schedule] = float(course(1.0)), _factor(course)
        else:
            ours[setting] = value
    if (width := given.pop("clip_range_vf")) is not None:
        if callable(width):
            raise ValueError("clip_range_vf as a function has no counterpart: give a number")
        ours |= {"clip_vloss": True, "vf_clip_coef": width, "vf_clip_rule": "clipped"}
    if (target_kl := given.pop("target_kl")) is not None:
        ours |= {"target_kl": target_kl, "kl_stop": "minibatch"}
    if (sample_freq := given.pop("sde_sample_freq", None) or -1) > 0:
        ours["exploration_resample_steps"] = sample_freq
    if "verbose" in given:  # 2 has messages for debugging, of which we have none
        ours["verbose"] = min(given.pop("verbose"), 1)
    for name, value in given.items():
        if name in _LACKING:
            _refuse_unless(name, value, *_LACKING[name])
        elif name not in _NAMES:
            others = ("policy", "policy_kwargs", "sde_sample_freq", "verbose")
            known = ", ".join(
                sorted({*_DEFAULTS, *_NAMES, *_LACKING, *others} - {"_init_setup_model"})
            )
            raise ValueError(f"{name!r} is no argument of SB3's PPO; known: {known}")
        elif value is not None:
            ours[_NAMES[name]] = value
    return ours


def _of_policy(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns our settings for SB3's `policy_kwargs`."""
    given = dict(kwargs)
    widths = given.pop("net_arch", None)
    widths = {"pi": (64, 64), "vf": (64, 64)} if widths is None else widths
    if not isinstance(widths, Mapping):
        widths = {"pi": widths, "vf": widths}
    actor, critic = tuple(widths.get("pi", ())), tuple(widths.get("vf", ()))
    if not actor or not critic:
        raise ValueError("net_arch without hidden layers for pi or vf has no counterpart")
    ours: dict[str, Any] = {"hidden_sizes": actor, "ortho_init": given.pop("ortho_init", True)}
    if critic != actor:
        ours["critic_hidden_sizes"] = critic
    for name, setting in (("activation_fn", "activation_function"), ("log_std_init",) * 2):
        if name in given:
            ours[setting] = given.pop(name)
    options = dict(given.pop("optimizer_kwargs", None) or {})
    kind = getattr(given.pop("optimizer_class", None), "__name__", "Adam")
    if kind not in ("Adam", "AdamW"):
        raise ValueError(f"optimizer_class={kind} has no counterpart; see make_optimizer")
    ours["adam_eps"] = options.pop("eps", 1e-8 if options or kind != "Adam" else 1e-5)
    if "betas" in options:
        ours["adam_beta1"], ours["adam_beta2"] = options.pop("betas")
    decay = options.pop("weight_decay", 0.01 if kind == "AdamW" else 0.0)
    if decay and kind == "Adam":
        raise ValueError(
            "weight_decay of Adam, a part of the gradient, has no counterpart; ours is AdamW's"
        )
    ours["weight_decay"] = decay
    for name in options:
        raise ValueError(f"optimizer_kwargs: {name} has no counterpart")
    for name, value in given.items():
        if name not in _POLICY_LACKING:
            raise ValueError(f"policy_kwargs: {name} has no counterpart")
        _refuse_unless(name, value, *_POLICY_LACKING[name])
    return ours


def _refuse_unless(name: str, value: Any, idle: Any, why: str) -> None:
    if value is not None and value != idle:
        raise ValueError(f"{name}={value!r} has no counterpart: {why}")


def _factor(of_remaining: Callable[[float], float]) -> Callable[[float], float]:
    """Returns a factor of progress 0 to 1 for a value of what remains, 1 to 0."""
    start = of_remaining(1.0)
    return lambda progress: of_remaining(1.0 - progress) / start
