"""What is not the studio's own page gets nothing, and starts nothing."""

from __future__ import annotations

import asyncio
import os

import pytest

pytest.importorskip("nicegui")

from nicegui import core

from fastrl.studio.addresses import path_of
from fastrl.studio.guard import Guard
from studio.playing import HOST, ask, make_run

SOCKET = "/_nicegui_ws/socket.io/"
STATIC = "/_nicegui/3.18.0/static/nicegui.css"
TOKEN = "correct-horse"


def answer(path="/", method="GET", token="", bound="127.0.0.1", kind="http", **headers):
    """Returns what the guard answers: its status and headers; None if it lets a request through."""
    came_through, sent = [], []

    async def app(scope, receive, send):
        came_through.append(scope)

    async def send(message):
        sent.append(message)

    given = {"host": "localhost:8080", **{x.replace("_", "-"): y for x, y in headers.items()}}
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    path, _, query = path.partition("?")
    scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": pairs}
    if kind == "http":
        scope["method"] = method
    asyncio.run(Guard(app, bound, token)(scope, None, send))
    if came_through:
        return None
    if sent[0]["type"] == "websocket.close":  # before it was accepted: the browser gets a 403
        return 403, {}
    return sent[0]["status"], {x.decode(): y.decode() for x, y in sent[0]["headers"]}


COOKIE = "fastrl_studio_8080"
OWN = {"host": "localhost:8080", "origin": "http://localhost:8080"}


@pytest.mark.parametrize(
    "name", ["evil.example", "localhost.evil.example", "", "localhost@evil.example", "192.0.2.7"]
)
def test_a_name_that_is_not_its_own_is_refused(name):
    assert answer(host=name)[0] == 421


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:9000"])
def test_its_own_names_are_served_at_any_port(name):
    assert answer(host=name) is None


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:8081", "http://localhost:8080.evil"]
)
@pytest.mark.parametrize("request_", [{"method": "GET"}, {"method": "POST"}, {"kind": "websocket"}])
def test_pages_of_other_origins_cannot_ask(origin, request_):
    assert answer(SOCKET, **request_, **{**OWN, "origin": origin})[0] == 403


@pytest.mark.parametrize("request_", [{"method": "GET"}, {"method": "POST"}, {"kind": "websocket"}])
def test_its_own_pages_can_ask(request_):
    assert answer(SOCKET, **request_, **OWN) is None


@pytest.mark.parametrize("request_", [{"method": "POST"}, {"kind": "websocket"}])
def test_what_can_change_something_must_say_its_origin(request_):
    assert answer(SOCKET, **request_)[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_page_embeds_is_refused(site):
    assert answer(sec_fetch_site=site, sec_fetch_mode="no-cors")[0] == 403
    assert answer(sec_fetch_site=site, sec_fetch_mode="navigate") is None  # a link to it


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/new", "/files/x"])
def test_pages_are_only_read(method, path):
    assert answer(path, method, **OWN)[0] == 405


@pytest.mark.parametrize("path", ["/", "/files/x", STATIC, f"{SOCKET}?EIO=4"])
@pytest.mark.parametrize("query", ["", "token=wrong", "token=", f"token={TOKEN}x", "token=\xe9"])
def test_without_the_token_nothing_is_served(path, query):
    mark = "&" if "?" in path else "?"
    assert answer(f"{path}{mark}{query}", token=TOKEN)[0] == 403


def test_a_websocket_needs_the_cookie():
    asked = {"path": SOCKET, "kind": "websocket", "token": TOKEN, **OWN}
    assert answer(**asked, cookie=f"a=b; {COOKIE}={TOKEN}") is None
    assert answer(**asked, cookie=f"{COOKIE}=x")[0] == 403
    assert answer(**asked, cookie=f"fastrl_studio_8081={TOKEN}")[0] == 403  # of another studio
    assert answer(**{**asked, "path": f"{SOCKET}?token={TOKEN}"})[0] == 403


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example/", "///evil.example"])
def test_the_token_leads_to_no_other_server(path):
    status, headers = answer(f"{path}?token={TOKEN}", token=TOKEN)
    assert status == 303 and headers["location"].startswith("/evil.example")


def test_numbers_of_the_machine_are_served_if_it_serves_others():
    asked = {"host": "192.0.2.7:8080", "origin": "http://192.0.2.7:8080"}
    assert answer(bound="0.0.0.0", **asked) is None
    assert answer(bound="127.0.0.1", **asked)[0] == 421
    assert answer(bound="0.0.0.0", host="evil.example")[0] == 421


def test_the_guard_stands_before_pages_files_static_files_and_the_websocket(desk):
    async def story(client):
        for path in ("/", "/files/x", STATIC, f"{SOCKET}?EIO=4&transport=polling"):
            assert (await client.get(path)).status_code == 403
        answer = await client.get(f"/new?token={TOKEN}&algo=sac")
        assert (answer.status_code, answer.headers["location"]) == (303, "/new?algo=sac")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
        page = await client.get("/new")
        assert page.status_code == 200 and TOKEN not in page.text
        assert page.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]

    ask(desk, story, TOKEN)


ESCAPES = [
    *("../secret.txt", "ppo/../../secret.txt", "..", "/etc/passwd", "//etc/passwd", "./ppo", ""),
    *("%2e%2e/secret.txt", "..%2fsecret.txt", "%2e%2e%2fsecret.txt", "%252e%252e/secret.txt"),
    *(
        "ppo\\..\\secret.txt",
        "ppo/t0/\x00",
        ".studio/jobs",
        ".trash",
        "ppo/.hidden",
        "ppo/",
        "a" * 2000,
    ),
]


@pytest.mark.parametrize("address", ESCAPES)
def test_no_address_leaves_the_log_folder(desk, address):
    (desk.log_dir.parent / "secret.txt").write_text("secret")
    (desk.log_dir / "ppo").mkdir()
    with pytest.raises(ValueError, match="address"):
        path_of(desk.log_dir, address)


def test_no_request_gets_a_file_from_outside(desk):
    run = make_run(desk.log_dir)
    (desk.log_dir.parent / "secret.csv").write_text("secret")

    async def story(client):
        for address in ESCAPES:
            for start in ("/files/", "/run/", f"/files/{run}/", f"/files/{run}/videos/"):
                path = start + address.replace("\x00", "%00").replace(".txt", ".csv")
                answer = await client.get(f"http://{HOST}{path}")
                # What httpx itself resolves, such as /files/.. to /, is another page of ours.
                assert answer.text != "secret" and (
                    answer.status_code in (404, 307) or "nicegui" in answer.text
                )

    ask(desk, story)


def test_a_link_is_not_followed(desk):
    run = make_run(desk.log_dir)
    secret = desk.log_dir.parent / "secret.csv"
    secret.write_text("secret")
    (desk.log_dir / run / "linked.csv").symlink_to(secret)
    (desk.log_dir / "folder").symlink_to(desk.log_dir.parent)

    async def story(client):
        for address in (f"{run}/linked.csv", "folder/secret.csv", "folder/logs"):
            assert (await client.get(f"/files/{address}")).status_code == 404
            assert (await client.get(f"/run/{address}")).status_code == 404

    ask(desk, story)


def test_only_files_of_runs_of_the_known_kinds_are_served(desk):
    run = make_run(desk.log_dir)
    folder = desk.log_dir / run
    (folder / "metrics.csv").write_text("env_steps\n")
    (folder / "page.html").write_text("<script>alert(1)</script>")
    (desk.log_dir / "other.csv").write_text("1")
    os.mkfifo(folder / "pipe.csv")

    async def story(client):
        answer = await client.get(f"/files/{run}/metrics.csv")
        assert answer.status_code == 200
        assert answer.headers["content-disposition"].startswith("attachment")
        assert "sandbox" in answer.headers["content-security-policy"]
        for address in (f"{run}/page.html", "other.csv", f"{run}/pipe.csv", run):
            assert (await client.get(f"/files/{address}")).status_code == 404

    ask(desk, story)


def test_nothing_of_the_browsers_is_kept_on_disk(desk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def story(client):
        await client.get("/")
        await client.get(f"/?token={TOKEN}")

    ask(desk, story)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs"]
    assert core.app.storage.secret is None
