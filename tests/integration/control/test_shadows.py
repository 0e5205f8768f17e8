"""Models on trial beside a council, on a real nats-server: scored, apart, and no trouble whatever dies."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from msgspec import structs

from fleet import subjects
from fleet.messages import AgentRequested, AgentResponse
from tests.support import agents
from tests.support.client import commands
from tests.support.fleets.control_plane import Fleet, client_on
from tests.support.fleets.processes import Component
from tests.support.fleets.whole_fleet import ROLE, whole
from tests.support.waiting import WITHIN_S
from workers.simulator.server import SimulatorConfig

pytestmark = pytest.mark.usefixtures("nats_binary")

CONFIG = """
[roles.DEV]
shadow = ["candidate"]
"""


async def test_a_whole_fleet_scores_a_shadow(nats_url: str) -> None:
    """Its own model writes, the council's members score, and its tokens are told apart."""
    simulated = SimulatorConfig(models=("usual", "candidate"))
    role = structs.replace(ROLE, shadow=("candidate",))
    async with whole(nats_url, simulated, role=role, vllm_model="usual") as fleet:
        task_id = await fleet.request(num_agents=3)
        done = await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
        code, out, err = await commands.fleet("models", "--json", "--nats-url", nats_url)
        _, table, _ = await commands.fleet("models", "--role", "dev", "--nats-url", nats_url)
    assert (code, err) == (0, "")
    told = [json.loads(line) for line in out.splitlines()]
    assert [(each["model"], each["proposals"], each["deliberations"]) for each in told] == [
        ("usual", 3, None),
        ("candidate", 1, 1),
    ]
    assert "candidate" in table
    *members, shadow = done["results"]
    assert (shadow["agent_id"], shadow["shadow"], shadow["rank"]) == ("agent-dev-101", True, 4)
    assert shadow["score"] is not None
    assert {member["proposal"]["model"] for member in members} == {"usual"}
    assert shadow["proposal"]["model"] == "candidate"
    assert not done["degraded"]
    assert done["usage_by_model"].keys() == {"usual"}
    assert done["usage"]["calls"] == 12
    assert done["shadows"]["usage"]["calls"] == 4
    assert {name: used["calls"] for name, used in done["shadows"]["usage_by_model"].items()} == {
        "candidate": 1,
        "usual": 3,
    }


@asynccontextmanager
async def restarted(
    nats_url: str, tmp_path: Path, respond: Callable[[AgentRequested], AgentResponse | None]
) -> AsyncIterator[tuple[Fleet, Component]]:
    """A client, and the collector, which is to be killed and started again: as the dispatcher a process of its own."""
    config = tmp_path / "fleet.toml"
    config.write_text(CONFIG)
    environ = {"NATS_URL": nats_url, "FLEET_CONFIG": str(config)}
    dispatcher = Component("dispatcher", tmp_path / "dispatcher.log", **environ)
    collector = Component("collector", tmp_path / "collector.log", **environ)
    async with AsyncExitStack() as stack:
        for component in (dispatcher, collector):
            stack.push_async_callback(component.end, signal.SIGKILL)
        await asyncio.gather(dispatcher.start(), collector.start())
        nc = await nats.connect(nats_url)
        stack.push_async_callback(nc.close)
        fleet = await client_on(nc)
        await stack.enter_async_context(agents.answering(fleet.nc, respond))
        yield fleet, collector


def ends(fleet: Fleet, task_id: str) -> list[str]:
    return [subject for subject in fleet.inbox.of(task_id) if subject in subjects.TERMINAL]


async def state_with(fleet: Fleet, task_id: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The state, once it is so."""
    bucket = await fleet.nc.jetstream().key_value(subjects.BUCKET)
    watcher = await bucket.watch(task_id)
    try:
        async with asyncio.timeout(WITHIN_S):
            while True:
                entry = await watcher.updates(timeout=WITHIN_S)
                if entry is not None and entry.value and is_so(state := json.loads(entry.value)):
                    return dict(state)
    finally:
        await watcher.stop()


@pytest.mark.slow
@pytest.mark.parametrize("silent", ["propose", "score"])
async def test_a_collector_that_is_killed_with_shadows_open_ends_the_council_once(
    nats_url: str, tmp_path: Path, silent: str
) -> None:
    """Its shadow does not answer, or is not scored: another collector ends it by its timer, and only once."""

    def respond(call: AgentRequested) -> AgentResponse | None:
        return None if call.shadow and call.phase == silent else agents.answer(call)

    async with restarted(nats_url, tmp_path, respond) as (fleet, collector):
        task_id = await fleet.request(rounds=0, num_agents=2)
        state = await state_with(fleet, task_id, lambda state: bool((state.get("shadows") or {}).get("until")))
        await collector.end(signal.SIGKILL)
        assert state["status"] == "IN_PROGRESS"
        await collector.start()
        done = await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
        code, reply = await fleet.ask(subjects.CANCEL, {"task_id": task_id})
        assert (code, reply["status"]) == ("409", "COMPLETED")
        # What comes late, and everything that may still be on its way, ends nothing again.
        other = await fleet.request(rounds=0, num_agents=1)
        await fleet.inbox.next(subjects.COMPLETED, task_id=other)
    assert ends(fleet, task_id) == [subjects.COMPLETED]
    assert (done["winner_id"], done["degraded"]) == ("agent-dev-002", False)
    assert {call["error_type"] for call in done["shadows"]["failed_calls"]} == {"DeadlineExceeded"}
    assert done["shadows"]["missing"] == (["agent-dev-101"] if silent == "propose" else [])


@pytest.mark.slow
async def test_scores_that_came_while_no_collector_ran_count(nats_url: str, tmp_path: Path) -> None:
    """They are in their stream: the next collector reads them before the timer has come."""
    killed = asyncio.Event()
    held_back: list[AgentRequested] = []

    def respond(call: AgentRequested) -> AgentResponse | None:
        if call.shadow and not killed.is_set():
            held_back.append(call)
            return None
        return agents.answer(call)

    async with restarted(nats_url, tmp_path, respond) as (fleet, collector):
        task_id = await fleet.request(rounds=1, num_agents=2)
        await state_with(fleet, task_id, lambda state: state["phase"] != "propose")
        await collector.end(signal.SIGKILL)
        killed.set()
        (shadow,) = held_back
        await agents.publish(fleet.nc.jetstream(), agents.answer(shadow))
        await collector.start()
        done = await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
    assert ends(fleet, task_id) == [subjects.COMPLETED]
    assert done["results"][-1]["score"] is not None
    assert done["shadows"]["failed_calls"] == []
