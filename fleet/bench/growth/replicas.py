"""Part `workers` of `fleet bench scale`: what more workers, dispatchers and collectors on one machine gain.

Fleets that differ in them run side by side and are measured in turns.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from fleet.bench import report
from fleet.bench.report import Figure, Report, Table, ratio_of_means
from fleet.bench.speed import load, systems
from fleet.bench.speed.load import Run, drive, quantile
from fleet.bench.speed.rig import Rig, settled, side_by_side

AGENTS = 3
IN_FLIGHT = 64
WARM_UP = 100


@dataclass(frozen=True, slots=True)
class FleetSize:
    """`controls`: dispatchers, and as many collectors."""

    workers: int = 1
    controls: int = 1

    @property
    def title(self) -> str:
        return f"{self.workers} workers, {self.controls} dispatchers"


USUAL: Final = FleetSize()
OTHERS: Final = {
    "throughput_2_vs_1_workers": FleetSize(workers=2),
    "throughput_4_vs_1_workers": FleetSize(workers=4),
    "throughput_2_vs_1_dispatchers": FleetSize(controls=2),
}
"""Figure -> who is compared with `USUAL`."""


async def measure(
    directory: Path, deliberations: int, turns: int, note: report.Note, others: Mapping[str, FleetSize] = OTHERS
) -> Report:
    """In each of the `turns` each fleet makes so many `deliberations`."""
    rigs = {crew: _rig(directory, crew) for crew in (USUAL, *others.values())}
    runs: dict[FleetSize, list[Run]] = defaultdict(list)
    async with side_by_side(list(rigs.values())):
        for crew, rig in rigs.items():
            for _ in range(1, crew.controls):
                await rig.beside("dispatcher")
                await rig.beside("collector")
        fleets = {crew: await systems.fleet(rig, AGENTS) for crew, rig in rigs.items()}
        for fleet in fleets.values():
            await drive(fleet, WARM_UP, IN_FLIGHT)
        for turn in range(turns):
            for crew, fleet in list(fleets.items())[:: 1 if turn % 2 else -1]:
                await settled()
                runs[crew].append(await drive(fleet, deliberations, IN_FLIGHT))
            note(f"turn {turn + 1} of {turns}")
    return result({crew: runs[crew] for crew in rigs}, others)


def result(runs: Mapping[FleetSize, Sequence[Run]], others: Mapping[str, FleetSize]) -> Report:
    """As many runs of each, taken in turns; `others`: figure -> who is compared with `USUAL`."""
    rates = {crew: [run.per_second for run in found] for crew, found in runs.items()}
    cpu = {crew: [run.cpu_ms_each for run in found] for crew, found in runs.items()}
    figures = {
        name: Figure(
            *ratio_of_means(rates[crew], rates[USUAL]),
            of=f"deliberations/s, {IN_FLIGHT} in flight: {crew.title}, beside {USUAL.title}",
            more={"cpu_ratio": round(fmean(cpu[crew]) / fmean(cpu[USUAL]), report.DIGITS)},
        )
        for name, crew in others.items()
    }
    rows: list[list[Any]] = [
        [
            crew.title,
            fmean(rates[crew]),
            fmean(cpu[crew]),
            quantile([1000 * one.seconds for run in found for one in run.asked], 0.5),
            round(sum(found[-1].after.memory.values()) / 2**20, 1),
        ]
        for crew, found in runs.items()
    ]
    processes = [row for crew, found in runs.items() for row in load.processes_rows(crew.title, found)]
    columns = ("fleet", "per_second", "cpu_ms_each", "p50_ms", "memory_mib")
    return Report(
        "scale",
        figures,
        {"workers": [crew.workers for crew in runs], "dispatchers": [crew.controls for crew in runs]},
        tables=(
            Table("crews", "Workers and control planes", columns, rows),
            replace(load.processes_table(processes), name="crews_processes"),
        ),
    )


def _rig(directory: Path, crew: FleetSize) -> Rig:
    where = directory / f"{crew.workers}-{crew.controls}"
    return Rig(where, config=f"[workers]\ncount = {crew.workers}\n", bare=False)
