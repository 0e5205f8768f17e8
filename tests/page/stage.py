"""A fleet in this process for a browser: shipped permissions, two priced model servers, and the page's own server."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats

from fleet.config import Limits, RoleProfile, Settings, Workers
from fleet.local.nats_server import WebSocket, for_browsers
from fleet.local.ports import free_port
from fleet.local.testbed import in_process
from fleet.model_servers import EndpointConfig, Price
from fleet.page.server import serving
from tests.support.fleets.control_plane import Fleet, client_on
from tests.support.nats.permitted import Users, permitted
from workers.simulator.server import Simulator, SimulatorConfig

PRICE = Price(input=0.4, cached=0.04, output=1.2)
ROLE = RoleProfile(persona="You are a developer.", max_tokens=20_000)


@dataclass
class Stage:
    """`url`: of the page. `servers`: the simulated model servers, by name."""

    url: str
    users: Users
    client: Fleet
    servers: dict[str, Simulator]


@asynccontextmanager
async def staged(
    directory: Path,
    *configs: SimulatorConfig,
    limits: Limits | None = None,
    workers: Workers | None = None,
    url: str | None = None,
) -> AsyncIterator[Stage]:
    """One model server for each of `configs`: `gpu-1`, `gpu-2` …; or the one that is there at `url`."""
    async with AsyncExitStack() as stack:
        page = await stack.enter_async_context(serving())
        websocket = WebSocket(free_port(), page.origins)
        page.servers = (websocket.url,)
        users = await stack.enter_async_context(permitted(directory, for_browsers(websocket)))
        servers = {
            f"gpu-{number}": await stack.enter_async_context(Simulator(config))
            for number, config in enumerate(configs, 1)
        }
        urls = {name: each.url for name, each in servers.items()} if url is None else {"gpu-1": url}
        common: dict[str, Any] = {
            "agent_type": "vllm",
            "endpoints": {name: EndpointConfig(url=each, price=PRICE) for name, each in urls.items()},
            "roles": {"DEV": ROLE},
            "limits": limits or Limits(),
            "workers": workers or Workers(ack_wait_s=3, calls_per_worker=128),
        }
        control = Settings(nats_url=users.url("control"), **common)
        await stack.enter_async_context(in_process(control, worker=Settings(nats_url=users.url("worker"), **common)))
        nc = await nats.connect(users.url("client"))
        stack.push_async_callback(nc.close)
        yield Stage(page.url, users, await client_on(nc), servers)


async def log_in(page: Any, user: str = "viewer") -> None:
    """As `user` of the shipped permissions."""
    await page.get_by_label("User").fill(user)
    await page.get_by_label("Password").fill(f"p{user}")
    await page.get_by_role("button", name="Connect").click()
