"""Runs `fleet bench parallel`: how long a deliberation takes with more agents, whose calls may all run at once.

At best as long as with one. `direct` shows how much of the rest is the model server's own.
"""

from collections import defaultdict
from statistics import median
from time import monotonic
from typing import Final

from fleet.bench import report
from fleet.bench.report import Figure, Panel, Report, Table, ratio_of_medians
from fleet.bench.speed import calls, systems
from fleet.bench.speed.load import quantile
from fleet.bench.speed.rig import Rig, settled
from fleet.bench.speed.systems import System

AGENTS: Final = (1, 3, 5, 16)
MODEL_MS = 500
WARM_UP = 5


async def measure(rig: Rig, deliberations: int, note: report.Note) -> Report:
    """`deliberations` of each system with each of `AGENTS`, one at a time; every turn has one of each."""
    async with calls.session() as http:
        compared = [(count, await systems.fleet(rig, count)) for count in AGENTS]
        baselines = [(count, await systems.direct(rig, count, http=http)) for count in AGENTS]
        everyone: list[tuple[int, System]] = [*compared, *baselines]
        await rig.configure_model(latency_ms=0, tokens_per_second=0)
        for _ in range(WARM_UP):
            for _, system in everyone:
                await wall_ms(system)
        await rig.configure_model(latency_ms=MODEL_MS)
        await settled()
        walls: dict[tuple[str, int], list[float]] = defaultdict(list)
        for turn in range(deliberations):
            for count, system in everyone:
                walls[system.name, count].append(await wall_ms(system))
            note(f"model {MODEL_MS} ms: {turn + 1} of {deliberations}")
    return Report(
        "parallel",
        {f"wall_{count}_vs_1_agents": _figure(walls, count) for count in AGENTS[1:]},
        {"agents": AGENTS, "model_ms": MODEL_MS, "deliberations": deliberations, "in_flight": 1},
        report.machine(),
        tables=(
            Table(
                "walls",
                "Wall time with so many agents, ms",
                ("system", "p50_ms", "p99_ms", "least_ms"),
                [
                    [f"{name}, {count}", median(each), quantile(each, 0.99), min(each)]
                    for (name, count), each in walls.items()
                ],
            ),
        ),
        panels=(
            Panel(
                f"Wall time, {MODEL_MS} ms model",
                "agents",
                "p50 (ms)",
                {name: [(count, median(walls[name, count])) for count in AGENTS] for name in ("fleet", "direct")},
            ),
        ),
    )


async def wall_ms(system: System) -> float:
    """Of one deliberation, as its client sees it."""
    task_id, began = systems.unique(f"bench-{system.name}"), monotonic()
    await system.ask(task_id)
    return 1000 * (monotonic() - began)


def _figure(walls: dict[tuple[str, int], list[float]], count: int) -> Figure:
    direct, alone, _ = ratio_of_medians(walls["direct", count], walls["direct", 1])
    return Figure(
        *ratio_of_medians(walls["fleet", count], walls["fleet", 1]),
        of=f"median wall ms, {count} agents beside 1, {MODEL_MS} ms model",
        more={"direct": round(direct / alone, report.DIGITS)},
    )
