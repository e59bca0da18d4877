"""The groups in which `--help` and `--describe` show settings."""

from __future__ import annotations

GROUPS = {
    "sources": "Where settings come from, and what is printed of them.",
    "task": "What is trained on, and for how long.",
    "algorithm": "How it learns.",
    "network": "What learns.",
    "devices": "How the machine is used: processes, threads, precision.",
    "written": "What a run writes: tests, checkpoints, videos, metrics.",
}
"""Title of each group, in the order in which they are shown."""

_NAMES = {
    "task": "env_id seed total_timesteps target_return mask_vel env_kwargs obs_keys obs_kind "
    "scale_images gray_scale resize action_repeat frame_stack info_action_mask",
    "algorithm": "num_envs num_steps",
    "network": "network network_kwargs hidden_sizes critic_hidden_sizes activation_function "
    "encoder shared_network ortho_init log_std_init state_dependent_std "
    "state_dependent_exploration exploration_resample_steps squash_actions rnn "
    "previous_action num_critics dropout_rate layer_norm",
    "devices": "backend num_pools num_env_threads vector num_workers accelerator devices num_nodes "
    "strategy rank_timeout precision num_threads engine torch_deterministic decoupled num_players "
    "num_trainers overlap player_on_gpu share_data matmul_precision",
    "written": "exp_name eval_every eval_episodes info_metrics checkpoint_every keep_checkpoints "
    "capture_video log_dir callback logger log_every",
}
GROUP_OF = {name: group for group, names in _NAMES.items() for name in names.split()}
"""Group of the settings that several algorithms share, or that are not the algorithm's own."""


def group_of(name: str) -> str:
    """Returns the group of a setting."""
    return GROUP_OF.get(name, "algorithm")
