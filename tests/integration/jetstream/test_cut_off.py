"""A server that has lost its cluster goes on answering pings: who is connected to it goes to another one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import nats.errors
import pytest
import pytest_asyncio

from fleet.config import load
from fleet.jetstream import lasting
from fleet.jetstream.connection import connect
from fleet.jetstream.lasting import Connection
from tests.support.nats import servers
from tests.support.nats.servers import Server
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("nats_binary")


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[list[Server]]:
    async with servers.three(tmp_path, advertise=False) as three:
        yield three


async def connected_to(server: Server, cluster: list[Server]) -> Connection:
    """It knows all of them, and takes one by chance."""
    settings = load({"NATS_URL": ",".join(each.url for each in cluster)})
    while True:
        nc = await connect(settings, "test")
        if is_at(nc, server):
            return nc
        await nc.close()


def is_at(nc: Connection, server: Server) -> bool:
    return nc.connected_url is not None and nc.connected_url.port == server.port


async def cut_off(server: Server, cluster: list[Server]) -> None:
    """The others know each other, and this one no more."""
    others = [each for each in cluster if each is not server]
    for other in others:
        await other.stop()
        other.secret = "another"
    await asyncio.gather(*(other.start() for other in others))
    await asyncio.gather(*(other.healthy() for other in others))


@pytest.mark.slow
async def test_who_asks_in_vain_goes_to_a_server_that_has_a_cluster(cluster: list[Server]) -> None:
    """And stays where the others are; who goes on asking is answered."""
    alone = cluster[0]
    nc = await connected_to(alone, cluster)
    await cut_off(alone, cluster)

    async def moved() -> bool:
        with suppress(nats.errors.Error, TimeoutError):
            await nc.request("nobody.is.here", timeout=1)
        return nc.is_connected and not is_at(nc, alone)

    await until(moved, pause_s=0.5)
    assert await nc.jetstream().account_info()
    await nc.close()


@pytest.mark.slow
async def test_who_knows_one_name_connects_anew(cluster: list[Server]) -> None:
    """It may stand for all of them, as that of a Service does."""
    nc = await connect(load({"NATS_URL": cluster[0].url}), "test")
    await cut_off(cluster[0], cluster)

    async def again() -> bool:
        nc.doubt()
        return nc.stats["reconnects"] > 0

    await until(again, pause_s=0.5)
    await nc.close()


async def test_who_asks_in_vain_stays_where_the_cluster_is(cluster: list[Server]) -> None:
    """Nobody answers there, which is no reason to go."""
    nc = await connected_to(cluster[0], cluster)
    with pytest.raises(nats.errors.NoRespondersError):
        await nc.request("nobody.is.here", timeout=1)
    assert nc._doubting is not None
    await nc._doubting
    assert is_at(nc, cluster[0])
    assert nc.stats["reconnects"] == 0
    await nc.close()


@pytest.mark.slow
async def test_who_finds_no_cluster_anywhere_goes_less_and_less_often(
    cluster: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server is alone: the next one would be no better."""
    monkeypatch.setattr(lasting, "LOOK_EVERY_S", 0.1)
    nc = await connected_to(cluster[0], cluster)
    patience = [nc._patience_s]
    for server in cluster[1:]:
        await server.stop()
        server.secret = server.name
        await server.start()

    async def has_left_twice() -> bool:
        nc.doubt()
        if patience[-1] != nc._patience_s:
            patience.append(nc._patience_s)
        return len(patience) == 3

    await until(has_left_twice, 120, pause_s=0.1)
    assert patience == [lasting.LEFT_AFTER_S * factor for factor in (1, 2, 4)]
    await nc.close()
