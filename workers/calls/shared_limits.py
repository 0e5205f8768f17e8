"""Stores the shared limits of endpoints in a bucket of NATS: all workers of a fleet change it by compare-and-set.

Its time is that of NATS: the clocks of workers may differ.
"""

import asyncio
import time
from collections.abc import Callable
from random import random

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.clock import now_ms
from fleet.errors import FleetError
from fleet.jetstream.compare_and_set import store_after
from fleet.messages import UNDECODABLE
from workers.llm.servers.allowances import Records, Unreadable

WITHIN_S = 2.0
TRIES = 50
LONGEST_PAUSE_S = 0.02
SET_CLOCK_EVERY_S = 60.0

_STREAM = subjects.WORKERS_STREAM
_SUBJECT = f"$KV.{subjects.WORKERS_BUCKET}.{subjects.LIMITS_KEY}"
_CLOCK = f"$KV.{subjects.WORKERS_BUCKET}.{subjects.CLOCK_KEYS}"


class SharedLedger:
    """The `Ledger` that all workers of a fleet share."""

    def __init__(self, nc: Client, worker: str) -> None:
        self._js = nc.jetstream(timeout=WITHIN_S)
        self._clock = f"{_CLOCK}.{worker}"
        self._behind_ms = 0
        """So much is to be added to this machine's time."""
        self._set_at = -SET_CLOCK_EVERY_S
        self._known: tuple[Records, int] | None = None
        """As this worker wrote or read it last, with its revision."""

    async def change(self, step: Callable[[Records, int], Records]) -> None:
        try:
            if time.monotonic() - self._set_at >= SET_CLOCK_EVERY_S:
                await self._set_clock()
            for attempt in range(TRIES):
                if await self._try(step):
                    return
                await asyncio.sleep(random() * min(LONGEST_PAUSE_S, 0.001 * 2**attempt))
        except (nats.errors.Error, FleetError, OSError) as error:
            raise Unreadable(repr(error)) from None
        raise Unreadable(f"others were faster {TRIES} times")

    async def _set_clock(self) -> None:
        """By what NATS says of the time of a message that was just sent."""
        sent_ms = now_ms()
        await self._js.publish(self._clock, b"")
        msg = await self._js.get_last_msg(_STREAM, self._clock, direct=True)
        if msg.time is not None:
            self._behind_ms = round(msg.time.timestamp() * 1000) - sent_ms
            self._set_at = time.monotonic()

    async def _try(self, step: Callable[[Records, int], Records]) -> bool:
        records, revision = self._known or await self._read()
        self._known = None
        changed = step(records, now_ms() + self._behind_ms)
        stored = await store_after(self._js, _SUBJECT, msgspec.json.encode(changed), revision)
        if stored is None:
            return False
        self._known = changed, stored
        return True

    async def _read(self) -> tuple[Records, int]:
        try:
            msg = await self._js.get_last_msg(_STREAM, _SUBJECT, direct=True)
        except NotFoundError:
            return {}, 0
        try:
            return msgspec.json.decode(msg.data or b"", type=Records), msg.seq or 0
        except UNDECODABLE:
            return {}, msg.seq or 0  # nobody can work with it: it is written anew
