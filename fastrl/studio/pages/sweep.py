"""The page of a sweep: trials as they come, what matters, and what the best one trains."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.config.trust import check_named
from fastrl.processes.errors import one_line
from fastrl.runs.folder import read_config
from fastrl.runs.owner import stop
from fastrl.studio.addresses import address_of, is_address, page_of_run
from fastrl.studio.asking import ask
from fastrl.studio.desk import ALGORITHMS, Desk
from fastrl.studio.differences import in_words
from fastrl.studio.drafts import agent_in
from fastrl.studio.frame import frame, progress_bar, told
from fastrl.studio.pages.run_state import clock
from fastrl.studio.sweep_charts import (
    importance_chart,
    parallel_chart,
    progress_chart,
)
from fastrl.sweep.reading import Sweep, importance, read_sweep
from fastrl.sweep.trust import check_asked

_SECONDS = 1.5
_SEEDS = (1, 2, 3, 4, 5)
_MOST_ROWS = 500
_COLUMNS = ("trial", "state", "return", "seconds", "settings", "note")


def register(desk: Desk) -> None:
    """Adds the page of a sweep; its address is the path of its folder below the log folder."""

    @ui.page("/sweep/{address:path}")
    async def _show(address: str) -> None:
        with frame(f"Sweep {address.rpartition('/')[2]}", "/sweeps"):
            try:
                folder = await asyncio.to_thread(desk.folder, address)
                found = await asyncio.to_thread(read_sweep, folder)
            except (ValueError, OSError) as error:
                ui.status_code(404)
                ui.label(one_line(error)).classes("desk-wrong")
                return
            page = _SweepPage(desk, folder)
            page.show(found)
            ui.timer(_SECONDS, page.tick)


class _SweepPage:
    def __init__(self, desk: Desk, folder: Path) -> None:
        self._desk, self._folder = desk, folder
        self._shown: Any = None
        self._axes: list[str] = []
        self._found: Sweep | None = None
        with ui.element("div").classes("desk-row"):
            self._state = ui.label().classes("desk-badge").props("role=status")
            self._words = ui.label()
        self._bar = progress_bar()
        self._fault = ui.label().classes("desk-wrong")
        with ui.element("div").classes("desk-row"):
            words = f"Train the best with {len(_SEEDS)} seeds"
            self._train = ui.button(words, icon="rocket_launch", on_click=self._train_best)
            self._stop = ui.button("Stop", icon="stop", on_click=self._stop_sweep)
            self._resume = ui.button("Go on", icon="play_arrow", on_click=self._go_on)
            for button in (self._train, self._stop, self._resume):
                button.props("outline dense no-caps padding='0.2rem 0.6rem'")
        self._best = ui.label().classes("desk-text")
        self._confirmed = ui.label().classes("desk-text")
        self._charts: list[Any] = []
        with ui.element("div").classes("desk-panels"):
            for title in ("Returns of the trials", "Importance of the settings"):
                with ui.column().classes("desk-metric"):
                    ui.label(title).classes("desk-heading")
                    self._charts.append(ui.echart({"series": []}).classes("desk-curve"))
                    self._charts[-1].props["aria-label"] = title
        ui.label("Settings and returns").classes("desk-heading")
        self._charts.append(ui.echart({"series": []}).classes("desk-parallel"))
        self._charts[-1].props["aria-label"] = "parallel coordinates of the trials"
        columns = [
            {"name": name, "label": name, "field": name, "align": "left", "sortable": True}
            for name in _COLUMNS
        ]
        self._table = ui.table(rows=[], columns=columns, row_key="trial", pagination=20)
        self._table.props("dense flat wrap-cells").classes("desk-settings")
        self._links = ui.element("div").classes("desk-row")

    async def tick(self) -> None:
        """Reads the sweep again."""
        try:
            found = await asyncio.to_thread(read_sweep, self._folder)
        except (ValueError, OSError) as error:
            self._fault.text = one_line(error)
            return
        self.show(found)

    def show(self, found: Sweep) -> None:
        """Shows a sweep as it is now; charts change with the trials alone."""
        self._found = found
        self._state.text = found.state
        self._state.classes(replace=f"desk-badge desk-badge-{found.state}")
        over = sum(trial.is_over for trial in found.trials)
        asked = found.asked
        self._words.text = (
            f"{asked.algo} on {asked.env_id or 'several tasks'} · {found.phase or 'begins'} · "
            f"{over} of {len(found.trials)} trials are over · {clock(found.seconds)}"
        )
        self._bar.value = round(found.progress, 3)
        self._fault.text = "\n".join([*filter(None, [found.error]), *found.faults[:5]])
        self._train.set_enabled(found.preset_file is not None and asked.algo in ALGORITHMS)
        self._stop.set_enabled(found.state == "running")
        self._resume.set_enabled(found.state == "stopped")
        if (found.trials, found.summary) != self._shown:
            self._shown = found.trials, found.summary
            self._draw(found)

    def _draw(self, found: Sweep) -> None:
        best = found.best
        if best is not None and best.value is not None:
            settings = "  ".join(f"{name}={in_words(x)}" for name, x in best.settings.items())
            self._best.text = f"best: trial {best.number}, return {best.value:.1f}\n{settings}"
        self._confirmed.text = "\n".join(
            f"{which} on fresh seeds: {_mean_in_words(result)}"
            for which, result in found.confirmation.items()
            if isinstance(result, dict)
        )
        shares = importance(found.trials)
        ranges = found.asked.search
        options = [
            progress_chart(found.trials, found.ranked),
            importance_chart(shares),
            parallel_chart(found.trials, ranges, list(shares)),
        ]
        axes = [axis["name"] for axis in options[2]["parallelAxis"]]
        if self._axes and axes != self._axes:  # else the browser would keep their earlier places
            self._charts[2].run_chart_method("clear")
        self._axes = axes
        for place, new in zip(self._charts, options, strict=True):
            with place.props.suspend_updates():
                place.options.clear()
                place.options.update(new)
            place.update()
        self._table.rows = [
            {
                "trial": trial.number,
                "state": trial.state,
                "return": None if trial.value is None else round(trial.value, 2),
                "seconds": trial.seconds,
                "settings": "  ".join(f"{x}={in_words(y)}" for x, y in trial.settings.items()),
                "note": trial.note or trial.name,
            }
            for trial in found.trials[-_MOST_ROWS:]
        ]
        self._link_runs(found)

    def _link_runs(self, found: Sweep) -> None:
        """Links the runs of the best trial."""
        self._links.clear()
        best = found.best
        if best is None:
            return
        with self._links:
            for one in best.runs:
                with contextlib.suppress(ValueError, OSError):  # it leads out of the log folder
                    folder = Path(os.path.realpath(best.folder / one.folder))
                    address = address_of(self._desk.log_dir, folder)
                    if one.folder and is_address(address):
                        ui.link(f"run of the best, seed {one.seed}", page_of_run(address))

    async def _train_best(self) -> None:
        found = self._found
        if await self._asks_for_trust(found.preset_file if found else None) is None:
            return

        def submit() -> None:
            assert found is not None
            if found.preset_file is None:
                raise ValueError("no trial is complete yet")
            settings = read_config(found.preset_file)
            algo = settings.pop("algo", found.asked.algo)
            agent = agent_in(algo, found.asked.flags)
            words = ("--agent", agent) if agent else ()
            for seed in _SEEDS:
                own = {"seed": seed, "log_dir": str(self._desk.log_dir), "exp_name": "best"}
                title = f"best of {found.folder.name}, seed {seed}"
                self._desk.submit(algo, words, title, settings={**settings, **own})

        await told(lambda: asyncio.to_thread(submit), f"{len(_SEEDS)} runs are in the queue")

    async def _stop_sweep(self) -> None:
        await told(lambda: asyncio.to_thread(stop, self._folder), "the sweep ends its runs")

    async def _go_on(self) -> None:
        trust = await self._asks_for_trust()
        if trust is None:
            return
        words = ("--resume", str(self._folder), *(("--trust",) if trust else ()))
        title = f"sweep {self._folder.name}, continued"
        work = self._desk.submit
        await told(lambda: asyncio.to_thread(work, "sweep", words, title), "in the queue")

    async def _asks_for_trust(self, file: Path | None = None) -> bool | None:
        """Asks about code that another user's sweep, or its preset file, names.

        Returns:
            As `asking.ask_for_trust`.
        """

        def check() -> None:
            assert self._found is not None
            check_asked(self._folder, self._found.asked)
            if file is not None:
                settings = read_config(file)
                check_named(settings, settings.get("signature"), file)

        try:
            await asyncio.to_thread(check)
        except (ValueError, OSError) as error:
            agrees = await ask("Import the code of this sweep?", one_line(error), "Trust it")
            return True if agrees else None
        return False


def _mean_in_words(result: dict[str, Any]) -> str:
    mean, interval = result.get("mean"), result.get("interval")
    if not isinstance(mean, int | float):
        return "not known yet"
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return f"mean {mean:.1f}"
    if not all(isinstance(x, int | float) for x in interval):
        return f"mean {mean:.1f}"
    return f"mean {mean:.1f}, 95 % interval {interval[0]:.1f} to {interval[1]:.1f}"
