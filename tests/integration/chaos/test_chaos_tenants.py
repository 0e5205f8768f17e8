"""What `fleet chaos` records of tenants, on the server that it writes the configuration of."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from fleet import config, subjects
from fleet.chaos.cluster import CONFIG
from fleet.chaos.history import Heard
from fleet.chaos.nats_servers import NatsServers
from fleet.chaos.recorder import Recorder
from fleet.chaos.tenants.accounts import TENANTS, accounts
from fleet.chaos.tenants.listener import Listener, digest_of_event, listening
from fleet.config import Settings
from fleet.jetstream import connection, topology
from fleet.jetstream.lasting import Connection
from fleet.tenants.names import DEFAULT_TENANT, requests_of, subject_of, tokens_on
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("nats_binary")

A, B = TENANTS
EVERYONE = (DEFAULT_TENANT, A, B)


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[tuple[NatsServers, Connection, dict[str, Listener]]]:
    """A server with the accounts, a connection of the fleet without a user, and one of each tenant."""
    servers = NatsServers(folder, 1, accounts("120KB"))
    await servers.start()
    try:
        nc = await connection.connect(Settings(nats_url=servers.url), "fleet-test")
        try:
            async with listening(servers.url, 0.1, EVERYONE) as listeners:
                yield servers, nc, listeners
        finally:
            await nc.close()
    finally:
        await servers.stop()


async def test_each_tenant_hears_its_own_ends(tmp_path: Path) -> None:
    """Under the subject and the id that it knows, and nothing of the others."""
    async with stage(tmp_path) as (_, nc, listeners):
        for tenant in EVERYONE:
            for number in range(2):
                body = f"{tenant} {number}".encode()
                await nc.publish(subject_of(tenant, subjects.COMPLETED), body, headers={"Task-Id": f"t-{number}"})
        await nc.flush()
        for tenant, listener in listeners.items():
            await until(lambda listener=listener: len(listener.heard) >= 2)
            await listener.nc.flush()
            assert listener.heard == [
                Heard(
                    tenant=tenant,
                    subject=subjects.COMPLETED,
                    task_id=f"t-{number}",
                    digest=digest_of_event(f"{tenant} {number}".encode()),
                )
                for number in range(2)
            ]


async def test_outage_of_a_tenants_connection_is_recorded(tmp_path: Path) -> None:
    """From its loss until it is back; what it is subscribed to then counts again."""
    async with stage(tmp_path) as (servers, nc, listeners):
        listener = listeners[A]
        assert listener.outages == []
        psutil.Process(servers.pids[0]).send_signal(signal.SIGKILL)
        await until(lambda: listener.outages)
        await until(lambda: listener.nc.is_connected and nc.is_connected)
        (outage,) = listener.outages
        assert (outage.tenant, outage.began < outage.ended) == (A, True)
        await nc.publish(subject_of(A, subjects.FAILED), b"{}", headers={"Task-Id": "t-1"})
        await until(lambda: listener.heard)
        assert listener.outages == [outage]


async def test_recorder_reads_events_queues_and_tokens_of_all_tenants(tmp_path: Path) -> None:
    """Events by their keys; a queue and a consumer of each tenant; counters over all days."""
    async with stage(tmp_path) as (_, nc, listeners):
        js = nc.jetstream()
        (tmp_path / "fleet.toml").write_text(CONFIG)
        await topology.declare(js, config.load({"FLEET_CONFIG": str(tmp_path / "fleet.toml")}))
        recorder = Recorder(nc, tenants=TENANTS)
        await recorder.subscribe()
        for tenant in EVERYONE:
            ack = await listeners[tenant].nc.jetstream().publish(subjects.REQUESTED, b"{}")
            assert ack.seq == 1
            subject, body = subject_of(tenant, subjects.FAILED), f'{{"tenant": "{tenant}"}}'.encode()
            await js.publish(subject, body, headers={"Task-Id": "d-1"})
        for day, tokens in (("2026-01-31", 3), ("2026-02-01", 4), ("2026-02-01", 5)):
            await js.publish(tokens_on(B, day), b"", headers={"Nats-Incr": f"+{tokens}"})
        await recorder.read_events()
        keys = ["d-1", "team-a.d-1", "team-b.d-1"]
        found = [(event.tenant, event.task_id, event.subject) for event in recorder.events]
        assert found == [(tenant, key, subjects.FAILED) for tenant, key in zip(EVERYONE, keys, strict=True)]
        await until(lambda: len(recorder.live) == 3)
        assert recorder.live == [(subjects.FAILED, key) for key in keys]
        assert [event.digest for event in recorder.events] == [
            heard.digest for tenant in EVERYONE for heard in listeners[tenant].heard
        ]
        waiting = await recorder.waiting()
        assert {waiting[requests_of(tenant)] for tenant in EVERYONE} == {1}
        queued = {one.tenant: one.pending for one in await recorder.backlog() if one.consumer == subjects.DISPATCHER}
        assert queued == dict.fromkeys(EVERYONE, 1)
        assert await recorder.tokens() == {B: 12}


async def test_recorder_sees_which_deliveries_are_settled(tmp_path: Path) -> None:
    """Once each, whether kept, handed back or acknowledged; NATS tells how many there were."""
    async with stage(tmp_path) as (_, nc, _):
        js = nc.jetstream()
        (tmp_path / "fleet.toml").write_text(CONFIG)
        await topology.declare(js, config.load({"FLEET_CONFIG": str(tmp_path / "fleet.toml")}))
        recorder = Recorder(nc, tenants=TENANTS)
        await recorder.watch_settling()
        stream = requests_of(A)
        sub = await js.subscribe(subject_of(A, subjects.REQUESTED), subjects.DISPATCHER, stream=stream)
        await js.publish(subject_of(A, subjects.REQUESTED), b"{}")
        first = await sub.next_msg(timeout=5)
        await first.in_progress()
        await first.nak()
        await (await sub.next_msg(timeout=5)).ack()
        await until(lambda: len(recorder.settled) >= 2)
        seen = [(one.consumer, one.tenant, one.delivery, one.number) for one in recorder.settled.values()]
        assert seen == [(subjects.DISPATCHER, A, 1, 1), (subjects.DISPATCHER, A, 2, 2)]
        looks = {(one.consumer, one.tenant): one for one in await recorder.backlog()}
        look = looks[subjects.DISPATCHER, A]
        assert (look.delivered, look.unacknowledged, 0 < look.created <= look.at) == (2, 0, True)
