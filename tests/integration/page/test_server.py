"""The page's own server, and the WebSocket of the embedded NATS, which lets in that page only."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from fleet.local.nats_server import EmbeddedNats, WebSocket
from fleet.local.ports import free_port
from fleet.page.files import NAMES
from fleet.page.server import PageServer, serving
from tests.support.waiting import WITHIN_S


@pytest.fixture
async def page() -> AsyncIterator[PageServer]:
    async with serving() as served:
        yield served


async def test_each_file_comes_with_its_policy(page: PageServer) -> None:
    page.servers = ("ws://127.0.0.1:1",)
    async with aiohttp.ClientSession(page.url) as http:
        for path in ("/", *(f"/{name}" for name in NAMES)):
            async with http.get(path) as got:
                assert got.status == 200
                assert "default-src 'none'" in got.headers["Content-Security-Policy"]
                assert got.headers["X-Content-Type-Options"] == "nosniff"
        async with http.get("/settings.json") as got:
            assert await got.json() == {"servers": ["ws://127.0.0.1:1"]}


@pytest.mark.parametrize("path", ["/../files.py", "/source/package.json", "/page.js/", "/%2e%2e/server.py", "/nothing"])
async def test_nothing_else_is_served(page: PageServer, path: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(page.url + path) as got:
        assert got.status == 404


async def test_under_another_name_it_says_nothing(page: PageServer) -> None:
    """A name of somebody else's that leads to this machine makes no page of the same origin."""
    named = {"Host": f"evil.example:{page.port}"}
    async with aiohttp.ClientSession() as http, http.get(page.url + "/settings.json", headers=named) as got:
        assert got.status == 403


async def test_nats_lets_in_no_other_page(tmp_path: Path, page: PageServer) -> None:
    """Any page that a browser shows may try to connect to loopback."""
    server = EmbeddedNats(tmp_path)
    server.websocket = WebSocket(free_port(), page.origins)
    await server.start()
    url = server.websocket.url.replace("ws://", "http://")
    try:
        async with aiohttp.ClientSession() as http:
            for origin in page.origins:
                async with http.ws_connect(url, origin=origin) as socket:
                    assert (await socket.receive(timeout=WITHIN_S)).data.startswith(b"INFO ")
            for origin in ("https://evil.example", "null", f"http://127.0.0.1:{page.port + 1}"):
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    await http.ws_connect(url, origin=origin)
    finally:
        await server.stop()
