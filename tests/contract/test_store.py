"""One contract for every store: what the runner relies on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest

from fleet import subjects
from fleet.config import load
from fleet.control.states.store import KeyValueStore, MemoryStore, StateStore, Stored
from fleet.deliberation.events import Requested
from fleet.deliberation.machine import decide
from fleet.deliberation.state import SCHEMA_VERSION, Deliberation
from fleet.errors import NewerState, StoreConflict
from fleet.jetstream import topology
from fleet.jetstream.payloads import MissingText, Texts, reference
from fleet.messages import ContentRef, encode
from fleet.requests.task import Task


def state(text: str = "Build it") -> Deliberation:
    return decide(None, Requested("t-1", Task(task_description=text), 1, 1_767_225_600_000)).state


@pytest.fixture(params=["memory", "nats"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[StateStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    nc = await nats.connect(request.getfixturevalue("nats_url"))
    js = nc.jetstream()
    await topology.declare(js, load({}))
    yield await KeyValueStore.open(js, Texts(js, max_payload=64 * 1024))
    await nc.close()


@pytest.fixture
def _server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("nats_url")


@pytest.mark.usefixtures("_server")
class TestStore:
    """Runs against the memory store and the JetStream bucket."""

    async def test_unknown_task_is_none(self, store: StateStore) -> None:
        """Nothing there is no error."""
        assert await store.load("nobody") is None

    async def test_what_was_saved_is_loaded(self, store: StateStore) -> None:
        """A state survives the trip unchanged, with its revision."""
        saved = await store.save(state(), 0)
        stored = await store.load("t-1")
        assert stored is not None
        assert stored == saved == Stored(state(), saved.revision, len(encode(state())))

    async def test_second_create_is_a_conflict(self, store: StateStore) -> None:
        """Only one of two may create."""
        await store.save(state(), 0)
        with pytest.raises(StoreConflict):
            await store.save(state(), 0)

    async def test_stale_revision_is_a_conflict(self, store: StateStore) -> None:
        """A writer who read before another one wrote must read again; what stands is the other one's."""
        first = await store.save(state(), 0)
        second = await store.save(state().change(round=1), first.revision)
        with pytest.raises(StoreConflict):
            await store.save(state().change(round=2), first.revision)
        stored = await store.load("t-1")
        assert stored is not None
        assert (stored.state.round, stored.revision) == (1, second.revision)

    async def test_newer_state_is_left_alone(self, store: StateStore) -> None:
        """What a newer version wrote is neither read nor changed: it may hold what this one does not know."""
        await store.save(state().change(schema=SCHEMA_VERSION + 1), 0)
        with pytest.raises(NewerState, match=f"schema {SCHEMA_VERSION + 1}"):
            await store.load("t-1")

    async def test_older_state_becomes_one_of_this_version(self, store: StateStore) -> None:
        """So that an older version leaves alone what this one has changed."""
        await store.save(state().change(schema=SCHEMA_VERSION - 1), 0)
        stored = await store.load("t-1")
        assert stored is not None
        assert stored.state.schema == SCHEMA_VERSION

    async def test_state_beyond_one_message_is_whole(self, store: StateStore) -> None:
        """What does not fit one message is stored all the same."""
        large = state("x" * 65_536).change(traceparent="y" * 200_000)
        await store.save(large, 0)
        stored = await store.load("t-1")
        assert stored is not None
        assert stored.state == large


async def test_an_object_that_is_late_is_waited_for(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that lags has the state already, and not yet what it refers to."""
    nc = await nats.connect(nats_url)
    js = nc.jetstream()
    await topology.declare(js, load({}))

    class Late(Texts):
        """Stores the object only once it was missed several times."""

        misses = 0

        async def get(self, ref: ContentRef) -> bytes:
            try:
                return await super().get(ref)
            except MissingText:
                self.misses += 1
                if self.misses == 3:
                    asyncio.get_running_loop().call_soon(arrived.set)
                raise

    arrived = asyncio.Event()
    monkeypatch.setattr("fleet.control.states.store.LOAD_AGAIN", 1000)
    texts = Late(js, max_payload=64 * 1024)
    store = await KeyValueStore.open(js, texts)
    large = state("x" * 100_000)
    await store.save(large, 0)
    ref = reference((await (await js.key_value(subjects.BUCKET)).get("t-1")).value or b"")
    assert ref is not None
    body = await texts.get(ref)
    await texts.delete(ref)
    loading = asyncio.create_task(store.load("t-1"))
    await arrived.wait()
    await texts.put(ref.name.rpartition("-")[0], body)
    stored = await loading
    assert stored is not None
    assert stored.state == large
    await nc.close()
