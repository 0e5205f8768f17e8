"""Breaks JetStream under the running fleet: deletes durables and streams, fills streams and the store."""

import asyncio
from typing import Any

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import APIError, NotFoundError

from fleet import subjects
from fleet.chaos.faults.target import Target, until_done
from fleet.chaos.schedule import DURABLES, Fault
from fleet.jetstream.connection import OUTAGES
from fleet.observability.retries import again

BACK_WITHIN_S = 30.0
LOOK_S = 0.2
BALLAST = "CHAOS_BALLAST"
BALLAST_BYTES = 100 * 1024


async def delete(target: Target, fault: Fault) -> str:
    """Returns when the fleet has declared it again."""
    js = target.nc.jetstream(timeout=5.0)
    of = _chosen(target, fault, fault.target)

    async def look() -> None:
        if fault.target in DURABLES:
            await js.consumer_info(of, fault.target)
        else:
            await js.stream_info(fault.target)

    async def remove() -> None:
        try:
            if fault.target in DURABLES:
                await js.delete_consumer(of, fault.target)
            else:
                await js.delete_stream(fault.target)
        except NotFoundError:
            pass  # deleted by the try before, whose answer was lost

    what = f"{fault.target} of {of}" if of else fault.target
    await until_done(remove)
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await again("chaos.look", look, on=OUTAGES, within_s=BACK_WITHIN_S, first_s=LOOK_S, longest_s=LOOK_S)
    except OUTAGES:
        return f"{what} was not declared again"
    return f"{what} was back after {loop.time() - began:.1f} s"


async def fill(target: Target, fault: Fault) -> str:
    """No further message fits, for a while."""
    js = target.nc.jetstream(timeout=5.0)
    if fault.target == "store":
        return await _fill_store(js, fault.for_s)
    name = fault.target
    if name == subjects.DELIBERATION_REQUESTS:
        name = _chosen(target, fault, subjects.DISPATCHER)
    info = await until_done(lambda: js.stream_info(name))
    before = info.config
    full: dict[str, Any] = {"max_msgs": max(1, info.state.messages), "discard": DiscardPolicy.NEW}
    try:
        await until_done(lambda: js.update_stream(before.evolve(**full)))
        await asyncio.sleep(fault.for_s)
    finally:
        await until_done(lambda: _restore(js, before))
    return f"{name} took no more than {full['max_msgs']} messages"


def _chosen(target: Target, fault: Fault, durable: str) -> str:
    """The stream of a durable of this name: each tenant's requests have one. Empty where there is no such durable."""
    streams = [stream for stream, consumer in target.recorder.consumers if consumer.durable_name == durable]
    return streams[int(fault.chance * len(streams))] if streams else ""


async def _restore(js: JetStreamContext, config: StreamConfig) -> None:
    try:
        await js.update_stream(config)
    except NotFoundError:
        pass  # deleted meanwhile: the fleet declares it


async def _fill_store(js: JetStreamContext, for_s: float) -> str:
    """Ballast in a stream of its own, until JetStream has no room left for anything."""
    await until_done(lambda: js.add_stream(name=BALLAST, subjects=["chaos.ballast"]))
    body, count = bytes(BALLAST_BYTES), 0
    try:
        while True:
            try:
                await asyncio.gather(*(js.publish("chaos.ballast", body) for _ in range(50)))
                count += 50
            except APIError:
                break  # full
            except (nats.errors.Error, OSError, TimeoutError):
                return f"NATS went away after {count} messages of ballast"
        await asyncio.sleep(for_s)
    finally:
        await until_done(lambda: _remove(js))
    return f"store full after {count * BALLAST_BYTES / 2**20:.0f} MiB"


async def _remove(js: JetStreamContext) -> None:
    try:
        await js.delete_stream(BALLAST)
    except NotFoundError:
        pass
