"""Streams that reach their `max_bytes`, on a real server: new work waits, and nothing that is owed is lost."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import nats
import pytest
from msgspec import structs
from nats.js.api import StorageType
from nats.js.errors import APIError

from fleet import subjects
from fleet.config import Settings, load
from fleet.errors import ConfigError
from fleet.jetstream import topology
from fleet.jetstream.declaring.capacity import HOLD_AT, HOLDING, shortage
from fleet.limits.streams import DEFAULTS, GIB, MIB, StreamLimits
from fleet.messages import encode
from tests.support import agents
from tests.support.council import begin, calls
from tests.support.fleets.control_plane import running
from tests.support.variants import some_of

FILLER = {
    subjects.DELIBERATION_CONTROL: "control.cancel",
    subjects.AGENT_REQUESTS: subjects.AGENT_REQUESTED,
    subjects.STATES: f"$KV.{subjects.BUCKET}.filler-{{}}",
    subjects.TEXTS_STREAM: f"$O.{subjects.TEXTS}.C.filler-{{}}",
    subjects.ANSWERS_STREAM: f"$O.{subjects.ANSWERS}.C.filler-{{}}",
    subjects.DELIBERATION_REQUESTS: subjects.REQUESTED,
    subjects.DELIBERATIONS: subjects.ACCEPTED,
    subjects.AGENT_RESPONSES: subjects.AGENT_COMPLETED,
    subjects.AGENT_PROGRESS_STREAM: subjects.AGENT_PROGRESS,
    subjects.DEAD_LETTERS: "deadletter.agent.requested",
}
SMALL = {name: structs.replace(limits, max_bytes=4 * MIB) for name, limits in DEFAULTS.items()}
CHUNK = b'"' + b"x" * 200_000 + b'"'


async def fill(js: Any, stream: str, share: float) -> None:
    """Until the stream holds this share of its limit. Every message has a subject of its own, where it may."""
    number = (await js.stream_info(stream)).state.last_seq
    while (info := await js.stream_info(stream)).state.bytes < share * info.config.max_bytes:
        await js.publish(FILLER[stream].format(number), CHUNK)
        number += 1


def small(url: str, **more: Any) -> Settings:
    return structs.replace(load({"NATS_URL": url}), streams=SMALL, **more)


async def test_every_stream_and_bucket_has_a_limit(nats_url: str) -> None:
    """All together fit a volume of 10 GiB."""
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, load({}))
    configs = [info.config for info in await js.streams_info()]
    assert {config.name: config.max_bytes for config in configs} == {
        name: limits.max_bytes for name, limits in DEFAULTS.items()
    }
    assert sum(config.max_bytes or 0 for config in configs if config.storage == StorageType.FILE) <= 10 * GIB
    await nc.close()


@pytest.mark.parametrize("stream", [name for name in HOLDING if name != subjects.DELIBERATION_CONTROL])
async def test_a_stream_that_may_lose_nothing_refuses_what_is_new(nats_url: str, stream: str) -> None:
    """And before that there is no room for a new deliberation, which is told by stream."""
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, small(nats_url))
    assert await shortage(js) is None
    await fill(js, stream, HOLD_AT)
    assert f"{stream} holds 8" in (await shortage(js) or "")
    with pytest.raises(APIError, match="maximum bytes exceeded"):
        await fill(js, stream, 2)
    first = (await js.stream_info(stream)).state.first_seq
    assert first == 1
    await nc.close()


@pytest.mark.parametrize("stream", [subjects.STATES, subjects.TEXTS_STREAM])
async def test_requests_wait_while_there_is_no_room_and_what_is_in_progress_ends(
    nats_url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are accepted once there is room again."""
    monkeypatch.setattr("fleet.control.admitting.admission.ROOM_VALID_S", 0.0)
    waiting: list[Any] = []
    is_open = False

    def respond(call: Any) -> Any:
        if is_open:
            return agents.answer(call)
        waiting.append(call)
        return None

    async with running(nats_url, respond, streams=SMALL) as fleet:
        js = fleet.nc.jetstream()
        await fleet.request(task_id="begun", num_agents=2)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="begun")
        await fill(js, stream, HOLD_AT)
        await fleet.request(task_id="waits", num_agents=1)
        is_open = True
        for call in waiting:
            await agents.publish(js, agents.answer(call))
        await fleet.inbox.next(subjects.COMPLETED, task_id="begun")
        code, reply = await fleet.ask(subjects.RESULT, {"task_id": "waits"})
        assert (code, reply["status"]) == (None, "PENDING")
        await js.purge_stream(stream, subject=FILLER[stream].format("*").replace("filler-*", "*"))
        await fleet.inbox.next(subjects.COMPLETED, task_id="waits")


async def test_a_client_is_told_when_no_more_requests_can_wait(nats_url: str) -> None:
    """By the error of NATS, and as 503 of `deliberation.ask`."""
    async with running(nats_url, agents.answer, streams=SMALL) as fleet:
        js = fleet.nc.jetstream()
        await fill(js, subjects.STATES, HOLD_AT)
        long = json.dumps({"task_description": "x" * 60_000, "num_agents": 1})
        with pytest.raises(APIError, match="maximum bytes exceeded"):
            await asyncio.gather(*(js.publish(subjects.REQUESTED, long.encode()) for _ in range(100)))
        code, reply = await fleet.ask(subjects.ASK, long.encode())
        assert (code, "maximum bytes exceeded" in reply["error"]) == ("503", True)


@some_of(
    1,
    "stream",
    [subjects.DELIBERATIONS, subjects.AGENT_RESPONSES, subjects.AGENT_PROGRESS_STREAM, subjects.DEAD_LETTERS],
)
async def test_history_makes_room_for_what_is_new(nats_url: str, stream: str) -> None:
    """The oldest goes, and deliberations go on."""
    async with running(nats_url, agents.answer, streams=SMALL) as fleet:
        js = fleet.nc.jetstream()
        for _ in range(30):
            await js.publish(FILLER[stream], CHUNK)
        assert (await js.stream_info(stream)).state.first_seq > 1
        await fleet.request(task_id="t")
        await fleet.inbox.next(subjects.COMPLETED, task_id="t")


async def test_deadlines_are_not_dropped_for_new_ones(nats_url: str) -> None:
    """NATS has scheduled messages only in streams that drop the oldest: requests wait before that."""
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, small(nats_url))
    await fill(js, subjects.DELIBERATION_CONTROL, HOLD_AT)
    assert "DELIBERATION_CONTROL holds 8" in (await shortage(js) or "")
    assert (await js.stream_info(subjects.DELIBERATION_CONTROL)).state.first_seq == 1
    await nc.close()


async def test_answers_that_nobody_handles_hold_new_deliberations(nats_url: str) -> None:
    """Their stream drops the oldest: it must not come to that."""
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, small(nats_url))
    await fill(js, subjects.AGENT_RESPONSES, 0.5)
    assert "AGENT_RESPONSES: 5" in (await shortage(js) or "")
    await nc.close()


async def test_calls_fit_what_is_set_aside(nats_url: str) -> None:
    """A call of a default council, as often as there may be deliberations with the largest council, fits."""
    body = encode(calls(begin())[0])
    assert 1_000 * 16 * (len(body) + 1_000) < HOLD_AT * DEFAULTS[subjects.AGENT_REQUESTS].max_bytes


async def test_storage_is_what_the_settings_say_and_cannot_be_changed_later(nats_url: str) -> None:
    """NATS would refuse it: the setting and the stream are named."""
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    progress = subjects.AGENT_PROGRESS_STREAM
    on_disk = {**DEFAULTS, progress: StreamLimits(max_bytes=MIB, storage="file")}
    await topology.declare(js, structs.replace(load({}), streams=on_disk))
    assert (await js.stream_info(progress)).config.storage == StorageType.FILE
    with pytest.raises(
        ConfigError, match=r"streams\.AGENT_PROGRESS\.storage: the stream is in file, the setting says memory"
    ):
        await topology.declare(js, load({}))
    await nc.close()


@pytest.mark.parametrize("change", [lambda size: size * 2, lambda size: size // 2], ids=["larger", "smaller"])
async def test_sizes_follow_the_settings(nats_url: str, change: Callable[[int], int]) -> None:
    """Of streams that exist, too."""
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, small(nats_url))
    other = {name: structs.replace(limits, max_bytes=change(limits.max_bytes)) for name, limits in SMALL.items()}
    await topology.declare(js, structs.replace(load({}), streams=other))
    assert {(await js.stream_info(name)).config.max_bytes for name in DEFAULTS} == {change(4 * MIB)}
    await nc.close()
