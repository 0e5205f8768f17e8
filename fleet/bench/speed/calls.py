"""Makes the baselines' model calls: the fleet's own prompts, the same server, as little code as possible."""

import asyncio
import json
from functools import cache
from typing import Any

import aiohttp
import msgspec

from fleet import config
from fleet.deliberation.events import CallAgent, Requested
from fleet.deliberation.machine import decide
from fleet.requests.task import Task
from workers.llm.requests import resolve

DESCRIPTION = "Design a rate limiter for the public REST API: thousands of clients, no single point of failure."


Messages = list[dict[str, str]]


@cache
def prompts(description: str, agents: int) -> list[Messages]:
    """The messages of each agent's first call, as a worker sends them. Kept: a baseline has simpler ones."""
    task = Task(task_description=description, num_agents=agents)
    decision = decide(None, Requested("d-1", task, sequence=1, at_ms=0))
    asked = [effect.request for effect in decision.outbox if isinstance(effect, CallAgent)]
    settings = config.load({})
    return [msgspec.to_builtins(resolve(settings, request).messages) for request in asked]


def body(model: str, messages: Messages, max_tokens: int) -> dict[str, Any]:
    """Streamed, as the fleet asks: the server has the same work."""
    return {
        "model": model,
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0.7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def complete(session: aiohttp.ClientSession, url: str, request: dict[str, Any], request_id: str) -> str:
    """The text. Raises `aiohttp.ClientError` for anything but a whole answer."""
    text = []
    headers = {"X-Request-Id": request_id}
    async with session.post(f"{url}/v1/chat/completions", json=request, headers=headers) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                text.append(choice["delta"].get("content") or "")
    return "".join(text)


def session() -> aiohttp.ClientSession:
    """Without a limit of its own; kept connections are closed before the server closes them."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_read=600))


async def model_of(url: str) -> str:
    """The first that the server lists."""
    async with session() as http, http.get(f"{url}/v1/models") as response:
        return str((await response.json())["data"][0]["id"])


async def fan_out(http: aiohttp.ClientSession, url: str, requests: list[dict[str, Any]], task_id: str) -> list[str]:
    """All calls of a deliberation at once."""
    return await asyncio.gather(
        *(complete(http, url, request, f"{task_id}.{index}") for index, request in enumerate(requests))
    )
