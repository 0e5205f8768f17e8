"""Part `stored` of `fleet bench scale`: what stored deliberations cost in memory, disk and speed.

Fleets that differ in what they have stored run side by side and are measured in turns.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from fleet.bench import report
from fleet.bench.growth import copies
from fleet.bench.report import Figure, Panel, Report, Table, ratio_of_means, ratio_of_medians
from fleet.bench.speed import load, systems
from fleet.bench.speed.load import Run, drive, quantile
from fleet.bench.speed.rig import Rig, settled, side_by_side

AGENTS = 3
IN_FLIGHT = 16
WARM_UP = 50
NATS = "nats"


def counts(stored: int) -> list[int]:
    """How many are stored: a hundredth of it, a tenth, and all."""
    return [max(1, stored // 100), max(1, stored // 10), stored]


async def measure(directory: Path, stored: Sequence[int], deliberations: int, turns: int, note: report.Note) -> Report:
    """As many fleets as numbers of `stored` ones, growing. In each of the `turns` each fleet makes so many
    `deliberations` at once with others, for the CPU, and half as many alone, for the time.
    """
    pattern = await copies.pattern(directory / "pattern", AGENTS)
    disk: dict[int, int] = {}
    for count in stored:
        disk[count] = await copies.fill(directory / str(count), pattern, count)
        note(f"{count:,} are stored")
    rigs = {count: Rig(directory / str(count), bare=False) for count in stored}
    busy: dict[int, list[Run]] = defaultdict(list)
    alone: dict[int, list[Run]] = defaultdict(list)
    async with side_by_side(list(rigs.values())):
        fleets = {count: await systems.fleet(rig, AGENTS) for count, rig in rigs.items()}
        for fleet in fleets.values():
            await drive(fleet, WARM_UP, IN_FLIGHT)
        for turn in range(turns):
            for count, fleet in list(fleets.items())[:: 1 if turn % 2 else -1]:
                await settled()
                busy[count].append(await drive(fleet, deliberations, IN_FLIGHT))
                await settled()
                alone[count].append(await drive(fleet, -(-deliberations // 2), 1))
            note(f"turn {turn + 1} of {turns}")
    return result({count: (busy[count], alone[count], disk[count]) for count in stored})


def result(found: Mapping[int, tuple[Sequence[Run], Sequence[Run], int]]) -> Report:
    """Of (runs of many at once, runs of one at a time, bytes on the disk) by how many are stored, growing."""
    few, many = min(found), max(found)
    cpu = {count: [run.cpu_ms_each for run in busy] for count, (busy, _, _) in found.items()}
    walls = {
        count: [1000 * one.seconds for run in alone for one in run.asked] for count, (_, alone, _) in found.items()
    }
    memory = {count: kinds(alone[-1].after.memory) for count, (_, alone, _) in found.items()}
    disk = {count: taken for count, (_, _, taken) in found.items()}
    each = {kind: (memory[many][kind] - memory[few][kind]) / (many - few) for kind in memory[many]}
    figures = {
        f"cost_{short(count)}_vs_{short(few)}_stored": Figure(
            *ratio_of_means(cpu[count], cpu[few]),
            of=f"CPU ms per deliberation, NATS and all processes, {count:,} stored beside {few:,}",
        )
        for count in found
        if count != few
    }
    figures |= {
        f"latency_{short(many)}_vs_{short(few)}_stored": Figure(
            *ratio_of_medians(walls[many], walls[few]), of="median wall ms, one at a time, 0 ms model"
        ),
        "memory_per_stored_bytes": Figure(
            sum(each.values()),
            of="memory (PSS) per stored deliberation, NATS and all processes",
            more={kind: round(value, 1) for kind, value in each.items()},
        ),
        "disk_per_stored_bytes": Figure((disk[many] - disk[few]) / (many - few), of="in the store of NATS"),
    }
    rows: list[list[Any]] = [
        [
            f"{count:,}",
            fmean(cpu[count]),
            median(walls[count]),
            quantile(walls[count], 0.99),
            *(round(memory[count][kind] / 2**20, 1) for kind in (NATS, "fleet")),
            round(disk[count] / 2**20, 1),
        ]
        for count in found
    ]
    columns = ("stored", "cpu_ms_each", "p50_ms", "p99_ms", "nats_mib", "fleet_mib", "disk_mib")
    processes = [row for count, (busy, _, _) in found.items() for row in load.processes_rows(f"{count:,} stored", busy)]
    points = [(count, fmean(cpu[count])) for count in found]
    return Report(
        "scale",
        figures,
        {"stored": many},
        tables=(
            Table("stored", "Beside so many stored deliberations", columns, rows),
            replace(load.processes_table(processes), name="stored_processes"),
        ),
        panels=(
            Panel("Cost beside what is stored", "stored", "CPU ms per deliberation", {"fleet": points}, log_x=True),
        ),
    )


def kinds(memory: Mapping[str, int]) -> dict[str, int]:
    """NATS' part of it, and the rest, which is the fleet's."""
    return {NATS: memory.get(NATS, 0), "fleet": sum(size for kind, size in memory.items() if kind != NATS)}


def short(count: int) -> str:
    """`100k` for 100,000: for the name of a figure."""
    return f"{count // 1000}k" if count and count % 1000 == 0 else str(count)
