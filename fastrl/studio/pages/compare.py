"""The page that draws the curves of several runs together."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Query  # pyright: ignore[reportMissingImports]
from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.runs.logger import METRICS_NAME
from fastrl.runs.metrics_table import TEST_RETURN, TRAIN_RETURN, MetricsTable
from fastrl.runs.run import Run, read_run
from fastrl.studio.addresses import page_of_run
from fastrl.studio.comparing import comparison, groups_of
from fastrl.studio.curves import COLORS
from fastrl.studio.desk import Desk
from fastrl.studio.frame import SECONDS_TO_BUILD, frame

_SECONDS = 2.0
_MOST_RUNS = 60


def register(desk: Desk) -> None:
    """Adds the page; its query names runs, `run=ADDRESS` for each."""

    @ui.page("/compare", response_timeout=SECONDS_TO_BUILD)
    async def _show(run: Annotated[list[str], Query(default_factory=list)]) -> None:
        with frame("Compare", "/"):
            await _Page(desk, list(dict.fromkeys(run))).build()


class _Page:
    """The comparison as one browser tab shows it."""

    def __init__(self, desk: Desk, addresses: list[str]) -> None:
        self._desk, self._left_out = desk, max(0, len(addresses) - _MOST_RUNS)
        self._tables: dict[str, MetricsTable] = {}
        self._faults: list[str] = []
        for address in addresses[:_MOST_RUNS]:
            try:
                folder = desk.folder(address)
            except ValueError as error:
                self._faults.append(f"{address}: {error}")
            else:
                self._tables[address] = MetricsTable(folder / METRICS_NAME)
        self._runs: list[Run] = []

    async def build(self) -> None:
        if self._left_out:
            self._faults.append(f"{self._left_out} runs more than {_MOST_RUNS} are left out")
        for fault in self._faults:
            ui.label(fault).classes("desk-wrong")
        if not self._tables:
            ui.label("mark two or more runs on the page of runs, then press Compare")
            return
        with ui.element("div").classes("desk-row"):
            self._metric = ui.select([TRAIN_RETURN], value=TRAIN_RETURN, label="metric")
            self._metric.classes("desk-wide").mark("metric")
            axes = {"steps": "environment steps", "seconds": "seconds"}
            self._axis = ui.toggle(axes, value="steps").props("no-caps").mark("axis")
            self._seeds = ui.switch("each seed").mark("each-seed")
        self._chart = ui.echart({}).classes("desk-chart").mark("comparison")
        self._table = ui.element("div").classes("desk-compared")
        await self._refresh(is_first=True)
        for element in (self._metric, self._axis, self._seeds):
            element.on_value_change(self._draw)
        ui.timer(_SECONDS, self._refresh)

    async def _refresh(self, is_first: bool = False) -> None:
        runs, has_changed = await asyncio.to_thread(self._read)
        if not has_changed and not is_first:
            return
        self._runs = runs
        names = sorted({name for table in self._tables.values() for name in table.names})
        if names and names != self._metric.options:
            first = TEST_RETURN if TEST_RETURN in names else names[0]
            chosen = self._metric.value if self._metric.value in names else first
            self._metric.set_options(names, value=chosen)
        self._draw()

    def _read(self) -> tuple[list[Run], bool]:
        """Reads what is new of the runs; returns them, and whether anything is."""
        states = [(run.state, run.env_steps) for run in self._runs]
        before = [(table.generation, table.num_rows) for table in self._tables.values()]
        folders = [self._desk.log_dir / address for address in self._tables]
        tables = self._tables.values()
        runs = [read_run(*pair) for pair in zip(folders, tables, strict=True)]
        now = [(table.generation, table.num_rows) for table in tables]
        return runs, now != before or states != [(run.state, run.env_steps) for run in runs]

    def _draw(self) -> None:
        groups = groups_of(self._runs)
        axis, metric = self._axis.value, self._metric.value
        curves = [
            table.curve(metric, axis) if metric in table.names else ([], [])
            for table in self._tables.values()
        ]
        options = comparison(groups, curves, COLORS, axis, bool(self._seeds.value))
        self._chart.options.clear()
        self._chart.options.update(options)
        self._chart.update()
        self._table.clear()
        with self._table:
            for number, group in enumerate(groups):
                _show_group(group.name, COLORS[number % len(COLORS)])
                for place in group.members:
                    _show_run(list(self._tables)[place], self._runs[place])


def _show_group(name: str, color: str) -> None:
    with ui.element("div").classes("desk-row"):
        ui.element("span").classes("desk-color").style(f"background: {color}")
        ui.label(name).classes("desk-heading")


def _show_run(address: str, run: Run) -> None:
    facts: list[Any] = [f"seed {run.seed}", run.state, f"{run.env_steps:,} steps"]
    facts += [f"best {run.best_return:,.1f}"] if run.best_return is not None else []
    facts += [f"{run.wall_seconds:,.0f} s"] if run.wall_seconds is not None else []
    with ui.element("div").classes("desk-row"):
        ui.link(address, page_of_run(address))
        ui.label(", ".join(facts)).classes("desk-note")
