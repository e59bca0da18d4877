"""Plays a user of the studio without a browser, and a client of its server of any kind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from nicegui import Client, core, ui
from nicegui.functions.download import download
from nicegui.functions.navigate import Navigate
from nicegui.functions.notify import notify
from nicegui.testing.general import nicegui_reset_globals, prepare_simulation
from nicegui.testing.user import User

from fastrl.runs.metrics_table import TRAIN_RETURN
from fastrl.studio.app import build
from fastrl.studio.desk import Desk

HOST = "test"  # the name under which the simulated browser asks


@contextlib.contextmanager
def _clean() -> Iterator[None]:
    with nicegui_reset_globals():
        os.environ["NICEGUI_USER_SIMULATION"] = "true"
        try:
            yield
        finally:
            os.environ.pop("NICEGUI_USER_SIMULATION", None)
            ui.navigate, ui.notify, ui.download = Navigate(), notify, download
            # Else NiceGUI takes the modules of these functions out of `sys.modules`, fastrl too.
            Client.page_routes.clear()


@contextlib.asynccontextmanager
async def serving(desk: Desk, token: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """Serves a desk without a socket; yields a client of it."""
    with _clean():
        prepare_simulation()
        core.root = None
        build(desk, HOST, token)
        async with core.app.router.lifespan_context(core.app):
            transport = httpx.ASGITransport(core.app)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
                yield client


def _tell(desk: Desk, token: str, story: Callable[[Any], Awaitable[None]], seconds: float) -> None:
    async def told() -> BaseException | None:
        async with serving(desk, token) as client:
            try:  # else NiceGUI does not shut down, and the tests that follow fail too
                await asyncio.wait_for(story(client), seconds)
            except BaseException as error:
                return error
        return None

    error = asyncio.run(told())
    if error is not None:
        raise error


def play(desk: Desk, story: Callable[[User], Awaitable[None]], seconds: float = 20) -> None:
    """Plays what a user does on the pages of a desk."""
    _tell(desk, "", lambda client: story(User(client)), seconds)


def ask(
    desk: Desk,
    story: Callable[[httpx.AsyncClient], Awaitable[None]],
    token: str = "",
    seconds: float = 20,
) -> None:
    """Plays what an HTTP client does with the server of a desk."""
    _tell(desk, token, story, seconds)


async def until(is_so: Callable[[], Any], seconds: float = 8) -> None:
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"not so after {seconds} s"
        await asyncio.sleep(0.02)


def element(user: User, marker: str) -> Any:
    """Returns the element of a mark."""
    return next(iter(user.find(marker=marker).elements))


def make_run(log_dir: Path, name: str = "CartPole-v1_default_1", start: str = "t0") -> str:
    """Makes a run folder as PPO makes it, without training; returns its address."""
    folder = log_dir / "ppo" / start / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "videos").mkdir()
    (folder / "config.yaml").write_text("algo: ppo\nenv_id: CartPole-v1\nseed: 1\n")
    return f"ppo/{start}/{name}"


def make_unsendable(log_dir: Path) -> list[str]:
    """Makes runs that say what neither JSON nor a browser can hold; returns their addresses."""
    addresses = []
    for number, (name, text) in enumerate(
        [
            ("summary.json", '{"total_env_steps": 1e30, "wall_seconds": 1e300}'),
            ("summary.json", '{"algo": "\\ud800", "env_id": "\\ud800", "stop_reason": "\\udfff"}'),
            ("config.yaml", 'algo: ppo\nexp_name: "\\ud800"\nenv_id: "a\\udfff"\nseed: 1\n'),
            ("config.yaml", f"algo: ppo\nenv_id: x\nseed: {2**60}\nexp_name: {2**70}\n"),
            ("config.yaml", f"algo: ppo\nenv_id: x\nseed: 0x{'f' * 5000}\nnum_envs: .nan\n"),
            ("config.yaml", f"algo: ppo\nenv_id: 0x{'f' * 5000}\nexp_name: 0x{'f' * 5000}\n"),
            ("config.yaml", f'"\\udcff": 1\nalgo: {{x: "\\udcff"}}\nenv_id: [0x{"f" * 5000}]\n'),
            ("config.yaml", "algo: ppo\nenv_id: x\nseed: 1\nenv_kwargs: 5\nnetwork_kwargs: [1]\n"),
            ("metrics.csv", f'env_steps,{TRAIN_RETURN}\n1,2\n2,"{"x" * 200_000}"\n'),
            ("metrics.csv", f'env_steps,"{"x" * 200_000}"\n1,2\n'),
            ("metrics.csv", f"env_steps,{TRAIN_RETURN}\n{10**300},1e308\n{10**300},1e308\n"),
            ("metrics.csv", "env_steps,Time/step_per_second\n" + "9" * 300 + ",1e-300\n" * 2),
        ]
    ):
        address = make_run(log_dir, f"odd_{number}", f"o{number}")
        (log_dir / address / name).write_text(text)
        (log_dir / address / "checkpoints" / os.fsdecode(b"latin\xe9.pt")).write_bytes(b"")
        addresses.append(address)
    return addresses
