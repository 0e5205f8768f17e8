"""Part `workers` of `fleet bench scale`: what more workers, dispatchers and collectors on one machine do for it.

Fleets that differ in them run side by side, on one model server, and are measured in turns.
"""

from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fleet.bench import report
from fleet.bench.report import Figure, Report, Table, ratio_of_means
from fleet.bench.speed import load, systems
from fleet.bench.speed.load import Run, drive, quantile
from fleet.bench.speed.rig import Rig, settled

AGENTS = 3
IN_FLIGHT = 64
WARM_UP = 100


@dataclass(frozen=True, slots=True)
class Crew:
    """`controls`: dispatchers, and as many collectors."""

    workers: int = 2
    controls: int = 1

    @property
    def title(self) -> str:
        return f"{self.workers} workers, {self.controls} × control plane"


USUAL: Final = Crew()
OTHERS: Final = {
    "throughput_1_vs_2_workers": Crew(workers=1),
    "throughput_4_vs_2_workers": Crew(workers=4),
    "throughput_2_vs_1_dispatchers": Crew(controls=2),
}
"""Figure -> who is compared with `USUAL`."""


async def measure(directory: Path, deliberations: int, turns: int, note: report.Note) -> Report:
    """In each of the `turns` each fleet makes so many `deliberations`."""
    runs: dict[Crew, list[Run]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        fleets: dict[Crew, systems.OverNats] = {}
        vllm_url = None
        for crew in (USUAL, *OTHERS.values()):
            note(f"starting {crew.title}")
            rig = await stack.enter_async_context(_rig(directory, crew, vllm_url))
            vllm_url = rig.vllm_url
            for _ in range(1, crew.controls):
                await rig.beside("dispatcher")
                await rig.beside("collector")
            fleets[crew] = await systems.fleet(rig, AGENTS)
            await drive(fleets[crew], WARM_UP, IN_FLIGHT)
        for turn in range(turns):
            for crew, fleet in list(fleets.items())[:: 1 if turn % 2 else -1]:
                await settled()
                runs[crew].append(await drive(fleet, deliberations, IN_FLIGHT))
            note(f"turn {turn + 1} of {turns}")
    rates = {crew: [run.per_second for run in found] for crew, found in runs.items()}
    cpu = {crew: [run.cpu_ms_each for run in found] for crew, found in runs.items()}
    figures = {
        name: Figure(
            *ratio_of_means(rates[crew], rates[USUAL]),
            of=f"deliberations/s, {IN_FLIGHT} in flight: {crew.title}, beside {USUAL.title}",
            more={"cpu_ratio": round(sum(cpu[crew]) / sum(cpu[USUAL]), report.DIGITS)},
        )
        for name, crew in OTHERS.items()
    }
    rows: list[list[Any]] = [
        [
            crew.title,
            sum(rates[crew]) / turns,
            sum(cpu[crew]) / turns,
            quantile([1000 * one.seconds for run in runs[crew] for one in run.asked], 0.5),
            round(sum(runs[crew][-1].after.memory.values()) / 2**20, 1),
        ]
        for crew in fleets
    ]
    processes = [row for crew in fleets for row in load.processes_rows(crew.title, runs[crew])]
    return Report(
        "scale",
        figures,
        {"deliberations": deliberations, "turns": turns},
        tables=(
            Table("crews", "Workers and control planes", ("fleet", "per_second", "cpu_ms_each", "p50_ms", "mib"), rows),
            replace(load.processes_table(processes), name="crews_processes"),
        ),
    )


def _rig(directory: Path, crew: Crew, vllm_url: str | None) -> Rig:
    where = directory / f"{crew.workers}-{crew.controls}"
    return Rig(where, config=f"[workers]\ncount = {crew.workers}\n", vllm_url=vllm_url, bare=False)
