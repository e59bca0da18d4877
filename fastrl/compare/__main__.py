"""Compares runs, and groups of runs that differ in their seeds: a table and a plot.

python -m fastrl.compare logs/ppo/* --target-return 200 --plot curves.png
"""

from __future__ import annotations

from fastrl.processes.signals import leaving_at_once

with leaving_at_once():
    import argparse
    import contextlib
    import difflib
    import math
    import shutil
    import sys
    from collections.abc import Sequence
    from pathlib import Path

    from fastrl.compare.curves import STATISTICS
    from fastrl.compare.figures import GroupFigures, best_first, figures_of_group
    from fastrl.compare.finding import find_folders
    from fastrl.compare.groups import WRITTEN, Group, Measured, groups_of, measure
    from fastrl.compare.notes import notes_on, state_in_words
    from fastrl.compare.plotting import check_plotting, draw
    from fastrl.compare.tables import as_csv, as_json, as_markdown, as_text, runs_as_text
    from fastrl.config.values import read_value
    from fastrl.processes.errors import Parser, exit_status
    from fastrl.runs.folder import check_replaceable, expanded, replaced_file
    from fastrl.runs.metrics_table import TRAIN_RETURN, MetricsTable

_WIDTH = 100  # characters of a line, where the terminal does not say otherwise


def main(argv: Sequence[str] | None = None) -> int:
    """Compares runs; returns 0, or 2 after a user error."""
    return exit_status(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    description = (
        "Compares runs, and groups of runs that differ in their seeds: a table and a plot."
    )
    parser = Parser(prog="python -m fastrl.compare", description=description)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folder, one of its checkpoints, a folder with runs somewhere below it, or a "
        "pattern such as 'logs/ppo/*'",
    )
    parser.add_argument(
        "--target-return",
        metavar="R",
        help="also say after how many steps and seconds the mean return of the last 100 training "
        "episodes reached R",
    )
    parser.add_argument(
        "--by",
        metavar="NAMES",
        default="",
        help="settings that also tell groups apart, with commas between: some of "
        f"{', '.join(sorted(WRITTEN))}",
    )
    parser.add_argument("--list-runs", action="store_true", help="also list every run")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    output.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--csv", metavar="FILE", help="write the table as CSV; -: print it")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="draw curves over steps and over seconds, as .png, .svg or .pdf (needs matplotlib)",
    )
    parser.add_argument(
        "--metric", metavar="NAME", help=f"column of metrics.csv to draw (default: {TRAIN_RETURN})"
    )
    parser.add_argument(
        "--statistic",
        choices=tuple(STATISTICS),
        help="what the curves are of: mean (default) or interquartile mean, with its interval",
    )
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> int:
    target = _target(arguments.target_return)
    by = _by(arguments.by)
    if not arguments.plot:
        for name in ("metric", "statistic"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name} has no effect without --plot")
    metric = arguments.metric or TRAIN_RETURN
    if arguments.plot:
        check_plotting(_output(arguments.plot))
    if arguments.csv and arguments.csv != "-":
        _output(arguments.csv)
    if arguments.csv == "-" and (arguments.markdown or arguments.json):
        raise ValueError("--csv - prints the table; give it without --markdown and --json")
    measured = [measure(folder, [metric]) for folder in find_folders(arguments.runs)]
    damaged = [one for one in measured if one.run.state == "damaged"]
    groups = groups_of([one for one in measured if one.run.state != "damaged"], by)
    figures = best_first([figures_of_group(group, target) for group in groups])
    if not figures:
        first = damaged[0].run
        more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise ValueError(f"{_shown(first.path)}: {state_in_words(first)}{more}")
    drawn = [_counted(entry) for entry in figures]
    if arguments.plot:
        _check_metric(metric, drawn)
    _print(arguments, figures, damaged, target)
    if arguments.plot:
        path = _output(arguments.plot)
        draw(drawn, path, metric, arguments.statistic or "mean")
        print(f"plot: {path}", file=sys.stderr if _is_data(arguments) else sys.stdout)
    return 0


def _is_data(arguments: argparse.Namespace) -> bool:
    """Returns whether stdout is for a program to read."""
    return arguments.json or arguments.csv == "-"


def _print(
    arguments: argparse.Namespace,
    figures: Sequence[GroupFigures],
    damaged: Sequence[Measured],
    target: float | None,
) -> None:
    if arguments.csv == "-":
        print(as_csv(figures), end="")
    elif arguments.json:
        print(as_json(figures, damaged, target))
    elif arguments.markdown:
        print(as_markdown(figures, target))
    else:
        print(as_text(figures, target, _width()))
    is_data = _is_data(arguments)
    if arguments.list_runs and not is_data:
        print("", runs_as_text(figures, damaged, _shown), sep="\n")
    notes = notes_on(figures, damaged, target, _shown)
    if arguments.markdown:
        print("", *(f"- {line}" for line in notes), sep="\n")
    elif not is_data:
        print("", *notes, sep="\n")
    if arguments.csv and arguments.csv != "-":
        path = _output(arguments.csv)
        with replaced_file(path) as file:
            file.write(as_csv(figures).encode())
        print(f"table: {path}", file=sys.stderr if is_data else sys.stdout)


def _counted(figures: GroupFigures) -> Group:
    """Returns the runs of a group that the table counts, to be drawn."""
    group = figures.group
    counted = tuple(run.measured for run in figures.counted) or group.runs
    return Group(group.label, counted, group.settings)


def _check_metric(metric: str, groups: Sequence[Group]) -> None:
    """Raises ValueError, with names that are near, unless a run has a metric."""
    runs = [measured for group in groups for measured in group.runs]
    if any(measured.table.curve(metric)[0] for measured in runs):
        return
    found = MetricsTable(runs[0].table.path)
    found.update()
    near = difflib.get_close_matches(metric, found.names, 3, 0.3) or found.names[:3]
    what = f"near: {', '.join(near)}" if near else "they have none"
    raise ValueError(f"no run has the metric {metric!r}; {what}")


def _target(text: str | None) -> float | None:
    if text is None:
        return None
    value = read_value(text)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise ValueError(f"--target-return must be a number, not {text!r}")
    return float(value)


def _by(text: str) -> list[str]:
    names = [name.strip().replace("-", "_") for name in text.split(",") if name.strip()]
    for name in names:
        if name not in WRITTEN:
            allowed = ", ".join(sorted(WRITTEN))
            raise ValueError(f"--by {name}: expected some of {allowed}; all others do so anyway")
    return names


def _output(name: str) -> Path:
    """Returns the path of a file to write; ValueError if it cannot be one."""
    path = expanded(name)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist")
    check_replaceable(path)
    return path


def _shown(path: Path) -> str:
    """Returns a path relative to the current folder, if it is below it."""
    with contextlib.suppress(ValueError, OSError):
        path = path.relative_to(Path.cwd().resolve())
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in str(path))


def _width() -> int:
    """Returns the characters of a line of the terminal."""
    return max(60, shutil.get_terminal_size((_WIDTH, 24)).columns)


if __name__ == "__main__":
    raise SystemExit(main())
