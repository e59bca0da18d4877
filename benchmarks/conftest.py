"""What all benchmarks share: one thread unless they choose, fixed seeds, and where they ran."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fastrl.runs.logger import machine_facts, versions


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]):
    machine_info["fastrl"] = _stamp()


@pytest.fixture(autouse=True)
def fixed_conditions(benchmark):
    benchmark.extra_info.update(_stamp())
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def _stamp() -> dict[str, Any]:
    return {"machine": machine_facts(), "versions": versions(), "commit": _commit()}


def _commit() -> str:
    """Hash of the commit, with a "+" after it if files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
