"""Names of settings in other libraries, and what they are called here.

Those of stable-baselines3, CleanRL, rl_games and rsl_rl, and what their users mix up.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence

# Ours, of which each algorithm has only some, and what others call them.
_TABLE = {
    "env_id": "env env_name environment task",
    "exp_name": "experiment_name run_name tb_log_name",
    "seed": "random_seed",
    "total_timesteps": "n_timesteps total_steps max_env_steps max_epochs max_iterations "
    "num_learning_iterations n_iterations",
    "num_envs": "n_envs num_actors",
    "num_steps": "n_steps rollout_steps rollout_length horizon horizon_length num_steps_per_env",
    "num_steps replay_ratio": "train_freq train_frequency",
    "per_rank_batch_size": "batch_size minibatch_size num_minibatches num_mini_batches "
    "n_minibatches nminibatches",
    "update_epochs": "n_epochs epochs num_epochs mini_epochs num_learning_epochs",
    "replay_ratio update_epochs": "gradient_steps",
    "replay_ratio": "utd_ratio updates_per_step",
    "learning_rate policy_lr q_lr": "learning_rate lr",
    "policy_lr learning_rate": "actor_lr actor_learning_rate policy_learning_rate",
    "q_lr learning_rate": "critic_lr critic_learning_rate q_learning_rate",
    "anneal_lr": "anneal_learning_rate",
    "lr_schedule": "learning_rate_schedule lr_scheduler schedule schedule_type",
    "clip_schedule": "clip_range_schedule",
    "optimizer_eps adam_eps": "rms_prop_eps optimizer_eps",
    "optimizer": "use_rms_prop optimizer_class",
    "max_grad_norm": "grad_norm truncate_grads clip_grad_norm",
    "gamma": "discount discount_factor",
    "gae_lambda": "lam lambda tau_gae use_gae",
    "normalize_advantages": "normalize_advantage norm_adv normalize_advantage_per_mini_batch",
    "observation_normalization": "norm_obs normalize_obs normalize_input "
    "empirical_normalization obs_normalization",
    "observation_clip": "clip_obs clip_observations",
    "reward_scaling": "norm_reward normalize_reward normalize_value",
    "clip_coef": "clip_range clip_param clip_epsilon e_clip",
    "clip_vloss": "clip_range_vf clip_value clip_value_loss use_clipped_value_loss",
    "target_kl": "desired_kl kl_threshold",
    "vf_coef": "value_loss_coef value_coef critic_coef",
    "ent_coef alpha tune_alpha": "ent_coef",
    "ent_coef alpha": "entropy_coef",
    "alpha": "init_alpha init_temperature",
    "tune_alpha": "autotune",
    "tau": "polyak soft_update_tau",
    "buffer_size": "buffer_capacity replay_size memory_size",
    "learning_starts": "warmup_steps start_steps",
    "target_network_frequency": "target_update_interval",
    "num_critics": "n_critics",
    "num_return_steps": "n_step nstep",
    "dropout_rate": "dropout",
    "hidden_sizes": "net_arch hidden_dims hidden_size actor_hidden_dims critic_hidden_dims units "
    "lstm_hidden_size rnn_hidden_size rnn_hidden_dim",
    "hidden_sizes activation_function ortho_init log_std_init": "policy_kwargs",
    "activation_function": "activation_fn activation",
    "state_dependent_exploration": "use_sde",
    "exploration_resample_steps": "sde_sample_freq",
    "network": "features_extractor_class features_extractor custom_network",
    "network_kwargs": "features_extractor_kwargs",
    "shared_network": "share_features_extractor separate",
    "log_std_init": "init_noise_std",
    "rnn": "rnn_type",
    "sequence_length": "seq_length seq_len",
    "accelerator devices": "device",
    "accelerator": "cuda use_cuda gpu",
    "precision": "mixed_precision bf16",
    "engine": "compile torch_compile",
    "eval_every": "eval_freq eval_interval",
    "eval_episodes": "n_eval_episodes num_eval_episodes",
    "checkpoint_every": "save_freq save_frequency save_interval checkpoint_freq "
    "checkpoint_interval",
    "capture_video": "capture_videos record_video",
    "log_every": "log_interval",
    "log_dir": "tensorboard_log logdir",
}
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    other: tuple(ours.split()) for ours, others in _TABLE.items() for other in others.split()
}

# What has no setting, or one of another meaning.
WORDS = {
    "callback": "learn takes callbacks=[...]",
    "clip_range_vf": "true or false: it clips by clip_coef",
    "gradient_steps": "gradient steps per environment step of SAC and DroQ, passes of PPO",
    "horizon_length": "steps of each environment in a rollout",
    "log_interval": "in environment steps, of SAC and DroQ; PPO and A2C log every update",
    "max_epochs": "in environment steps",
    "max_iterations": "in environment steps",
    "n_iterations": "in environment steps",
    "n_minibatches": "rows of a minibatch, not their number",
    "nminibatches": "rows of a minibatch, not their number",
    "num_learning_iterations": "in environment steps",
    "num_mini_batches": "rows of a minibatch, not their number",
    "num_minibatches": "rows of a minibatch, not their number",
    "policy": "the networks follow from the spaces",
    "progress_bar": "there always is one on a terminal",
    "reset_num_timesteps": "AgentTrainer(resume=RUN) goes on with a run",
    "separate": "the opposite of it",
    "target_kl": "the update stops there",
    "track": "--logger wandb adds W&B to TensorBoard and CSV",
    "verbose": "--quiet prints the last line alone; in Python, PPO(env, verbose=0)",
    "wandb_project_name": "--logger wandb takes it from WANDB_PROJECT",
}


def near_names(
    name: str,
    known: Collection[str],
    most: int = 3,
    cutoff: float = 0.6,
    *,
    ours: Mapping[str, Sequence[str]] = OTHER_NAMES,
    all_words: Mapping[str, str] = WORDS,
) -> list[str]:
    """Returns the known names that an unknown one may stand for.

    Args:
        name: the unknown name, in snake case.
        known: the valid names.
        most: maximum number of similarly spelt names to return.
        cutoff: least similarity, from 0 to 1.
        ours: our names, by those of other libraries.
        all_words: what to say of names that have none here, or of another meaning.
    """
    meant = [x for x in ours.get(name, ()) if x in known]
    if meant or name in all_words:
        return meant
    return difflib.get_close_matches(name, known, n=most, cutoff=cutoff)


def hint_for(
    name: str,
    known: Collection[str],
    *,
    dash: bool = False,
    cutoff: float = 0.6,
    ours: Mapping[str, Sequence[str]] = OTHER_NAMES,
    all_words: Mapping[str, str] = WORDS,
) -> str:
    """Returns what to say after an unknown name: "; did you mean num_steps?".

    Args:
        name: the unknown name, in snake case.
        known: the valid names.
        dash: spell ours as flags.
        cutoff: least similarity of a name that is in no table, from 0 to 1.
        ours: as of `near_names`.
        all_words: as of `near_names`.
    """
    near = near_names(name, known, 1 if dash else 3, cutoff, ours=ours, all_words=all_words)
    words = all_words.get(name, "")
    if not near:
        lacking = "--help lists all" if dash else f"known are {', '.join(sorted(known))}"
        return f"; {words or lacking}"
    spelt = ["--" + x.replace("_", "-") if dash else x for x in near]
    return f"; did you mean {' or '.join(spelt)}?{f' ({words})' if words else ''}"
