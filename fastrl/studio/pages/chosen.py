"""What can be done with runs: buttons, and the dialogs that ask for what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any
from urllib.parse import urlencode

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.processes.errors import is_expected, one_line
from fastrl.studio.desk import Desk
from fastrl.studio.drafts import typed
from fastrl.studio.frame import told

Chosen = Callable[[], Awaitable[list[str]]]
Then = Callable[[], Awaitable[None]]
ALL = ("Compare", "Stop", "Resume", "Evaluate", "Export", "New like this", "Delete")
_MOST_TRASHED = 200
_FORMATS = ("torchscript", "pt2", "onnx")


def buttons(
    desk: Desk, chosen: Chosen, then: Then, only: Collection[str] = ALL
) -> dict[str, ui.button]:
    """Adds a button for each action on runs; returns them by their words.

    Args:
        desk: whose runs.
        chosen: returns the addresses of the runs that are meant when a button is pressed.
        then: awaited after an action, to show its effect.
        only: the actions that there are buttons for.
    """
    added: dict[str, ui.button] = {}

    def button(words: str, icon: str, work: Callable[[list[str]], Awaitable[None]]) -> None:
        if words not in only:
            return

        async def press() -> None:
            addresses = await chosen()
            if addresses:
                await work(addresses)
            else:
                ui.notify("mark one or more runs first")

        look = f"outline dense no-caps icon={icon} padding='0.2rem 0.6rem'"
        added[words] = ui.button(words, on_click=press).props(look).mark(words)

    async def stop(addresses: list[str]) -> None:
        await _each(addresses, desk.stop, "asked to save and end", then)

    button("Compare", "stacked_line_chart", _compare)
    button("Stop", "stop", stop)
    button("Resume", "play_arrow", partial(_resume, desk, then))
    button("Evaluate", "fact_check", partial(_evaluate, desk, then))
    button("Export", "ios_share", partial(_export, desk, then))
    button("New like this", "content_copy", _like)
    button("Delete", "delete", partial(_delete, desk, then))
    return added


async def trash_dialog(desk: Desk, then: Then) -> None:
    """Shows the runs in the trash, each with a button that brings it back."""
    rows = await asyncio.to_thread(desk.trashed)
    with ui.dialog() as dialog, ui.card().classes("desk-dialog"):
        ui.label("Trash").classes("desk-heading")
        if not rows:
            ui.label("it is empty").classes("desk-note")
        if len(rows) > _MOST_TRASHED:
            ui.label(f"the newest {_MOST_TRASHED} of {len(rows):,}").classes("desk-note")
        for row in rows[:_MOST_TRASHED]:
            with ui.element("div").classes("desk-row"):
                ui.label(row["address"]).classes("desk-note")
                restore = partial(_each, [row["address"]], desk.restore, "restored", then)

                async def press(restore: Any = restore) -> None:
                    dialog.close()
                    await restore()

                ui.button("Restore", on_click=press).props("flat dense no-caps")
        ui.button("Close", on_click=dialog.close).props("flat no-caps")
    dialog.open()


async def _compare(addresses: list[str]) -> None:
    ui.navigate.to(f"/compare?{urlencode([('run', address) for address in addresses])}")


async def _like(addresses: list[str]) -> None:
    if len(addresses) > 1:
        ui.notify("mark one run: a new run starts from the settings of one")
    else:
        ui.navigate.to(f"/new?{urlencode({'like': addresses[0]})}")


async def _resume(desk: Desk, then: Then, addresses: list[str]) -> None:
    steps = None

    def ask() -> ui.input:
        nonlocal steps
        label = "environment steps in all; empty: as they were"
        steps = ui.input(label, validation=_fault_of_steps).classes("full-width")
        return steps.without_auto_validation()

    trust = await _asked(desk, "Resume", addresses, ask)
    if trust is not None and steps is not None:
        words = ("--total-timesteps", steps.value.strip()) if (steps.value or "").strip() else ()
        work = partial(desk.resume, words=words, trust=trust)
        await _each(addresses, work, "in the queue", then)


def _fault_of_steps(text: str | None) -> str | None:
    """Returns what is wrong with a number of steps, None if nothing is."""
    if not (text or "").strip():
        return None
    try:
        typed("ppo", {"name": "total_timesteps", "kind": "integer"}, text or "")
    except ValueError as error:
        return one_line(error)
    return None


async def _evaluate(desk: Desk, then: Then, addresses: list[str]) -> None:
    fields: dict[str, Any] = {}

    def ask() -> None:
        fields["episodes"] = ui.number("episodes", value=100, min=1, precision=0)
        fields["video"] = ui.checkbox("film an episode")

    trust = await _asked(desk, "Evaluate", addresses, ask)
    if trust is not None:
        words = ("--episodes", str(int(fields["episodes"].value or 100)))
        words += ("--video",) if fields["video"].value else ()
        work = partial(desk.evaluate, words=words, trust=trust)
        await _each(addresses, work, "in the queue", then)


async def _export(desk: Desk, then: Then, addresses: list[str]) -> None:
    fields: dict[str, Any] = {}

    def ask() -> None:
        fields["format"] = ui.select(list(_FORMATS), value=_FORMATS[0], label="format")

    trust = await _asked(desk, "Export", addresses, ask)
    if trust is not None:
        work = partial(desk.export, words=("--format", fields["format"].value), trust=trust)
        await _each(addresses, work, "in the queue", then)


async def _delete(desk: Desk, then: Then, addresses: list[str]) -> None:
    with ui.dialog() as dialog, ui.card().classes("desk-dialog"):
        ui.label(f"Move {_counted(addresses)} to the trash?").classes("desk-heading")
        _list(addresses)
        with ui.element("div").classes("desk-row"):
            ui.button("Delete", on_click=lambda: dialog.submit(True)).props("no-caps").mark("sure")
            ui.button("Cancel", on_click=lambda: dialog.submit(None)).props("flat no-caps")
    if await dialog:
        await _each(addresses, desk.trash, "in the trash", then)


async def _asked(
    desk: Desk, words: str, addresses: list[str], ask: Callable[[], ui.input | None]
) -> bool | None:
    """Asks for what an action needs; returns whether the runs' code is trusted, None to cancel.

    `ask` adds the fields, and returns one that must be right before the dialog can be agreed to.
    """
    codes = await asyncio.to_thread(_codes_to_trust, desk, addresses)

    def agree() -> None:
        if field is None or field.validate():
            dialog.submit(True)

    with ui.dialog() as dialog, ui.card().classes("desk-dialog"):
        ui.label(f"{words} {_counted(addresses)}").classes("desk-heading")
        _list(addresses)
        field = ask()
        trust = None
        if codes:
            ui.label("\n".join(codes)).classes("desk-wrong")
            trust = ui.checkbox("I trust this code").mark("trust")
        with ui.element("div").classes("desk-row"):
            ui.button(words, on_click=agree).props("no-caps").mark("sure")
            ui.button("Cancel", on_click=lambda: dialog.submit(None)).props("flat no-caps")
    if not await dialog:
        return None
    return trust is not None and bool(trust.value)


def _codes_to_trust(desk: Desk, addresses: list[str]) -> list[str]:
    """Returns which code of others the runs would import, a line each; faults are told later."""
    codes = []
    for address in addresses:
        try:
            codes.append(desk.code_to_trust(address))
        except (ValueError, OSError):
            continue
    return [code for code in codes if code]


async def _each(addresses: list[str], work: Callable[[str], object], done: str, then: Then) -> None:
    """Does the same with each run; says how many it was done with, and why not with others."""
    if len(addresses) == 1:
        await told(lambda: asyncio.to_thread(work, addresses[0]), f"{addresses[0]}: {done}")
        return await then()
    faults = []
    for address in addresses:
        try:
            await asyncio.to_thread(work, address)
        except Exception as error:
            if not is_expected(error):
                raise
            faults.append(f"{address}: {one_line(error)}")
    if num_done := len(addresses) - len(faults):
        ui.notify(f"{num_done} runs: {done}", type="positive")
    for fault in faults[:5]:
        ui.notify(fault, type="negative", multi_line=True, close_button="close")
    await then()


def _counted(addresses: list[str]) -> str:
    return "1 run" if len(addresses) == 1 else f"{len(addresses)} runs"


def _list(addresses: list[str]) -> None:
    more = f"\nand {len(addresses) - 8} more" if len(addresses) > 8 else ""
    ui.label("\n".join(addresses[:8]) + more).classes("desk-text")
