"""Measures, every few seconds, what the whole fleet has to do: which deliberations run, and what they still need."""

import asyncio
from datetime import datetime

import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext

from fleet import subjects
from fleet.clock import now_ms
from fleet.control.telemetry.metering import Meter
from fleet.jetstream import worker_statuses
from fleet.jetstream.connection import OUTAGES
from fleet.messages import UNDECODABLE, Message, decode
from fleet.observability import worker_gauges

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0
REQUEST_TIMEOUT_S = 5.0


async def running_tasks(js: JetStreamContext) -> list[str]:
    """Ids of the deliberations that have not ended: each has a deadline, from acceptance to end."""
    prefix = subjects.schedule_of("")
    # What else lies in this stream, or lay there before, is no deliberation.
    info = await js.stream_info(subjects.DELIBERATION_CONTROL, subjects_filter=subjects.schedule_of("*"))
    return [subject.removeprefix(prefix) for subject in info.state.subjects or ()]


class StreamState(Message, frozen=True):
    """Of a stream, the part that nats-py leaves out among it."""

    messages: int
    first_ts: datetime


class StreamInfo(Message, frozen=True):
    """`ts`: when NATS said it, by the clock that `first_ts` is of."""

    state: StreamState
    ts: datetime

    @property
    def oldest_s(self) -> float:
        """How long the first message has been there; 0 without one."""
        return max(0.0, (self.ts - self.state.first_ts).total_seconds()) if self.state.messages else 0.0


class FleetGauges:
    """Of one process of the control plane: each of them tells the whole fleet's numbers."""

    def __init__(self, nc: Client, js: JetStreamContext, meter: Meter, wanted_workers: int) -> None:
        self._wanted = wanted_workers
        self._nc = nc
        self._js = js
        self._meter = meter

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except (*OUTAGES, *UNDECODABLE) as error:
                log.debug("fleet.not_counted", error=repr(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Once."""
        running = await running_tasks(self._js)
        metrics, requests = self._meter.metrics, await self._requests()
        metrics["fleet_requests_waiting"].at().set(requests.state.messages)
        metrics["fleet_oldest_request_seconds"].at().set(requests.oldest_s)
        workers = await worker_statuses.look(self._nc)
        if workers is not None:
            worker_gauges.show(workers, self._wanted, self._meter.labels, metrics, now_ms())
        metrics["fleet_deliberations_in_progress"].at().set(len(running))
        metrics["fleet_tokens_ahead"].replace(self._meter.ahead.tokens(frozenset(running)))

    async def _requests(self) -> StreamInfo:
        subject = f"$JS.API.STREAM.INFO.{subjects.DELIBERATION_REQUESTS}"
        return decode((await self._nc.request(subject, timeout=REQUEST_TIMEOUT_S)).data, StreamInfo)
