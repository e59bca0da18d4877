from __future__ import annotations

import pytest
from quick import quick

pytest.importorskip("nicegui")

from studio.playing import ask, make_run, play


@pytest.mark.parametrize("path", quick(["/", "/new", "/sweeps"], "/new"))
def test_every_page_is_reached_from_every_other(desk, path):
    async def story(user):
        await user.open(path)
        for words in ("Runs", "New run", "Sweeps"):
            await user.should_see(words)

    play(desk, story)


def test_a_run_is_addressed_by_its_folder_below_the_log_folder(desk):
    address = make_run(desk.log_dir)

    async def story(client):
        assert (await client.get(f"/run/{address}")).status_code == 200
        assert (await client.get(f"/run/{address}-2")).status_code == 404

    ask(desk, story)


def test_the_theme_follows_the_cookie(desk):
    async def story(client):
        page = await client.get("/", headers={"cookie": "fastrl_theme=dark"})
        assert "theme: dark" in page.text
        page = await client.get("/", headers={"cookie": "fastrl_theme=<script>"})
        assert "theme: auto" in page.text

    ask(desk, story)
