"""Streams and durables that somebody reconfigures under a running fleet, on a real nats-server."""

from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, Placement, StoreCompression, StreamConfig

from fleet import subjects
from fleet.config import Limits, Settings, load
from fleet.control.recovery.watchdog import LONGEST_PAUSE_S, PROBE_INTERVAL_S, VAIN_AFTER, Mending
from fleet.jetstream import topology
from fleet.jetstream.declaring.differences import changed, drift
from tests.support import agents
from tests.support.fleets.control_plane import running
from tests.support.variants import some_of
from tests.support.waiting import until

STATES = subjects.STATES
TEXTS = f"OBJ_{subjects.TEXTS}"


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.control.recovery.watchdog.PROBE_INTERVAL_S", 0.1)


async def is_as_wanted(js: JetStreamContext, name: str) -> bool:
    wanted = topology.all_streams(load({}))[name]
    return not drift((await js.stream_info(name)).config, wanted)


CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "max_age": (subjects.DELIBERATIONS, {"max_age": 3600.0}),
    "allow_direct": (subjects.DELIBERATIONS, {"allow_direct": False}),
    "subjects": (subjects.DELIBERATIONS, {"subjects": [subjects.ACCEPTED, "somebody.else"]}),
    "mark": (subjects.DELIBERATIONS, {"metadata": {}, "subjects": [subjects.COMPLETED]}),
    "requests": (subjects.DELIBERATION_REQUESTS, {"max_age": 3600.0}),
    "max_msgs": (subjects.DELIBERATION_REQUESTS, {"max_msgs": 5}),
    "states": (STATES, {"max_age": 3600.0, "allow_direct": False}),
    "texts": (TEXTS, {"max_age": 3600.0}),
}


@some_of(2, "change", CHANGES)
async def test_what_somebody_changes_is_set_right(nats_url: str, change: str) -> None:
    """While the fleet runs; and it serves afterwards."""
    name, fields = CHANGES[change]
    async with running(nats_url, agents.answer) as fleet:
        js = fleet.nc.jetstream()
        await fleet.inbox.next(subjects.COMPLETED, task_id=await fleet.request(rounds=0))
        existing = (await js.stream_info(name)).config
        await js.update_stream(existing.evolve(**fields))
        assert not await is_as_wanted(js, name)
        await until(lambda: is_as_wanted(js, name))
        await fleet.inbox.next(subjects.COMPLETED, task_id=await fleet.request(rounds=0))


async def test_a_changed_durable_is_set_right(nats_url: str) -> None:
    """What others have set beside it stays."""
    async with running(nats_url, agents.answer) as fleet:
        js = fleet.nc.jetstream()
        stream, name = subjects.AGENT_RESPONSES, subjects.COLLECTOR
        (wanted,) = (each for _, each in topology.consumers(load({})) if each.durable_name == name)
        existing = (await js.consumer_info(stream, name)).config
        await js.add_consumer(stream, existing.evolve(max_deliver=1, metadata={**existing.metadata, "team": "a"}))

        async def right() -> bool:
            return not drift((await js.consumer_info(stream, name)).config, wanted)

        assert not await right()
        await until(right)
        assert (await js.consumer_info(stream, name)).config.metadata["team"] == "a"


@pytest.fixture
async def js(nats_url: str) -> AsyncIterator[JetStreamContext]:
    nc = await nats.connect(nats_url)
    try:
        yield nc.jetstream()
    finally:
        await nc.close()


async def test_what_an_operator_has_set_survives(js: JetStreamContext) -> None:
    """However often the fleet declares its streams, and also where it mends something beside it."""
    settings = load({})
    await topology.declare(js, settings)
    mine = {"description": "Of the platform team.", "max_bytes": 10_000_000, "compression": StoreCompression.S2}
    for name in (subjects.DELIBERATIONS, subjects.AGENT_PROGRESS_STREAM, STATES, TEXTS):
        existing = (await js.stream_info(name)).config
        own = dict(mine)
        if name == subjects.AGENT_PROGRESS_STREAM:
            del own["compression"]  # in memory
        await js.update_stream(existing.evolve(**own, max_age=7200.0))
        await topology.declare(js, settings)
        after = (await js.stream_info(name)).config
        assert {field: getattr(after, field) for field in own} == own
        assert after.max_age == existing.max_age


def test_what_the_fleet_has_no_opinion_on_is_sent_back_as_it_is() -> None:
    """An update names every setting of a stream: what is left out would be taken away."""
    (wanted, *_) = topology.streams(load({}))
    placement = Placement(tags=["ssd"])
    existing = wanted.evolve(placement=placement, compression=StoreCompression.S2, max_age=7200.0)
    after = changed(existing, drift(existing, wanted))
    assert (after.placement, after.compression, after.max_age) == (placement, StoreCompression.S2, wanted.max_age)


def test_more_replicas_stay_and_fewer_are_raised() -> None:
    """With more of them the bucket of states gives no direct answers, which may be old."""
    three = topology.all_streams(Settings(limits=Limits(replicas=3)))
    one = topology.all_streams(Settings())
    for name, wanted in one.items():
        fields = {key: value for key, value in vars(wanted).items() if key != "name"}
        existing = StreamConfig(name=name, **{**fields, "num_replicas": 3})
        expected = {"allow_direct": (True, False)} if name == STATES else {}
        assert dict(drift(existing, wanted)) == expected
        fewer = StreamConfig(name=name, **fields)
        assert drift(fewer, three[name])["num_replicas"] == (1, 3)
    kept = StreamConfig(**{**vars(one[STATES]), "num_replicas": 3, "allow_direct": False})
    assert not drift(kept, one[STATES])


def test_a_consumer_keeps_a_description_of_its_own() -> None:
    """As a stream does."""
    for _, wanted in topology.consumers(load({})):
        existing = ConsumerConfig(**{**vars(wanted), "description": "Of the platform team."})
        assert not drift(existing, wanted)


def test_what_others_change_again_and_again_is_mended_less_and_less_often() -> None:
    """Two configurations of the fleet do not fight for ever; and it is told."""
    mending, now, mended = Mending(), 0.0, 0
    while now < 600:
        mended += mending.due(["DELIBERATIONS"], now)
        now += PROBE_INTERVAL_S
    assert 3 <= mended <= 20
    assert mending.is_vain("DELIBERATIONS")
    assert not mending.due([], now + 2 * LONGEST_PAUSE_S)
    assert not mending.is_vain("DELIBERATIONS")
    assert VAIN_AFTER > 1
