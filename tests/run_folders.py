"""Run folders made by hand, for tests of what reads them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastrl.runs.folder import write_config

HEADER = (
    "env_steps,Rewards/rew_avg_100,Time/step_per_second,Test/cumulative_reward,Time/wall_seconds"
)
TITLES = HEADER.split(",")


def make_run(
    parent: Path,
    seed: int = 1,
    returns: Sequence[float] = (10.0, 20.0, 30.0),
    greedy: float | None = 40.0,
    settings: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    algo: str = "ppo",
    env_id: str = "CartPole-v1",
    name: str = "",
) -> Path:
    """Makes a run that has logged a return every 100 steps and two seconds.

    Args:
        parent: of its folder.
        seed: of the run.
        returns: of training.
        greedy: of the final test; None: tests were off.
        settings: that differ from the defaults.
        summary: changes to it; {"killed": True} leaves it out.
        algo: of the run.
        env_id: its task.
        name: of its folder.
    """
    folder = parent / (name or f"{env_id}_default_{seed}")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.pt").write_bytes(b"")
    steps = 100 * len(returns)
    values = {"algo": algo, "env_id": env_id, "exp_name": "default", "seed": seed}
    values |= {"total_timesteps": 300, "num_envs": 1, "num_steps": 100, "learning_rate": 1e-3}
    write_config(folder / "config.yaml", values | dict(settings or {}))
    rows = [f"{100 * i},{value},50.0,,{2.0 * i}" for i, value in enumerate(returns, 1)]
    if greedy is not None:
        rows.append(f"{steps},,,{greedy},{2.0 * len(returns) + 1}")
    (folder / "metrics.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    facts: dict[str, Any] = {
        "algo": algo, "env_id": env_id, "seed": seed, "total_env_steps": steps,
        "interrupted": False, "steps_per_second": 50.0, "wall_seconds": 2.0 * len(returns) + 2,
        "eval_return_mean": greedy, "eval_episodes": 100 if greedy is not None else 0,
        "train_return_mean": returns[-1] if returns else None, "machine": {"cpu": "A"},
    }  # fmt: skip
    changes = dict(summary or {})
    if not changes.pop("killed", False):
        (folder / "summary.json").write_text(json.dumps(facts | changes))
    return folder
