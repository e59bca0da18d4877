"""Lists the presets with their results.

python -m fastrl.presets --algo ppo
"""

from __future__ import annotations

from fastrl.processes.signals import leaving_at_once

with leaving_at_once():
    import json
    import shlex
    import sys
    from collections.abc import Sequence
    from typing import Any

    from fastrl.presets import FRESH_SEEDS, algorithms, load_presets, load_results, named_presets
    from fastrl.processes.errors import Parser, exit_status

_SECONDS = ("wall s", "CPU s")
MEASURED = ("mean", "IQM", "95 %", "worst", "seeds", "steps", *_SECONDS, "on", "commit")


def listing(algos: Sequence[str]) -> list[dict[str, Any]]:
    """Returns entries with `algo`, `env_id`, `settings`, `result`, `is_current` and `command`.

    There is one entry per preset. `result` is as in `load_results`, None if not measured;
    `is_current` tells whether it was measured with the present settings; `command` measures it
    again. A task that was measured with flags, such as `CartPole-v1 --mask-vel`, has its own entry.

    Args:
        algos: module names of the algorithms.
    """
    results = load_results()
    entries = []
    for algo in algos:
        presets, measured = load_presets(algo), results.get(algo, {})
        for env_id in [*presets, *(task for task in measured if task not in presets)]:
            result, settings = measured.get(env_id), presets[env_id.split()[0]]
            entries.append(
                {
                    "algo": algo,
                    "env_id": env_id,
                    "settings": settings,
                    "result": result,
                    "is_current": result is not None
                    and result["settings"] == {**settings, **_flags(env_id, result["settings"])},
                    "command": command(algo, env_id, result["seeds"] if result else FRESH_SEEDS),
                }
            )
    return entries


def command(algo: str, env_id: str, seeds: Sequence[int]) -> str:
    """Returns the command that trains a preset with several seeds and measures the result."""
    words = " ".join(map(str, seeds))
    return f"python -m benchmarks.learning {shlex.quote(env_id)} --algo {algo} --seeds {words}"


def _flags(env_id: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run that are set by flags after a task's id."""
    flags = [word for word in env_id.split() if word.startswith("--")]
    names = [flag.removeprefix("--").partition("=")[0].replace("-", "_") for flag in flags]
    return {name: settings.get(name) for name in names}


def table(entries: Sequence[dict[str, Any]]) -> str:
    """Returns the entries as a table, one line per preset, and the machines they ran on.

    Columns of seconds are there if those of any are known.
    """
    titles = ("algo", "task", *MEASURED, "measure it again")
    rows: list[tuple[str, ...]] = [titles]
    machines: list[str] = []
    for entry in entries:
        result = entry["result"]
        facts: tuple[str, ...] = ("never run", *[""] * (len(MEASURED) - 1))
        if result is not None:
            if result["machine"] not in machines:
                machines.append(result["machine"])
            low, high = result["return_interval"]
            facts = (
                _return(result["return_mean"]),
                _return(result["return_iqm"]),
                f"{_return(low)} to {_return(high)}" if len(result["seeds"]) > 1 else "?",
                _return(result["return_worst"]),
                str(len(result["seeds"])),
                f"{result['steps']:,}",
                _seconds(result["wall_seconds"]),
                _seconds(result["cpu_seconds"]),
                f"[{machines.index(result['machine']) + 1}]",
                result["commit"] or "?",
            )
        note = "  (other settings then)" if result and not entry["is_current"] else ""
        rows.append((entry["algo"], entry["env_id"], *facts, entry["command"] + note))
    columns = list(zip(*rows, strict=True))
    is_known = {column[0]: any(cell not in ("?", "") for cell in column[1:]) for column in columns}
    columns = [column for column in columns if column[0] not in _SECONDS or is_known[column[0]]]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if title in MEASURED else cell.ljust(width)
            for title, cell, width in zip([x[0] for x in columns], row, widths, strict=True)
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]
    notes = [
        "",
        "Greedy returns of the final policies, one per seed: mean, interquartile mean (IQM)",
    ]
    seconds = " Seconds: medians of processes." if is_known[_SECONDS[0]] else ""
    notes += [f"with its 95 % bootstrap interval, worst.{seconds} ?: unknown."]
    for algo in dict.fromkeys(entry["algo"] for entry in entries):
        if names := named_presets(algo):
            notes.append(f"{algo}, for any task: --preset {', --preset '.join(names)}")
    notes += [f"[{number}] {machine}" for number, machine in enumerate(machines, 1)]
    return "\n".join(lines + notes)


def _return(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.3f}"


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the presets; returns 0, or 2 after a user error."""
    return exit_status(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    parser = Parser(
        prog="python -m fastrl.presets", description="Lists the presets with their results."
    )
    parser.add_argument(
        "--algo", choices=algorithms(), help="list only the presets of this algorithm"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args(argv)
    entries = listing([arguments.algo] if arguments.algo else algorithms())
    print(json.dumps(entries) if arguments.json else table(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
