"""The algorithms of docs/own_algorithms.md solve their task, and their formulas are right."""

from __future__ import annotations

import ast
import types
from typing import Any

import pytest
import torch
from test_docs import DOCS, blocks

from fastrl import AgentTrainer
from fastrl.ops.exploration import epsilon_greedy
from fastrl.ops.gae import gae
from fastrl.ops.vtrace import vtrace

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
SOLVED = 475  # the mean return at which gymnasium calls CartPole-v1 solved


def classes_of_page() -> Any:
    """Returns what the page defines, without its runs."""
    code = "".join(code for _, code, _ in blocks((DOCS / "own_algorithms.md").read_text()))
    kept = [node for node in ast.parse(code).body if isinstance(node, DEFINITIONS)]
    page = types.ModuleType("own_algorithms")
    exec(compile(ast.Module(kept, []), "own_algorithms.md", "exec"), vars(page))
    return page


def vtrace_by_loop(ratios, rewards, values, terminated, truncated, gamma, trace_lambda):
    """The definition, row by row, from the last one on."""
    targets = values.clone()
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(len(rewards))):
        ended = terminated[t] | truncated[t]
        goes_on = ~ended if t + 1 < len(rewards) else torch.zeros_like(ended)
        following = torch.where(goes_on, targets[t + 1], values[t + 1])
        rho, trace = ratios[t].clamp(max=1), trace_lambda * ratios[t].clamp(max=1)
        delta = rho * (rewards[t] + gamma * values[t + 1] * ~terminated[t] - values[t])
        advantages[t] = rho * (rewards[t] + gamma * following * ~terminated[t] - values[t])
        beyond = torch.where(ended, 0, targets[t + 1] - values[t + 1])
        targets[t] = values[t] + delta + gamma * trace * beyond
    return targets[:-1], advantages


@pytest.fixture
def rows():
    """Random rows `[T, N]` with both kinds of ends, and the values of T + 1."""
    torch.manual_seed(0)
    num_steps, num_envs = 23, 5
    ends = torch.rand(num_steps, num_envs)
    rewards, values = torch.randn(num_steps, num_envs), torch.randn(num_steps + 1, num_envs)
    return rewards, values, ends < 0.1, ends > 0.9


def test_vtrace_is_its_definition(rows):
    rewards, values, *flags = rows
    ratios = torch.randn_like(rewards).exp()
    targets, advantages = vtrace(ratios.log(), rewards, values, *flags, 0.9, 0.8)
    by_loop = vtrace_by_loop(ratios, rewards, values, *flags, 0.9, 0.8)
    torch.testing.assert_close((targets, advantages), by_loop, rtol=1e-4, atol=1e-5)


def test_vtrace_of_the_policy_that_acted_has_the_targets_of_gae(rows):
    rewards, values, *flags = rows
    targets, _ = vtrace(torch.zeros_like(rewards), rewards, values, *flags, 0.9, 0.8)
    advantages = gae(rewards, values, *flags, 0.9, 0.8)
    torch.testing.assert_close(targets, advantages + values[:-1], rtol=1e-4, atol=1e-5)


def test_epsilon_greedy_is_random_as_often_as_epsilon_says_and_uniform_then():
    torch.manual_seed(0)
    noise = -torch.empty(100_000, 3).exponential_().log()
    values = torch.tensor([0.0, 1.0, 0.5]).expand(len(noise), 3)
    chosen = epsilon_greedy(values, noise, torch.tensor(0.3)).bincount(minlength=3) / len(noise)
    torch.testing.assert_close(chosen, torch.tensor([0.1, 0.8, 0.1]), atol=0.005, rtol=0)
    assert (epsilon_greedy(values, noise, 0.0) == 1).all()


ALGORITHMS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "reinforce": ("Reinforce", 600_000, {"num_envs": 64, "learning_rate": 5e-3}),
    "impala": (
        "Impala",
        300_000,
        {"num_envs": 16, "num_steps": 32, "update_epochs": 2, "learning_rate": 2e-3},
    ),
    "dqn": (
        "DQN",
        120_000,
        {"num_envs": 8, "learning_rate": 3e-4, "replay_ratio": 0.25},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_of_the_page_solves_cartpole(name, tmp_path):
    page = classes_of_page()
    kind, num_steps, settings = ALGORITHMS[name]
    torch.manual_seed(1)
    network = page.ActorCritic() if name == "impala" else page.mlp(2)
    run = {"seed": 1, "accelerator": "cpu", "log_dir": str(tmp_path), "target_return": 490.0}
    module = getattr(page, kind)(network, **settings, **run)
    result = AgentTrainer(max_steps=num_steps).fit(module, "CartPole-v1")
    assert result.summary["eval_return_mean"] >= SOLVED


def test_each_algorithm_of_the_page_is_under_eighty_lines():
    text = (DOCS / "own_algorithms.md").read_text()
    assert all(code.count("\n") < 80 for _, code, _ in blocks(text))
