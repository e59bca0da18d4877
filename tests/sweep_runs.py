"""In place of `python -m fastrl.ppo` in tests of sweeps: run folders within a tenth of a second.

The return of a run is a function of its settings, its seed and the share of its steps that are
over. What else happens is told by the task's id:
    fast          the run ends at once
    slow          it takes about a second
    endless       it never ends, and has a child in its group
    failing       it fails with a line
    diverging     it fails if learning_rate is above 1e-3
    refusing      it takes no gamma but that of the defaults
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

NUM_TESTS = 8


def words_of(argv: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].replace("-", "_").partition("=")
            found.setdefault(name, []).extend([value] if equals else [])
        else:
            found[name].append(word)
    return found


def return_of(settings: dict[str, Any], seed: int, share: float) -> float:
    """100 at a learning rate of 1e-3 and gamma of 0.99, after all steps."""
    distance = abs(math.log10(settings["learning_rate"]) + 3)
    distance += abs(math.log10(1 - settings["gamma"]) + 2)
    return round((100 - 40 * distance) * share + 0.1 * (seed % 3), 3)


def main(argv: list[str]) -> int:
    words = words_of(argv)
    settings: dict[str, Any] = {"learning_rate": 3e-4, "gamma": 0.9, "total_timesteps": 1000}
    for file in words.get("config", ()):
        settings |= yaml.safe_load(Path(file).read_text()) or {}
    for name in ("learning_rate", "gamma"):
        if name in words:
            settings[name] = float(words[name][0])
    settings["learning_rate"] = float(settings["learning_rate"])
    env_id, seed = words["env_id"][0], int(words["seed"][0])
    if env_id == "failing" or (env_id == "diverging" and settings["learning_rate"] > 1e-3):
        print("something else\nerror: the training diverged")
        return 2
    if env_id == "refusing" and settings["gamma"] != 0.99:
        print(f"error: gamma={settings['gamma']} has no effect on this task")
        return 2
    time_name = str(time.time_ns())
    folder = Path(words["log_dir"][0]) / "ppo" / time_name / f"{env_id}_default_{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump({**settings, "algo": "ppo", "env_id": env_id, "seed": seed})
    )
    if env_id == "endless":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    with open(folder / "metrics.csv", "w", newline="", buffering=1) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["env_steps", "Test/cumulative_reward", "Rewards/rew_avg_100"])
        for test in range(1, NUM_TESTS + 1):
            value = return_of(settings, seed, test / NUM_TESTS)
            rows.writerow([test * 125, value, value])
            time.sleep({"slow": 0.1, "endless": 300.0 if test == 1 else 0.0}.get(env_id, 0.01))
    summary = {
        "eval_return_mean": return_of(settings, seed, 1.0),
        "total_env_steps": 1000,
        "seconds_to_target": 1 + abs(return_of(settings, seed, 1.0) - 100),
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
