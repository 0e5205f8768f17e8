"""Part `in-flight` of `fleet bench scale`: how much memory a deliberation uses while it waits for its model."""

import asyncio
import json
from pathlib import Path

from nats.js import JetStreamContext

from fleet import subjects
from fleet.bench import report
from fleet.bench.report import Figure, Report, Table
from fleet.bench.speed import systems
from fleet.bench.speed.load import drive
from fleet.bench.speed.processes import watched
from fleet.bench.speed.rig import Rig, settled

AGENTS = 3
WARM_UP, WARM_IN_FLIGHT = 200, 16
SILENT_MS = 600_000
"""The model's latency: longer than it takes to let all in."""
TIMEOUT_S = 3600
PUBLISHED_AT_ONCE = 250
LOOK_EVERY_S = 0.5
WITHIN_S, WITHIN_S_EACH = 60.0, 0.1

CONFIG = """\
[limits]
max_in_flight = {limit}

[workers]
stall_timeout_s = 1200
"""


async def measure(directory: Path, count: int, watch_s: float, note: report.Note) -> Report:
    """`count` of them. They are watched for `watch_s` before and after they were let in: what is counted as memory is
    that of the end, and the processor time of then is what waiting takes.
    """
    async with Rig(directory, config=CONFIG.format(limit=2 * count), bare=False) as rig:
        system = await systems.fleet(rig, AGENTS)
        await drive(system, WARM_UP, WARM_IN_FLIGHT)
        await settled(2)
        cpu_before, before = await watched(rig.fleet_pids, watch_s)
        await rig.configure_model(latency_ms=SILENT_MS)
        began = asyncio.get_running_loop().time()
        await let_in(rig.nc.jetstream(timeout=30), count)
        seconds = asyncio.get_running_loop().time() - began
        note(f"{count:,} are in flight, after {seconds:.0f} s")
        await settled(2)
        cpu_after, after = await watched(rig.fleet_pids, watch_s)
    each = {kind: (now - before.memory.get(kind, 0)) / count for kind, now in after.memory.items()}
    rows = [
        [
            kind,
            *(round(moment.memory.get(kind, 0) / 2**20, 1) for moment in (before, after)),
            each[kind],
            cpu_before.get(kind, 0.0),
            cpu_after[kind],
        ]
        for kind in sorted(each, key=lambda kind: -each[kind])
    ]
    return Report(
        "scale",
        {
            "memory_per_in_flight_bytes": Figure(
                sum(each.values()),
                of=f"memory (PSS) per deliberation in flight of {count:,}, NATS and all processes",
                more={
                    "accepted_per_second": round(count / seconds, 1),
                    "cpu_percent_before": round(sum(cpu_before.values()), 2),
                    "cpu_percent_while_they_wait": round(sum(cpu_after.values()), 2),
                },
            )
        },
        {"in_flight": count, "agents": AGENTS},
        tables=(
            Table(
                "in_flight_processes",
                f"Before, and with {count:,} in flight; CPU in percent of one core",
                ("process", "mib_before", "mib_after", "bytes_each", "cpu_before", "cpu_after"),
                rows,
            ),
        ),
    )


async def let_in(js: JetStreamContext, count: int) -> None:
    """Asks for `count` deliberations, and returns once all are accepted and all their calls given out.

    Raises TimeoutError.
    """
    run, body = systems.unique("bench-held"), systems.request(AGENTS, constraints={"timeout_seconds": TIMEOUT_S})
    accepted = await _messages(js, subjects.DELIBERATIONS)
    async with asyncio.timeout(WITHIN_S + WITHIN_S_EACH * count):
        for first in range(0, count, PUBLISHED_AT_ONCE):
            numbers = range(first, min(first + PUBLISHED_AT_ONCE, count))
            asked = [json.dumps({**body, "task_id": f"{run}-{number}"}).encode() for number in numbers]
            await asyncio.gather(*(js.publish(subjects.REQUESTED, each) for each in asked))
        while not await _all_in(js, accepted + count, AGENTS * count):  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(LOOK_EVERY_S)


async def _all_in(js: JetStreamContext, accepted: int, calls: int) -> bool:
    return (
        await _messages(js, subjects.DELIBERATIONS) >= accepted
        and await _messages(js, subjects.AGENT_REQUESTS) >= calls
        and await _messages(js, subjects.DELIBERATION_REQUESTS) == 0
    )


async def _messages(js: JetStreamContext, stream: str) -> int:
    return int((await js.stream_info(stream)).state.messages)
