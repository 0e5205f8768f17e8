"""Serves the page on loopback, for `fleet up`. Nothing but its files: what it shows comes from NATS."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from fleet.page.files import NAMES, SETTINGS, STATIC, settings

HOST = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


class PageServer:
    """`servers` is set once NATS is known; until then the page is told of none."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.servers: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def origins(self) -> tuple[str, ...]:
        """Under which a browser may know it."""
        return self.url, f"http://localhost:{self.port}"

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """A file of the page; 403 for a name that is not ours, as a page of somebody else's may have one lead here."""
        if f"http://{request.host}" not in self.origins:
            return web.Response(status=403, text="the page is at " + self.url)
        name = request.path.removeprefix("/") or "index.html"
        if name == SETTINGS:
            return web.Response(body=settings(self.servers), content_type="application/json", headers=HEADERS)
        if name not in NAMES:
            return web.Response(status=404, headers=HEADERS)
        kind = TYPES[name.rpartition(".")[2]]
        return web.Response(body=(STATIC / name).read_bytes(), content_type=kind, charset="utf-8", headers=HEADERS)


@asynccontextmanager
async def serving(port: int = 0) -> AsyncIterator[PageServer]:
    """Serves on `port` of loopback; 0: a free one."""
    page = PageServer(port)
    runner = web.ServerRunner(web.Server(page.answer))
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        page.port = runner.addresses[0][1]
        yield page
    finally:
        await runner.cleanup()
