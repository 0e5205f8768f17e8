"""Reads the processor time and memory that processes have used, by kind."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from fleet.local.process_titles import kind_of


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """Of one moment: processor seconds since each process began, and bytes of memory that are in use now, by kind."""

    at: float
    cpu_s: Mapping[str, float]
    memory: Mapping[str, int]

    def since(self, earlier: "ResourceUse") -> Mapping[str, float]:
        """Processor seconds, by kind. A process that is new counts from its beginning."""
        return {kind: max(0.0, now - earlier.cpu_s.get(kind, 0.0)) for kind, now in self.cpu_s.items()}


def taken(roots: Iterable[int]) -> ResourceUse:
    """By these processes and all that they have started."""
    cpu_s: dict[str, float] = {}
    memory: dict[str, int] = {}
    for process in _trees(roots):
        with suppress(psutil.Error):
            kind = kind_of(process)
            times = process.cpu_times()
            cpu_s[kind] = cpu_s.get(kind, 0.0) + times.user + times.system
            memory[kind] = memory.get(kind, 0) + process.memory_full_info().pss
    return ResourceUse(time.monotonic(), cpu_s, memory)


async def watched(roots: Sequence[int], seconds: float) -> tuple[Mapping[str, float], ResourceUse]:
    """What they take in the next `seconds`: percent of one core, by kind; and what they have taken after that."""
    before = await asyncio.to_thread(taken, roots)
    await asyncio.sleep(seconds)
    after = await asyncio.to_thread(taken, roots)
    passed = after.at - before.at
    return {kind: 100 * cpu_s / passed for kind, cpu_s in after.since(before).items()}, after


def _trees(roots: Iterable[int]) -> Iterable[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for root in roots:
        with suppress(psutil.Error):
            process = psutil.Process(root)
            for one in (process, *process.children(recursive=True)):
                found[one.pid] = one
    return found.values()
