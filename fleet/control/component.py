"""Builds the parts of one process of the control plane on a connection to NATS."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from nats.js import JetStreamContext

from fleet.config import Settings
from fleet.control.call_tokens import CallTokens
from fleet.control.lost_tasks import UnendedTasks
from fleet.control.publishing.fence import PublisherFence
from fleet.control.publishing.outbox import Outbox
from fleet.control.recovery.dead_letters import DeadLetters
from fleet.control.recovery.lost_streams import LostStreams
from fleet.control.runner import Runner
from fleet.control.states.store import KeyValueStore
from fleet.control.telemetry.metering import Meter
from fleet.jetstream import topology
from fleet.jetstream.connection import Connection, disconnect
from fleet.jetstream.lifetimes import DAY_S
from fleet.jetstream.payloads import Texts
from fleet.observability.spans import Tracer
from fleet.observability.tracing import tracer_of

REQUEST_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
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
    outbox = Outbox(fence.nc, fence.nc.jetstream(timeout=REQUEST_TIMEOUT_S), texts, name, fence, meter, tokens)
    unended = UnendedTasks(js, texts)
    tracer = tracer_of(name)
    if tracer is not None:
        begun.push_async_callback(tracer.close)
    runner = Runner(store, outbox, unended, meter.saved, tracer)
    lost_streams = LostStreams(js, texts, store, runner, unended, tokens)
    await lost_streams.before_consuming(created)
    await fence.start(runner.in_work)
    dead_letters = DeadLetters(nc, js, store, outbox, runner, tokens)
    return Component(
        settings,
        name,
        nc,
        fence.nc,
        js,
        texts,
        store,
        outbox,
        runner,
        dead_letters,
        lost_streams,
        meter,
        tracer,
        tokens,
    )
