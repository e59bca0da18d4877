"""Exports a trained policy to a single file that runs without fastrl.

    python -m fastrl.export RUN --format torchscript

`agents/export_files.py` says what is in the file. A JSON file beside it lists names, shapes and
types of inputs and outputs.
"""

from __future__ import annotations

if __name__ == "__main__":
    from fastrl.processes.signals import leaving_at_once

    with leaving_at_once():
        from fastrl.export import main as command_line
    raise SystemExit(command_line())

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrl.agents.export_files import SUFFIXES
from fastrl.agents.load import find_saved, load_agent, named_again, parser_of
from fastrl.processes.errors import exit_status
from fastrl.runs.folder import check_replaceable


def main(argv: Sequence[str] | None = None) -> int:
    """Exports the policy of a run; returns 0, or 2 after a user error."""
    return exit_status(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description = "Exports a trained policy to a single file."
    parser = parser_of("python -m fastrl.export", description, "task that defines the spaces")
    parser.add_argument(
        "--format",
        choices=list(SUFFIXES),
        default="torchscript",
        help="format of the file (default: torchscript)",
    )
    parser.add_argument(
        "--named-inputs",
        action="store_true",
        help="take every input by name, also an observation that is one array",
    )
    parser.add_argument(
        "--outputs",
        nargs="+",
        default=["actions"],
        metavar="NAME",
        help="what the file returns, in this order: actions, logits, mean, log_std, values, "
        "q_values (default: actions)",
    )
    parser.add_argument(
        "--out", type=Path, help="file to write (default: policy.<suffix> in the run folder)"
    )
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> int:
    named = named_again(arguments)
    saved = find_saved(arguments.run, arguments.checkpoint)
    path = arguments.out or saved.folder / f"policy{SUFFIXES[arguments.format]}"
    target = path.absolute()  # now: an environment may change the current folder
    described = target.with_name(f"{target.name}.json")
    for file in (target, described):
        check_replaceable(file)
        if file.exists() and file.samefile(saved.checkpoint):
            raise ValueError(f"{file} is the checkpoint that is exported; --out names another file")
    agent: Any = load_agent(saved, arguments.env_id, **named)
    try:
        how = {"inputs": "named" if arguments.named_inputs else "auto"}
        facts = agent.export(target, arguments.format, outputs=arguments.outputs, **how)
    finally:
        for env in agent.envs:
            env.close()
    words = [
        f"{x['dtype']} {name} [{', '.join(map(str, ['B', *x['shape']]))}]"
        for name, x in facts["inputs"].items()
    ]
    results = " and ".join(facts["outputs"]).replace("actions", "greedy actions")
    print(f"{path}: {', '.join(words)} to {results}")
    print(f"{path}.json: names, shapes and types of inputs and outputs")
    return 0
