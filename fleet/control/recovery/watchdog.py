"""Detects what has stopped working: dead connections, missing streams and consumers, full streams, stalled deliveries.

What can be repaired is repaired. The rest is a problem of readiness, and is logged once.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import Any

import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DiscardPolicy, StreamInfo
from nats.js.errors import NoStreamResponseError, NotFoundError

from fleet import subjects
from fleet.config import Settings
from fleet.control.recovery.lost_streams import LostStreams
from fleet.control.recovery.restored_streams import RestoredStreams
from fleet.errors import Unreachable
from fleet.jetstream import topology
from fleet.jetstream.connection import OUTAGES, answers
from fleet.jetstream.declaring import ownership
from fleet.jetstream.declaring.capacity import shortage
from fleet.jetstream.declaring.differences import drift
from fleet.observability.health import Health
from fleet.tenants.names import holds_requests

log = structlog.get_logger(__name__)

PROBE_INTERVAL_S = 3.0
PROBE_TIMEOUT_S = 5.0
DECLARE_TIMEOUT_S = 8.0
PROBE_SUBJECT = f"$O.{subjects.TEXTS}.C.write-probe"
PROBE_HEADERS = {"Nats-TTL": "10s"}
STALLED_AFTER_S = 10.0
LONGEST_PAUSE_S = 300.0
VAIN_AFTER = 3
"""Times that a setting was set right, lately, and was wrong again."""
GIVEN_UP_AFTER_S = 15.0
"""A connection that is merely lost is back before: at once or, where its link is silent, when its pings have failed."""


class Watchdog:
    """Of one process. `reads` are the (stream, consumer) that it serves, `clients` its connections."""

    def __init__(
        self,
        settings: Settings,
        health: Health,
        js: JetStreamContext,
        clients: Sequence[Client],
        reads: Sequence[tuple[str, str]],
        lost_streams: LostStreams,
        restored: RestoredStreams,
    ) -> None:
        self._settings = settings
        self._health = health
        self._js = js
        self._clients = clients
        self._flows = {read: Flow() for read in reads}
        self._lost_streams = lost_streams
        self._restored = restored
        self._problems: set[str] = set()
        self._unread: set[tuple[str, str]] = set()
        self._infos: dict[str, StreamInfo] = {}
        """What NATS has last said of each stream."""
        self._changed: dict[str, list[str]] = {}
        """Stream, or stream/consumer -> settings that are not the fleet's any more."""
        self._mending = Mending()
        self._ours = set(topology.all_streams(settings))
        """Streams that were this fleet's when they were declared, or last seen with a mark."""
        self._wrong_since: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled. Raises `Unreachable` where only a new process can help."""
        while True:
            answered = await self._connections_answer()
            missing = await self._look() if answered else ()
            if answered:
                await self._write()
            if missing:
                log.error("topology.missing", missing=missing, action="declaring it again")
            if self._mending.due(self._changed, time.monotonic()):
                log.warning("topology.changed", changed=self._changed, action="declaring it again")
                missing = (*missing, *self._changed)
            if missing:
                await self._declare(missing)
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def _connections_answer(self) -> bool:
        """Raises `Unreachable` if one of them does not answer for some time, while NATS answers a new one."""
        errors = [error for error in await asyncio.gather(*map(_error_of, self._clients)) if error is not None]
        elsewhere = False
        if errors:
            self._failed("nats", errors[0])
            elsewhere = await answers(self._settings, f"fleet-{self._health.component}-watchdog", PROBE_TIMEOUT_S)
        self._give_up_on("NATS answers others, but not a connection of this process", wrong=elsewhere)
        if not errors:
            self._health.set("nats", ok=True)
        return not errors

    async def _look(self) -> Sequence[str]:
        """What is missing. Everything is asked at once: there are many round trips, and a link may be slow."""
        self._unread, self._changed = set(), {}
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                streams = (
                    self._missing_stream(name, declared)
                    for name, declared in topology.all_streams(self._settings).items()
                )
                durables = (
                    self._missing_consumer(stream, consumer) for stream, consumer in topology.consumers(self._settings)
                )
                missing = [name for name in await asyncio.gather(*streams, *durables) if name is not None]
        except Exception as error:
            self._failed("streams", error)
            return ()
        if not missing:
            await self._look_for_room()
        self._health.set("streams", ok=not missing, detail=f"missing: {', '.join(missing)}" if missing else "")
        kept = {name: fields for name, fields in self._changed.items() if self._mending.is_vain(name)}
        self._report("streams are changed by others, again and again", wrong=bool(kept), **kept)
        for stream, name in self._flows:
            self._give_up_on(
                f"this process reads consumer {_label(stream, name)}, but NATS knows no reader of it",
                wrong=(stream, name) in self._unread,
            )
        return missing

    async def _look_for_room(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                short = await shortage(self._js, self._infos)
        except Exception as error:
            self._failed("streams", error)
        else:
            self._report("no room in NATS", wrong=short is not None, reason=short or "")

    async def _write(self) -> None:
        """Reading goes on where a full disk has ended writing. What is written is no object, and gone in seconds."""
        try:
            await self._js.publish(PROBE_SUBJECT, b"", timeout=PROBE_TIMEOUT_S, headers=PROBE_HEADERS)
        except NoStreamResponseError:
            pass  # it is missing, which is told apart
        except OUTAGES as error:
            self._report("NATS stores nothing", wrong=True, error=str(error), help="with room on its disk, restart it")
        else:
            self._report("NATS stores nothing", wrong=False)

    def _failed(self, problem: str, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        self._health.set(problem, ok=False, detail=reason)
        log.warning(f"{problem}.probe_failed", error=repr(error))

    def _give_up_on(self, problem: str, *, wrong: bool) -> None:
        """Raises `Unreachable` once it has been wrong for too long."""
        now = time.monotonic()
        if not wrong:
            self._wrong_since.pop(problem, None)
        elif now - self._wrong_since.setdefault(problem, now) > GIVEN_UP_AFTER_S:
            raise Unreachable(f"{problem}, for {GIVEN_UP_AFTER_S:.0f} s: this process ends, and a new one connects")

    async def _missing_stream(self, name: str, declared: Any) -> str | None:
        try:
            info = await self._js.stream_info(name)
        except NotFoundError:
            return name
        self._infos[name] = info
        self._restored.look(name, info)
        config, state = info.config, info.state
        owner = ownership.owner(config)
        if owner is not None:
            (self._ours.add if owner == self._settings.fleet_name else self._ours.discard)(name)
        if changes := drift(config, declared):
            self._changed[name] = sorted(changes)
        limits = ((state.messages, config.max_msgs), (state.bytes, config.max_bytes))
        full = config.discard == DiscardPolicy.NEW and any(0 < (most or 0) <= now for now, most in limits)
        self._report(f"stream {name} is full", wrong=full, messages=state.messages, bytes=state.bytes)
        return None

    async def _missing_consumer(self, stream: str, declared: ConsumerConfig) -> str | None:
        name = declared.durable_name or ""
        label = _label(stream, name)
        try:
            info = await self._js.consumer_info(stream, name)
        except NotFoundError:
            return f"{stream}/{name}"
        if changes := drift(info.config, declared):
            self._changed[f"{stream}/{name}"] = sorted(changes)
        self._health.metrics["fleet_consumer_pending"].at(label).set(info.num_pending or 0)
        self._health.metrics["fleet_consumer_unacked"].at(label).set(info.num_ack_pending or 0)
        self._report(f"consumer {label} is paused", wrong=bool(info.paused), until=info.config.pause_until)
        if flow := self._flows.get((stream, name)):
            stalled = flow.stalled(info, time.monotonic())
            self._report(f"consumer {label} does not deliver", wrong=stalled, waiting=info.num_pending)
            if not info.push_bound:
                self._unread.add((stream, name))
        return None

    def _report(self, problem: str, *, wrong: bool, **facts: Any) -> None:
        """To readiness; changes to the log, too."""
        if wrong or problem in self._problems:
            detail = ", ".join(f"{name} {value}" for name, value in facts.items())
            self._health.set(problem, ok=not wrong, detail=detail)
        if wrong and problem not in self._problems:
            self._problems.add(problem)
            log.error("problem.found", problem=problem, **facts)
        elif not wrong and problem in self._problems:
            self._problems.discard(problem)
            self._health.forget(problem)
            log.info("problem.over", problem=problem)

    async def _declare(self, missing: Sequence[str]) -> None:
        created: list[str] = []
        try:
            async with asyncio.timeout(DECLARE_TIMEOUT_S):
                await topology.declare(self._js, self._settings, created, self._ours)
            log.info("topology.declared_again", missing=missing)
        except Exception as error:
            log.warning("topology.declare_failed", error=repr(error), again_in_s=PROBE_INTERVAL_S)
        self._lost_streams.after_loss_of(created)  # what was created before it failed was lost nevertheless


class Mending:
    """When a setting that somebody has changed is set right: at once, then later each time.

    Two versions of the fleet, or two configurations, each hold their own for right while one replaces the other.
    """

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._next: dict[str, float] = {}

    def due(self, changed: Collection[str], now: float) -> bool:
        """Whether to mend now. Who has been right for long enough begins anew."""
        for name in [name for name, at in self._next.items() if now > at + LONGEST_PAUSE_S]:
            del self._times[name], self._next[name]
        due = [name for name in changed if now >= self._next.get(name, now)]
        for name in due:
            times = self._times[name] = self._times.get(name, 0) + 1
            self._next[name] = now + min(PROBE_INTERVAL_S * 2**times, LONGEST_PAUSE_S)
        return bool(due)

    def is_vain(self, name: str) -> bool:
        """Whether it was mended several times lately."""
        return self._times.get(name, 0) >= VAIN_AFTER


class Flow:
    """Whether a push consumer's messages come: work that waits, room for it, and no movement is a stall."""

    def __init__(self) -> None:
        self._seen: tuple[Any, ...] = ()
        self._since = 0.0

    def stalled(self, info: Any, now: float) -> bool:
        """`info` is what NATS says of the consumer at `now`, in seconds of any clock."""
        seen = (info.delivered.consumer_seq, info.ack_floor.consumer_seq, info.num_ack_pending)
        room = info.num_ack_pending < info.config.max_ack_pending
        waits = bool(info.num_pending) and room
        if not waits or seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since > STALLED_AFTER_S


def _label(stream: str, consumer: str) -> str:
    """Dispatchers have a consumer of the same name for each tenant."""
    return consumer + (stream.removeprefix(subjects.DELIBERATION_REQUESTS) if holds_requests(stream) else "")


async def _error_of(client: Client) -> Exception | None:
    """None where NATS answers. Not `flush`, which succeeds on a connection that nothing is read from any more."""
    try:
        if not client.is_connected:
            return ConnectionError("not connected")
        await client.request("$JS.API.INFO", timeout=PROBE_TIMEOUT_S)
    except Exception as error:
        return error
    return None
