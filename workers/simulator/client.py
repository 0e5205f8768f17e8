"""Calls the simulated server's own endpoints, for benchmarks and fault injection."""

from typing import Any

import aiohttp

WITHIN_S = 120
"""It may stand still for a while."""
ALL = 100_000_000


async def configure(url: str, **change: Any) -> None:
    """Changes pace or faults for the requests that follow: `ConfigChange`. Raises `aiohttp.ClientError`."""
    async with _session() as session, session.put(f"{url}/simulator/config", json=change) as response:
        response.raise_for_status()


async def calls(url: str, limit: int = ALL) -> list[dict[str, Any]]:
    """The latest calls, oldest first, without their bodies. Raises `aiohttp.ClientError`."""
    query = {"limit": str(limit), "bodies": "no"}
    async with _session() as session, session.get(f"{url}/simulator/calls", params=query) as response:
        response.raise_for_status()
        calls_: list[dict[str, Any]] = (await response.json())["calls"]
        return calls_


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S))
