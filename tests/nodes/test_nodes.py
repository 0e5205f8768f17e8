"""Clients ask in a loop while machines are cut off, lost, upgraded: they see no error, and each question ends once."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fleet.local.process_titles import is_a
from tests.nodes.asking import asking, counted_ends
from tests.nodes.cluster import CONTROL, NATS, RAY, Cluster
from tests.nodes.machines import Machine

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(1200)]
CUT_OFF_S, PARTED_S = 20.0, 60.0
"""Longer than NATS and its clients take to notice silence; longer than clients try again where nobody can help."""
BEFORE, AFTER = 6, 12
"""Questions that end before anything happens, and after all is whole again."""


@asynccontextmanager
async def nothing_is_lost(cluster: Cluster, name: str) -> AsyncIterator[None]:
    """What is asked meanwhile, and a little before and after, is answered by a council that is whole, and ends once."""
    await cluster.whole()
    async with asking(cluster, name) as asked:
        await asked.ended(BEFORE)
        yield
        await cluster.whole()
        await asked.ended(AFTER)
    sys.stderr.write(
        f"{name}: {len(asked.answered)} answered, the slowest after {max(asked.answered.values()):.1f} s\n"
    )
    assert asked.lost == {}
    assert await counted_ends(cluster, asked.answered) == dict.fromkeys(asked.answered, 1)


def has_worker(machine: Machine) -> bool:
    return any(is_a(process, "actor") for process in machine.processes())


@pytest.mark.parametrize("server", NATS)
async def test_a_nats_server_is_cut_off_and_comes_back(server: str, cluster: Cluster) -> None:
    """From everybody: clients and components on it go to the others."""
    async with nothing_is_lost(cluster, f"cut-off-{server}"):
        cluster.machines[server].unplug()
        await asyncio.sleep(CUT_OFF_S)
        cluster.machines[server].plug()


@pytest.mark.parametrize("server", NATS)
async def test_a_nats_server_is_parted_from_the_others_and_comes_back(server: str, cluster: Cluster) -> None:
    """From its peers alone: who is connected to it hears nothing more of the fleet, and no error either."""
    others = [cluster.machines[name] for name in NATS if name != server]
    async with nothing_is_lost(cluster, f"parted-{server}"):
        for other in others:
            cluster.machines[server].part_from(other)
        await asyncio.sleep(PARTED_S)
        for other in others:
            cluster.machines[server].join_with(other)


async def test_a_ray_node_is_lost_for_good(cluster: Cluster) -> None:
    """Its calls go to other workers, and its worker to another node."""
    async with nothing_is_lost(cluster, "ray-lost"):
        lost = next(name for name in RAY[1:] if has_worker(cluster.machines[name]))
        await cluster.lose(lost)
        await cluster.workers_answer(False)
        await cluster.ready(lost)
        await cluster.workers_answer(True)
        await cluster.replace(lost)


@pytest.mark.parametrize("machine", CONTROL)
async def test_a_dispatcher_and_a_collector_are_lost_with_their_machine(machine: str, cluster: Cluster) -> None:
    """The others take over what they had begun."""
    async with nothing_is_lost(cluster, f"lost-{machine}"):
        await cluster.lose(machine)
        await asyncio.sleep(CUT_OFF_S)
        await cluster.replace(machine)


async def test_everything_is_upgraded_one_by_one(cluster: Cluster) -> None:
    """In the order of `deploy/README.md`: dispatchers and collectors, workers, Ray's head, NATS."""
    async with nothing_is_lost(cluster, "upgrade"):
        for name in (*cluster.components(), *reversed(RAY), *NATS):
            service = cluster.services[name]
            await service.end(signal.SIGUSR2 if name in NATS else signal.SIGTERM)
            await service.start()
            await service.ready()
            if name in RAY:
                await cluster.whole()
