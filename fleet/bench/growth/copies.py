"""Copies an ended deliberation many times, straight into the store of a fleet that is not started yet."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.bench.speed import systems
from fleet.bench.speed.rig import Rig
from fleet.config import Settings
from fleet.errors import FleetError
from fleet.jetstream import topology
from fleet.local.nats_server import EmbeddedNats

KEPT_IN: Final = (subjects.STATES, subjects.DELIBERATIONS, subjects.AGENT_RESPONSES)
"""Streams in which an ended deliberation is kept."""
AT_ONCE = 250
"""Copies after which NATS is waited for: it drops what it has not got to, beyond some thousands of messages."""
WITHIN_S = 60.0
SELDOM: Final = "10m"
"""Filling would wait for the disk half a million times. What is measured syncs always."""
OWN_IDS: Final = ("Nats-Msg-Id", "Nats-Expected-Last-Subject-Sequence")
"""Headers that a copy leaves out. NATS remembers message ids for two minutes only: these are older than that."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message, and where it is kept."""

    stream: str
    subject: str
    body: bytes
    headers: Mapping[str, str]

    def renamed(self, task_id: str, other: str) -> "StoredMessage":
        """The same of another deliberation."""
        return StoredMessage(
            self.stream,
            self.subject.replace(task_id, other),
            self.body.replace(task_id.encode(), other.encode()),
            {name: value.replace(task_id, other) for name, value in self.headers.items() if name not in OWN_IDS},
        )


@dataclass(frozen=True, slots=True)
class Pattern:
    """All that is kept of one deliberation that has ended."""

    task_id: str
    messages: Sequence[StoredMessage]

    def copy(self, number: int) -> Sequence[StoredMessage]:
        """The same under another id, of the same length where `number` is less than a million."""
        other = f"{self.task_id[:-6]}{number:06}"
        return [kept.renamed(self.task_id, other) for kept in self.messages]


async def pattern(directory: Path, agents: int) -> Pattern:
    """Of a deliberation that a fleet in `directory` makes for this."""
    async with Rig(directory, bare=False) as rig:
        task_id = systems.unique("bench-kept")
        await (await systems.fleet(rig, agents)).ask(task_id)
        js = rig.nc.jetstream()
        return Pattern(task_id, [kept for stream in KEPT_IN for kept in await _read(js, stream, task_id)])


async def fill(directory: Path, pattern: Pattern, count: int) -> int:
    """Writes `count` copies to where a `Rig` in `directory` will find them; returns the bytes they take on the disk.

    Raises `FleetError` when NATS did not take them all.
    """
    server = EmbeddedNats(directory, sync_interval=SELDOM)
    await server.start()
    try:
        nc = await nats.connect(server.url, name="fleet-bench-copies")
        try:
            await _write(nc, pattern, count)
        finally:
            await nc.close()
    finally:
        await server.stop()
    return sum(file.stat().st_blocks * 512 for file in server.store.rglob("*") if file.is_file())


async def _read(js: JetStreamContext, stream: str, task_id: str) -> list[StoredMessage]:
    found = []
    last = (await js.stream_info(stream)).state.last_seq
    for sequence in range(1, last + 1):
        try:
            msg = await js.get_msg(stream, sequence)
        except NotFoundError:
            continue  # a state that was replaced
        subject = msg.subject or ""
        if task_id in (subject.rpartition(".")[2], (msg.headers or {}).get("Task-Id")):
            found.append(StoredMessage(stream, subject, msg.data or b"", msg.headers or {}))
    return found


async def _write(nc: Client, pattern: Pattern, count: int) -> None:
    js = nc.jetstream(timeout=WITHIN_S)
    await topology.declare(js, Settings())
    for first in range(0, count, AT_ONCE):
        *others, last = [pattern.copy(number) for number in range(first, min(first + AT_ONCE, count))]
        for copy in others:
            for kept in copy:
                await nc.publish(kept.subject, kept.body, headers=dict(kept.headers))
        # A stream takes what comes over one connection in its order: the last one tells of all.
        await asyncio.gather(*(js.publish(kept.subject, kept.body, headers=dict(kept.headers)) for kept in last))
    for stream in KEPT_IN:
        state = (await js.stream_info(stream)).state
        wanted = count * sum(kept.stream == stream for kept in pattern.messages)
        if state.messages != wanted:
            raise FleetError(f"{stream} took {state.messages} of {wanted} copies")
    responses = (await js.stream_info(subjects.AGENT_RESPONSES)).state
    await js.reset_consumer(subjects.AGENT_RESPONSES, subjects.COLLECTOR, seq=responses.last_seq + 1)  # all are read
