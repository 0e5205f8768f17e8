"""Runs `fleet bench throughput`: enough deliberations at once to keep all busy, on a model that takes no time."""

from collections import defaultdict
from typing import Final

from fleet.bench import report
from fleet.bench.report import Figure, Panel, Report, Table, ratio_of_means
from fleet.bench.speed import load, systems
from fleet.bench.speed.load import Run, drive, quantile
from fleet.bench.speed.rig import Rig, settled

IN_FLIGHT: Final = (64, 1000)
AGENTS = 3
WARM_UP, WARM_IN_FLIGHT = 200, 32


async def measure(rig: Rig, deliberations: int, turns: int, note: report.Note) -> Report:
    """`turns` times some `deliberations` of each system (twice the number in flight, where that is more)."""
    compared = (await systems.fleet(rig, AGENTS), await systems.bare_of(rig, AGENTS), await systems.direct(rig, AGENTS))
    for system in compared:
        await drive(system, WARM_UP, WARM_IN_FLIGHT)
    figures: dict[str, Figure] = {}
    rows, processes = [], []
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for in_flight in IN_FLIGHT:
        runs: dict[str, list[Run]] = defaultdict(list)
        for turn in range(turns):
            for system in compared:
                await settled()
                run = await drive(system, max(deliberations, 2 * in_flight), in_flight)
                runs[system.name].append(run)
            note(f"{in_flight} in flight: turn {turn + 1} of {turns}")
        suffix = "" if in_flight == IN_FLIGHT[0] else f"_{in_flight}"
        rates = {name: [run.per_second for run in found] for name, found in runs.items()}
        cpu = {name: [run.cpu_ms_each for run in found] for name, found in runs.items()}
        figures[f"throughput_vs_bare{suffix}"] = Figure(
            *ratio_of_means(rates["fleet"], rates["bare"]), of=f"deliberations/s, {in_flight} in flight, beside bare"
        )
        figures[f"cpu_vs_bare{suffix}"] = Figure(
            *ratio_of_means(cpu["fleet"], cpu["bare"]),
            of=f"CPU ms per deliberation, {in_flight} in flight, NATS and all processes, beside bare",
        )
        figures[f"throughput_vs_direct{suffix}"] = Figure(
            *ratio_of_means(rates["fleet"], rates["direct"]), of="beside direct, which stores nothing"
        )
        for name, found in runs.items():
            waits = [1000 * one.seconds for run in found for one in run.asked]
            mean = sum(rates[name]) / turns
            series[name].append((in_flight, mean))
            mean_cpu = None if name == "direct" else sum(cpu[name]) / turns  # its process is this one
            rows.append([f"{name}, {in_flight}", mean, mean_cpu, *(quantile(waits, share) for share in (0.5, 0.99))])
        processes += load.processes_rows(f"{in_flight} in flight", runs["fleet"])
    await compared[-1].close()
    return Report(
        "throughput",
        figures,
        {"agents": AGENTS, "deliberations": deliberations, "turns": turns},
        report.machine(),
        tables=(
            Table("rates", "Rates", ("system", "per_second", "cpu_ms_each", "p50_ms", "p99_ms"), rows),
            load.processes_table(processes),
        ),
        panels=(Panel("Throughput, 0 ms model", "in flight", "deliberations/s", series, log_x=True),),
    )
