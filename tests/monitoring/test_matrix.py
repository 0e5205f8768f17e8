"""Faults of `fleet chaos` on a running fleet, and the alerts of a real Prometheus; the query of every panel."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from fleet import subjects
from fleet.chaos.faults import HOW, Target, inject
from fleet.chaos.faults.process import REACHED_WITHIN_S
from fleet.chaos.schedule import CATALOGUE, Card, Fault
from tests.monitoring.bed import Bed, working
from tests.support.repository.monitoring import Prometheus, load_dashboards, prometheus
from tests.support.waiting import until

FIRES_WITHIN_S = 60
HELD_S = 10
QUIET_S = 60
BRIEF_S = 4.0

FIRES: dict[Card, str] = {
    ("stop", "dispatcher"): "FleetProcessDown",
    ("stop", "collector"): "FleetProcessDown",
    ("stop", "actor"): "FleetWorkersMissing",
    ("stop", "nats"): "FleetNatsAway",
    ("partition", "all"): "FleetNatsAway",
    ("partition", "worker"): "FleetWorkersMissing",
    ("model", "refuse"): "FleetModelServerSick",
    ("model", "http_500"): "FleetModelServerSick",
    ("model", "http_503"): "FleetModelServerSick",
    ("model", "hang"): "FleetModelServerSick",
    ("model", "stall"): "FleetModelServerSick",
    ("model", "truncate"): "FleetModelServerSick",
    ("model", "malformed"): "FleetModelServerSick",
    ("model", "empty"): "FleetModelServerFailing",
    ("model", "stop"): "FleetModelServerSick",
    ("full", subjects.AGENT_REQUESTS): "FleetStoreFull",
    ("full", "store"): "FleetStoreFull",
    ("malformed", subjects.AGENT_REQUESTED): "FleetDeadLetters",
}
FIRES_NONE: dict[Card, str] = {
    ("kill", "dispatcher"): "it is started again",
    ("responses", "duplicate"): "a slot is filled once",
    ("kill", "actor"): "it is started again, and its calls with another delivery",
    ("cut", "all"): "all connect again at once",
    ("crash", "runner.saved"): "it is started again, and publishes what was saved",
    ("delete", subjects.AGENT_REQUESTS): "it is declared again within seconds, and its calls with it",
    ("model", "http_429"): "a busy server is not sick: its calls wait, or go to others",
    ("kill", "nats"): "it is started again, with what it has stored",
    ("clock", "collector +1h"): "deadlines are those of NATS",
    ("responses", "forged"): "an answer without a token counts for nothing",
    ("malformed", subjects.AGENT_COMPLETED): "so does one that is no message",
    ("malformed", subjects.AGENT_FAILED): "so does one that is no message",
    ("full", subjects.DELIBERATION_REQUESTS): "requests are taken out as fast as they come",
    ("term", "collector"): "it hands back what it has, and is started again",
    ("roll", "actor"): "the same: it hands back its calls",
    ("delete", subjects.COLLECTOR): "it is declared again within seconds",
    ("full", subjects.AGENT_RESPONSES): "workers try again until there is room",
    ("kill", "collector"): "it is started again",
}
"""With what makes an alert needless. One process after the other: what dies again at once is started again later."""


@asynccontextmanager
async def watched(directory: Path, bed: Bed) -> AsyncIterator[Prometheus]:
    """By a Prometheus that remembers nothing, while the fleet is well."""
    async with prometheus(directory, list(bed.health_ports.values())) as watching:

        async def is_seen_well() -> bool:
            return await is_well(bed) and len(await watching.query("fleet_ready == 1")) >= 2

        await until(is_seen_well, 180, pause_s=0.5)
        yield watching


async def is_well(bed: Bed) -> bool:
    """Whether all answer that they are ready."""
    try:
        async with aiohttp.ClientSession() as http:
            for port in bed.health_ports.values():
                async with http.get(f"http://127.0.0.1:{port}/readyz") as reply:
                    if reply.status != 200:
                        return False
    except aiohttp.ClientError:
        return False
    return True


async def until_fires(watching: Prometheus, alert: str) -> None:
    async def fires() -> bool:
        return alert in await watching.firing()

    await until(fires, FIRES_WITHIN_S, pause_s=0.5)


async def has_fired(watching: Prometheus) -> set[str]:
    """Names of the alerts that did, for however short a time."""
    samples = await watching.query('count by (alertname) (max_over_time(ALERTS{alertstate="firing"}[1h]))')
    return {sample["metric"]["alertname"] for sample in samples}


async def made(target: Target, card: Card, for_s: float) -> None:
    kind, what = card
    await inject(target, Fault(number=0, kind=kind, target=what, at_s=0.0, for_s=for_s, chance=0.99))


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("card", "alert"), FIRES.items(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
async def test_each_fault_fires_its_alert_and_no_other(card: Card, alert: str, tmp_path: Path) -> None:
    """Within a minute the alert named for it does, alone."""
    async with working(tmp_path) as (target, bed), watched(tmp_path / "prometheus", bed) as watching:
        breaking = asyncio.create_task(made(target, card, FIRES_WITHIN_S + HELD_S))
        try:
            await until_fires(watching, alert)
            await asyncio.sleep(HELD_S)
            assert await has_fired(watching) == {alert}
        finally:
            breaking.cancel()  # what was broken is mended
            await asyncio.gather(breaking, return_exceptions=True)


@pytest.mark.timeout(1200)
async def test_quiet_load_fires_none_and_nor_does_what_is_healed_at_once(tmp_path: Path) -> None:
    """Not even where one such fault follows the other."""
    async with working(tmp_path) as (target, bed), watched(tmp_path / "prometheus", bed) as watching:
        await asyncio.sleep(QUIET_S)
        assert await has_fired(watching) == set()
        for card in FIRES_NONE:
            async with asyncio.timeout(2 * REACHED_WITHIN_S):
                await made(target, card, BRIEF_S)
            await until(lambda: is_well(bed), pause_s=0.5)
            assert await has_fired(watching) == set(), card
        await asyncio.sleep(QUIET_S)
        assert await has_fired(watching) == set()


def test_every_kind_of_fault_stands_in_the_matrix() -> None:
    """With its alert, or with the reason why there is none."""
    assert {kind for kind, _ in (*FIRES, *FIRES_NONE)} == set(HOW)
    assert {*FIRES, *FIRES_NONE} <= set(CATALOGUE)


async def nothing_from(watching: Prometheus, queries: dict[str, str]) -> list[str]:
    """Names of the queries that return no data."""
    return [where for where, query in queries.items() if not await watching.query(query)]


@pytest.mark.timeout(600)
async def test_every_panel_shows_something(tmp_path: Path) -> None:
    """In a fleet at work, each query of each dashboard returns data."""
    queries = {
        f"{name}: {panel['title']}": panel["targets"][0]["expr"].replace("$__rate_interval", "1m")
        for name, board in load_dashboards().items()
        for panel in board["panels"]
    }
    async with working(tmp_path) as (_, bed), watched(tmp_path / "prometheus", bed) as watching:

        async def all_show() -> bool:
            return not await nothing_from(watching, queries)

        await until(all_show, 180, pause_s=2)
        assert not await nothing_from(watching, queries)
