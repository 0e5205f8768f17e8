"""Stores that were restored, set back or lost: no request is answered with the result of another one.

By the real `nats`, on a real server: each store by itself, as an operator may do it.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from fleet import subjects
from fleet.messages import AgentRequested, AgentResponse
from tests.support import agents
from tests.support.fleets.control_plane import Fleet, running
from tests.support.nats.natscli import nats_cli, run
from tests.support.variants import some_of
from tests.support.waiting import until_stored

pytestmark = pytest.mark.xdist_group("natscli")


def about(call: AgentRequested) -> AgentResponse:
    """An answer that tells which request it is to."""
    topics = re.findall(r"topic-\w+", " ".join(message.content for message in call.messages))
    return agents.answer(call, text=f"about {topics[0]}")


def topic(event: dict[str, Any]) -> str:
    return str(event["results"][0]["proposal"]["content"]).removeprefix("about ")


class Operator:
    """What somebody does by hand with one server."""

    def __init__(self, binary: Path, url: str, folder: Path) -> None:
        self._binary = binary
        self._url = url
        self._folder = folder

    async def nats(self, *words: str) -> None:
        status, out = await run(self._binary, self._url, *words)
        assert status == 0, out

    async def back_up(self, stream: str) -> None:
        await self.nats("stream", "backup", stream, str(self._folder / stream))

    async def restore(self, stream: str) -> None:
        """In place of what there is now."""
        await self.nats("stream", "rm", stream, "--force")
        await self.nats("stream", "restore", str(self._folder / stream))


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nats_cli(tmp_path_factory.mktemp("natscli"))


@pytest.fixture
def operator(binary: Path, nats_url: str, tmp_path: Path) -> Operator:
    return Operator(binary, nats_url, tmp_path)


async def ask(fleet: Fleet, name: str, **more: Any) -> dict[str, Any]:
    code, event = await fleet.ask(subjects.ASK, {"task_description": f"Say topic-{name}", "num_agents": 1, **more})
    assert code is None, event
    return event


@asynccontextmanager
async def set_back(nats_url: str, operator: Operator, stream: str) -> AsyncIterator[Fleet]:
    """A fleet until its end; what is done inside, the stream does not know afterwards."""
    async with running(nats_url, about) as fleet:
        await ask(fleet, "first")
        await operator.back_up(stream)
        yield fleet
    await operator.restore(stream)


async def test_requests_after_their_stream_was_set_back_are_answered_with_their_own_results(
    nats_url: str, operator: Operator
) -> None:
    """Their numbers were given out before: each has an id that the fleet makes, of its own, and its answer."""
    async with set_back(nats_url, operator, subjects.DELIBERATION_REQUESTS) as fleet:
        older = [await ask(fleet, f"older{number}") for number in range(4)]
    async with running(nats_url, about) as fleet:
        for number in range(2):
            assert topic(await ask(fleet, f"newer{number}")) == f"topic-newer{number}"
        body = {"task_description": "Say topic-published", "num_agents": 1}
        ack = json.loads((await fleet.nc.request(subjects.REQUESTED, json.dumps(body).encode())).data)
        begun = await fleet.inbox.next(subjects.ACCEPTED, stream_sequence=ack["seq"])
        known = {event["task_id"] for event in older}
        assert re.fullmatch(r"d-\d+", begun["task_id"])
        assert subjects.generated_id(ack["seq"]) in known
        assert begun["task_id"] not in known
        ended = await fleet.inbox.next(subjects.COMPLETED, task_id=begun["task_id"])
        assert topic(ended) == "topic-published"
        assert await fleet.ask(subjects.RESULT, begun["task_id"].encode()) == (None, ANY)
        assert subjects.REJECTED not in [subject for subject, _, _ in fleet.inbox.events]


async def test_requests_after_states_were_set_back_are_answered_with_their_own_results(
    nats_url: str, operator: Operator
) -> None:
    """An id that the states do not know any more is free, within the duplicate window, too."""
    async with set_back(nats_url, operator, subjects.STATES) as fleet:
        await ask(fleet, "older", task_id="mine")
    async with running(nats_url, about) as fleet:
        assert topic(await ask(fleet, "newer", task_id="mine")) == "topic-newer"
        assert fleet.inbox.of("mine") == [subjects.ACCEPTED, subjects.COMPLETED]
        assert topic(await ask(fleet, "unnamed")) == "topic-unnamed"


@some_of(1, "verb", ["del", "purge"])
async def test_an_id_is_free_once_its_state_was_deleted(nats_url: str, operator: Operator, verb: str) -> None:
    """Also within the duplicate window, in which the messages of the earlier task are still known."""
    async with running(nats_url, about) as fleet:
        for name in ("one", "two", "three"):
            await fleet.request(task_id="mine", task_description=f"Say topic-{name}", num_agents=1)
            code, reply = await fleet.ask(subjects.RESULT, {"task_id": "mine", "wait_seconds": 20})
            assert (code, topic(reply["result"])) == (None, f"topic-{name}")
            assert await fleet.ask(subjects.CANCEL, {"task_id": "mine"})
            await operator.nats("kv", verb, subjects.BUCKET, "mine", "--force")
    ended = [body for subject, _, body in fleet.inbox.events if subject == subjects.COMPLETED]
    assert [topic(event) for event in ended] == ["topic-one", "topic-two", "topic-three"]


async def test_rejections_of_an_earlier_request_are_not_taken_for_those_of_a_later_one(
    nats_url: str, operator: Operator
) -> None:
    """Although both have the same number, and the stream of events tells of both."""
    async with set_back(nats_url, operator, subjects.DELIBERATION_REQUESTS) as fleet:
        for _ in range(3):
            code, _ = await fleet.ask(subjects.ASK, {"task_description": "Say topic-bad", "num_agents": 99})
            assert code == "400"
    async with running(nats_url, about) as fleet:
        assert topic(await ask(fleet, "good")) == "topic-good"
        code, again = await fleet.ask(subjects.ASK, {"task_description": "Say topic-bad", "num_agents": 98})
        assert (code, again["stream_sequence"]) == ("400", 3)
        js = fleet.nc.jetstream()
        await until_stored(js, subjects.DEAD_LETTERS, lambda count: count >= 4)
