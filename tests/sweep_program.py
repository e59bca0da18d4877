"""`python -m fastrl.sweep` whose runs are those of `sweep_runs.py`, for tests that kill it."""

from __future__ import annotations

import sys
from pathlib import Path

import fastrl.sweep.pool
import fastrl.sweep.processes
from fastrl.sweep.__main__ import main

RUNS = str(Path(__file__).with_name("sweep_runs.py"))
fastrl.sweep.pool.is_possible = lambda: False
fastrl.sweep.processes.program_of = lambda algo: [sys.executable, RUNS]

if __name__ == "__main__":
    raise SystemExit(main())
