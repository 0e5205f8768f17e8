"""Wraps the compared systems (the fleet, `bare`, `direct`), so that all are called in the same way."""

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import aiohttp
from nats.aio.client import Client
from nats.aio.msg import Msg

from fleet import subjects
from fleet.bench.speed import bare, calls
from fleet.bench.speed.rig import Rig
from fleet.errors import FleetError

WITHIN_S = 600.0


class System(Protocol):
    """Something that deliberates."""

    name: str

    def pids(self) -> Sequence[int]:
        """Whose processor time counts; their descendants' counts as well."""

    async def ask(self, task_id: str) -> None:
        """Returns once the answer is there. Raises `FleetError` for any other end."""


class OverNats:
    """Publishes a request and waits for its terminal event, which is known by its header `Task-Id`.

    The PubAck is not waited for: the terminal event says more.
    """

    def __init__(
        self,
        name: str,
        nc: Client,
        pids: Sequence[int],
        *,
        requested: str,
        ends: Mapping[str, bool],
        body: dict[str, Any],
    ) -> None:
        self.name = name
        self._nc = nc
        self._js = nc.jetstream(timeout=30)
        self._pids = pids
        self._requested = requested
        self._ends = ends
        self._body = body
        self._waiting: dict[str, asyncio.Future[bool]] = {}

    async def subscribe(self) -> Self:
        for subject in self._ends:
            await self._nc.subscribe(subject, cb=self._on_end, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await self._nc.flush()
        return self

    def pids(self) -> Sequence[int]:
        return self._pids

    async def ask(self, task_id: str) -> None:
        ended = self._waiting[task_id] = asyncio.get_running_loop().create_future()
        await self._js.publish(self._requested, json.dumps({**self._body, "task_id": task_id}).encode())
        async with asyncio.timeout(WITHIN_S):
            if not await ended:
                raise FleetError(f"{self.name}: {task_id} failed")

    async def _on_end(self, msg: Msg) -> None:
        waiting = self._waiting.pop((msg.headers or {}).get("Task-Id", ""), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(self._ends[msg.subject])


class Direct:
    """The baseline `direct`: asyncio and aiohttp in this process, nothing stored: the physical limit."""

    name = "direct"

    def __init__(self, url: str, requests: list[dict[str, Any]], http: aiohttp.ClientSession | None = None) -> None:
        self._url = url
        self.requests = requests
        self._http = http or calls.session()

    def pids(self) -> Sequence[int]:
        return ()

    async def ask(self, task_id: str) -> None:
        await calls.fan_out(self._http, self._url, self.requests, task_id)

    async def close(self) -> None:
        await self._http.close()


def request(agents: int, **more: Any) -> dict[str, Any]:
    """Proposals, ranked without asking anybody: no call beyond those of the baselines."""
    return {
        "task_description": calls.DESCRIPTION,
        "num_agents": agents,
        "rounds": 0,
        "options": {"selection": "checks"},
        **more,
    }


async def fleet(rig: Rig, agents: int = 3, **more: Any) -> OverNats:
    """The fleet, as its clients see it."""
    ends = {subject: subject == subjects.COMPLETED for subject in subjects.TERMINAL}
    body = request(agents, **more)
    system = OverNats("fleet", rig.nc, rig.fleet_pids, requested=subjects.REQUESTED, ends=ends, body=body)
    return await system.subscribe()


async def bare_of(rig: Rig, agents: int = 3) -> OverNats:
    """`bare`, asked like the fleet."""
    ends = {bare.COMPLETED: True}
    body = request(agents)
    system = OverNats("bare", rig.nc, rig.bare_pids, requested=bare.REQUESTED, ends=ends, body=body)
    return await system.subscribe()


async def direct(
    rig: Rig, agents: int = 3, max_tokens: int = bare.MAX_TOKENS, http: aiohttp.ClientSession | None = None
) -> Direct:
    """`direct`, with the fleet's prompts. `http`: instead of a session of its own."""
    model = await calls.model_of(rig.vllm_url)
    prompts = calls.prompts(calls.DESCRIPTION, agents)
    return Direct(rig.vllm_url, [calls.body(model, prompt, max_tokens) for prompt in prompts], http)


def unique(prefix: str) -> str:
    """An id for one run of something: task ids begin with it."""
    return f"{prefix}-{uuid.uuid4().hex[:10]}"
