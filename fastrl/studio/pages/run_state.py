"""How far a run is, and what its process printed."""

from __future__ import annotations

import asyncio
import math

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.runs.run import Run
from fastrl.studio.frame import progress_bar
from fastrl.studio.run_view import RunView


class State:
    """State, progress and figures of a run, in the order of their use."""

    def __init__(self) -> None:
        with ui.element("div").classes("desk-row").mark("state"):
            self._state = ui.label().classes("desk-badge").props("role=status")
            self._facts = ui.label()
        self._bar = progress_bar()
        self._detail = ui.label().classes("desk-note")
        self._problems = ui.label().classes("desk-wrong")

    def show(self, run: Run) -> None:
        """Shows a run as it is now."""
        self._state.text = run.state
        self._state.classes(replace=f"desk-badge desk-badge-{run.state}")
        self._facts.text = facts_of(run)
        self._bar.value = round(run.progress, 4)
        detail = "" if run.detail in run.problems else run.detail  # those are told below
        self._detail.text = f"{run.algo} on {run.env_id}" + (f": {detail}" if detail else "")
        self._problems.text = "\n".join(run.problems)
        self._problems.visible = bool(run.problems)


def facts_of(run: Run) -> str:
    """Returns steps, speed, returns and time left, as far as they are known."""
    total = f"/{run.total_env_steps:,}" if run.total_env_steps else ""
    parts = [f"{run.env_steps:,}{total} steps"]
    if run.steps_per_second:
        parts.append(f"{run.steps_per_second:,.0f} steps/s")
    if run.test_return is not None:
        parts.append(f"test return {run.test_return:.1f}")
    if run.train_return is not None:
        parts.append(f"training return {run.train_return:.1f}")
    if run.seconds_left is not None:
        parts.append(f"{clock(run.seconds_left)} left")
    elif run.wall_seconds is not None:
        parts.append(f"took {clock(run.wall_seconds)}")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """Returns 0:07, 12:34 or 1:02:03; "?" for what is no number, as a damaged file may say."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Log:
    """What the run's process printed, its last lines."""

    def __init__(self, view: RunView) -> None:
        self._view = view

    def build(self) -> None:
        """Builds the empty text."""
        self._text = ui.label().classes("desk-text").mark("log")

    async def turn_to(self, run: Run) -> None:
        """Shows the text when its tab is opened."""
        await self.show(run)

    async def show(self, run: Run) -> None:
        """Shows the latest lines."""
        text = await asyncio.to_thread(self._view.output)
        words = "nothing yet" if run.state == "running" else "nothing is known"
        self._text.text = text or f"{words}: only processes that the studio started are heard here"
