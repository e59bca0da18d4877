"""Questions to the user, before something is done that cannot be taken back or runs code."""

from __future__ import annotations

import asyncio

from nicegui import ui  # pyright: ignore[reportMissingImports]

from fastrl.studio.desk import Desk


async def ask(question: str, words: str, yes: str) -> bool:
    """Asks, and returns whether the user agreed.

    Args:
        question: heading of the dialog.
        words: what there is to know.
        yes: text of the button that agrees.
    """
    with ui.dialog() as dialog, ui.card():
        ui.label(question).classes("desk-heading")
        ui.label(words).classes("desk-text")
        with ui.row():
            ui.button(yes, on_click=lambda: dialog.submit(True))
            ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat")
    answer = await dialog
    dialog.delete()
    return bool(answer)


async def ask_for_trust(desk: Desk, address: str) -> bool | None:
    """Asks whether the code that a run names may be imported, if it names any.

    Returns:
        Whether the user trusts it; False where there is nothing to trust; None: the user does not.

    Raises:
        ValueError: there is no run at this address, or its config cannot be read.
    """
    words = await asyncio.to_thread(desk.code_to_trust, address)
    if not words:
        return False
    agrees = await ask("Import the code of this run?", words, "Trust it")
    return True if agrees else None
