"""The page as production has it: written by `fleet page`, from a web server of somebody else, all of it by TLS."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from typer.testing import CliRunner

from fleet.cli.app import app
from fleet.local.ports import free_port
from fleet.page.server import serving
from tests.page.stage import log_in
from tests.support.fleets.whole_fleet import whole
from tests.support.nats.permitted import permitted

pytestmark = pytest.mark.timeout(120)
HOST = "localhost"


class Handler(SimpleHTTPRequestHandler):
    """Says nothing of what it serves."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web_server(folder: Path, authority: trustme.CA) -> Iterator[str]:
    """Any other than ours: Python's own, with a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    with ThreadingHTTPServer((HOST, 0), partial(Handler, directory=str(folder))) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"https://{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def websocket(port: int, origin: str, directory: Path, authority: trustme.CA) -> str:
    """Of the configuration of a nats-server: for browsers, by TLS."""
    issued = authority.issue_cert(HOST)
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return f"""websocket {{
  listen: "{HOST}:{port}"
  tls {{ cert_file: "{chain}", key_file: "{key}" }}
  allowed_origins: ["{origin}"]
}}"""


async def test_it_shows_the_fleet_by_tls(browser: Any, tmp_path: Path) -> None:
    """Of a web server and a NATS with certificates that the browser accepts, to `viewer`, with a strict CSP at work."""
    authority, folder, port = trustme.CA(), tmp_path / "page", free_port()
    command = ["page", "--out", str(folder), "--nats", f"wss://{HOST}:{port}"]
    assert (await asyncio.to_thread(CliRunner().invoke, app, command)).exit_code == 0
    context = await browser.new_context(ignore_https_errors=True)
    try:
        with web_server(folder, authority) as url:
            async with (
                permitted(tmp_path / "nats", websocket(port, url, tmp_path, authority)) as users,
                whole(users.url("control"), worker_url=users.url("worker"), client_url=users.url("client")) as fleet,
            ):
                page = await context.new_page()
                await page.goto(url)
                await log_in(page)
                await page.get_by_text("connected", exact=True).wait_for()
                await fleet.request(task_id="by-tls", num_agents=2, rounds=0)
                ended = page.get_by_role("region", name="Deliberations that ended")
                await ended.get_by_role("link", name="by-tls").wait_for()
    finally:
        await context.close()


async def test_a_certificate_that_the_browser_does_not_trust_is_an_outage(browser: Any, tmp_path: Path) -> None:
    """A browser tells a page no more than that the connection failed: it says where it tried."""
    port = free_port()
    async with serving() as server:
        server.servers = (f"wss://{HOST}:{port}",)
        async with permitted(tmp_path / "nats", websocket(port, server.url, tmp_path, trustme.CA())):
            page = await browser.new_page()
            try:
                await page.goto(server.url)
                await log_in(page)
                told = page.get_by_role("alert")
                await told.get_by_text(f"wss://{HOST}:{port}").wait_for()
                await told.get_by_text("trust its certificate").wait_for()
            finally:
                await page.close()
