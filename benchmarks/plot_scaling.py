"""Steps per second against environments, rollout length, minibatch and width, as a picture.

    python -m benchmarks.plot_scaling docs/scaling.png [--env-id CartPole-v1]

To be run from the root of the source tree; takes some minutes. Everything but the axis is as in the
standard work W2: 64 environments x 128 steps, 4 epochs, minibatch 2048, two layers of 64. What is
measured is whole iterations, rollout and update, in this process.
"""

from __future__ import annotations

import argparse
import resource
import statistics
from pathlib import Path
from time import perf_counter

from fastrl import PPO
from fastrl.runs.timer import StageTimer
from fastrl.training.player import Player

BASE = {"num_envs": 64, "num_steps": 128, "per_rank_batch_size": 2048, "width": 64}
AXES = {
    "num_envs": (1, 4, 16, 64, 256, 1024, 4096),
    "num_steps": (8, 32, 128, 512, 2048),
    "per_rank_batch_size": (64, 256, 1024, 2048, 4096, 8192),
    "width": (16, 64, 256, 512),
}
NUM_WARM_UPS, LEAST_SECONDS = 7, 2.0  # the placement of threads is decided in the warm-up


def steps_per_second(env_id: str, sizes: dict[str, int]) -> float:
    """Returns the median over iterations."""
    sizes = dict(sizes)
    width, steps = sizes.pop("width"), sizes["num_envs"] * sizes["num_steps"]
    sizes["per_rank_batch_size"] = min(sizes["per_rank_batch_size"], steps)
    agent = PPO(
        env_id,
        preset="none",
        hidden_sizes=(width, width),
        update_epochs=4,
        normalize_advantages=True,
        total_timesteps=10**6 * steps,
        accelerator="cpu",
        **sizes,
    )
    buffer, timer = agent.make_buffer(), StageTimer()
    player = Player(agent, agent.envs, buffer, timer)
    player.reset()
    seconds = []
    while len(seconds) < NUM_WARM_UPS + 3 or sum(seconds[NUM_WARM_UPS:]) < LEAST_SECONDS:
        start = perf_counter()
        player.collect()
        agent.update(buffer, len(seconds), timer)
        buffer.carry_over()
        seconds.append(perf_counter() - start)
    for env in agent.envs:
        env.close()
    return steps / statistics.median(seconds[NUM_WARM_UPS:])


def main() -> None:
    """Measures and draws."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot_scaling", description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--env-id", default="CartPole-v1")
    options = parser.parse_args()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    all_axes = figure.subplots(1, len(AXES), sharey=True)
    for axes, (name, values) in zip(all_axes, AXES.items(), strict=True):
        rates = []
        for value in values:
            rates.append(steps_per_second(options.env_id, {**BASE, name: value}))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{name} {value}: {rates[-1]:,.0f} steps/s, peak memory {peak} MiB", flush=True)
        axes.plot(values, [rate / 1000 for rate in rates], "o-", color="black", markersize=3)
        axes.axvline(BASE[name], color="lightgray", zorder=0)
        axes.set(xscale="log", yscale="log", xlabel=name.replace("_", " "))
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel(f"{options.env_id}\nthousand steps/s")
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.picture, dpi=110)


if __name__ == "__main__":
    main()
