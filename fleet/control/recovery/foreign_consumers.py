"""Takes away consumers that deliver what is stored to where the fleet, or NATS itself, is told something.

NATS lets whoever may create a consumer name any subject to deliver to. Two such consumers can make two streams feed
each other without end, and one can write over a state. So who asks for one is heard, and what came of it is deleted.
What it has delivered meanwhile is nothing that the fleet believes.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.jetstream.origin import is_for_callers
from fleet.jetstream.streams import STREAMS, consumed

log = structlog.get_logger(__name__)

READ = (*(spec.name for spec in STREAMS if spec.clients_read is not None), subjects.STATES, subjects.TEXTS_STREAM)
"""Streams on which clients may have consumers."""
_OWN = {(spec.name, consumer.name) for spec, consumer in consumed()}
LOOK_EVERY_S = 30.0
AGAIN_AFTER_S = 1.0
"""In a cluster a consumer may come to be after it was looked for."""


class _Config(msgspec.Struct, frozen=True):
    deliver_subject: str = ""


class _Create(msgspec.Struct, frozen=True):
    """The part of a request to `$JS.API.CONSUMER.CREATE` that is read."""

    stream_name: str = ""
    config: _Config = _Config()


class ForeignConsumers:
    """Watches, for one process, which consumers are made."""

    def __init__(self, nc: Client, js: JetStreamContext) -> None:
        self._nc = nc
        self._js = js
        self._asked = asyncio.Event()

    async def start(self) -> None:
        """Listens to who asks for a consumer: NATS tells of new ones, and not of those that are changed."""
        await self._nc.subscribe(subjects.CONSUMER_CREATE, cb=self._on_create)

    async def run(self) -> None:
        """Takes away those that deliver where the fleet listens, until cancelled."""
        while True:
            heard, soon = self._asked.is_set(), False
            self._asked.clear()
            try:
                for stream in READ:
                    await self.remove(stream)
            except Exception as error:  # NATS is away, or busy with what is to be ended
                log.info("consumers.not_looked_at", error=repr(error))
                soon = True
            try:
                async with asyncio.timeout(AGAIN_AFTER_S if heard or soon else LOOK_EVERY_S):
                    await self._asked.wait()
            except TimeoutError:
                pass

    async def remove(self, stream: str) -> None:
        """Deletes this stream's consumers that deliver where no caller listens."""
        async for info in self._consumers(stream):
            target = info.config.deliver_subject or ""
            if not target or is_for_callers(target) or (stream, info.name) in _OWN:
                continue
            log.warning("consumer.removed", stream=stream, consumer=info.name, delivered_to=target)
            try:
                await self._js.delete_consumer(stream, info.name)
            except NotFoundError:
                pass  # another process was faster

    async def _consumers(self, stream: str) -> AsyncIterator[ConsumerInfo]:
        offset = 0
        while page := await self._js.consumers_info(stream, offset=offset):
            for info in page:
                yield info
            offset += len(page)

    async def _on_create(self, msg: Msg) -> None:
        try:
            asked: Any = msgspec.json.decode(msg.data, type=_Create)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return  # nor will NATS take it
        target = asked.config.deliver_subject
        if target and not is_for_callers(target):
            self._asked.set()
