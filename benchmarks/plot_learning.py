"""Draws learning curves: mean return of the last 100 training episodes over environment steps.

python benchmarks/plot_learning.py logs/ppo/*/LunarLander-v2_* --out docs/lunar_lander_curve.png
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def read_curve(run: Path) -> tuple[list[int], list[float]]:
    """Returns environment steps and mean returns of a run, from its first finished episode on."""
    with open(run / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("Rewards/rew_avg_100")]
    return [int(row["env_steps"]) for row in rows], [
        float(row["Rewards/rew_avg_100"]) for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for run in arguments.runs:
        summary = json.loads((run / "summary.json").read_text())
        label = "seed {seed}: greedy {eval_return_mean:.0f}, {loop_seconds:.0f} s".format(**summary)
        axes.plot(*read_curve(run), linewidth=1.2, label=label)
    axes.axhline(200, color="0.6", linewidth=0.8, linestyle="--")
    axes.set(xlabel="environment steps", ylabel="mean training return", title=summary["env_id"])
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.out, dpi=130)


if __name__ == "__main__":
    main()
