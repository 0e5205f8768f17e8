"""A foreign client of the council as an agent: Synadia's SDK, as it comes."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from nats.aio.client import Client
from synadia_ai.agents import Agent, Agents, Envelope, ProtocolError, ResponseChunk, StatusChunk

from fleet import subjects
from tests.support.waiting import until


@dataclass
class Prompted:
    """What a caller has seen of one prompt."""

    statuses: list[str] = field(default_factory=list)
    text: str = ""
    pieces: int = 0
    facts: dict[str, Any] | None = None
    error: str | None = None

    @property
    def task_id(self) -> str:
        """As the stream has told it."""
        return next(of(status)["task_id"] for status in self.statuses if status.startswith("task_id="))

    @property
    def steps(self) -> list[dict[str, str]]:
        """Of the council's course: phases that began, calls that ended."""
        return [of(status) for status in self.statuses if status.startswith("phase=")]


def of(status: str) -> dict[str, str]:
    """`phase=critique round=1` as a dictionary."""
    return dict(word.split("=", 1) for word in status.split())


@asynccontextmanager
async def sdk(nc: Client) -> AsyncIterator[Agents]:
    agents = Agents(nc=nc)
    try:
        yield agents
    finally:
        await agents.close()


async def councils(agents: Agents, count: int = 2) -> list[Agent]:
    """Each instance of it that the client finds, once it has found so many: some may not answer within its second."""
    found: list[Agent] = []

    async def are_found() -> bool:
        found[:] = [agent for agent in await agents.discover(timeout=1) if agent.agent == subjects.AGENT]
        return len(found) >= count

    await until(are_found)
    return found


async def prompt(agent: Agent, text: str, timeout_s: float = 30, **deliberation: Any) -> Prompted:
    """Until the stream ends, or fails."""
    seen = Prompted()
    envelope = Envelope(prompt=text, deliberation=deliberation) if deliberation else text
    try:
        async for message in agent.prompt(envelope, timeout=timeout_s):
            note(seen, message)
    except ProtocolError as error:
        seen.error = str(error)
    return seen


def note(seen: Prompted, message: Any) -> None:
    match message:
        case StatusChunk():
            seen.statuses.append(message.status)
        case ResponseChunk():
            seen.pieces += 1
            seen.text += message.text
            for attachment in message.attachments or ():
                assert attachment.filename == "deliberation.json"
                seen.facts = json.loads(base64.b64decode(attachment.content))
        case _:
            raise AssertionError(message)
