"""Builds the parts of one process of the control plane on a connection to NATS."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from nats.js import JetStreamContext

from fleet.config import Settings
from fleet.control.caching.lookup import ResultCache
from fleet.control.caching.slots import Slots
from fleet.control.call_tokens import CallTokens
from fleet.control.lost_tasks import UnendedTasks
from fleet.control.publishing.fence import PublisherFence
from fleet.control.publishing.outbox import Outbox
from fleet.control.publishing.token_counters import TokenCounters
from fleet.control.recovery.dead_letters import DeadLetters
from fleet.control.recovery.lost_streams import LostStreams
from fleet.control.runner import Runner
from fleet.control.states.cancelled import CancelledStates
from fleet.control.states.store import KeyValueStore
from fleet.control.telemetry.metering import Meter
from fleet.control.telemetry.observer import ComponentObserver
from fleet.jetstream import topology
from fleet.jetstream.connection import disconnect
from fleet.jetstream.lasting import Connection
from fleet.jetstream.lifetimes import DAY_S
from fleet.jetstream.payloads import Texts
from fleet.jetstream.streams import with_tenants
from fleet.observability.spans import Tracer
from fleet.observability.tracing import tracer_of

REQUEST_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One process, dispatcher or collector: connected, and complete."""

    settings: Settings
    name: str
    nc: Connection
    out: Connection
    """What the events leave by."""
    js: JetStreamContext
    texts: Texts
    store: KeyValueStore
    outbox: Outbox
    runner: Runner
    dead_letters: DeadLetters
    lost_streams: LostStreams
    meter: Meter
    tracer: Tracer | None
    tokens: CallTokens
    cache: ResultCache


async def open_component(
    settings: Settings, name: str, nc: Connection, created: list[str], begun: AsyncExitStack, meter: Meter
) -> Component:
    """Declares the topology, and builds everything. How to end it is pushed onto `begun`.

    `created`: streams that were missing before; those that are missing now are added. `meter` counts what happens.
    """
    js = nc.jetstream(timeout=REQUEST_TIMEOUT_S)
    await topology.declare(js, settings, created)
    texts = Texts(js, lambda: nc.max_payload, settings.limits.results_days * DAY_S)
    store = await KeyValueStore.open(js, texts)
    tokens = await CallTokens.open(js)
    fence = await PublisherFence.connect(settings, f"fleet-{name}-outbox")
    begun.push_async_callback(disconnect, fence.nc)
    out = fence.nc.jetstream(timeout=REQUEST_TIMEOUT_S)
    counters = TokenCounters(out) if settings.tenants else None
    cancelled = CancelledStates(out, store) if settings.tenants else None
    outbox = Outbox(fence.nc, out, texts, name, tokens, fence, meter, counters, cancelled)
    unended = UnendedTasks(js, texts)
    tracer = tracer_of(name)
    if tracer is not None:
        begun.push_async_callback(tracer.close)
    runner = Runner(store, outbox, unended.find, ComponentObserver(meter, tracer))
    lost_streams = LostStreams(js, texts, store, runner, unended, tokens)
    await lost_streams.before_consuming(created)
    await fence.start(runner.in_work)
    dead_letters = DeadLetters(nc, js, store, outbox, runner, tokens, with_tenants(settings.tenants))
    return Component(
        settings=settings,
        name=name,
        nc=nc,
        out=fence.nc,
        js=js,
        texts=texts,
        store=store,
        outbox=outbox,
        runner=runner,
        dead_letters=dead_letters,
        lost_streams=lost_streams,
        meter=meter,
        tracer=tracer,
        tokens=tokens,
        cache=ResultCache(await Slots.open(js, settings), store),
    )
