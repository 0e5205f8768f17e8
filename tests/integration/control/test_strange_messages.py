"""What any client may send: it gets an answer, and neither the fleet nor anybody else notices."""

import asyncio
import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from fleet import subjects
from fleet.control.service.calls import TAKEN_OVER
from fleet.jetstream.history import rejections
from tests.support import agents
from tests.support.client.following import Follower
from tests.support.fleets.control_plane import Fleet, running
from tests.support.variants import some_of
from tests.support.waiting import WITHIN_S, until_emptied
from tests.support.workers.fake_control_plane import Plane, request, working
from workers.simulator.server import Simulator

BAD_BODY = b"{" + b"x" * (8 * 1024 * 1024 - 60_200)
"""With the longest headers that JetStream takes, as long as a message can be."""


async def publish_raw(nats_url: str, subject: str, headers: dict[str, str], body: bytes) -> None:
    """As a client in another language may: nats-py does not send every header that it reads."""
    reader, writer = await asyncio.open_connection(urlsplit(nats_url).hostname, urlsplit(nats_url).port)
    head = b"NATS/1.0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items()) + b"\r\n"
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
    writer.write(f"HPUB {subject} {len(head)} {len(head) + len(body)}\r\n".encode() + head + body + b"\r\nPING\r\n")
    async with asyncio.timeout(WITHIN_S):
        while (await reader.readline()) != b"PONG\r\n":
            pass
    writer.close()


async def nothing_waits(fleet: Fleet) -> None:
    await until_emptied(fleet.nc.jetstream(), subjects.DELIBERATION_REQUESTS)


@some_of(1, "share", [0.3, 0.4, 0.6, 0.9])
@pytest.mark.parametrize("subject", [subjects.RESULT, subjects.CANCEL])
async def test_an_id_as_long_as_a_message_is_refused(nats_url: str, subject: str, share: float) -> None:
    """The reply would not fit one message; NATS closes connections over that."""
    async with running(nats_url, agents.answer) as fleet:
        code, reply = await fleet.ask(subject, b"a" * round(share * fleet.nc.max_payload))
        assert (code, "$.task_id" in reply["error"], len(reply["error"]) < 200) == ("400", True, True)
        code, done = await fleet.ask(subjects.ASK, {"task_description": "still there?", "num_agents": 1})
        assert (code, done["status"]) == (None, "COMPLETED")


async def test_an_option_whose_name_is_as_long_as_a_message_is_refused(nats_url: str) -> None:
    """The asker hears of it, although the rejection is too long for one message."""
    async with running(nats_url, agents.answer) as fleet:
        name = "o" * round(0.6 * fleet.nc.max_payload)
        code, reply = await fleet.ask(subjects.ASK, {"task_description": "x", "options": {name: 1}})
        assert (code, "options.ooo" in reply["error"]) == ("400", True)


@pytest.mark.parametrize(
    "strange",
    [{"correlation": {"story": "s" * 500_000}}, {"correlation": {"s" * 500_000: ""}}, {"task_id": "t" * 500_000}],
)
async def test_a_rejection_repeats_nothing_that_is_long(nats_url: str, strange: dict[str, Any]) -> None:
    """Else a few of them would push the ends of others out of the stream."""
    async with running(nats_url, agents.answer) as fleet:
        code, reply = await fleet.ask(subjects.ASK, {"task_description": "", **strange})
        assert (code, reply["code"], len(str(reply)) < 1000) == ("400", "invalid", True)
        info = await fleet.nc.jetstream().stream_info(subjects.DELIBERATIONS)
        assert info.state.bytes < 5000


@pytest.mark.parametrize("traceparent", [f"00-{'a' * 32}-{'b' * 16}-{'c' * 60_000}", "00-a-b-01", "ü"])
async def test_a_traceparent_that_is_none_begins_a_new_trace(nats_url: str, traceparent: str) -> None:
    """It is not carried on."""
    async with running(nats_url, agents.answer) as fleet:
        await publish_raw(
            nats_url, subjects.REQUESTED, {"traceparent": traceparent}, b'{"task_description": "x", "num_agents": 1}'
        )
        await fleet.inbox.next(subjects.COMPLETED, task_id="d-1")
        given = next(headers for subject, headers, _ in fleet.inbox.events if subject == subjects.ACCEPTED)
        assert [len(part) for part in given["traceparent"].split("-")] == [2, 32, 16, 2]
        assert "a" * 32 not in given["traceparent"]


@some_of(
    2,
    "headers",
    [
        {"x/y": "1", "a(b)": "2", "Story": "S-1"},
        {"Story": "S-1", "X-Long": "v" * 60_000},
        {"Nats-Expected-Stream": "DELIBERATION_REQUESTS", "Story": "S-1"},
        {"Story": "S-1", "X-Text": "übel"},
    ],
    ids=["names", "long", "obeyed", "not ascii"],
)
async def test_a_bad_request_with_strange_headers_is_buried_once(nats_url: str, headers: dict[str, str]) -> None:
    """With those that a message can carry."""
    async with running(nats_url, agents.answer) as fleet:
        await publish_raw(nats_url, subjects.REQUESTED, headers, BAD_BODY)
        await fleet.inbox.next(subjects.REJECTED, stream_sequence=1)
        await nothing_waits(fleet)
        letter = await fleet.nc.jetstream().get_msg(subjects.DEAD_LETTERS, seq=1)
        assert (letter.data, letter.headers["Story"]) == (BAD_BODY, "S-1")
        assert not {"x/y", "a(b)", "X-Long", "Nats-Expected-Stream"} & letter.headers.keys()
        code, done = await fleet.ask(subjects.ASK, {"task_description": "still there?", "num_agents": 1})
        assert (code, done["status"]) == (None, "COMPLETED")
        assert sum(subject == subjects.REJECTED for subject, _, _ in fleet.inbox.events) == 1


async def test_a_bad_request_with_an_empty_message_id_stands_in_nobodys_way(nats_url: str) -> None:
    """Calls that name a task by its id have published no request, so no rejection is theirs."""
    async with running(nats_url, agents.answer) as fleet:
        await fleet.ask(subjects.ASK, {"task_id": "t", "task_description": "x", "num_agents": 1})
        await publish_raw(nats_url, subjects.REQUESTED, {"Nats-Msg-Id": ""}, b"{}")
        await fleet.inbox.next(subjects.REJECTED, stream_sequence=2)
        follower = await Follower(fleet).call(b"t")
        assert [reply["status"] for reply in await follower.rest()] == ["COMPLETED"] * 2
        assert follower.codes == [None] * 2


async def test_a_message_id_that_is_used_again_is_another_request(nats_url: str) -> None:
    """As of clients that count from 1: NATS remembers an id for two minutes only."""
    async with running(nats_url, agents.answer) as fleet:

        async def ask(**body: Any) -> tuple[str | None, Any]:
            await asyncio.sleep(0.3)
            request = json.dumps({"task_description": "x", "num_agents": 1, **body}).encode()
            reply = await fleet.nc.request(subjects.ASK, request, timeout=WITHIN_S, headers={"Nats-Msg-Id": "1"})
            answered = json.loads(reply.data)
            return (reply.headers or {}).get("Nats-Service-Error-Code"), answered.get("status", answered.get("code"))

        js = fleet.nc.jetstream()
        config = (await js.stream_info(subjects.DELIBERATION_REQUESTS)).config
        await js.update_stream(replace(config, duplicate_window=0.1))
        assert await ask(num_agents=100) == ("400", "invalid")
        assert await ask() == (None, "COMPLETED")
        assert await ask(task_id="t") == (None, "COMPLETED")
        assert await ask(task_id="t", task_description="another") == ("409", "conflict")


@pytest.mark.parametrize("taken_over", ["9" * 5000, "9" * 30, "\u0663", "-1"])
async def test_what_no_instance_has_handed_over_is_a_request_of_its_own(nats_url: str, taken_over: str) -> None:
    async with running(nats_url, agents.answer) as fleet:
        body = b'{"task_description": "x", "num_agents": 1}'
        reply = await fleet.nc.request(subjects.ASK, body, timeout=WITHIN_S, headers={TAKEN_OVER: taken_over})
        assert json.loads(reply.data)["status"] == "COMPLETED"


@pytest.mark.parametrize("digits", [19, 37, 62])
async def test_a_sequence_that_no_stream_has_is_nobodys(nats_url: str, digits: int) -> None:
    async with running(nats_url, agents.answer) as fleet:
        for subject in (subjects.RESULT, subjects.CANCEL):
            code, _ = await fleet.ask(subject, b"d-" + b"9" * digits)
            assert code == "404"


async def test_calls_that_want_the_last_hour_read_share_a_reading(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any client can make them in thousands: as if an instance had handed over what no stream has."""
    readings = []

    def counted(*given: Any) -> Any:
        readings.append(given)
        return rejections(*given)

    monkeypatch.setattr("fleet.control.service.last_hour.rejections", counted)
    monkeypatch.setattr("fleet.control.service.endpoints.POLL_S", 0.1)
    async with running(nats_url, agents.answer) as fleet:

        async def ask(number: int) -> str | None:
            body = json.dumps({"task_id": f"t-{number}", "task_description": "x"}).encode()
            header = {TAKEN_OVER: f"{1000 + number} ask.{number}"}
            reply = await fleet.nc.request(subjects.ASK, body, timeout=WITHIN_S, headers=header)
            return (reply.headers or {}).get("Nats-Service-Error-Code")

        assert set(await asyncio.gather(*map(ask, range(100)))) == {"404"}
        assert len(readings) <= 10


async def test_a_forged_call_with_an_endless_id_harms_no_worker(plane: Plane) -> None:
    """NATS closes a connection that asks for a key so long."""
    async with Simulator() as simulator, working(plane, simulator) as worker:
        late: dict[str, Any] = {"task_id": "t" * 5000, "deadline_at": "2020-01-01T00:00:00.000Z"}
        await plane.submit(request(**late))
        await plane.settled()
        assert not worker.ended.done()
        await plane.submit(request())
        body = json.loads((await plane.next(subjects.AGENT_COMPLETED)).data)
        assert body["task_id"] == "t"
