"""An instance of the council as an agent is killed: processes of their own, and Synadia's SDK as the caller."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import SIGKILL

import nats
import pytest
from synadia_ai.agents import Agent

from fleet import subjects
from tests.support import agents
from tests.support.client.prompting import Prompted, councils, prompt, sdk
from tests.support.fleets.control_plane import Fleet, client_on
from tests.support.fleets.processes import Component
from tests.support.nats import servers
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("nats_binary")

PATIENCE_S = 11.0
"""More than the ten seconds within which an instance that lives says something."""


@asynccontextmanager
async def processes(folder: Path) -> AsyncIterator[tuple[Fleet, list[Component]]]:
    """A dispatcher and two collectors, and a client; no workers yet, so that what is asked waits."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(servers.one(folder / "nats"))
        environ = {"NATS_URL": server.url, "FLEET_AGENT_PROTOCOL": "true"}
        components = [
            Component(kind, folder / f"{kind}-{number}.log", **environ)
            for number, kind in enumerate(("dispatcher", "collector", "collector"))
        ]
        for component in components:
            stack.push_async_callback(component.end, SIGKILL)
        await components[0].start()  # declares what the others read
        await asyncio.gather(*(component.start() for component in components[1:]))
        nc = await nats.connect(server.url)
        stack.push_async_callback(nc.close)
        yield await client_on(nc), components


class Caller:
    """Prompts, and once more under the same id when it hears nothing any longer."""

    def __init__(self) -> None:
        self.gave_up = 0

    async def insist(self, council: Agent, task_id: str) -> Prompted:
        for _ in range(2):
            seen = await prompt(council, f"Question {task_id}", PATIENCE_S, task_id=task_id, num_agents=2)
            if seen.error is None:
                break
            assert "stalled" in seen.error, seen.error
            assert (seen.text, seen.task_id) == ("", task_id)
            self.gave_up += 1
        return seen


@pytest.mark.slow
async def test_whose_instance_is_killed_prompts_again_and_gets_the_one_answer(tmp_path: Path) -> None:
    """It hears nothing any more, and another instance answers the same prompt; nobody else notices."""
    async with processes(tmp_path) as (fleet, components), sdk(fleet.nc) as client:
        found = await councils(client, 3)
        caller, named = Caller(), [f"t{number}" for number in range(30)]
        calls = [asyncio.create_task(caller.insist(found[0], task_id)) for task_id in named]
        await until(lambda: all(fleet.inbox.of(task_id) == [subjects.ACCEPTED] for task_id in named))
        await components[1].end(SIGKILL)
        await until(lambda: caller.gave_up)
        async with agents.answering(fleet.nc):
            answers = await asyncio.gather(*calls)
        for task_id, seen in zip(named, answers, strict=True):
            assert seen.error is None
            assert seen.facts is not None
            assert (seen.facts["task_id"], bool(seen.text)) == (task_id, True)
            await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)  # the answer may be there before its event
            assert fleet.inbox.of(task_id) == [subjects.ACCEPTED, subjects.COMPLETED]
