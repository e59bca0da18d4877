"""Runs every algorithm for three updates and hashes what it has learned, in `golden.json`.

    python tests/golden.py           # tells where this processor's numbers differ from its record
    python tests/golden.py --write   # takes down the numbers of this processor

Last bits follow the processor and the build of torch, so each kind has a record of its own. Names
and order of tensors do not matter to a hash, their values do.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from ranks import run_ranks
from torch import Tensor
from toy_agents import Loop

from fastrl import A2C, PPO, SAC, DroQ, PPORecurrent
from fastrl.agents.running import make_player, make_trainer
from fastrl.kernels.extension import HAS_DENSE
from fastrl.processes.devices import make_devices

RECORDS = Path(__file__).with_name("golden.json")
ENGINES = ("eager", "recorded", "native")
ARRANGEMENTS = ("alone", "ranks", "decoupled")
KINDS: dict[str, Any] = {kind.algo: kind for kind in (PPO, A2C, PPORecurrent, SAC, DroQ)}
NUM_UPDATES = 3
WITHOUT_KERNELS = ()  # algorithms whose networks no native kernel knows

_ALL: dict[str, Any] = {
    "num_envs": 4,
    "accelerator": "cpu",
    "num_threads": 1,
    "eval_episodes": 0,
}
_ON_POLICY = {
    **_ALL,
    "env_id": "toy_agents:DiscreteWalk",
    "num_steps": 16,
    "per_rank_batch_size": 24,
    "hidden_sizes": (16, 16),
    "total_timesteps": 16 * 4 * 2 * NUM_UPDATES,
    "anneal_lr": True,
    "ent_coef": 0.01,
    "normalize_advantages": True,
    "observation_normalization": True,
    "reward_scaling": True,
    "learning_rate": 0.02,  # last bits of gradients must show in the weights
}
_OFF_POLICY = {
    **_ALL,
    "env_id": "toy_agents:BoxWalk",
    "num_steps": 4,
    "learning_starts": 8,
    "replay_ratio": 0.5,
    "per_rank_batch_size": 64,  # this and the widths suit `kernels/perceptrons.py`
    "hidden_sizes": (64, 64),
    "buffer_size": 400,
    "total_timesteps": 400,
    "policy_frequency": 2,
    "max_grad_norm": 1.0,
    "policy_lr": 0.01,
    "q_lr": 0.01,
    "alpha_lr": 0.01,
    "log_every": 0,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {**_ON_POLICY, "env_id": "toy_agents:BoxWalk", "update_epochs": 2, "clip_vloss": True},
    "a2c": {**_ON_POLICY, "max_grad_norm": 5.0, "rmsprop_decay": 0.5},
    "ppo_recurrent": {
        **_ON_POLICY,
        "update_epochs": 2,
        "sequence_length": 8,
        "previous_action": True,
    },
    "sac": _OFF_POLICY,
    "droq": _OFF_POLICY,
}
# What learning leaves behind, by the names in an agent's state.
_LEARNED = (
    "policy",
    "reward_scale",
    "critics",
    "target_critics",
    "temperature",
    "optimizer",
    "actor_optimizer",
    "critic_optimizer",
    "alpha_optimizer",
)


def cases(arrangement: str) -> list[tuple[str, str]]:
    """Returns the algorithms and engines that an arrangement of processes has."""
    algos = [algo for algo in KINDS if (algo, arrangement) != ("ppo_recurrent", "decoupled")]
    without = () if HAS_DENSE else tuple(KINDS)
    without += WITHOUT_KERNELS
    engines = {algo: ENGINES[:-1] if algo in without else ENGINES for algo in algos}
    return [(algo, name) for algo in algos for name in engines[algo]]


def processor() -> str:
    """Names the kind of processor and the build of torch, on which last bits depend."""
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine()
    vectors = [x for x in ("avx2", "avx512f", "amx_tile") if x in facts.get("flags", "").split()]
    return " ".join([name, *vectors, "torch", torch.__version__])


def records() -> dict[str, dict[str, str]]:
    """Returns the hashes on record, by processor and case."""
    return json.loads(RECORDS.read_text()) if RECORDS.exists() else {}


def digest_of_run(agent: Any, metrics: list[dict[str, float]]) -> str:
    """Returns one word for what an agent has learned and one for its metrics."""
    state = agent.state_dict()
    tensors = [x for name in _LEARNED for x in _tensors(state.get(name))]
    parts = [_digest([x.contiguous().numpy().tobytes()]) for x in tensors]
    lines = [
        f"{update} {name} {float(value).hex()}"
        for update, row in enumerate(metrics)
        for name, value in sorted(row.items())
        if name != "Info/policy_lag"  # players have it, a process alone has not
    ]
    words = (sorted(parts), lines)
    return " ".join(_digest([text.encode() for text in texts]) for texts in words)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _digest(parts: Iterable[bytes]) -> str:
    found = blake2b(digest_size=8)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _config(algo: str, **more: Any) -> Any:
    return KINDS[algo].config_class.from_dict({**SETTINGS[algo], **more})


def alone(algo: str, engine_name: str) -> str:
    """Trains in this process."""
    config = _config(algo, engine=engine_name)
    agent = KINDS[algo](config.env_id, config)
    return digest_of_run(agent, Loop(agent).run(NUM_UPDATES))


def on_a_rank(wanted: list[tuple[str, str]]) -> dict[str, str]:
    """Trains as one of two ranks, which meet once for all runs."""
    devices = make_devices(_config("ppo", devices=2))
    digests = {}
    for algo, engine_name in wanted:
        config = _config(algo, devices=2, engine=engine_name)
        agent = KINDS[algo](config.env_id, config, devices=devices)
        metrics = Loop(agent).run(NUM_UPDATES)
        digests[f"{algo} {engine_name}"] = digest_of_run(agent, metrics)
    return digests


def as_player_or_trainer(wanted: list[tuple[str, str]]) -> dict[str, str]:
    """Plays or trains, as one of two processes, which meet once for all runs."""
    devices = make_devices(_config("ppo", decoupled=True))
    digests = {}
    for algo, engine_name in wanted:
        config = _config(algo, decoupled=True, engine=engine_name)
        if not devices.is_player:
            make_trainer(KINDS[algo], config, devices).serve()
            continue
        loop = Loop(make_player(KINDS[algo], config, devices))
        metrics = loop.run(NUM_UPDATES)
        loop.agent.finish_pending()
        digests[f"{algo} {engine_name}"] = digest_of_run(loop.agent, metrics)
        loop.agent.shut_down_trainers(0)
    return digests


def numbers(arrangement: str) -> dict[str, str]:
    """Returns the digests of all runs of an arrangement, by algorithm and engine."""
    wanted = cases(arrangement)
    if arrangement == "alone":
        return {f"{algo} {name}": alone(algo, name) for algo, name in wanted}
    function = on_a_rank if arrangement == "ranks" else as_player_or_trainer
    return run_ranks(2, function, wanted)[0]


def main() -> int:
    """Compares with the record of this processor, or writes it; returns the exit status."""
    found = {
        f"{arrangement} {case}": digest
        for arrangement in ARRANGEMENTS
        for case, digest in numbers(arrangement).items()
    }
    kept = records()
    if "--write" in sys.argv:
        if not HAS_DENSE:
            raise SystemExit("no C++ extension: build it first, or its numbers would be lost")
        kept[processor()] = found
        RECORDS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        print(f"{RECORDS.name}: {len(found)} runs on {processor()}")
        return 0
    if processor() not in kept:
        raise SystemExit(f"no record of {processor()}: write one with --write")
    record = kept[processor()]
    differing = [case for case, digest in found.items() if record.get(case) != digest]
    print("\n".join(differing) or f"{len(found)} runs are as on record")
    return int(bool(differing))


if __name__ == "__main__":
    raise SystemExit(main())
