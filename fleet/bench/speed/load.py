"""Keeps a number of deliberations running in one system, and measures them."""

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fleet.bench.report import Table
from fleet.bench.speed.processes import ResourceUse, taken
from fleet.bench.speed.systems import System, unique


@dataclass(frozen=True, slots=True)
class TimedDeliberation:
    """One deliberation as its client saw it; seconds since the epoch."""

    task_id: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Run:
    """Some deliberations of one system. `cpu_s`: processor seconds of the system's processes meanwhile, by kind."""

    system: str
    asked: Sequence[TimedDeliberation]
    seconds: float
    cpu_s: Mapping[str, float]
    after: ResourceUse

    @property
    def per_second(self) -> float:
        return len(self.asked) / self.seconds

    @property
    def cpu_ms_each(self) -> float:
        """Processor milliseconds per deliberation, of all processes of the system."""
        return 1000 * sum(self.cpu_s.values()) / len(self.asked)


async def drive(system: System, count: int, in_flight: int) -> Run:
    """`count` deliberations, `in_flight` of them at any time. Raises `FleetError` when one does not complete."""
    run, numbers = unique(f"bench-{system.name}"), itertools.count()
    asked: list[TimedDeliberation] = []

    async def client() -> None:
        while (number := next(numbers)) < count:
            task_id = f"{run}-{number}"
            began = time.time()
            await system.ask(task_id)
            asked.append(TimedDeliberation(task_id, began, time.time()))

    before = await asyncio.to_thread(taken, system.pids())
    began = time.monotonic()
    async with asyncio.TaskGroup() as clients:
        for _ in range(min(count, in_flight)):
            clients.create_task(client())
    seconds = time.monotonic() - began
    after = await asyncio.to_thread(taken, system.pids())
    return Run(system.name, asked, seconds, after.since(before), after)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 … 1) of the values lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def processes_rows(title: str, runs: Sequence[Run]) -> list[list[Any]]:
    """For each kind of process: its processor time per deliberation, and the memory that it has now."""
    count = sum(len(run.asked) for run in runs)
    kinds = sorted(runs[-1].cpu_s, key=lambda kind: -runs[-1].cpu_s[kind])
    return [
        [
            f"{kind}, {title}",
            1000 * sum(run.cpu_s.get(kind, 0.0) for run in runs) / count,
            round(runs[-1].after.memory.get(kind, 0) / 2**20, 1),
        ]
        for kind in kinds
    ]


def processes_table(rows: Sequence[Sequence[Any]]) -> Table:
    """Of `processes_rows`."""
    return Table(
        "processes", "Processes: CPU per deliberation, memory (PSS)", ("process", "cpu_ms_each", "memory_mib"), rows
    )
