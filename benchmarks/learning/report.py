"""Where evidence is kept, and the table made of it.

A report is four files side by side or, published, at their places in the source tree: results
(YAML, as `fastrl.presets.load_results` says), curves (CSV), a table (Markdown) and a plot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.learning.records import Record, read_curves, summarise, write_curves
from fastrl.runs.folder import replaced_file

Results = dict[str, dict[str, dict[str, Any]]]
"""Summaries of presets by algorithm and task."""

ROOT = Path(__file__).parents[2]
ANCHORS = Path(__file__).with_name("anchors.yaml")
BEGIN, END = "<!-- learning table -->", "<!-- end of the learning table -->"
RESULTS_NOTE = "# Written by python -m benchmarks.learning, never by hand.\n"


@dataclass(frozen=True)
class Report:
    """Paths of one report."""

    results: Path
    curves: Path
    table: Path
    """A Markdown file; where it has the marks BEGIN and END, only what is between them changes."""
    plot: Path


PUBLISHED = Report(
    results=ROOT / "fastrl" / "presets" / "results.yaml",
    curves=ROOT / "docs" / "learning_curves.csv",
    table=ROOT / "README.md",
    plot=ROOT / "docs" / "learning_curves.png",
)


def report_in(folder: Path) -> Report:
    """Returns the report of a folder of its own."""
    names = ("results.yaml", "curves.csv", "table.md", "curves.png")
    return Report(*(folder / name for name in names))


def update(report: Report, records: Iterable[Record]) -> None:
    """Puts runs into a report; what it holds of other presets stays.

    Raises:
        ValueError: the runs of one preset differ in more than their seed.
    """
    from benchmarks.learning.plots import draw

    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.algo, record.env_id].append(record)
    results, curves = read_results(report.results), read_curves(report.curves)
    curves = {key: curve for key, curve in curves.items() if key[:2] not in groups}
    for (algo, env_id), runs in groups.items():
        results.setdefault(algo, {})[env_id] = summarise(runs)
        curves |= {(algo, env_id, run.seed): run.curve for run in runs}
    results = {
        algo: {task: results[algo][task] for task in tasks_of({algo: results[algo]})}
        for algo in sorted(results)
    }
    report.results.parent.mkdir(parents=True, exist_ok=True)
    text = RESULTS_NOTE + yaml.safe_dump(results, sort_keys=False, width=100)
    with replaced_file(report.results) as file:
        file.write(text.encode())
    write_curves(report.curves, curves)
    write_table(report.table, markdown(results, read_anchors()))
    draw(curves, tasks_of(results), read_anchors(), report.plot)


def tasks_of(results: Results) -> list[str]:
    """Returns the tasks in results: first those with anchors, in their order, others by name."""
    known = list(read_anchors())
    tasks = {env_id for tasks in results.values() for env_id in tasks}

    def place(task: str) -> tuple[int, str]:
        env_id = task.split()[0]  # what follows are flags
        return known.index(env_id) if env_id in known else len(known), task

    return sorted(tasks, key=place)


def read_results(path: Path) -> Results:
    """Returns the results in a file, none if it is not there."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def read_anchors() -> dict[str, dict[str, list[list[Any]]]]:
    """Returns published figures by task and algorithm: mean, spread, steps, source."""
    return yaml.safe_load(ANCHORS.read_text(encoding="utf-8"))


def markdown(results: Results, anchors: Mapping[str, Mapping[str, list[list[Any]]]]) -> str:
    """Returns the table of what presets reach, beside what others publish.

    The column of seconds is there if those of any preset are known.

    Args:
        results: as `results.yaml` holds them.
        anchors: as `read_anchors` returns them.
    """
    shown = [result for tasks in results.values() for result in tasks.values()]
    is_timed = any(result["wall_seconds"] is not None for result in shown)
    titles = ["task", "algorithm", "steps", "mean", "IQM (95 %)", "worst", "seeds"]
    titles += ["wall / CPU s"] * is_timed + ["measured", "published"]
    rules = ["---", "---", *["---:"] * 4, "---", *["---:"] * is_timed, "---", "---"]
    lines = [f"| {' | '.join(titles)} |", f"|{'|'.join(rules)}|"]
    for env_id in tasks_of(results):
        for algo in sorted(results):
            if env_id not in results[algo]:
                continue
            result = results[algo][env_id]
            ours = _steps(result["steps"])
            published = "; ".join(
                f"{source} {_figure(mean)}"
                + (f" at {_steps(steps)}" if _steps(steps) != ours else "")
                for mean, _, steps, source in anchors.get(env_id, {}).get(algo, [])
            )
            seconds = f"{_seconds(result['wall_seconds'])} / {_seconds(result['cpu_seconds'])}"
            cells = [
                env_id,
                algo,
                ours,
                _figure(result["return_mean"]),
                _with_interval(result),
                _figure(result["return_worst"]),
                seeds_in_words(result["seeds"]),
                *[seconds] * is_timed,
                f"{result['machine']}, {result['commit'] or '?'}",
                published,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_table(path: Path, table: str) -> None:
    """Writes a table into a file, between the marks if the file has them.

    Raises:
        ValueError: the file has one mark without the other.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if (BEGIN in text) != (END in text):
        raise ValueError(f"{path} has one of the marks {BEGIN} and {END} without the other")
    if BEGIN in text:
        before, rest = text.split(BEGIN, 1)
        table = f"{before}{BEGIN}\n\n{table}\n{END}{rest.split(END, 1)[1]}"
    with replaced_file(path) as file:
        file.write(table.encode())


def seeds_in_words(seeds: Sequence[int]) -> str:
    """Returns how many seeds there are, and which: `10: 100-109`."""
    first, last = min(seeds), max(seeds)
    in_a_row = len(seeds) > 1 and sorted(seeds) == list(range(first, last + 1))
    named = f"{first}-{last}" if in_a_row else ", ".join(map(str, seeds))
    return f"{len(seeds)}: {named}"


def _with_interval(result: Mapping[str, Any]) -> str:
    iqm = _figure(result["return_iqm"])
    if len(result["seeds"]) == 1:
        return iqm
    low, high = result["return_interval"]
    return f"{iqm} ({_figure(low)} to {_figure(high)})"


def _figure(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3f}"


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def _steps(steps: int) -> str:
    return f"{steps / 1e6:.1f}M" if steps >= 95_000 else f"{steps:,}"
