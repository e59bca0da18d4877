"""Ten resumes of each algorithm: counters, buffers and schedules go on as if nothing happened."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from test_resume import SETTINGS, UPDATE, assert_equal, last_state, metrics_of

from fastrl import A2C, PPO, AgentTrainer, PPORecurrent
from fastrl.agents.on_policy import OnPolicyAgent

AGENTS: dict[str, tuple[type[OnPolicyAgent], dict[str, Any]]] = {
    "ppo": (PPO, {}),
    "a2c": (A2C, {}),
    "ppo_recurrent": (PPORecurrent, {"sequence_length": 8, "previous_action": True}),
}
NUM_RESUMES = 10

of_all = pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[] if x == "ppo" else [pytest.mark.slow]) for x in AGENTS]
)


def agent_of(name: str, log_dir: Path, num_updates: int) -> OnPolicyAgent:
    kind, own = AGENTS[name]
    settings = {key: value for key, value in SETTINGS.items() if hasattr(kind.config_class, key)}
    settings |= {"log_dir": str(log_dir), "total_timesteps": num_updates * UPDATE, **own}
    return kind("toy_envs:StatefulEnv", preset="none", engine="eager", **settings)


def interrupted(agent: OnPolicyAgent) -> OnPolicyAgent:
    """Make the agent receive a signal at the end of each update."""
    update: Any = agent.update

    def update_and_signal(*arguments: Any) -> dict[str, float]:
        metrics = update(*arguments)
        signal.raise_signal(signal.SIGTERM)
        return metrics

    agent.update = update_and_signal
    return agent


@of_all
def test_ten_resumes_are_one_run(name, tmp_path):
    num_updates = NUM_RESUMES + 2
    straight = AgentTrainer().fit(agent_of(name, tmp_path, num_updates)).folder
    first = interrupted(agent_of(name, tmp_path, num_updates))
    folder = AgentTrainer(on_interrupt="return").fit(first).folder
    for resume in range(1, NUM_RESUMES + 1):
        agent = agent_of(name, tmp_path, num_updates)
        agent = agent if resume == NUM_RESUMES else interrupted(agent)
        result = AgentTrainer(resume=folder, on_interrupt="return").fit(agent)
        assert result.summary["restarts"] == resume
    assert result.summary["total_env_steps"] == num_updates * UPDATE
    assert_equal(last_state(folder), last_state(straight))
    assert metrics_of(folder) == metrics_of(straight)


@pytest.mark.slow
@of_all
def test_schedules_and_counters_survive_ten_resumes_of_environments_that_cannot(name, tmp_path):
    """EnvPool starts new episodes; everything else goes on."""
    kind = AGENTS[name][0]
    num_updates = NUM_RESUMES + 2

    def make() -> OnPolicyAgent:
        agent = agent_of(name, tmp_path, num_updates)
        return kind("CartPole-v1", agent.config.replace(env_id="CartPole-v1"))

    folder = AgentTrainer(on_interrupt="return").fit(interrupted(make())).folder
    for _ in range(NUM_RESUMES - 1):
        AgentTrainer(resume=folder, on_interrupt="return").fit(interrupted(make()))
    AgentTrainer(resume=folder).fit(make())
    rows = metrics_of(folder)
    assert [int(row["env_steps"]) for row in rows] == [UPDATE * (k + 1) for k in range(num_updates)]
    rates = [float(row["Info/learning_rate"]) for row in rows]
    start = SETTINGS.get("learning_rate", kind.config_class.learning_rate)
    assert rates == pytest.approx([start * (1 - k / num_updates) for k in range(num_updates)])
