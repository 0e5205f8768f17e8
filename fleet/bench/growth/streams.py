"""Part `streams` of `fleet bench scale`: what a council publishes to each stream, and who computes.

A core subscriber hears all that streams take. Answers of NATS, acknowledgements, deliveries and copies are not in it.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg

from fleet.bench import report
from fleet.bench.report import Figure, Report, Table
from fleet.bench.speed import load, systems
from fleet.bench.speed.load import drive
from fleet.bench.speed.rig import Rig, settled
from fleet.jetstream.streams import BUCKETS, STREAMS

AGENTS = 3
COUNCIL: dict[str, Any] = {"rounds": 1, "options": {"early_stop": False}}
PACE = ("--answer-tokens", "500")
IN_FLIGHT, WARM_UP = 8, 10
TAKEN = {spec.name: spec.subjects for spec in STREAMS} | {bucket.stream: bucket.subjects for bucket in BUCKETS}
"""Stream -> the subjects that it takes."""
COLUMNS = ("stream", "messages_each", "bytes_each", "kept_bytes_each")
"""`kept`: in the stream after the end, until it is too old."""


async def measure(directory: Path, deliberations: int, note: report.Note) -> Report:
    """Councils of three agents and one round: twelve calls each, texts of 500 tokens."""
    messages: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    async with Rig(directory, bare=False, pace=PACE) as rig:
        fleet = await systems.fleet(rig, AGENTS, **COUNCIL)
        await drive(fleet, WARM_UP, IN_FLIGHT)
        await settled()
        for stream, subjects in TAKEN.items():

            async def count(msg: Msg, stream: str = stream) -> None:
                messages[stream] += 1
                sizes[stream] += _size(msg)

            for subject in subjects:
                await rig.nc.subscribe(subject, cb=count, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await rig.nc.flush()
        before = await _kept(rig)
        run = await drive(fleet, deliberations, IN_FLIGHT)
        await settled()
        kept = {stream: size - before[stream] for stream, size in (await _kept(rig)).items()}
    note(f"{deliberations} councils")
    rows = [[stream, *(counted[stream] / deliberations for counted in (messages, sizes, kept))] for stream in TAKEN]
    processes = load.processes_table(load.processes_rows("council", [run]))
    return Report(
        "scale",
        {
            "messages_each": Figure(messages.total() / deliberations, of="published to all streams, per council"),
            "bytes_each": Figure(sizes.total() / deliberations, of="published to all streams, per council"),
            "cpu_ms_each": Figure(run.cpu_ms_each, of="CPU ms per council, NATS and all processes"),
        },
        {"councils": deliberations},
        tables=(
            Table("streams", "Published per council of 3, one round", COLUMNS, rows),
            replace(processes, name="streams_processes"),
        ),
    )


async def _kept(rig: Rig) -> dict[str, int]:
    """Stream -> bytes that it holds."""
    js = rig.nc.jetstream()
    return {stream: (await js.stream_info(stream)).state.bytes for stream in TAKEN}


def _size(msg: Msg) -> int:
    """Of subject, headers and body, without what NATS writes around them."""
    headers = sum(len(f"{name}: {value}\r\n".encode()) for name, value in (msg.headers or {}).items())
    return len(msg.subject.encode()) + headers + len(msg.data)
