"""SheepRL on the work that it publishes itself: its command line with `exp=<algo>_benchmarks`.

Those experiments have tests, logs and checkpoints off. As published, PPO's actor and critic share
their hidden layers; where the work asks for separate networks, overrides move the layers into each.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from sheeprl.algos.ppo import ppo
from sheeprl.algos.sac import sac
from sheeprl.cli import run

from benchmarks.peers.stopwatch import Stopwatch, read_work

ACTIVATIONS = {"tanh": "torch.nn.Tanh", "elu": "torch.nn.ELU"}
NEVER = 10**9


def overrides(work: dict[str, Any]) -> list[str]:
    """Translates the work into words of its command line."""
    if work["algo"] == "sac":
        (width,) = set(work["hidden_sizes"])
        return [
            "exp=sac_benchmarks",
            f"env.id={work['env_id']}",
            f"env.num_envs={work['num_envs']}",
            f"algo.total_steps={work['total_steps']}",
            f"algo.per_rank_batch_size={work['minibatch_size']}",
            f"algo.replay_ratio={1 / work['num_envs']}",
            f"algo.hidden_size={width}",
            f"algo.gamma={work['gamma']}",
            "metric.log_level=0",
            f"checkpoint.every={NEVER}",
            "checkpoint.save_last=False",
            f"num_threads={work['threads']}",
            f"seed={work['seed']}",
        ]
    width = work["hidden_sizes"][0]
    depth = len(work["hidden_sizes"])
    if set(work["hidden_sizes"]) != {width}:
        raise ValueError(f"hidden layers must have one width here, not {work['hidden_sizes']}")
    if work["normalize_observations"]:
        raise ValueError("there is no running normalisation of observations here")
    shared, separate = (depth, 0) if work["shared_network"] else (0, depth)
    return [
        "exp=ppo_benchmarks",
        f"env.id={work['env_id']}",
        f"env.num_envs={work['num_envs']}",
        f"algo.total_steps={work['total_steps']}",
        f"algo.rollout_steps={work['num_steps']}",
        f"algo.update_epochs={work['update_epochs']}",
        f"algo.per_rank_batch_size={work['minibatch_size']}",
        f"algo.dense_units={width}",
        f"algo.dense_act={ACTIVATIONS[work['activation']]}",
        f"algo.encoder.mlp_layers={shared}",
        f"algo.actor.mlp_layers={separate}",
        f"algo.critic.mlp_layers={separate}",
        f"algo.optimizer.lr={work['learning_rate']}",
        f"algo.gamma={work['gamma']}",
        f"algo.gae_lambda={work['gae_lambda']}",
        f"algo.clip_coef={work['clip_coef']}",
        f"algo.vf_coef={work['vf_coef']}",
        f"algo.ent_coef={work['ent_coef']}",
        f"algo.max_grad_norm={work['max_grad_norm']}",
        f"algo.normalize_advantages={work['normalize_advantages']}",
        "algo.run_test=False",
        "metric.log_level=0",
        f"checkpoint.every={NEVER}",
        "checkpoint.save_last=False",
        f"num_threads={work['threads']}",
        f"seed={work['seed']}",
    ]


def agents_of_updates(algorithm: ModuleType) -> list[torch.nn.Module]:
    """Returns a list that will hold the agent once for every update; nothing else tells of them."""
    agents: list[torch.nn.Module] = []
    train = algorithm.train

    def noted_train(fabric: Any, agent: torch.nn.Module, *rest: Any) -> int:
        agents.append(agent)
        return train(fabric, agent, *rest)

    algorithm.train = noted_train
    return agents


def main() -> None:
    """Trains and answers."""
    work = read_work()
    if work["measure"] != "seconds":
        raise ValueError(f"only whole processes are measured here, not {work['measure']}")
    torch.set_num_threads(work["threads"])
    sys.argv[1:] = overrides(work)
    agents = agents_of_updates({"ppo": ppo, "sac": sac}[work["algo"]])
    run()
    assert agents and (work["algo"] == "sac" or len(agents) == work["num_updates"]), len(agents)
    settings = {
        "environment": f"{work['env_id']}, SyncVectorEnv",
        "threads": torch.get_num_threads(),
    }
    num_parameters = sum(parameter.numel() for parameter in agents[-1].parameters())
    Stopwatch(work).answer(["sheeprl", "gymnasium", "lightning"], settings, num_parameters)


if __name__ == "__main__":
    main()
