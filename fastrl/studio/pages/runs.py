"""The page of all runs: a table that follows them, the queue, and what can be done with both."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.studio.addresses import left_out
from fastrl.studio.desk import Desk
from fastrl.studio.frame import SECONDS_TO_BUILD, frame, told
from fastrl.studio.pages.chosen import buttons, trash_dialog
from fastrl.studio.pages.queue import queue_panel
from fastrl.studio.rows import Row, changes, counted, is_trial

_SECONDS = 1.0  # between two looks

# Code for the browser: fixed texts, into which nothing of a run is ever put.
_LINK = """params => {
    const link = document.createElement('a');
    link.href = '/run/' + params.data.address.split('/').map(encodeURIComponent).join('/');
    link.textContent = params.value;
    link.title = params.data.address;
    link.tabIndex = -1;
    return link;
}"""
_OPEN_BY_ENTER = """event => {
    if (event.event.key === 'Enter' && event.data)
        window.location = '/run/' + event.data.address.split('/').map(encodeURIComponent).join('/');
}"""
_NUMBER = "p => p.value == null ? '' : p.value.toLocaleString('en', {maximumFractionDigits: %d})"
_SPAN = """p => {
    if (p.value == null) return '';
    const s = Math.round(p.value), two = x => String(x).padStart(2, '0');
    const clock = two(Math.floor(s / 60) % 60) + ':' + two(s % 60);
    return s < 3600 ? clock : Math.floor(s / 3600) + ':' + clock;
}"""
_DATE = "p => p.value == null ? '' : new Date(p.value * 1000).toLocaleString('sv').slice(0, 16)"
_PERCENT = "p => p.value == null ? '' : Math.floor(100 * p.value) + ' %'"


def register(desk: Desk) -> None:
    """Adds the page of a desk's runs."""

    @ui.page("/", response_timeout=SECONDS_TO_BUILD)
    async def _show() -> None:
        with frame("Runs", "/"):
            _Page(desk).build()


class _Page:
    """The page as one browser tab shows it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._shown: dict[str, Row] = {}
        self._with_trials = False

    def build(self) -> None:
        rows = self._wanted(self._desk.known_rows)  # to be shown at once; the rest follows
        self._shown = {row["address"]: row for row in rows}
        with ui.element("div").classes("desk-row"):
            self._filter = ui.input("filter", on_change=self._narrow)
            self._filter.props("dense outlined clearable debounce=200").mark("filter")
            ui.switch("trials of sweeps", on_change=self._turn_trials).mark("trials")
            self._count = ui.label(counted(rows)).classes("desk-note").mark("count")
        with ui.element("div").classes("desk-row"):
            buttons(self._desk, self.chosen, self._refresh)
            show = partial(trash_dialog, self._desk, self._refresh)
            trash = ui.button("Trash", on_click=partial(told, show))
            trash.props("flat dense no-caps icon=restore_from_trash")
        self._left_out = ui.label().classes("desk-wrong")
        self._grid = ui.aggrid(_options(rows)).classes("desk-grid").mark("runs")
        queue_panel(self._desk)
        ui.timer(_SECONDS, self._refresh)

    async def chosen(self) -> list[str]:
        """Returns the addresses of the rows that are marked in the browser."""
        rows = await self._grid.get_selected_rows()
        return [row["address"] for row in rows if row.get("address") in self._shown]

    async def _refresh(self) -> None:
        rows = self._wanted(await asyncio.to_thread(self._desk.rows))
        changed = changes(self._shown, rows)
        self._shown = {row["address"]: row for row in rows}
        self._left_out.text = left_out("run", self._desk.left_out)
        if changed:
            self._grid.run_grid_method("applyTransaction", changed.transaction())
            self._count.text = counted(rows)

    def _wanted(self, rows: list[Row]) -> list[Row]:
        return [row for row in rows if self._with_trials or not is_trial(row)]

    async def _turn_trials(self, event: Any) -> None:
        self._with_trials = bool(event.value)
        await self._refresh()

    def _narrow(self) -> None:
        self._grid.run_grid_method("setGridOption", "quickFilterText", self._filter.value or "")


def _options(rows: list[Row]) -> dict[str, Any]:
    """Returns the table: its columns, and its first rows."""

    def number(name: str, words: str, digits: int = 0, **more: Any) -> dict[str, Any]:
        shown = {":valueFormatter": _NUMBER % digits, "type": "rightAligned"}
        return {"field": name, "headerName": words, "filter": "agNumberColumnFilter"} | shown | more

    columns = [
        {"field": "task", "headerName": "task", ":cellRenderer": _LINK, "minWidth": 170, "flex": 1},
        {"field": "label", "headerName": "label", "width": 110},
        number("seed", "seed", width=90),
        {
            "field": "state",
            "headerName": "state",
            ":cellClass": "p => 'desk-state-' + p.value",
            "tooltipField": "detail",
            "width": 100,
        },
        number("return", "return", 1, width=100),
        number("best", "best", 1, width=100),
        number("progress", "done", width=90) | {":valueFormatter": _PERCENT},
        number("left", "left", width=90) | {":valueFormatter": _SPAN},
        number("steps", "steps", width=110),
        number("rate", "steps/s", width=105),
        number("seconds", "time", width=90) | {":valueFormatter": _SPAN},
        {"field": "algo", "headerName": "algorithm", "width": 125},
        number("started", "started", width=150) | {":valueFormatter": _DATE},
    ]
    return {
        "columnDefs": columns,
        "defaultColDef": {"sortable": True, "filter": True, "resizable": True},
        "rowData": tuple(rows),  # not a list, each of whose values NiceGUI would watch
        ":getRowId": "params => params.data.address",
        "rowSelection": {"mode": "multiRow", "selectAll": "filtered"},
        ":onCellKeyDown": _OPEN_BY_ENTER,
        "rowHeight": 34,
        "headerHeight": 38,
        "ensureDomOrder": True,  # for screen readers
        "overlayNoRowsTemplate": "no runs yet: start one under New run",
    }
