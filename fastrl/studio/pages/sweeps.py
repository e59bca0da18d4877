"""The page of all sweeps, and the form that starts a small one."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.studio.addresses import address_of, is_address, left_out
from fastrl.studio.desk import ALGORITHMS, Desk
from fastrl.studio.frame import frame, told
from fastrl.studio.pages import sweep
from fastrl.studio.pages.run_state import clock
from fastrl.sweep.reading import Sweep, list_sweeps

_SECONDS = 2.0
_MOST_SHOWN = 100
_OBJECTIVES = ("return", "return-and-seconds")


def register(desk: Desk) -> None:
    """Adds the pages of the sweeps in a desk's log folder."""
    sweep.register(desk)

    @ui.page("/sweeps")
    async def _show() -> None:
        with frame("Sweeps", "/sweeps"):
            _Form(desk)
            page = _List(desk)
            await page.show()
            ui.timer(_SECONDS, page.show)


class _Form:
    """Asks for what a search needs; everything else is as the command line has it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        with ui.expansion("New sweep", icon="tune").classes("desk-panel").props("dense"):
            ui.label(
                "Tries settings of an algorithm on a task, several at a time, and trains the best "
                "again with fresh seeds, against the defaults. It goes on when this page is closed."
            ).classes("desk-note")
            with ui.element("div").classes("desk-fields"):
                self._algo = ui.select(list(ALGORITHMS), value="ppo", label="algorithm")
                self._env_id = ui.input("env_id", value="CartPole-v1")
                self._minutes = ui.number("minutes", value=5, min=0.1)
                self._trials = ui.number("trials at most", min=1, precision=0)
                self._steps = ui.number("total_timesteps of a run", min=1, precision=0)
                self._objective = ui.select(
                    list(_OBJECTIVES), value=_OBJECTIVES[0], label="objective"
                )
            ui.button("Start sweep", icon="play_arrow", on_click=self._start).props("no-caps")

    def _is_filled(self) -> bool:
        """Returns whether the form can be started; says beside a field what it lacks."""
        has_task = bool(self._task) and not self._task.startswith("-")
        has_end = bool(self._minutes.value or self._trials.value)
        self._env_id.error = None if has_task else "such as CartPole-v1 or my_package.my_env:make"
        self._minutes.error = None if has_end else "give minutes, or trials at most"
        return has_task and has_end

    @property
    def _task(self) -> str:
        return (self._env_id.value or "").strip()

    def _words(self) -> tuple[str, ...]:
        """Returns the words of the command line."""
        words = [self._algo.value, "--env-id", self._task, "--log-dir", str(self._desk.log_dir)]
        words.append("--anew")  # not an earlier one that was stopped
        numbers: list[tuple[str, Any]] = [
            ("--minutes", self._minutes.value),
            ("--trials", self._trials.value and int(self._trials.value)),
            ("--total-timesteps", self._steps.value and int(self._steps.value)),
        ]
        for flag, value in numbers:
            words += [flag, f"{value:g}" if isinstance(value, float) else str(value)] * bool(value)
        if self._objective.value != _OBJECTIVES[0]:
            words += ["--objective", self._objective.value]
        return tuple(words)

    async def _start(self) -> None:
        if not self._is_filled():
            return
        words = self._words()

        async def submit() -> None:
            title = f"sweep {words[0]} on {words[2]}"
            await asyncio.to_thread(self._desk.submit, "sweep", words, title)

        await told(submit, "the sweep is in the queue")


class _List:
    """A line for each sweep, and for each that waits in the queue or could not begin."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._shown: list[tuple[str, ...]] | None = None
        self._jobs = ui.label().classes("desk-note").style("white-space: pre-wrap")
        self._left_out = ui.label().classes("desk-wrong")
        self._none = ui.label(f"No sweep in {desk.log_dir} yet.")
        self._list = ui.column().classes("desk-files")

    async def show(self) -> None:
        """Shows the sweeps as they are now."""
        found, self._jobs.text = await asyncio.to_thread(self._look)
        named = {address_of(self._desk.log_dir, one.folder): one for one in found}
        self._left_out.text = left_out("sweep", [x for x in named if not is_address(x)])
        shown = [one for address, one in named.items() if is_address(address)]
        rows = [words_of(self._desk, one) for one in shown[:_MOST_SHOWN]]
        if rows == self._shown:
            return
        self._shown = rows
        self._none.visible = not rows
        self._list.clear()
        with self._list:
            for address, state, title, words in rows:
                with ui.element("div").classes("desk-row"):
                    ui.label(state).classes(f"desk-badge desk-badge-{state}")
                    ui.link(title, f"/sweep/{quote(address)}")
                    ui.label(words).classes("desk-note")

    def _look(self) -> tuple[list[Sweep], str]:
        jobs = [x for x in self._desk.jobs.all() if x.job.command == "sweep"]
        waiting = [f"{x.job.title}: waits" for x in jobs if x.state == "waiting"]
        failed = [
            f"{x.job.title} failed: {self._desk.jobs.last_line(x.job)}"
            for x in jobs[-3:]
            if x.state == "failed"
        ]
        return list_sweeps(self._desk.log_dir), "\n".join([*waiting, *failed])


def words_of(desk: Desk, found: Sweep) -> tuple[str, str, str, str]:
    """Returns address, state, title and a few words of a sweep."""
    address = address_of(desk.log_dir, found.folder)
    over = sum(trial.is_over for trial in found.trials)
    kind = "combination" if found.asked.kind == "grid" else "trial"
    words = [f"{over} {kind}" if over == 1 else f"{over} {kind}s", clock(found.seconds)]
    best = found.best
    if best is not None and best.value is not None:
        words.append(f"best {best.value:.1f}")
    asked = found.asked
    title = f"{asked.algo} on {asked.env_id or 'several tasks'}, {found.folder.name}"
    return address, found.state, title, " · ".join(words)
