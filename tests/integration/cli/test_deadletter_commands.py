"""`fleet deadletter`, as a person types it, against a real nats-server."""

import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import load
from fleet.control.call_tokens import CallTokens
from fleet.control.publishing.outbox import Outbox
from fleet.jetstream import topology
from fleet.jetstream.payloads import Texts
from fleet.tenants.names import subject_of
from fleet.times import rfc3339
from tests.support.client import commands
from tests.support.nats.permitted import permitted

BODY = b'{"task_description": "Design it", "num_agents": "three"}'


class Desk:
    """A terminal, and the streams behind it."""

    def __init__(self, url: str, nc: Any, directory: Path) -> None:
        self.url = url
        self.nc = nc
        self.js = nc.jetstream()
        self._directory = directory

    async def bury(
        self, body: bytes, max_payload: int | None = None, subject: str = subjects.REQUESTED, **headers: str
    ) -> None:
        texts = Texts(self.js, max_payload or self.nc.max_payload)
        await Outbox(self.nc, self.js, texts, "dispatcher", CallTokens(self.js, b"a key")).dead_letter(
            subject,
            body,
            headers,
            stream=subjects.DELIBERATION_REQUESTS,
            sequence=zlib.crc32(subject.encode()),
            run="",
            reason="it broke",
        )

    async def run(self, *words: str, url: str | None = None) -> tuple[int, str, str]:
        """Exit status, standard output, standard error of `fleet deadletter …`."""
        where = ("--nats-url", url or self.url, "--data-dir", str(self._directory))
        return await commands.fleet("deadletter", *words, *where)

    async def json(self, *words: str) -> Any:
        status, out, err = await self.run(*words, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    async def requests(self) -> int:
        return int((await self.js.stream_info(subjects.DELIBERATION_REQUESTS)).state.messages)


@pytest.fixture
async def desk(nats_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    nc = await nats.connect(nats_url)
    await topology.declare(nc.jetstream(), load({}))
    yield Desk(nats_url, nc, tmp_path)
    await nc.close()


async def test_letters_are_listed_and_shown_whole(desk: Desk) -> None:
    """Body and headers as they came, with the reason."""
    assert await desk.run("list") == (0, "no dead letters\n", "")
    await desk.bury(BODY, origin="x")
    listed = await desk.json("list")
    assert (listed["sequence"], listed["subject"], listed["body"]) == (1, subjects.REQUESTED, BODY.decode())
    assert (listed["headers"]["origin"], listed["replayed"]) == ("x", None)
    assert listed["headers"]["Dead-Letter-Reason"] == "it broke"
    assert await desk.json("show", "1") == listed
    for words in (["list"], ["show", "1"]):
        status, out, _ = await desk.run(*words)
        assert (status, subjects.REQUESTED in out, "it broke" in out) == (0, True, True)
    assert out.endswith(f"\n\n{BODY.decode()}\n")


async def test_each_letter_says_whose_it_is(desk: Desk) -> None:
    """A tenant's is told by its subject, and a call's by the key of its task; one tenant's can be listed alone."""
    await desk.bury(BODY)
    _, out, _ = await desk.run("list")
    assert "tenant" not in out
    await desk.bury(BODY, subject=subject_of("team-a", subjects.REQUESTED))
    await desk.bury(BODY, subject=subjects.AGENT_REQUESTED, **{"Task-Id": "team-b.d-1"})
    status, out, _ = await desk.run("list", "--json")
    told = [(letter["sequence"], letter["tenant"]) for letter in map(json.loads, out.splitlines())]
    assert (status, told) == (0, [(1, "default"), (2, "team-a"), (3, "team-b")])
    status, out, _ = await desk.run("list")
    assert (status, "team-a" in out, "team-b" in out) == (0, True, True)
    assert (await desk.json("list", "--tenant", "team-b"))["sequence"] == 3
    assert await desk.run("list", "--tenant", "team-c") == (0, "no dead letters\n", "")


async def test_replay_hands_a_letter_in_once(desk: Desk) -> None:
    """As it was first sent; also when NATS has forgotten its id, which a purge of the stream stands for."""
    await desk.bury(BODY, traceparent="00-a-b-01")
    done = await desk.json("replay", "1")
    assert (done["stream"], done["sequence"], done["before"]) == (subjects.DELIBERATION_REQUESTS, 1, False)
    sent = await desk.js.get_msg(subjects.DELIBERATION_REQUESTS, 1)
    assert sent.data == BODY
    assert sent.headers == {"traceparent": "00-a-b-01", "Nats-Msg-Id": "replay.1"}
    await desk.js.delete_stream(subjects.DELIBERATION_REQUESTS)
    await topology.declare(desk.js, load({}))
    again = await desk.json("replay", "1")
    assert again == {**done, "before": True}
    assert await desk.requests() == 0
    _, out, _ = await desk.run("replay", "1")
    assert out == "dead letter 1 was replayed before: DELIBERATION_REQUESTS 1\n"
    assert (await desk.json("list"))["replayed"]["sequence"] == 1


async def test_replay_that_broke_off_before_its_note_is_done_once(desk: Desk) -> None:
    """Within the time in which NATS recognises the id."""
    await desk.bury(BODY)
    await desk.json("replay", "1")
    await desk.js.purge_stream(subjects.DEAD_LETTERS, subject=subjects.replayed(1))
    await desk.json("replay", "1")
    assert await desk.requests() == 1


async def test_replay_that_broke_off_after_its_note_is_done_once(desk: Desk) -> None:
    """Again at once; not any more when NATS may have forgotten its id."""
    await desk.bury(BODY)
    await desk.json("replay", "1")
    note = json.dumps({"at": rfc3339(now_ms())}).encode()
    await desk.js.publish(subjects.replayed(1), note)
    assert (await desk.json("replay", "1"))["before"] is False
    assert await desk.requests() == 1
    assert (await desk.json("replay", "1"))["before"] is True
    await desk.js.publish(subjects.replayed(1), b'{"at": "2026-01-01T00:00:00.000Z"}')
    status, _, err = await desk.run("replay", "1")
    assert (status, "broke off" in err, subjects.REQUESTED in err) == (1, True, True)
    assert await desk.requests() == 1
    assert "it broke off" in (await desk.run("show", "1"))[1]


async def test_replay_that_nats_refuses_leaves_no_note(desk: Desk) -> None:
    """It can be done once there is room."""
    await desk.bury(BODY)
    full = (await desk.js.stream_info(subjects.DELIBERATION_REQUESTS)).config
    await desk.js.publish(subjects.REQUESTED, b"{}")
    await desk.js.update_stream(full.evolve(max_msgs=1))
    status, _, err = await desk.run("replay", "1")
    assert (status, "try again later" in err) == (1, True)
    await desk.js.update_stream(full)
    assert (await desk.json("replay", "1"))["before"] is False


async def test_the_operator_may_replay_and_the_client_is_told_that_it_may_not(
    tmp_path: Path, nats_binary: None
) -> None:
    """Under the shipped permissions; the password is in no message."""
    async with permitted(tmp_path / "nats") as users, users.connected("control") as (nc, _):
        await topology.declare(nc.jetstream(), load({}))
        desk = Desk(users.url("operator"), nc, tmp_path)
        await desk.bury(BODY)
        assert (await desk.json("list"))["replayed"] is None
        assert (await desk.json("replay", "1"))["before"] is False
        assert (await desk.json("list"))["replayed"]["sequence"] == 1
        assert await desk.requests() == 1
        status, out, err = await desk.run("list", url=users.url("client"))
        assert (status, out) == (1, "")
        assert err.startswith("fleet: user 'client' may not publish $js.api.")
        assert "pclient" not in err


async def test_letter_by_reference_is_shown_and_replayed_whole(desk: Desk) -> None:
    """Whoever looks at it need not know where it lies."""
    body = b'{"task_description": "' + b"x" * 60_000 + b'"}'
    await desk.bury(body, max_payload=32_768)
    assert len((await desk.js.get_msg(subjects.DEAD_LETTERS, 1)).data) < 1000
    assert (await desk.json("show", "1"))["body"] == body.decode()
    await desk.json("replay", "1")
    assert (await desk.js.get_msg(subjects.DELIBERATION_REQUESTS, 1)).data == body


async def test_drop_deletes_for_good(desk: Desk) -> None:
    """With what was noted of it; a letter that is not there is a bad request."""
    await desk.bury(BODY)
    await desk.json("replay", "1")
    assert await desk.json("drop", "1") == {"dead_letter": 1, "dropped": True}
    assert (await desk.js.stream_info(subjects.DEAD_LETTERS)).state.messages == 0
    for command in ("show", "replay", "drop"):
        status, out, err = await desk.run(command, "1")
        assert (status, out) == (2, "")
        assert "there is no dead letter 1: see `fleet deadletter list`" in err


async def test_without_nats_or_a_fleet_it_says_so(desk: Desk) -> None:
    """Exit status 3, and what to do."""
    status, _, err = await desk.run("list", url="nats://127.0.0.1:1")
    assert (status, "fleet up" in err) == (3, True)
    await desk.js.delete_stream(subjects.DEAD_LETTERS)
    status, _, err = await desk.run("list")
    assert (status, "fleet up" in err) == (3, True)


async def test_what_a_neighbour_has_put_among_the_letters_harms_nobody(desk: Desk) -> None:
    """Neither a letter that the fleet did not write, nor a note of a replay that is none."""
    await desk.bury(BODY)
    await desk.js.publish("deadletter.orders", b"of somebody else")
    await desk.js.publish(subjects.replayed(1), b"no note of ours")
    status, out, err = await desk.run("list")
    assert (status, err, subjects.REQUESTED in out) == (0, "", True)
    assert (await desk.json("show", "1"))["replayed"] is None
    status, out, err = await desk.run("replay", "2")
    assert (status, out) == (2, "")
    assert "no stream takes orders" in err
    assert (await desk.json("show", "2"))["replayed"] is None
