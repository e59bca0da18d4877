"""The guard before every request: whose page asks, by which name, and with which token.

A page in the browser can start processes, so no other page may speak for it. A name that an
attacker lets point to this machine is refused by `Host`, another page by `Origin` and
`Sec-Fetch-Site`, another person by the token. This goes for pages, files and the websocket alike.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SOCKET_PATH = "/_nicegui_ws/"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach what is served at a host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Middleware that lets only requests of the studio's own pages through.

    Args:
        app: what is guarded.
        host: address that the studio is served at.
        token: what the address or the cookie must carry; empty if nothing is asked for.
    """

    def __init__(self, app: App, host: str, token: str) -> None:
        self._app, self._token = app, token
        self._is_local = is_loopback(host)
        self._names = LOOPBACK_NAMES | {host.lower()}
        if not self._is_local:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses it."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = _headers_of(scope)
        fault = self._fault(scope, headers)
        if fault:
            return await _refuse(scope, send, *fault)
        cookie_name = cookie_name_at(headers["host"][0])
        if self._token and not self._has_cookie(headers, cookie_name):
            return await self._ask_for_token(scope, send, cookie_name)

        async def send_with_headers(message: Scope) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                more = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = given + [pair for pair in more if pair[0] not in names]
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _fault(self, scope: Scope, headers: dict[str, list[str]]) -> tuple[int, str] | None:
        """Returns status and words of a refusal; None if the request is one of our pages'."""
        hosts = headers.get("host", [])
        match = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if match is None or not self._is_ours(match[1].strip("[]")):
            return 421, "the studio is not served under this name; use the address it printed"
        origins = headers.get("origin", [])
        is_foreign = any(x.lower() not in _origins_of(hosts[0].lower()) for x in origins)
        sites, modes = headers.get("sec-fetch-site", []), headers.get("sec-fetch-mode", [])
        if {"cross-site", "same-site"} & set(sites) and modes != ["navigate"]:
            is_foreign = True
        is_socket = scope["type"] == "websocket"
        method = scope.get("method", "GET")
        if is_foreign or ((is_socket or method == "POST") and not origins):
            return 403, "only pages of the studio itself may ask this"
        if method not in ("GET", "HEAD") and not scope["path"].startswith(_SOCKET_PATH):
            return 405, "the studio's pages are only read"
        return None

    def _is_ours(self, name: str) -> bool:
        if name in self._names:
            return True
        try:  # the owner of a name decides what it points to; nobody does for a number
            return not self._is_local and bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _has_cookie(self, headers: dict[str, list[str]], name: str) -> bool:
        values = []
        for text in headers.get("cookie", []):
            try:
                cookie = SimpleCookie(text).get(name)
            except CookieError:
                continue
            values += [cookie.value] if cookie is not None else []
        return any(self._is_token(value) for value in values)

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())

    async def _ask_for_token(self, scope: Scope, send: Send, cookie_name: str) -> None:
        """Turns a token in the address into a cookie; refuses what has none."""
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        tokens = [value for name, value in query if name == "token"]
        if scope["type"] != "http" or not any(map(self._is_token, tokens)):
            words = "the studio asks for its token: open the address that it printed at its start"
            return await _refuse(scope, send, 403, words)
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        target = "/" + quote(scope["path"].lstrip("/\\")) + (f"?{rest}" if rest else "")
        cookie = f"{cookie_name}={self._token}; Path=/; HttpOnly; SameSite=Lax"
        more = {"location": target, "set-cookie": cookie}
        await _answer(send, 303, "", more)


def cookie_name_at(host: str) -> str:
    """Returns the name of the cookie at a host: browsers send those of all its ports to each."""
    match = _HOST.fullmatch(host.lower())
    assert match is not None, "it was checked"
    return f"fastrl_studio_{(match[2] or ':80')[1:]}"


def _headers_of(scope: Scope) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in scope.get("headers", ()):
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return headers


def _origins_of(host: str) -> tuple[str, str]:
    return f"http://{host}", f"https://{host}"


async def _refuse(scope: Scope, send: Send, status: int, words: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # before it is accepted: status 403
    else:
        await _answer(send, status, words, {})


async def _answer(send: Send, status: int, words: str, more: dict[str, str]) -> None:
    headers = {**_HEADERS, "content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
    pairs = [(name.encode(), value.encode()) for name, value in (headers | more).items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": words.encode()})
