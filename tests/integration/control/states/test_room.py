"""A bucket that fills up with states of ended tasks holds up no request: the oldest ones go."""

from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
import pytest_asyncio
from msgspec import structs
from nats.js.errors import NotFoundError

from fleet import subjects
from fleet.clock import now_ms
from fleet.config import load
from fleet.control.call_tokens import CallTokens
from fleet.control.publishing.outbox import Outbox
from fleet.control.states import room
from fleet.control.states.room import OWED_FOR_MS, TOLD_AFTER_MS, StatesRoom
from fleet.control.states.store import KeyValueStore, Stored
from fleet.deliberation.events import CancelAsked, Requested
from fleet.deliberation.machine import decide
from fleet.deliberation.state import Deliberation
from fleet.jetstream import topology
from fleet.jetstream.declaring.capacity import fullness
from fleet.jetstream.history import terminal_id
from fleet.jetstream.payloads import Texts
from fleet.limits.streams import DEFAULTS, MIB
from fleet.requests.task import Task
from tests.support import agents
from tests.support.fleets.control_plane import running

SMALL = DEFAULTS | {subjects.STATES: structs.replace(DEFAULTS[subjects.STATES], max_bytes=4 * MIB)}
LONG = "x" * 60_000


def ended(name: str, sequence: int, at_ms: int) -> Deliberation:
    begun = decide(None, Requested(name, Task(task_description=LONG), sequence, at_ms)).state
    return decide(begun, CancelAsked("", at_ms)).state


class Bucket:
    """A small one. What is saved there has ended long enough ago, and its end is in its stream."""

    def __init__(self, nc: Any, store: KeyValueStore, outbox: Outbox) -> None:
        self.nc = nc
        self.js = nc.jetstream()
        self.store = store
        self.outbox = outbox
        self._count = 0

    async def save(self, name: str, **changed: Any) -> Stored:
        self._count += 1
        state = ended(name, self._count, now_ms() - TOLD_AFTER_MS).change(**changed)
        await self.js.publish(subjects.CANCELLED, b"{}", headers={"Nats-Msg-Id": terminal_id(name, state.run)})
        return await self.store.save(state, 0)

    async def fill(self, tenant: str = "") -> str:
        """Returns the name of the first. `tenant`: with the dot behind it."""
        first = f"{tenant}t{self._count}"
        while fullness(await self.js.stream_info(subjects.STATES)) < 0.75:
            await self.save(f"{tenant}t{self._count}")
        return first


@pytest_asyncio.fixture
async def small(nats_url: str) -> AsyncIterator[Bucket]:
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, structs.replace(load({}), streams=SMALL))
    texts = Texts(js, nc.max_payload)
    yield Bucket(nc, await KeyValueStore.open(js, texts), Outbox(nc, js, texts, "collector", await CallTokens.open(js)))
    await nc.close()


@pytest.mark.slow
async def test_a_fleet_that_is_always_busy_forgets_the_oldest_results(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than its bucket holds is asked, and all of it answered. What runs meanwhile ends, too."""
    monkeypatch.setattr("fleet.control.admitting.admission.ROOM_VALID_S", 0.0)
    monkeypatch.setattr(room, "TOLD_AFTER_MS", 0)
    monkeypatch.setattr(room, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(room, "LOOK_AGAIN_S", 0.1)
    open_calls: list[Any] = []

    def respond(call: Any) -> Any:
        if call.task_id != "slow":
            return agents.answer(call)
        open_calls.append(call)
        return None

    async with running(nats_url, respond, streams=SMALL) as fleet:
        await fleet.request(task_id="slow", num_agents=1, rounds=0)
        await fleet.inbox.next(subjects.ACCEPTED, task_id="slow")
        ids = [f"t{number}" for number in range(80)]
        for task_id in ids:
            await fleet.request(task_id=task_id, task_description=LONG, num_agents=1, rounds=0)
            await fleet.inbox.next(subjects.COMPLETED, task_id=task_id)
        assert (await fleet.ask(subjects.RESULT, {"task_id": ids[0]}))[0] == "404"
        code, reply = await fleet.ask(subjects.RESULT, {"task_id": ids[-1]})
        assert (code, reply["status"]) == (None, "COMPLETED")
        await agents.publish(fleet.nc.jetstream(), agents.answer(open_calls[0]))
        await fleet.inbox.next(subjects.COMPLETED, task_id="slow")
        assert all(fleet.inbox.of(each) == [subjects.ACCEPTED, subjects.COMPLETED] for each in ("slow", *ids))


async def test_only_what_nothing_is_owed_from_goes(small: Bucket) -> None:
    """Neither what runs, nor what ended lately, nor, for an hour, an end that is not in its stream."""
    js, store = small.js, small.store
    now = now_ms()
    ages = {"hour": OWED_FOR_MS, "old": TOLD_AFTER_MS, "told": TOLD_AFTER_MS, "new": TOLD_AFTER_MS - 90_000}
    runs = decide(None, Requested("runs", Task(task_description=LONG), 1, now - OWED_FOR_MS)).state
    await store.save(runs, 0)
    for number, (name, age_ms) in enumerate(ages.items(), start=2):
        state = ended(name, number, now - age_ms)
        await store.save(state, 0)
        if name == "told":
            await js.publish(subjects.CANCELLED, b"{}", headers={"Nats-Msg-Id": terminal_id(name, state.run)})
    number = len(ages) + 1
    while fullness(await js.stream_info(subjects.STATES)) < 0.75:
        number += 1
        await store.save(ended(f"new-{number}", number, now), 0)
    assert not await StatesRoom(js, store, small.outbox).make()
    assert {name for name in (*ages, "runs") if await store.load(name) is None} == {"hour", "told"}


async def test_many_go_by_few_readings_of_the_events(small: Bucket) -> None:
    """Else a fleet that ends many tasks in a second fills its bucket faster than it is emptied."""
    readings: list[Any] = []

    async def take(msg: Any) -> None:
        readings.append(msg)

    await small.nc.subscribe(subjects.CONSUMER_CREATE, cb=take)
    first = await small.fill()
    assert await StatesRoom(small.js, small.store, small.outbox).make()
    assert await small.store.load(first) is None
    assert len([msg for msg in readings if subjects.DELIBERATIONS in msg.subject]) <= 2


async def test_a_tenant_pushes_out_its_own_results(small: Bucket) -> None:
    """Though another one's are older: that one has less than its share of the bucket."""
    for name in ("light.old", "heavy.old"):
        await small.save(name)
    await small.fill("heavy.")
    assert await StatesRoom(small.js, small.store, small.outbox).make()
    assert [name for name in ("light.old", "heavy.old") if await small.store.load(name) is None] == ["heavy.old"]


@pytest.mark.parametrize("overtaken", ["_sizes", "_next"])
async def test_several_at_once_delete_no_more_than_one(
    small: Bucket, overtaken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another one deletes once the sizes are read, or before the next ones are looked at, is room."""
    await small.fill()
    one, other = (StatesRoom(small.js, small.store, small.outbox) for _ in range(2))
    whole = getattr(one, overtaken)

    async def late(*given: Any) -> Any:
        found = await whole(*given) if overtaken == "_sizes" else None
        assert await other.make()
        return found or await whole(*given)

    monkeypatch.setattr(one, overtaken, late)
    assert await one.make()
    assert fullness(await small.js.stream_info(subjects.STATES)) > room.ENOUGH_AT - 0.05


async def test_one_whose_publisher_is_silent_holds_up_no_other(small: Bucket) -> None:
    """It is kept: its end may still arrive."""
    await small.nc.subscribe(subjects.instance_of("silent"))
    await small.save("silent", written_by="silent")
    first = await small.fill()
    assert await StatesRoom(small.js, small.store, small.outbox).make()
    assert [name for name in ("silent", first) if await small.store.load(name) is None] == [first]


async def test_what_is_deleted_leaves_nothing_and_what_has_changed_stays(small: Bucket) -> None:
    """The marks of the bucket's own deletion take room for days, and are walked through at each look."""
    old, new = await small.save("gone"), await small.save("stays")
    await small.store.save(new.state.change(round=1), new.revision)
    for stored in (old, new):
        await small.store.delete(stored)
    with pytest.raises(NotFoundError):
        await small.js.get_last_msg(subjects.STATES, f"$KV.{subjects.BUCKET}.gone")
    stays = await small.store.load("stays")
    assert stays is not None
    assert stays.state.round == 1
    assert await small.store.save(old.state, 0)
