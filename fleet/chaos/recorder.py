"""Records a run's messages while it goes on, and reads the rest at its end."""

import asyncio
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import msgspec
import psutil
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from fleet import subjects
from fleet.chaos.history import Backlog, Event, Memory, ModelCall, Settled
from fleet.chaos.tenants.listener import digest_of_event
from fleet.config import Settings
from fleet.jetstream.connection import OUTAGES
from fleet.jetstream.payloads import Texts
from fleet.jetstream.topology import consumers
from fleet.local.process_titles import TITLES, descendants, kind_of
from fleet.tenants.limits import Tenant
from fleet.tenants.names import key_of_event, of_all, requests_of, tenant_of, without_tenant
from workers.simulator import client as simulator_client

BATCH = 500
TIMEOUT_S = 5.0
SAMPLE_S = 0.5
WORK_QUEUES = (subjects.DELIBERATION_REQUESTS, subjects.DELIBERATION_CONTROL, subjects.AGENT_REQUESTS)
"""Beside those of tenants' requests."""


class Recorder:
    """One connection to NATS, past the proxy, in the fleet's account. `tenants`: beside the default one."""

    def __init__(self, nc: Client, *, first_sequence: int = 1, tenants: Collection[str] = ()) -> None:
        self.live: list[tuple[str, str]] = []
        self.events: list[Event] = []
        self.backlogs: list[Backlog] = []
        self.memory: list[Memory] = []
        self.responses: list[Msg] = []
        self.settled: dict[tuple[str, ...], Settled] = {}
        self._nc = nc
        self._js: JetStreamContext = nc.jetstream(timeout=TIMEOUT_S)
        self._texts = Texts(self._js, lambda: nc.max_payload)
        self._next = first_sequence
        self.consumers = tuple(consumers(Settings(tenants={tenant: Tenant() for tenant in tenants})))
        self._work_queues = (*WORK_QUEUES, *map(requests_of, tenants))

    async def subscribe(self) -> None:
        """Begins to see what core subscribers see."""
        for subject in of_all(*subjects.TERMINAL):
            await self._nc.subscribe(subject, cb=self._on_terminal)
        await self._nc.subscribe(subjects.AGENT_COMPLETED, cb=self._on_response)
        await self._nc.flush()

    async def watch_settling(self) -> None:
        """Begins to see which deliveries are settled."""
        for stream, consumer in self.consumers:
            tenant = tenant_of(consumer.filter_subject or "")

            async def settled(msg: Msg, tenant: str = tenant) -> None:
                self._on_settled(msg.subject.split("."), tenant)

            await self._nc.subscribe(f"$JS.ACK.{stream}.{consumer.durable_name}.>", cb=settled)
        await self._nc.flush()

    async def sample(self) -> None:
        """Runs until cancelled: consumers, and memory."""
        while True:
            try:
                self.backlogs += await self.backlog()
            except OUTAGES:
                pass  # down on purpose
            self.memory += await asyncio.to_thread(_memory)
            await asyncio.sleep(SAMPLE_S)

    async def backlog(self) -> list[Backlog]:
        """All durables as they are now; one that was deleted is left out."""
        found = []
        for stream, consumer in self.consumers:
            name = consumer.durable_name or ""
            try:
                last = (await self._js.stream_info(stream)).state.last_seq
                info = await self._js.consumer_info(stream, name)
            except NotFoundError:
                continue
            floor = info.ack_floor.stream_seq if info.ack_floor else 0
            found.append(
                Backlog(
                    at=time.time(),
                    consumer=name,
                    pending=info.num_pending or 0,
                    unacknowledged=info.num_ack_pending or 0,
                    floor=floor,
                    last=last,
                    tenant=tenant_of(consumer.filter_subject or ""),
                    delivered=info.delivered.consumer_seq if info.delivered else 0,
                    created=info.created.timestamp(),
                )
            )
        return found

    async def read_events(self) -> None:
        """Adds what has come to `DELIBERATIONS` since it was read last."""
        info = await self._js.stream_info(subjects.DELIBERATIONS)
        if info.state.last_seq < self._next:
            return
        consumer = await self._js.add_consumer(
            subjects.DELIBERATIONS,
            ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._next,
                ack_policy=AckPolicy.NONE,
                mem_storage=True,
                inactive_threshold=60.0,
            ),
        )
        pending = consumer.num_pending or 0
        sub = await self._js.pull_subscribe_bind(consumer.name, stream=subjects.DELIBERATIONS)
        try:
            while pending > 0:
                batch = await sub.fetch(min(pending, BATCH), timeout=TIMEOUT_S)
                pending -= len(batch)
                for msg in batch:
                    self.events.append(await self._event(msg))
                    self._next = msg.metadata.sequence.stream + 1
        finally:
            await sub.unsubscribe()
            try:
                await self._js.delete_consumer(subjects.DELIBERATIONS, consumer.name)
            except APIError:
                pass  # gone with a restart

    def unfinished(self) -> set[str]:
        """Accepted, and not ended, as far as `events` tell."""
        accepted = {event.task_id for event in self.events if event.subject == subjects.ACCEPTED}
        return accepted - {event.task_id for event in self.events if event.terminal}

    async def values(self, keys: set[str]) -> dict[str, dict[str, Any]]:
        """The bucket's values."""
        bucket = await self._js.key_value(subjects.BUCKET)
        found = {}
        for key in keys:
            try:
                entry = await bucket.get(key)
            except NotFoundError:
                continue
            found[key] = msgspec.json.decode(await self._texts.inline(entry.value or b""))
        return found

    async def waiting(self) -> dict[str, int]:
        """Messages in each work queue."""
        return {name: (await self._js.stream_info(name)).state.messages for name in self._work_queues}

    async def tokens(self) -> dict[str, int]:
        """What is counted for each tenant, over all days."""
        info = await self._js.stream_info(subjects.TENANT_TOKENS, subjects_filter=">")
        used: Counter[str] = Counter()
        for subject in info.state.subjects or ():
            counter = await self._js.get_last_msg(subjects.TENANT_TOKENS, subject)
            used[tenant_of(subject)] += int(msgspec.json.decode(counter.data or b"")["val"])
        return dict(used)

    async def _event(self, msg: Msg) -> Event:
        body = msgspec.json.decode(await self._texts.inline(msg.data))
        for entry in body.get("results", ()):  # texts that went to the object store alone
            if ref := entry["proposal"].get("content_ref"):
                entry["proposal"] |= {"content": await self._text(ref), "content_ref": None}
            for text in entry.get("earlier", ()):
                if ref := text.get("content_ref"):
                    text |= {"content": await self._text(ref), "content_ref": None}
        if ref := (body.get("task") or {}).get("content_ref"):
            body["task"] = msgspec.json.decode(await self._text(ref)) | {"content_ref": None}
        meta = msg.metadata
        return Event(
            sequence=meta.sequence.stream,
            at=meta.timestamp.timestamp(),
            subject=without_tenant(msg.subject),
            task_id=key_of_event(msg.subject, msg.headers),
            body=body,
            tenant=tenant_of(msg.subject),
            digest=digest_of_event(msg.data),
        )

    async def _text(self, ref: dict[str, Any]) -> str:
        store = await self._js.object_store(ref["bucket"])
        return ((await store.get(ref["name"])).data or b"").decode()

    async def _on_terminal(self, msg: Msg) -> None:
        self.live.append((without_tenant(msg.subject), key_of_event(msg.subject, msg.headers)))

    def _on_settled(self, subject: list[str], tenant: str) -> None:
        """`$JS.ACK.<stream>.<consumer>.<which delivery of it>.<sequence>.<number of the delivery>.<time>.<pending>`."""
        consumer, (delivery, sequence, number) = subject[3], map(int, subject[4:7])
        one = Settled(
            at=time.time(), consumer=consumer, tenant=tenant, sequence=sequence, delivery=delivery, number=number
        )
        self.settled.setdefault((*subject[2:7], subject[7]), one)

    async def _on_response(self, msg: Msg) -> None:
        if msg.headers:  # none of the malformed ones
            self.responses.append(msg)
        del self.responses[:-500]


async def model_calls(url: str) -> tuple[tuple[ModelCall, ...], int]:
    """All calls that the simulated model server has recorded, and how many are open."""
    calls = msgspec.convert(await simulator_client.calls(url), tuple[ModelCall, ...])
    return calls, sum(call.ended is None for call in calls)


def _memory() -> list[Memory]:
    at, found = time.time(), []
    for process in descendants():
        with suppress(psutil.Error):
            kind = kind_of(process)
            if kind in TITLES:
                found.append(Memory(at=at, process=f"{kind} {process.pid}", bytes=process.memory_info().rss))
    return found
