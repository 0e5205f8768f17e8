"""Part `idle` of `fleet bench scale`: how fast a fleet starts, and what it uses while nothing is requested."""

from pathlib import Path
from statistics import median

from fleet.bench import report
from fleet.bench.report import Figure, Report, Table
from fleet.bench.speed.processes import watched
from fleet.bench.speed.rig import Rig, settled

SETTLED_S = 5.0


async def measure(directory: Path, starts: int, idle_s: float, note: report.Note) -> Report:
    """`starts` one after the other; the last one is watched for `idle_s`."""
    ready: list[float] = []
    for start in range(starts):
        async with Rig(directory / str(start), bare=False) as rig:
            ready.append(rig.ready_s)
            note(f"start {start + 1} of {starts}: ready after {rig.ready_s:.1f} s")
            if start == starts - 1:
                await settled(min(SETTLED_S, idle_s))
                percent, after = await watched(rig.fleet_pids, idle_s)
    return Report(
        "scale",
        {
            "ready_s": Figure(
                median(ready),
                of=f"`fleet up` until it is ready, median of {starts}, beside a NATS and a model that run",
                more={"least": round(min(ready), report.DIGITS)},
            ),
            "idle_cpu_percent": Figure(
                sum(percent.values()), of=f"of one core, NATS and all processes, over {idle_s:g} s"
            ),
        },
        {"starts": starts, "idle_s": idle_s},
        tables=(
            Table(
                "idle_processes",
                "At rest: CPU in percent of one core, memory (PSS)",
                ("process", "cpu_percent", "memory_mib"),
                [
                    [kind, percent[kind], round(after.memory[kind] / 2**20, 1)]
                    for kind in sorted(percent, key=lambda kind: -percent[kind])
                ],
            ),
        ),
    )
