"""Runs one chaos test: starts the fleet and the load, injects the scheduled faults, keeps the record."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError

from fleet import subjects
from fleet.chaos import history, schedule
from fleet.chaos.cluster import ACK_WAIT_S, Cluster
from fleet.chaos.faults import Target, inject
from fleet.chaos.faults.target import until_done
from fleet.chaos.history import Backlog, History, InjectedFault
from fleet.chaos.load import Load, requests
from fleet.chaos.recorder import Recorder, model_calls
from fleet.chaos.report import Report, report
from fleet.chaos.schedule import Card, Fault
from fleet.chaos.scraper import Scraper
from fleet.chaos.tenants.accounts import TENANTS
from fleet.chaos.tenants.listener import Listener, listening
from fleet.config import Settings
from fleet.errors import Unreachable
from fleet.jetstream import connection
from fleet.jetstream.connection import OUTAGES
from fleet.tenants.names import DEFAULT_TENANT

TASK_TIMEOUT_S = 60.0
SETTLE_S = 3 * TASK_TIMEOUT_S
QUIET_S = 60.0
WHOLE_WITHIN_S = 60.0
LOOK_S = 1.0
RECONNECT_WAIT_S = 0.2
AFTERWARDS_S = 5.0
"""How long the load goes on when the last fault is over."""

Note = Callable[[str], None]


async def own(
    seed: int,
    deliberations: int,
    faults: int,
    cards: Collection[Card],
    *,
    stop_s: float,
    data_dir: Path,
    note: Note,
    nats_servers: int = 1,
) -> Report:
    """A fleet of its own: every kind of fault."""
    planned = schedule.plan(seed, faults, cards, stop_s=stop_s, ack_wait_s=ACK_WAIT_S)
    cluster = Cluster(data_dir, nats_servers)
    began = time.time()
    async with cluster:
        note(f"the fleet is up after {time.time() - began:.0f} s; logs in {cluster.logs}")
        began = time.time()
        async with _connected(Settings(nats_url=cluster.nats.url)) as nc:
            recorder, scraper = Recorder(nc, tenants=TENANTS), Scraper(cluster.health_ports)
            scraping = asyncio.create_task(scraper.run())
            try:
                await recorder.watch_settling()
                async with listening(cluster.nats.url, RECONNECT_WAIT_S, (DEFAULT_TENANT, *TENANTS)) as listeners:
                    clients = {tenant: listener.nc for tenant, listener in listeners.items()}
                    seen = await _run(Target(nc, recorder, cluster), clients, planned, seed, deliberations, note)
                    seen |= _heard(listeners.values()) | {"tokens": await until_done(recorder.tokens)}
            finally:
                scraping.cancel()
                await asyncio.gather(scraping, return_exceptions=True)
            await scraper.look()
            calls, open_calls = await model_calls(cluster.vllm_url)
            running = await cluster.until_whole(WHOLE_WITHIN_S)
        note("stopping the fleet")
    left = tuple(cluster.leaked)
    record = History(**seen, calls=calls, open_calls=open_calls, running=running, left=left, lives=scraper.lives)
    (data_dir / "history.json").write_bytes(msgspec.json.encode(record))
    return _report(record, seed, deliberations, faults, began)


async def foreign(
    seed: int, deliberations: int, faults: int, cards: Collection[Card], *, settings: Settings, note: Note
) -> Report:
    """Somebody else's cluster: nothing but messages, and judged by what belongs to this run."""
    planned = schedule.plan(seed, faults, cards, stop_s=0.0, ack_wait_s=ACK_WAIT_S)
    began = time.time()
    async with _connected(settings) as nc:
        try:
            info = await nc.jetstream().stream_info(subjects.DELIBERATIONS)
        except APIError as error:
            raise Unreachable(f"no fleet has run at {settings.nats}: {error.description}") from None
        recorder = Recorder(nc, first_sequence=info.state.last_seq + 1)
        clients = {DEFAULT_TENANT: nc}
        seen = await _run(Target(nc, recorder), clients, planned, seed, deliberations, note)
    return _report(history.of_its_own(History(**seen)), seed, deliberations, faults, began)


def _report(record: History, seed: int, deliberations: int, faults: int, began: float) -> Report:
    seconds = time.time() - began
    return report(record, seed=seed, deliberations=deliberations, faults=faults, seconds=seconds, ack_wait_s=ACK_WAIT_S)


def _heard(listeners: Collection[Listener]) -> dict[str, Any]:
    return {
        "heard": tuple(heard for listener in listeners for heard in listener.heard),
        "outages": tuple(outage for listener in listeners for outage in listener.outages),
    }


async def _run(
    target: Target,
    clients: Mapping[str, Client],
    planned: tuple[Fault, ...],
    seed: int,
    deliberations: int,
    note: Note,
) -> dict[str, Any]:
    """Fields of the `History`. `clients`: a connection of each tenant."""
    recorder = target.recorder
    await recorder.subscribe()
    within_s = schedule.horizon_s(planned) + AFTERWARDS_S
    large = target.own is not None
    load = Load(clients, f"chaos-{seed}-{time.time_ns()}")
    moments = [fault.at_s for fault in planned if fault.kind == "kill"]
    how: dict[str, Any] = {"moments": moments, "timeout_s": TASK_TIMEOUT_S, "large": large}
    asked = requests(seed, deliberations, within_s, tenants=tuple(clients), **how)
    note(f"seed {seed}: {deliberations} deliberations, {len(planned)} faults, about {within_s:.0f} s")
    sampling = asyncio.create_task(recorder.sample())
    try:
        injecting = asyncio.create_task(_inject(target, planned, note))
        await load.run(asked)
        injected = await injecting
        note("waiting until everything has ended")
        await _settle(recorder)
        backlogs, waiting = await _quiet(recorder)
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
    keys = {event.task_id for event in recorder.events if event.subject != subjects.REJECTED}
    return {
        "sent": tuple(load.sent),
        "cancels": load.cancels,
        "answers": load.answers,
        "events": tuple(recorder.events),
        "live": tuple(recorder.live),
        "values": await recorder.values(keys),
        "waiting": waiting,
        "backlogs": tuple(recorder.backlogs),
        "settled": tuple(recorder.settled.values()),
        "final_backlogs": tuple(backlogs),
        "memory": tuple(recorder.memory),
        "injected": injected,
    }


async def _inject(target: Target, planned: tuple[Fault, ...], note: Note) -> tuple[InjectedFault, ...]:
    began = time.monotonic()

    async def one(fault: Fault) -> InjectedFault:
        at = time.time()
        try:
            what = await inject(target, fault)
        except Exception as error:  # a fault that could not be made is told, not hidden
            what = f"not made: {error!r}"
        ready_at = await _listening_again(target) if fault.target == "nats" else None
        note(f"{fault.number + 1}/{len(planned)} {fault.kind} {fault.target}: {what}")
        return InjectedFault(
            number=fault.number,
            kind=fault.kind,
            target=fault.target,
            began=at,
            ended=time.time(),
            what=what,
            ready_at=ready_at,
        )

    tasks = []
    async with asyncio.TaskGroup() as group:
        for fault in planned:
            await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
            tasks.append(group.create_task(one(fault)))
    return tuple(task.result() for task in tasks)


async def _listening_again(target: Target) -> float:
    async def connect() -> None:
        probe = await nats.connect(
            target.cluster.nats.url.split(","), allow_reconnect=False, connect_timeout=1, error_cb=_quietly
        )
        await probe.jetstream().account_info()
        await probe.close()

    await until_done(connect)
    return time.time()


async def _settle(recorder: Recorder) -> None:
    """Until every accepted task has ended; what has not by then never will."""
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        with suppress(*OUTAGES):
            await recorder.read_events()
            if not recorder.unfinished() and not any(backlog.pending for backlog in await recorder.backlog()):
                return
        await asyncio.sleep(LOOK_S)


async def _quiet(recorder: Recorder) -> tuple[list[Backlog], dict[str, int]]:
    """Until nothing is in flight; what is then still there stays."""
    until = time.monotonic() + QUIET_S
    while True:
        backlogs, waiting = await until_done(recorder.backlog), await until_done(recorder.waiting)
        busy = any(waiting.values()) or any(one.pending or one.unacknowledged for one in backlogs)
        if not busy or time.monotonic() > until:
            await until_done(recorder.read_events)
            return backlogs, waiting
        await asyncio.sleep(LOOK_S)


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Client]:
    """A connection that outlives every restart of its server."""
    nc = await connection.connect(settings, "fleet-chaos", reconnect_time_wait=RECONNECT_WAIT_S)
    try:
        yield nc
    finally:
        await nc.close()


async def _quietly(_: Exception) -> None:
    """Losing the connection is the point of it all."""
