"""The curves of a run, by group, with what each metric means."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from typing import Any

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.runs.glossary import GROUPS, OWN, entry_of
from fastrl.runs.run import Run
from fastrl.studio.curves import AXES, COLORS, Axis, Curve, chart, line
from fastrl.studio.run_view import RunView

_MOST_CURVES = 200  # on one page
_SECONDS = 3.5  # at least, between two drawings: they take CPU time from training


class _Drawn:
    """A curve and its chart on the page."""

    def __init__(self, name: str, axis: Axis) -> None:
        self.name = name
        self.curve = Curve(name, axis)
        with ui.column().classes("desk-metric"):
            with ui.element("div"):
                ui.label(name).classes("desk-metric-name")
                ui.label(entry_of(name).text).classes("desk-note")
            options = chart([line(name, [], COLORS[0])], axis)
            self.chart = ui.echart(options).classes("desk-curve")
            self.chart.props["role"], self.chart.props["aria-label"] = "img", f"curve of {name}"

    def turn_to(self, axis: Axis) -> None:
        """Begins anew along another axis."""
        self.curve = Curve(self.name, axis)
        self.chart.options["xAxis"]["name"] = AXES[axis]

    def redraw(self) -> None:
        """Has the browser draw all points."""
        with self.chart.props.suspend_updates():
            self.chart.options["series"] = [line(self.name, self.curve.points, COLORS[0])]
        self.chart.update()


class Curves:
    """All curves of a run; while it trains, the browser gets new points alone."""

    def __init__(self, view: RunView) -> None:
        self._table = view.table
        self._axis: Axis = "steps"
        self._next = 0.0
        self._drawn: dict[str, _Drawn] = {}
        self._panels: dict[str, Any] = {}

    def build(self) -> None:
        """Builds the groups, whose curves come with the metrics."""
        with ui.element("div").classes("desk-row"):
            toggle = ui.toggle({"steps": "over steps", "seconds": "over time"}, value="steps")
            toggle.props("no-caps dense padding='0.2rem 0.7rem'")
            toggle.on_value_change(lambda event: self._change_axis(event.value))
        self._empty = ui.label("no metrics yet").classes("desk-note")
        for group in GROUPS:
            with ui.column().classes("desk-section") as section:
                ui.label(group).classes("desk-heading").props("role=heading aria-level=2")
                panel = ui.element("div").classes("desk-panels")
            section.visible = False
            self._panels[group] = section, panel

    async def turn_to(self, run: Run) -> None:
        """Draws all curves when their tab is opened."""
        self._take()
        _redraw(self._drawn.values())

    async def show(self, run: Run) -> None:
        """Draws what is new, every four seconds while the run goes on."""
        if run.state == "running" and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SECONDS
        new, whole = self._take()
        _redraw(whole)
        if new:
            ui.run_javascript(f"fastrlCurves({json.dumps(new)})")

    def _take(self) -> tuple[list[Any], list[_Drawn]]:
        """Takes new rows; returns new points by chart, and the curves to draw anew."""
        self._add_curves()
        table, new, whole = self._table, [], []
        along = table.steps if self._axis == "steps" else table.seconds()
        for drawn in self._drawn.values():
            is_first = not drawn.curve.points
            change = drawn.curve.take(table, along)
            if change is None:
                continue
            if change.is_all or is_first:
                whole.append(drawn)
            else:
                new.append([drawn.chart.id, change.points])
        return new, whole

    def _add_curves(self) -> None:
        names = [name for name in self._table.names if name not in self._drawn]
        for name in names[: _MOST_CURVES - len(self._drawn)]:
            section, panel = self._panels.get(entry_of(name).group, self._panels[OWN])
            section.visible = True
            with panel:
                self._drawn[name] = _Drawn(name, self._axis)
        self._empty.visible = not self._drawn

    def _change_axis(self, axis: Axis) -> None:
        self._axis = axis
        for drawn in self._drawn.values():
            drawn.turn_to(axis)
        self._take()
        _redraw(self._drawn.values())


def _redraw(some: Collection[_Drawn]) -> None:
    """Has the browser draw all points of some curves."""
    for drawn in some:
        drawn.redraw()
    if some:
        ui.run_javascript(f"fastrlForget({[drawn.chart.id for drawn in some]})")
