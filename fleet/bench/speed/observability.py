"""Runs `fleet bench observability`: what traces cost.

Two fleets side by side: of one every trace is recorded and sent to a receiver of this process, whose own processor time
does not count; the other makes no spans at all. Each turn asks both the same, in changing order.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from fleet.bench import report
from fleet.bench.report import Figure, Report, Table, ratio_of_means
from fleet.bench.speed import load, systems
from fleet.bench.speed.load import Run, drive, quantile
from fleet.bench.speed.otlp_receiver import Received, attributes, receiving
from fleet.bench.speed.rig import Rig, settled, side_by_side
from fleet.errors import FleetError

TRACED, OFF = "traced", "off"
NOT_TRACED: Final = {"OTEL_SDK_DISABLED": "true"}
IN_FLIGHT = 16
WARM_UP = 50
EXPORTED_S = 2.0
"""Spans are sent at most this long after their end."""

ASKED: Final[Mapping[str, Mapping[str, Any]]] = {
    "proposals": {},
    "council": {"rounds": 1, "options": {"early_stop": False}},
}
"""The smallest request, of which tracing takes the largest share, and a usual one: 3 agents, 3 and 12 calls."""
AGENTS = 3


async def measure(directory: Path, deliberations: int, turns: int, note: report.Note) -> Report:
    """In each of the `turns` so many `deliberations` of each kind by each fleet. Raises `FleetError` if spans are
    missing."""
    runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
    async with receiving() as received:
        rigs = {
            TRACED: Rig(directory / TRACED, bare=False, environ=_traced(received.url)),
            OFF: Rig(directory / OFF, bare=False, environ=NOT_TRACED),
        }
        async with side_by_side(list(rigs.values())):
            fleets = {
                (kind, name): await systems.fleet(rig, AGENTS, **more)
                for kind, more in ASKED.items()
                for name, rig in rigs.items()
            }
            for fleet in fleets.values():
                await drive(fleet, WARM_UP, IN_FLIGHT)
            for turn in range(turns):
                for which, fleet in list(fleets.items())[:: 1 if turn % 2 else -1]:
                    await settled(EXPORTED_S)
                    runs[which].append(await drive(fleet, deliberations, IN_FLIGHT))
                note(f"turn {turn + 1} of {turns}")
            await settled(EXPORTED_S)
    check(received, [one.task_id for kind in ASKED for run in runs[kind, TRACED] for one in run.asked])
    return result(runs, len(received.spans) / len(received.traces), deliberations, turns)


def _traced(url: str) -> dict[str, str]:
    return {
        "OTEL_SDK_DISABLED": "false",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{url}/v1/traces",
    }


def check(received: Received, asked: Sequence[str]) -> None:
    """Every deliberation is a trace of its own, and no span lacks its parent: what was measured is what is promised."""
    known = {attributes(span)["fleet.task_id"] for span in received.named("invoke_workflow ")}
    if missing := [task_id for task_id in asked if task_id not in known]:
        raise FleetError(f"no trace of {len(missing)} of {len(asked)} deliberations: {missing[0]} …")
    if orphans := received.orphans():
        raise FleetError(f"{len(orphans)} spans without their parent: {orphans[0]} …")


def result(runs: Mapping[tuple[str, str], Sequence[Run]], spans: float, deliberations: int, turns: int) -> Report:
    """`runs` by kind of request and fleet, as many of each; `spans`: of one trace."""
    figures: dict[str, Figure] = {}
    for kind in ASKED:
        cpu = {name: [run.cpu_ms_each for run in runs[kind, name]] for name in (TRACED, OFF)}
        figures[f"cpu_traced_vs_off_{kind}"] = Figure(
            *ratio_of_means(cpu[TRACED], cpu[OFF]),
            of=f"CPU ms per deliberation, NATS and all processes, {kind}: every trace recorded, beside none",
        )
    rows: list[list[Any]] = [
        [
            f"{kind}, {name}",
            fmean(run.cpu_ms_each for run in found),
            fmean(run.per_second for run in found),
            quantile([1000 * one.seconds for run in found for one in run.asked], 0.5),
        ]
        for (kind, name), found in runs.items()
    ]
    processes = [row for (kind, name), found in runs.items() for row in load.processes_rows(f"{kind}, {name}", found)]
    return Report(
        "observability",
        figures,
        {
            "agents": AGENTS,
            "in_flight": IN_FLIGHT,
            "deliberations": deliberations,
            "turns": turns,
            "spans_per_trace": round(spans, 1),
        },
        report.machine(),
        tables=(
            Table("rates", "Rates", ("fleet", "cpu_ms_each", "per_second", "p50_ms"), rows),
            load.processes_table(processes),
        ),
    )
