"""fastrl on a standard work, as its users run it: logs and checkpoints are written.

It chooses its threads by itself unless it is told a number.
"""

from __future__ import annotations

import contextlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.stopwatch import Stopwatch, read_work

SAC_LEARNING_STARTS, SAC_BUFFER_SIZE = 100, 65_537  # of SheepRL's benchmark
LOG_DIR = "logs"  # the parent starts every process in an empty folder


def settings_of(work: dict[str, Any]) -> dict[str, Any]:
    """Translates the work into fields of `PPOConfig` or `SACConfig`."""
    if work["algo"] == "sac":
        return {
            "total_timesteps": work["total_steps"],
            "num_envs": work["num_envs"],
            "per_rank_batch_size": work["minibatch_size"],
            "replay_ratio": 1 / work["num_envs"],
            "learning_starts": SAC_LEARNING_STARTS,
            "buffer_size": SAC_BUFFER_SIZE,
            "hidden_sizes": tuple(work["hidden_sizes"]),
            "policy_lr": work["learning_rate"],
            "q_lr": work["learning_rate"],
            "alpha_lr": work["learning_rate"],
            "gamma": work["gamma"],
            "seed": work["seed"],
            "accelerator": "cpu",
            "eval_episodes": 0,
            "checkpoint_every": 0,
            "log_dir": LOG_DIR,
            "num_threads": work.get("threads", 0),
        }
    return {
        "total_timesteps": work["total_steps"],
        "num_envs": work["num_envs"],
        "num_steps": work["num_steps"],
        "update_epochs": work["update_epochs"],
        "per_rank_batch_size": work["minibatch_size"],
        "hidden_sizes": tuple(work["hidden_sizes"]),
        "activation_function": work["activation"],
        "shared_network": work["shared_network"],
        "observation_normalization": work["normalize_observations"],
        "learning_rate": work["learning_rate"],
        "gamma": work["gamma"],
        "gae_lambda": work["gae_lambda"],
        "clip_coef": work["clip_coef"],
        "vf_coef": work["vf_coef"],
        "ent_coef": work["ent_coef"],
        "max_grad_norm": work["max_grad_norm"],
        "normalize_advantages": work["normalize_advantages"],
        "seed": work["seed"],
        "accelerator": "cpu",
        "eval_episodes": 0,
        "checkpoint_every": 0,
        "log_dir": LOG_DIR,
        "num_threads": work.get("threads", 0),  # 0: fastrl chooses
    }


def command_line(work: dict[str, Any]) -> list[str]:
    """Returns the flags of `python -m fastrl.<algo>` for the work."""
    words = ["--env-id", work["env_id"], "--preset", "none"]
    for name, value in settings_of(work).items():
        values = value if isinstance(value, tuple) else (value,)
        words += ["--" + name.replace("_", "-"), *map(_spell, values)]
    return words


def _spell(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def train_in_loop(work: dict[str, Any], stopwatch: Stopwatch) -> tuple[dict[str, Any], int]:
    """Trains with a tick at the start of each iteration; returns the summary and the parameters."""
    from fastrl import PPO
    from fastrl.training.trainer import AgentTrainer

    class TickingPPO(PPO):
        def begin_rollout(self, buffer: Any) -> None:
            stopwatch.tick()
            super().begin_rollout(buffer)

    agent = TickingPPO(work["env_id"], preset="none", **settings_of(work))
    summary = AgentTrainer().fit(agent).summary
    return summary, sum(parameter.numel() for parameter in agent.policy.parameters())


def train_as_command(work: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Does what `python -m fastrl.<algo> FLAGS` does; returns the summary and the parameters."""
    sys.argv[1:] = command_line(work)
    with contextlib.suppress(SystemExit):
        runpy.run_module(f"fastrl.{work['algo']}", run_name="__main__", alter_sys=True)
    from fastrl.runs.checkpoint import load_checkpoint

    (summary,) = Path(LOG_DIR).rglob("summary.json")
    agent = load_checkpoint(summary.parent / "checkpoints" / "last.pt")["agent"]
    networks = [agent[name] for name in ("policy", "critics", "target_critics") if name in agent]
    size = sum(weight.numel() for weights in networks for weight in weights.values())
    return json.loads(summary.read_text()), size


def main() -> None:
    """Trains and answers."""
    work = read_work()
    stopwatch = Stopwatch(work)
    if work["measure"] == "seconds":
        summary, num_parameters = train_as_command(work)
    else:
        summary, num_parameters = train_in_loop(work, stopwatch)
    assert summary["total_env_steps"] == work["total_steps"], summary
    from fastrl.kernels import indexing

    settings = {
        "environment": f"{summary['env_id']}, {summary['backend']}",
        "indexing": indexing.BACKEND,
        **({"threads": work["threads"]} if "threads" in work else {}),
    }
    stopwatch.answer(["fastrl"], settings, num_parameters, summary["train_return_mean"])


if __name__ == "__main__":
    main()
