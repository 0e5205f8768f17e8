"""Runs `fleet bench routing`: several model servers, their prefix caches, balance and waiting, and one that is lost."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from fleet.bench import report
from fleet.bench.report import Figure, Report, Table
from fleet.bench.routing.councils import AGENTS, ROUNDS, Servers
from fleet.bench.routing.waiting import LOAD, WAITING_SERVERS, waits
from fleet.bench.speed.load import quantile
from workers.simulator.server import SimulatorConfig

SERVERS: Final = (1, 2, 4, 8)
AT_ONCE = 6
"""Councils for each server."""
SEATS: Final = (16, 64)
SEATS_IN_TURNS = 1024
"""Of the simulated time, of all turns: p99 of a single turn is off by a tenth."""
LOST, LOST_AT, LOST_AT_ONCE = "gpu-0", 0.4, 4
"""The server that is killed, once so many of the councils have ended."""


async def measure(councils: int, workers: Sequence[int], note: report.Note) -> Report:
    """`councils` for each number of servers; then both policies at `LOAD`, and the loss of a server."""
    spread = {count: [await _spread(servers, count, councils, note) for servers in SERVERS] for count in workers}
    figures: dict[str, Figure] = {}
    for count, rows in spread.items():
        named = "" if count == 1 else f"_{count}_workers"
        figures[f"cached_share_8_vs_1{named}"] = Figure(
            rows[-1][2], rows[0][2], of="cached tokens of all prompt tokens"
        )
        figures[f"busiest_vs_mean{named}"] = Figure(
            max(row[3] for row in rows), of="calls, the worst of 2, 4, 8 servers"
        )
    for seats in SEATS:
        figures[f"p99_vs_least_load_{seats}_seats"] = await asyncio.to_thread(_waits, seats, note)
    moved = await lost(councils, note)
    figures["others_moved"] = Figure(moved["others_moved"], of="councils of other servers that moved", more=moved)
    return Report(
        "routing",
        figures,
        {"agents": AGENTS, "rounds": ROUNDS, "councils": councils, "at_once_per_server": AT_ONCE, "load": LOAD},
        report.machine(),
        tables=(
            Table(
                "spread",
                "Councils on so many servers",
                ("workers", "servers", "cached_share", "busiest_vs_mean", "moved", "failed"),
                [row for rows in spread.values() for row in rows],
            ),
        ),
    )


async def _spread(count: int, workers: int, councils: int, note: report.Note) -> list[Any]:
    async with Servers(count, workers, seed=count) as servers:
        await servers.play_all(councils, AT_ONCE * count)
        moved = sum(len(places) > 1 for places in servers.places().values())
        note(f"{workers} workers, {count} servers: {servers.cached_share():.3f} of the prompts' tokens were cached")
        share, busiest = servers.cached_share(), servers.busiest()
        return [workers, count, share, busiest, moved, servers.failed.total()]


def _waits(seats: int, note: report.Note) -> Figure:
    """The slowest hundredth of the calls beside least load, in simulated time: a machine's own pauses are not in it."""
    turns = SEATS_IN_TURNS // seats
    routed, by_load = (
        [quantile(waits(turn, seats, by_load=policy), 0.99) for turn in range(turns)] for policy in (False, True)
    )
    value, baseline, error = report.ratio_of_means(routed, by_load)
    note(f"load {LOAD:.0%}, {seats} seats: {turns} turns of each policy")
    return Figure(
        value,
        baseline,
        error,
        of=f"mean call times, {WAITING_SERVERS} servers of {seats} seats at {LOAD:.0%}",
    )


async def lost(councils: int, note: report.Note) -> dict[str, int]:
    """One of four servers is killed while councils run: which of those that had begun go on elsewhere."""
    model = SimulatorConfig(latency_ms=100)
    async with Servers(4, 1, seed=11, model=model) as servers:
        before: dict[str, set[str]] = {}
        ended = 0

        async def play(numbers: Sequence[int]) -> None:
            nonlocal ended
            for number in numbers:
                await servers.play(number)
                ended += 1
                if ended == int(LOST_AT * councils):
                    before.update(servers.places())
                    await servers.servers[LOST].stop()

        # So few that none moves because of load.
        await asyncio.gather(*(play(range(first, councils, LOST_AT_ONCE)) for first in range(LOST_AT_ONCE)))
        after = servers.places()
        moved = {task for task in before if len(after[task]) > 1}
        of_lost = {task for task in before if LOST in after[task]}
        note(f"one of four servers killed: {len(moved & of_lost)} of its councils moved, {len(moved - of_lost)} others")
        return {
            "moved": len(moved & of_lost),
            "others_moved": len(moved - of_lost),
            "failed": servers.failed.total(),
        }
