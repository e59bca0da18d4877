"""rl_games on a standard work, with its own EnvPool adapter.

PyPI's newest release, 1.6.5, runs with EnvPool 1.2.5 once its adapter is told `env_type:
gymnasium`. It writes TensorBoard events in every iteration and offers no way to leave them
out. It normalises advantages over the rollout, not over the minibatch.
"""

from __future__ import annotations

from typing import Any

import torch
from rl_games.common.algo_observer import DefaultAlgoObserver
from rl_games.torch_runner import Runner

from benchmarks.peers.stopwatch import Stopwatch, read_work

NEVER = 10**9


class Ticks(DefaultAlgoObserver):
    """Ticks at the end of every rollout, and keeps the learner."""

    algo: Any

    def __init__(self, stopwatch: Stopwatch) -> None:
        super().__init__()
        self._stopwatch = stopwatch

    def after_steps(self) -> None:
        super().after_steps()
        self._stopwatch.tick()


def parameters_of(work: dict[str, Any]) -> dict[str, Any]:
    """Translates the work into what its YAML files hold."""
    is_continuous = work["env_id"].startswith("HalfCheetah")
    if is_continuous:
        algorithm, model = "a2c_continuous", "continuous_a2c_logstd"
        space: dict[str, Any] = {
            "continuous": {
                "mu_activation": "None",
                "sigma_activation": "None",
                "mu_init": {"name": "default"},
                "sigma_init": {"name": "const_initializer", "val": 0},
                "fixed_sigma": True,
            }
        }
    else:
        algorithm, model, space = "a2c_discrete", "discrete_a2c", {"discrete": None}
    network = {
        "name": "actor_critic",
        "separate": not work["shared_network"],
        "space": space,
        "mlp": {
            "units": work["hidden_sizes"],
            "activation": work["activation"],
            "initializer": {"name": "default"},
        },
    }
    config = {
        "name": "work",
        "env_name": "envpool",
        "env_config": {
            "env_name": work["env_id"],
            "env_type": "gymnasium",
            "seed": work["seed"],
        },
        "device": "cpu",
        "num_actors": work["num_envs"],
        "horizon_length": work["num_steps"],
        "mini_epochs": work["update_epochs"],
        "minibatch_size": work["minibatch_size"],
        "max_epochs": work["total_steps"] // (work["num_envs"] * work["num_steps"]),
        "learning_rate": work["learning_rate"],
        "lr_schedule": None,
        "gamma": work["gamma"],
        "tau": work["gae_lambda"],
        "e_clip": work["clip_coef"],
        "critic_coef": 2 * work["vf_coef"],  # its loss has a factor 1/2
        "clip_value": False,
        "entropy_coef": work["ent_coef"],
        "truncate_grads": True,
        "grad_norm": work["max_grad_norm"],
        "normalize_advantage": work["normalize_advantages"],
        "normalize_input": work["normalize_observations"],
        "normalize_value": False,
        "value_bootstrap": True,
        "bounds_loss_coef": 0.0,
        "reward_shaper": {"scale_value": 1.0},
        "mixed_precision": False,
        "torch_compile": work["compile"],
        "print_stats": False,
        "save_best_after": NEVER,
        "save_frequency": 0,
    }
    return {
        "seed": work["seed"],
        "torch_threads": work["threads"],
        "algo": {"name": algorithm},
        "model": {"name": model},
        "network": network,
        "config": config,
    }


def main() -> None:
    """Trains and answers."""
    work = read_work()
    stopwatch = Stopwatch(work)
    observer = Ticks(stopwatch)
    runner = Runner(observer)
    runner.load({"params": parameters_of(work)})
    runner.run({"train": True})
    learner = observer.algo
    assert learner.frame == work["total_steps"], learner.frame
    returns = learner.game_rewards
    stopwatch.answer(
        ["rl-games", "envpool"],
        {
            "environment": f"{work['env_id']}, envpool",
            "threads": torch.get_num_threads(),
            "compile": work["compile"],
        },
        sum(weight.numel() for weight in learner.model.parameters() if weight.requires_grad),
        float(returns.get_mean()[0]) if returns.current_size else None,
    )


if __name__ == "__main__":
    main()
