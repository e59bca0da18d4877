"""What metrics mean: their groups and texts, for pages and tools. `docs/metrics.md` has the same.

Imports no torch.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """What a metric means."""

    group: str
    """Title of the group."""
    text: str
    """What the number is, with its unit."""


RETURNS = "Returns"
LOSSES = "Losses and the policy"
OFF_POLICY = "SAC and DroQ"
TIME = "Steps and time"
DECOUPLED = "Decoupled runs"
OWN = "Own metrics"
GROUPS = (RETURNS, LOSSES, OFF_POLICY, TIME, DECOUPLED, OWN)
"""The groups in the order in which they are shown; the last is for names that are not ours."""

_TEXTS: dict[str, dict[str, str]] = {
    RETURNS: {
        "Rewards/rew_avg": "mean undiscounted return of the episodes that ended since the last row",
        "Game/ep_len_avg": "mean length of the episodes that ended since the last row",
        "Rewards/rew_avg_100": "mean return of the last 100 training episodes",
        "Test/cumulative_reward": "mean return in a greedy test",
        "Test/return_std": "standard deviation of the return in a greedy test",
        "Episode/NAME": (
            "an info metric (`--info-metrics NAME`): mean of the info's number `NAME` over the "
            "episodes that ended since the last row"
        ),
        "Test/NAME": "an info metric: mean of the info's number `NAME` in a greedy test",
    },
    LOSSES: {
        "Loss/policy_loss": (
            "PPO: clipped surrogate; A2C: -log pi(a|s) A; SAC: alpha log pi(a|s) - Q"
        ),
        "Loss/value_loss": (
            "squared error of the value, without a factor of 1/2; SAC: summed over the critics"
        ),
        "Loss/entropy_loss": "minus the entropy, in nats",
        "Info/approx_kl": (
            "PPO: estimate of KL(old, new), the mean of r - 1 - log r, where r is the probability "
            "ratio"
        ),
        "Info/clip_fraction": (
            "PPO: share of the rows whose ratio lies outside the clipping interval"
        ),
        "Info/explained_variance": (
            "1 - Var(returns - values) / Var(returns), with the values before the update"
        ),
        "Info/learning_rate": (
            "learning rate of this update, or the one it ended with if it adapts; SAC: that of the "
            "actor, if it has a schedule"
        ),
        "Info/clip_coef": "clipping coefficient of this update",
        "Info/ent_coef": "entropy coefficient of this update",
        "Gradients/grad_norm": "norm of the gradient before clipping",
        "Gradients/actor_norm": "SAC: norm of the actor's gradient before clipping",
        "Gradients/critic_norm": "SAC: norm of the critics' gradient before clipping",
        "Loss/loss": (
            "what `training_step` returned, mean over the gradient steps since the last row"
        ),
    },
    OFF_POLICY: {
        "Info/alpha": "the temperature",
        "Loss/alpha_loss": "log alpha times (entropy - target entropy)",
        "Info/entropy": "entropy of the policy, in nats, of actions scaled to [-1, 1]",
        "Info/q_value": "mean value of the sampled actions, over the critics",
        "Info/gradient_steps": "gradient steps of the critics so far",
    },
    TIME: {
        "Info/valid_env_steps": "environment steps so far, without reset rows",
        "Time/step_per_second": (
            "steps divided by the seconds of the training loop; start-up, tests and saving are "
            "left out"
        ),
        "Time/wall_seconds": (
            "seconds since the run began, on the command line with its process and from Python "
            "with `learn` or `fit`; start-up, tests and saving are included; a resumed run counts "
            "on"
        ),
        "Time/env_seconds": "seconds since the last row spent in the environments",
        "Time/act_seconds": "seconds since the last row spent choosing actions",
        "Time/store_seconds": "seconds since the last row spent storing steps",
        "Time/advantage_seconds": "seconds since the last row spent on values and advantages",
        "Time/update_seconds": "seconds since the last row spent on gradient steps",
    },
    DECOUPLED: {
        "Info/policy_lag": (
            "updates between the policy that acted and the one that learned, at most 1"
        ),
        "Time/wait_seconds": "time that a player waited for trainers",
    },
}
ENTRIES = {
    name: Entry(group, text) for group, texts in _TEXTS.items() for name, text in texts.items()
}
"""All metrics of fastrl by name; `NAME` stands for an info metric."""

_NOT_OURS = Entry(OWN, "logged by a callback, or by an algorithm of your own")


def entry_of(name: str) -> Entry:
    """Returns what a column of `metrics.csv` means."""
    if entry := ENTRIES.get(name):
        return entry
    kind, _, _ = name.partition("/")
    return ENTRIES.get(f"{kind}/NAME", _NOT_OURS)
