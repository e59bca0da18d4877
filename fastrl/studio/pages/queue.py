"""The panel of the queue: jobs that wait, run or failed before they had a run folder."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.studio.desk import Desk
from fastrl.studio.frame import told
from fastrl.studio.jobs import Job, Progress

_SECONDS = 1.0
_MOST_ENDED = 5
_SHOWN_HOURS = 12  # of those, since they were given
_ACTIVE = ("waiting", "refused", "running")
_MOST_SHOWN = 100
Told = tuple[tuple[Progress, str], ...]


def queue_panel(desk: Desk) -> None:
    """Adds the panel, which follows the queue."""
    shown: Told = ()
    title = ui.label("Queue").props("role=heading aria-level=2").classes("desk-heading")
    panel = ui.column().classes("desk-queue").mark("queue")

    async def refresh() -> None:
        nonlocal shown
        now = await asyncio.to_thread(_look, desk)
        if now == shown:
            return
        shown = now
        waiting = sum(progress.state == "waiting" for progress, _ in now)
        title.text = f"Queue: {waiting} waiting, {desk.queue.at_once} at once"
        panel.clear()
        with panel:
            for progress, line in reversed(now):
                _show(desk, progress, line)

    title.text = f"Queue: empty, {desk.queue.at_once} at once"
    ui.timer(_SECONDS, refresh)


def _look(desk: Desk) -> Told:
    """Returns the jobs that are worth a line, each with the last line of what it printed."""
    jobs = desk.jobs.all()
    active = [x for x in jobs if x.state in _ACTIVE]
    since = time.time() - _SHOWN_HOURS * 3600
    ended = [x for x in jobs if x.state not in _ACTIVE and x.job.given > since]
    chosen = sorted([*ended[-_MOST_ENDED:], *active[:_MOST_SHOWN]], key=lambda x: x.job.id)
    return tuple((x, _words(desk, x)) for x in chosen)


def _show(desk: Desk, progress: Progress, line: str) -> None:
    job = progress.job
    with ui.element("div").classes("desk-row"):
        ui.label(progress.state).classes(f"desk-state-{progress.state}")
        ui.label(job.title)
        ui.label(line).classes("desk-note desk-line")
        if progress.state in _ACTIVE:

            async def cancel(job: Job = job) -> None:
                await asyncio.to_thread(desk.queue.cancel, job)

            is_waiting = progress.state != "running"
            done = f"{job.title}: {'cancelled' if is_waiting else 'asked to end'}"
            button = ui.button("Cancel" if is_waiting else "Stop")
            button.on_click(partial(told, cancel, done)).props("flat dense no-caps")
        if progress.state not in ("waiting", "refused"):
            ui.button("Output", on_click=partial(_show_output, desk, job)).props(
                "flat dense no-caps"
            )


async def _show_output(desk: Desk, job: Job) -> None:
    text = await asyncio.to_thread(desk.jobs.printed, job)
    with ui.dialog() as dialog, ui.card().classes("desk-dialog"):
        ui.label(job.title).classes("desk-heading")
        ui.label(text or "nothing was printed yet").classes("desk-text")
        ui.button("Close", on_click=dialog.close).props("flat no-caps")
    dialog.open()


def _words(desk: Desk, progress: Progress) -> str:
    if progress.state == "refused":
        return "not started, because it is not signed as yours: it came with the folder"
    return "" if progress.state == "waiting" else desk.jobs.last_line(progress.job)
