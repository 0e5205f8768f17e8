"""Runs `fleet bench routing`: several model servers, their prefix caches, balance and waiting, and one that is lost."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final

from fleet.bench import report
from fleet.bench.report import Figure, Report, Table
from fleet.bench.routing.councils import AGENTS, ROUNDS, Servers, arrivals, task_of
from fleet.bench.speed.load import quantile
from workers.simulator.server import SimulatorConfig

SERVERS: Final = (1, 2, 4, 8)
AT_ONCE = 6
"""Councils for each server."""
LOAD = 0.8
LOADED_SERVERS, SEATS, CALL_MS = 4, 16, 500
TURN_S = 15.0
CALLS = AGENTS * (2 + 2 * ROUNDS)
"""Of one council."""
LOST, LOST_AT = "gpu-0", 0.4
"""The server that is killed, once so many of the councils have ended."""


async def measure(councils: int, turns: int, workers: Sequence[int], note: report.Note) -> Report:
    """`councils` for each number of servers; `turns` of each policy at `LOAD`."""
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
    for limited in (True, False):
        name = "p99_vs_least_load" if limited else "p99_vs_least_load_seats_unknown"
        figures[name] = await _waits(turns, SEATS if limited else None, note)
    moved = await _lost(councils, note)
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


async def _waits(turns: int, max_concurrency: int | None, note: report.Note) -> Figure:
    """The slowest hundredth of the calls, beside least load, in turns with the same arrivals."""
    model = SimulatorConfig(latency_ms=CALL_MS, max_num_seqs=SEATS)
    per_second = LOAD * LOADED_SERVERS * SEATS / (CALLS * CALL_MS / 1000)
    waits: dict[bool, list[float]] = defaultdict(list)
    for turn in range(turns):
        for by_load in (False, True):
            async with Servers(
                LOADED_SERVERS, 1, by_load=by_load, seed=turn, model=model, max_concurrency=max_concurrency
            ) as servers:
                await arrivals(servers, per_second, TURN_S, seed=turn)
                waits[by_load].append(quantile(servers.waits_ms, 0.99))
        note(f"load {LOAD:.0%}, seats {'known' if max_concurrency else 'unknown'}: turn {turn + 1} of {turns}")
    return Figure(
        fmean(waits[False]),
        fmean(waits[True]),
        of=f"ms, {LOADED_SERVERS} servers of {SEATS} seats at {LOAD:.0%}, a call takes {CALL_MS} ms",
    )


async def _lost(councils: int, note: report.Note) -> dict[str, int]:
    """One of four servers is killed while councils run: which of them have calls elsewhere than at their own server."""
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

        await asyncio.gather(*(play(range(first, councils, AT_ONCE)) for first in range(AT_ONCE)))
        after = servers.places()
        of_lost = {task for task, places in before.items() if LOST in places}
        of_lost |= {task_of(call) for call in servers.servers[LOST].calls()}
        moved = {task for task, places in after.items() if len(places) > 1}
        note(f"one of four servers killed: {len(moved & of_lost)} of its councils moved, {len(moved - of_lost)} others")
        return {
            "moved": len(moved & of_lost),
            "others_moved": len(moved - of_lost),
            "failed": servers.failed.total(),
        }
