"""Collectors decide how many workers there should be, and every dispatcher follows; workers are played by the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import nats
import pytest
from msgspec import structs

from fleet import subjects
from fleet.cli.doctor import fleet_state
from fleet.cli.doctor import workers as doctor
from fleet.cli.overview.status import facts
from fleet.config import Limits, RoleProfile, Settings, Workers, load
from fleet.control import collector, dispatcher
from fleet.control.scaling import sizing
from fleet.control.scaling.decision import decide
from fleet.control.scaling.sizing import beginning
from fleet.jetstream import pool_size
from fleet.local.ports import free_port
from fleet.messages import AgentRequested, AgentResponse
from fleet.messages.workers import PoolSize
from fleet.observability.metrics import Metrics
from fleet.tenants.limits import Tenant
from tests.integration.control.test_models_missing import SERVER, tell
from tests.support import agents
from tests.support.fleets.control_plane import Fleet, client_on
from tests.support.fleets.launchers import ToldLauncher
from tests.support.nats.servers import HOST
from tests.support.waiting import WITHIN_S, until, until_consumer
from tests.unit.control.telemetry.test_metering import total

WORKERS = Workers(min=1, max=4, calls_per_worker=2, shrink_after_s=0.5)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "DECIDE_EVERY_S", 0.1)
    monkeypatch.setattr(sizing, "FOLLOW_EVERY_S", 0.05)
    monkeypatch.setattr(sizing, "FRESH_MS", 50)


@asynccontextmanager
async def control_plane(
    url: str, launchers: list[ToldLauncher], workers: Workers = WORKERS, metrics: Metrics | None = None, **more: Any
) -> AsyncIterator[Fleet]:
    """A dispatcher for each launcher, and as many collectors; no worker."""
    settings = structs.replace(load({"NATS_URL": url}), workers=workers, **more)
    measured = settings if metrics is None else structs.replace(settings, health_port=free_port(), health_host=HOST)
    async with AsyncExitStack() as stack:
        for launcher in launchers:
            for running in (
                lambda up, launcher=launcher: dispatcher.run(settings, launcher, on_ready=up.set),
                lambda up: collector.run(measured, on_ready=up.set, metrics=metrics),
            ):
                up = asyncio.Event()
                task = asyncio.create_task(running(up))
                stack.push_async_callback(asyncio.wait, [task])
                stack.callback(task.cancel)
                async with asyncio.timeout(WITHIN_S):
                    await up.wait()
        nc = await nats.connect(url)
        stack.push_async_callback(nc.close)
        yield await client_on(nc)


async def test_all_dispatchers_follow_what_is_coming(nats_url: str) -> None:
    """As many workers as the agents of all councils need at once; when these have ended, as few as may be."""
    launchers = [ToldLauncher(), ToldLauncher()]
    async with control_plane(nats_url, launchers) as fleet:
        ids = [await fleet.request(task_id=f"t-{number}", num_agents=3 - number, rounds=1) for number in range(2)]
        await until(lambda: all(each.wanted[-1:] == [3] for each in launchers))
        async with agents.answering(fleet.nc):
            for task_id in ids:
                await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
            await until(lambda: all(each.wanted[-1:] == [1] for each in launchers))
        for launcher in launchers:
            values = launcher.wanted
            assert values[values.index(3) :] == sorted(values[values.index(3) :], reverse=True), "it has flapped"


async def test_between_two_phases_nobody_is_sent_away(nats_url: str) -> None:
    """One agent is late: hardly a call is open, and the next phase brings one for each."""
    late: list[AgentRequested] = []

    def all_but_one(call: AgentRequested) -> AgentResponse | None:
        if call.agent_id.endswith("1"):
            late.append(call)
            return None
        return agents.answer(call)

    launcher = ToldLauncher()
    async with control_plane(nats_url, [launcher]) as fleet, agents.answering(fleet.nc, all_but_one):
        await fleet.request(task_id="t", num_agents=5, rounds=1)
        await until(lambda: launcher.wanted[-1:] == [3] and late)
        await until(lambda: low(fleet, 1))
        size, _ = await pool_size.look(fleet.nc)
        assert size is not None
        decided = size.decided_at_ms
        await until(lambda: decided_after(fleet, decided + 3 * WORKERS.shrink_after_s * 1000))
        assert launcher.wanted[-1] == 3


async def low(fleet: Fleet, calls: int) -> bool:
    return bool((await fleet.nc.jetstream().stream_info(subjects.AGENT_REQUESTS)).state.messages <= calls)


async def decided_after(fleet: Fleet, at_ms: float) -> bool:
    size, _ = await pool_size.look(fleet.nc)
    return size is not None and size.decided_at_ms > at_ms


async def test_without_any_worker_a_request_waits_and_brings_one(nats_url: str) -> None:
    """Its deadline does not run: it is accepted when a worker answers."""
    launcher = ToldLauncher(answering=0)
    async with control_plane(nats_url, [launcher], structs.replace(WORKERS, min=0)) as fleet:
        await until(lambda: launcher.wanted[-1:] == [0])
        await fleet.request(task_id="t", num_agents=1, rounds=0, constraints={"timeout_seconds": 5})
        await until(lambda: launcher.wanted[-1:] == [2])  # it may be for three agents
        assert (await fleet.ask(subjects.RESULT, {"task_id": "t"}))[1]["status"] == "PENDING"
        launcher.now_answering = 1
        await fleet.inbox.next(subjects.ACCEPTED, task_id="t")
        async with agents.answering(fleet.nc):
            await fleet.inbox.next(subjects.COMPLETED, task_id="t")
            await until(lambda: launcher.wanted[-1:] == [0])


async def test_requests_wait_for_a_model_where_the_settings_say_so(nats_url: str) -> None:
    """Their deadlines do not run; without the setting they are accepted, and theirs do."""
    limits, roles = Limits(wait_for_models=True), {"DEV": RoleProfile(persona="You are a developer.")}
    servers = {"vllm_urls": (SERVER,), "agent_type": "vllm", "roles": roles}
    async with control_plane(nats_url, [ToldLauncher()], Workers(), limits=limits, **servers) as fleet:
        await tell(fleet.nc, False)
        await fleet.request(task_id="t", num_agents=1, rounds=0, constraints={"timeout_seconds": 5})
        await until_consumer(
            fleet.nc.jetstream(), subjects.DELIBERATION_REQUESTS, subjects.DISPATCHER, lambda info: info.num_ack_pending
        )
        assert (await fleet.ask(subjects.RESULT, {"task_id": "t"}))[1]["status"] == "PENDING"
        await tell(fleet.nc, True)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="t")


async def test_what_was_decided_is_seen(nats_url: str) -> None:
    """By `fleet status` and `fleet doctor`; what is coming, by metrics, from acceptance on."""
    metrics = Metrics()
    async with control_plane(nats_url, [ToldLauncher()], metrics=metrics) as fleet:
        await fleet.request(task_id="t", num_agents=5, rounds=1, options={"early_stop": False})
        await until(lambda: total([metrics.registry], "fleet_calls_ahead") == 5 * 4)
        await until(lambda: total([metrics.registry], "fleet_workers", state="wanted") == 3)
        state = await fleet_state.look(fleet.nc)
        assert state.pool is not None
        assert state.pool.wanted == 3
        (finding,) = [each for each in doctor.findings((), state.pool) if each.what == "pool of workers"]
        assert "3 wanted, 0 running, 0 draining" in finding.found
        pool = [[*column.cells] for column in facts(state).columns]
        assert "3 wanted" in pool[1]


async def test_a_decision_is_made_from_the_one_before(nats_url: str) -> None:
    """Of two that are made at the same moment one counts."""
    async with control_plane(nats_url, [ToldLauncher()], Workers()) as fleet:
        js = fleet.nc.jetstream()
        assert await pool_size.look(fleet.nc) == (None, 0)
        size = PoolSize(wanted=2, needed=2, due=2, decided_at_ms=1)
        assert await decide(js, size, 0)
        assert not await decide(js, size.change(wanted=3), 0)
        seen, revision = await pool_size.look(fleet.nc)
        assert seen == size
        assert await decide(js, size.change(wanted=4), revision)


def test_requests_that_wait_for_the_end_of_others_bring_nobody() -> None:
    """They take the place of what ends; those of another tenant may have room."""
    tenants = {"a": Tenant(max_in_flight=2), "b": Tenant()}
    settings = Settings(tenants=tenants, limits=Limits(max_in_flight=10))
    assert beginning({"a": 5, "b": 0}, {"a": 2}, settings) == 0
    assert beginning({"a": 5, "b": 3}, {"a": 1}, settings) == 4
    assert beginning({"a": 0, "b": 100}, {"a": 2}, settings) == 8
    assert beginning({"b": 1}, {"b": 12}, settings) == 0
