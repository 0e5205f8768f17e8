"""The page over a restart of NATS: it says that NATS is away, comes back by itself, and misses nothing."""

from pathlib import Path
from typing import Any

import nats
import pytest

from fleet.local.nats_server import EmbeddedNats, WebSocket
from fleet.local.ports import free_port
from fleet.page.server import serving
from tests.support.fleets.control_plane import client_on
from tests.support.fleets.whole_fleet import whole

pytestmark = pytest.mark.timeout(120)


async def test_it_comes_back_after_a_restart_of_nats(browser: Any, tmp_path: Path) -> None:
    """What ended while it was away stands in the list, and so does what is asked afterwards."""
    async with serving() as server:
        embedded = EmbeddedNats(tmp_path, sync_interval="1s")
        embedded.websocket = WebSocket(free_port(), server.origins)
        server.servers = (embedded.websocket.url,)
        url = await embedded.start()
        page = await browser.new_page()
        try:
            async with whole(url) as fleet:
                await fleet.request(task_id="before", num_agents=2, rounds=0)
                await page.goto(server.url)
                ended = page.get_by_role("region", name="Deliberations that ended")
                await ended.get_by_role("link", name="before").wait_for()
                await embedded.stop()
                await page.get_by_text("NATS is away").wait_for()
                await embedded.start()
                nc = await nats.connect(url)
                try:
                    again = await client_on(nc)
                    await again.request(task_id="after", num_agents=2, rounds=0)
                    await again.inbox.next("deliberation.completed", task_id="after")
                finally:
                    await nc.close()
                await page.get_by_text("connected", exact=True).wait_for()
                await ended.get_by_role("link", name="after").wait_for()
                assert await ended.get_by_role("link", name="before").count() == 1
        finally:
            await page.close()
            await embedded.stop()
