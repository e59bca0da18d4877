"""The page that draws the curves of several runs together."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Query  # pyright: ignore[reportMissingImports]
from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.compare.curves import Curve, curve_of
from fastrl.compare.groups import Group, Measured, groups_of
from fastrl.runs.logger import METRICS_NAME
from fastrl.runs.metrics_table import TEST_RETURN, TRAIN_RETURN, MetricsTable
from fastrl.runs.reading import read_run
from fastrl.studio.addresses import address_of, page_of_run
from fastrl.studio.comparing import comparison
from fastrl.studio.curves import COLORS
from fastrl.studio.desk import Desk
from fastrl.studio.frame import SECONDS_TO_BUILD, frame

_SECONDS = 2.0
_MOST_RUNS = 60
_STATISTICS = {"mean": "mean", "iqm": "interquartile mean"}


def register(desk: Desk) -> None:
    """Adds the page; its query names runs, `run=ADDRESS` for each."""

    @ui.page("/compare", response_timeout=SECONDS_TO_BUILD)
    async def _show(run: Annotated[list[str], Query(default_factory=list)]) -> None:
        with frame("Compare", "/"):
            await _Page(desk, list(dict.fromkeys(run))).build()


class _Page:
    """The comparison as one browser tab shows it."""

    def __init__(self, desk: Desk, addresses: list[str]) -> None:
        self._desk = desk
        self._tables: dict[str, MetricsTable] = {}
        self._faults: list[str] = []
        for address in addresses[:_MOST_RUNS]:
            try:
                self._tables[address] = MetricsTable(desk.folder(address) / METRICS_NAME)
            except ValueError as error:
                self._faults.append(f"{address}: {error}")
        if len(addresses) > _MOST_RUNS:
            more = len(addresses) - _MOST_RUNS
            self._faults.append(f"{more} runs more than {_MOST_RUNS} are left out")
        self._seen: Any = None

    async def build(self) -> None:
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
            self._statistic = ui.toggle(_STATISTICS, value="mean").props("no-caps")
            self._seeds = ui.switch("each seed").mark("each-seed")
        self._chart = ui.echart({}).classes("desk-chart").mark("comparison")
        self._list = ui.element("div").classes("desk-compared")
        await self._refresh()
        for element in (self._metric, self._axis, self._statistic, self._seeds):
            element.on_value_change(self._draw)
        ui.timer(_SECONDS, self._refresh)

    async def _refresh(self) -> None:
        """Draws anew if something is new of the runs."""
        runs = await asyncio.to_thread(self._read)
        seen = [(x.run.state, x.run.env_steps, x.table.generation, x.table.num_rows) for x in runs]
        if seen == self._seen:
            return
        self._seen, self._runs = seen, runs
        names = sorted({name for table in self._tables.values() for name in table.names})
        if names and names != self._metric.options:
            first = TEST_RETURN if TEST_RETURN in names else names[0]
            chosen = self._metric.value if self._metric.value in names else first
            self._metric.set_options(names, value=chosen)
        await self._draw()

    def _read(self) -> list[Measured]:
        return [
            Measured(read_run(self._desk.log_dir / address, table), table)
            for address, table in self._tables.items()
        ]

    async def _draw(self) -> None:
        axis, choice = self._axis.value, (self._metric.value, self._axis.value)
        choice = (*choice, self._statistic.value)
        groups, curves = await asyncio.to_thread(_curves, self._runs, *choice)
        options = comparison(curves, COLORS, axis, bool(self._seeds.value))
        self._chart.options.clear()
        self._chart.options.update(options)
        self._chart.update()
        self._list.clear()
        with self._list:
            for number, group in enumerate(groups):
                _show_group(group.label, COLORS[number % len(COLORS)])
                for measured in group.runs:
                    self._show_run(measured)
            for measured in self._runs:
                if measured.run.state == "damaged":
                    self._show_run(measured)

    def _show_run(self, measured: Measured) -> None:
        run, address = measured.run, address_of(self._desk.log_dir, measured.run.path)
        facts = [f"seed {run.seed}", run.state, f"{run.env_steps:,} steps"]
        facts += [f"best {run.best_return:,.1f}"] if run.best_return is not None else []
        facts += [f"{run.wall_seconds:,.0f} s"] if run.wall_seconds is not None else []
        with ui.element("div").classes("desk-row"):
            ui.link(address, page_of_run(address))
            ui.label(", ".join(facts)).classes("desk-note")


def _curves(
    runs: list[Measured], metric: str, axis: Any, statistic: str
) -> tuple[list[Group], list[Curve]]:
    groups = groups_of(measured for measured in runs if measured.run.state != "damaged")
    return groups, [curve_of(group, metric, axis, statistic) for group in groups]


def _show_group(name: str, color: str) -> None:
    with ui.element("div").classes("desk-row"):
        ui.element("span").classes("desk-color").style(f"background: {color}")
        ui.label(name).classes("desk-heading")
