"""Runs `fleet bench scale`: what the fleet uses as it stores more, runs more processes and has more calls open.

Each part is a module of its own, with fleets of its own; here they become one report.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.bench import report
from fleet.bench.growth import idle, in_flight, models, replicas, stored, streams
from fleet.bench.report import Report

PARTS: Final = ("stored", "workers", "in-flight", "idle", "streams", "models")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of each. `deliberations`: of each fleet in each of the `turns`."""

    stored: int
    deliberations: int
    turns: int
    in_flight: int
    starts: int
    idle_s: float


async def measure(directory: Path, parts: Collection[str], sizes: Sizes, note: report.Note) -> Report:
    """The `parts`, of `PARTS`, one after the other; what they store is left in `directory`."""
    found = [await _part(part, directory / part, sizes, note) for part in PARTS if part in parts]
    return Report(
        "scale",
        {name: figure for one in found for name, figure in one.figures.items()},
        {"deliberations": sizes.deliberations, "turns": sizes.turns}
        | {name: value for one in found for name, value in one.settings.items()},
        report.machine(),
        tables=[table for one in found for table in one.tables],
        panels=[panel for one in found for panel in one.panels],
    )


async def _part(part: str, directory: Path, sizes: Sizes, note: report.Note) -> Report:
    def noted(text: str) -> None:
        note(f"{part}: {text}")

    match part:
        case "stored":
            counts = stored.counts(sizes.stored)
            return await stored.measure(directory, counts, sizes.deliberations, sizes.turns, noted)
        case "workers":
            return await replicas.measure(directory, sizes.deliberations, sizes.turns, noted)
        case "in-flight":
            return await in_flight.measure(directory, sizes.in_flight, sizes.idle_s, noted)
        case "idle":
            return await idle.measure(directory, sizes.starts, sizes.idle_s, noted)
        case "streams":
            return await streams.measure(directory, sizes.deliberations, noted)
        case "models":
            return models.measure(sizes.turns, models.HOURS, noted)
        case _:
            raise ValueError(part)
