"""Throughput over time: records per kind of machine, their comparison, and the table of a run.

What is worth comparing is the ratio to a plain twin that is timed in turns with ours: it hardly
follows a machine that changes its speed from hour to hour. The whole set is visited several times
within a run, with everything made anew; how far the ratios of the visits lie apart is the noise.
Processes differ too: where one commit was recorded several times, how far its records lie apart is
noise as well. A case counts as slower if it fell by more than the noise of both commits together,
and by 5 % at least.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastrl.runs.logger import machine_facts

FILE = Path(__file__).with_name("history.jsonl")
LEAST = 0.05  # a smaller change is not looked at, however small the noise

# Those of a processor's instructions that torch, EnvPool and our kernels choose their code by.
_INSTRUCTIONS = (
    "avx2 fma avx512f avx512bw avx512_vnni avx512_bf16 avx512_fp16 avx_vnni amx_tile amx_bf16 "
    "asimd asimddp bf16 i8mm sve sve2"
)

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What one piece of work came to, as medians over the visits."""

    per_second: float
    unit: str
    ratio: float
    """Times as fast as the plain twin."""
    noise: float
    """How far the visits' ratios lie apart, or half of that for the rounds of one, as a share."""


@dataclass
class Measurement:
    """The timings of one piece of work, visit by visit."""

    unit: str
    amount: float
    """Units in a call."""
    seconds: list[float] = field(default_factory=list)
    """Of a call of ours, the median of each visit."""
    ratios: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    """Half of what the rounds of a visit lie apart, as a share of its ratio."""

    def add(self, ours: list[float], twins: list[float]) -> None:
        """Takes in the seconds of a visit's rounds, in which ours and the twin took turns."""
        self.seconds.append(statistics.median(ours))
        # Neighbours in time are compared, so that a slow minute counts for both.
        rounds = [twin / mine for mine, twin in zip(ours, twins, strict=True)]
        self.ratios.append(statistics.median(rounds))
        self.spreads.append((max(rounds) - min(rounds)) / 2 / self.ratios[-1])

    def case(self) -> Case:
        """Sums the visits up."""
        ratio = statistics.median(self.ratios)
        apart = (max(self.ratios) - min(self.ratios)) / ratio
        noise = max(apart, statistics.median(self.spreads))  # visits may be alike by chance
        return Case(self.amount / statistics.median(self.seconds), self.unit, ratio, noise)


def kind_of_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Returns what two machines must share to be compared: processor, instructions, cores.

    Virtual machines give generations of a processor one name, so its family and model count too.
    """
    facts = machine_facts()
    try:
        lines = cpuinfo.read_text().partition("\n\n")[0].splitlines()  # of the first core
    except OSError:
        lines = []
    said = {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    flags = said.get("flags", said.get("Features", "")).split()
    instructions = " ".join(name for name in _INSTRUCTIONS.split() if name in flags)
    model = " ".join(said[name] for name in ("cpu family", "model") if name in said)
    cpu = f"{facts['cpu']} ({model})" if model else facts["cpu"]
    return {"cpu": cpu, "instructions": instructions, "cores": facts["cores"]}


def read(file: Path) -> list[Record]:
    """Returns the records of a file, oldest first; none if it is not there."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def append(file: Path, cases: dict[str, Case], stamp: dict[str, Any]) -> None:
    """Adds a record of some cases to a file."""
    record = {**stamp, "cases": {name: asdict(case) for name, case in cases.items()}}
    with file.open("a") as lines:
        lines.write(json.dumps(record) + "\n")


def last_of_kind(records: Iterable[Record], kind: dict[str, Any], name: str) -> list[Record]:
    """Returns the records that have a case of the latest commit that this kind of machine timed."""
    alike = [old for old in records if old["kind"] == kind and name in old["cases"]]
    return [old for old in alike if old["commit"] == alike[-1]["commit"]]


def summed(cases: Sequence[Case]) -> Case:
    """Sums runs of one commit up: medians, and noise that holds within them and between them."""
    ratios = [case.ratio for case in cases]
    ratio = statistics.median(ratios)
    apart = (max(ratios) - min(ratios)) / ratio
    noise = max(apart, statistics.median(case.noise for case in cases))
    return Case(statistics.median(case.per_second for case in cases), cases[0].unit, ratio, noise)


def change(now: Case, before: Case) -> tuple[float, float]:
    """Returns the ratio of a case to an earlier one, and how much of it noise explains."""
    return now.ratio / before.ratio, max(LEAST, now.noise + before.noise)


def verdict(now: Case, before: Case) -> str:
    """Returns "slower", "faster", or "" for what noise explains."""
    factor, noise = change(now, before)
    if factor < 1 - noise:
        return "slower"
    return "faster" if factor > 1 + noise else ""


def compare(
    cases: dict[str, Case], records: list[Record], kind: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Compares cases with the last records of this kind of machine.

    Returns:
        The lines of the table, what they are compared with first; and the names of the cases that
        are slower.
    """
    rows, slower, olds = [], [], []
    for name, case in cases.items():
        found = last_of_kind(records, kind, name)
        last = ["", "new"]
        if found:
            before = summed([Case(**record["cases"][name]) for record in found])
            factor, noise = change(case, before)
            word = verdict(case, before)
            last = [f"{before.ratio:.2f}x", f"{factor:.2f} ±{noise:3.0%}  {word}".rstrip()]
            slower += [name] if word == "slower" else []
            origin = _origin(found)
            olds += [origin] if origin not in olds else []
        speed = f"{case.per_second:,.0f} {case.unit}/s"
        rows.append([name, speed, f"{case.ratio:.2f}x ±{case.noise:3.0%}", *last])
    machine = f"{kind['cpu']}, {kind['cores']} cores, {kind['instructions'] or 'no vectors'}"
    lines = [f"machine: {machine}"]
    if olds:
        lines += [f"last record of this kind of machine: {old}" for old in olds]
    else:
        lines.append("no record of this kind of machine yet; --benchmark-record makes the first")
    titles = ["work", "speed", "to plain twin", "last", "now to last"]
    return [*lines, "", *_columns([titles, *rows])], slower


def stamp(commit: str, versions: dict[str, Any], time: str) -> dict[str, Any]:
    """Returns what a record carries besides its cases."""
    return {"time": time, "commit": commit, "kind": kind_of_machine(), "versions": versions}


def _origin(records: Sequence[Record]) -> str:
    last = records[-1]
    times = f", {len(records)} runs" if len(records) > 1 else ""
    return f"{last['commit'][:9]}, {last['time'][:10]}, torch {last['versions']['torch']}{times}"


def _columns(rows: list[list[str]]) -> list[str]:
    """Lays rows out: the first column to the left, numbers to the right, the last to the left."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if index in (0, last) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
