"""`fleet.client`, with the rights of a client of the shipped permissions."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import nats
import pytest

from fleet import subjects
from fleet.client import BadRequest, Fleet, ServiceError, Unreachable, connect
from fleet.client.session import Session
from fleet.messages import DeliberationCancelled, DeliberationCompleted, ResultReply
from tests.support.fleets.whole_fleet import whole
from tests.support.nats.permitted import permitted
from workers.simulator.server import SimulatorConfig

SLOW = SimulatorConfig(latency_ms=60_000)


@pytest.fixture(params=[SimulatorConfig()], ids=["quick"])
async def fleet(tmp_path: Path, nats_binary: None, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    async with permitted(tmp_path / "nats") as users:
        others = {"worker_url": users.url("worker"), "client_url": users.url("client")}
        async with whole(users.url("control"), request.param, **others), connect(users.url("client")) as client:
            yield client


async def test_ask_submit_result_and_results(fleet: Fleet) -> None:
    """A day of a client's life; what was handled does not come again."""
    done = await fleet.ask("Design it", agents=2, correlation={"story": "S-17"})
    assert isinstance(done, DeliberationCompleted)
    assert (done.total_agents, done.correlation) == (2, {"story": "S-17"})
    ticket = await fleet.submit("Design it", agents=1, task_id="mine")
    assert (ticket.task_id, ticket.duplicate) == ("mine", False)
    assert (await fleet.result(ticket, wait_s=20)).status == "COMPLETED"
    assert (await fleet.result("nobody")).status == "UNKNOWN"
    assert await first_of(fleet, 2) == [done.task_id, "mine"]
    # That of "mine" was read, and not gone on from.
    assert await first_of(fleet, 1) == ["mine"]


async def first_of(fleet: Fleet, count: int) -> list[str]:
    """Task ids of the next results of the reader `team-a`."""
    seen: list[str] = []
    async with aclosing(fleet.results("team-a")) as results:
        async for event in results:
            seen.append(event.task_id)
            if len(seen) == count:
                return seen
    pytest.fail("it goes on for ever")


async def test_leaving_leaves_nothing_behind(tmp_path: Path, nats_binary: None) -> None:
    """Whoever has its answer, or leaves a loop at its first event, may close the connection: nothing fails later."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, failure: failures.append(failure))
    async with permitted(tmp_path / "nats") as users:
        others = {"worker_url": users.url("worker"), "client_url": users.url("client")}
        async with whole(users.url("control"), SimulatorConfig(), **others):
            async with connect(users.url("client")) as client:
                done = await client.ask("Design it", agents=1)
                async for _ in client.watch(done.task_id):
                    break
            gc.collect()
            # What Python lets go of, it closes in tasks of their own.
            await asyncio.gather(*(each for each in asyncio.all_tasks() if "athrow" in repr(each)))
    gc.collect()
    assert not failures


@pytest.mark.parametrize("fleet", [SLOW], indirect=True, ids=["slow"])
async def test_watch_and_cancel(fleet: Fleet) -> None:
    """Typed events, the last one is the end."""
    ticket = await fleet.submit("Design it", agents=2)
    events = []
    async for event in fleet.watch(ticket):
        events.append(event)
        if len(events) == 1:
            while (await fleet.result(ticket)).status == "PENDING":
                pass
            assert (await fleet.cancel(ticket, "enough")).status == "CANCELLED"
    assert isinstance(events[0], ResultReply)
    assert isinstance(events[-1], DeliberationCancelled)
    assert events[-1].reason == "enough"
    with pytest.raises(ServiceError) as raised:
        await fleet.cancel(ticket)
    assert raised.value.code == 409


async def test_errors_say_what_to_do(fleet: Fleet) -> None:
    """A bad request by its path, an unknown task by its code."""
    with pytest.raises(BadRequest) as raised:
        await fleet.ask("Design it", agents=100)
    assert raised.value.path == "$.num_agents"
    with pytest.raises(ServiceError) as unknown:
        async for _ in fleet.watch("nobody"):
            pass
    assert unknown.value.code == 404
    with pytest.raises(BadRequest, match=r"\$\.task_id"):
        await fleet.result("no id")
    with pytest.raises(BadRequest, match=r"\$\.task_id"):
        await fleet.cancel("no id")
    with pytest.raises(BadRequest, match=r"\$\.task_id"):
        await anext(fleet.watch("no id"))


async def test_no_server_is_unreachable() -> None:
    """At once."""
    with pytest.raises(Unreachable):
        async with connect("nats://127.0.0.1:1"):
            pass


@pytest.mark.parametrize("own", [TimeoutError("too slow for me"), FileNotFoundError(2, "no such file")])
async def test_what_the_block_raises_leaves_it_as_it_is(nats_url: str, own: Exception) -> None:
    """It says nothing of NATS."""
    with pytest.raises(type(own)) as raised:
        async with connect(nats_url):
            raise own
    assert raised.value is own


async def test_a_deadline_of_the_callers_own_is_a_timeout(nats_url: str) -> None:
    """Whether it stands in the block, or around it."""
    async with await nats.connect(nats_url) as nc:
        await nc.subscribe(subjects.RESULT)  # and nobody answers
        await nc.flush()
        with pytest.raises(TimeoutError):
            async with connect(nats_url) as client, asyncio.timeout(0.1):
                await client.result("any")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), connect(nats_url) as client:
                await client.result("any")


async def test_a_fleet_that_is_silent_is_told_from_a_nats_that_is(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it looks at the right one."""
    monkeypatch.setattr("fleet.client.fleet.REPLY_WITHIN_S", 0.1)
    async with await nats.connect(nats_url) as nc:
        await nc.subscribe(subjects.RESULT)
        await nc.flush()
        with pytest.raises(Unreachable, match=r"NATS answers at .*, but the fleet is silent"):
            async with connect(nats_url) as client:
                await client.result("any")


def loaded_by(code: str) -> set[str]:
    """Names of modules in a new process that has run this."""
    program = f"{code}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return set(done.stdout.split())


def test_importing_it_loads_nats_and_msgspec_only() -> None:
    """Neither Ray nor FastStream, nothing that only the fleet's processes need, and none of their rooms."""
    loaded = loaded_by("import fleet.client")
    assert "fleet.client" in loaded
    others = {name.partition(".")[0] for name in loaded - loaded_by("import nats, nats.js, nats.micro, msgspec")}
    assert others - set(sys.stdlib_module_names) - {"fleet", "_msgspec"} == set()
    rooms = {name.split(".")[1] for name in loaded if name.startswith("fleet.")}
    assert not rooms & {"control", "deliberation", "local", "cli", "observability", "killable", "bench", "chaos"}


async def test_deliberations_are_listed(fleet: Fleet) -> None:
    """Typed; of a status alone."""
    done = await fleet.ask("Design it", agents=1)
    (listed,) = await fleet.deliberations()
    assert (listed.task_id, listed.status, listed.task_description) == (done.task_id, "COMPLETED", "Design it")
    assert await fleet.deliberations("FAILED", "TIMEOUT") == []


@pytest.mark.parametrize("method", ["ask", "submit", "result", "watch", "cancel", "results", "deliberations"])
def test_the_commands_use_the_client(method: str) -> None:
    """Their session is one, and changes none of it."""
    assert issubclass(Session, Fleet)
    assert getattr(Session, method) is getattr(Fleet, method)
