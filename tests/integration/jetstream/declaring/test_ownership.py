"""A neighbour's streams and buckets in the same account are left as they are, and two fleets do not share work."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, RetentionPolicy, StreamConfig

from fleet import subjects
from fleet.config import load
from fleet.errors import ConfigError
from fleet.jetstream import topology
from fleet.jetstream.connection import connect


@pytest_asyncio.fixture
async def js(nats_server: str) -> AsyncIterator[JetStreamContext]:
    nc = await connect(load({"NATS_URL": nats_server}), "test")
    yield nc.jetstream()
    await nc.close()


async def configs(js: JetStreamContext) -> dict[str, StreamConfig]:
    return {str(info.config.name): info.config for info in await js.streams_info()}


async def a_stream(js: JetStreamContext) -> None:
    await js.add_stream(StreamConfig(name=subjects.DEAD_LETTERS, subjects=["dlq.>"]))


async def a_bucket(js: JetStreamContext) -> None:
    await js.create_key_value(KeyValueConfig(bucket=subjects.BUCKET, history=5))


@pytest.mark.parametrize(("make", "name"), [(a_stream, subjects.DEAD_LETTERS), (a_bucket, subjects.STATES)])
async def test_what_a_neighbour_has_made_is_named_and_left_alone(
    js: JetStreamContext, make: Callable[[JetStreamContext], Awaitable[None]], name: str
) -> None:
    await make(js)
    before = await configs(js)
    with pytest.raises(ConfigError, match=f"{name}.*account of its own"):
        await topology.declare(js, load({}))
    assert await configs(js) == before


async def test_a_second_fleet_is_told_whose_the_streams_are(js: JetStreamContext) -> None:
    await topology.declare(js, load({"FLEET_NAME": "production"}))
    before = await configs(js)
    with pytest.raises(ConfigError, match=r"belongs to fleet 'production'.*FLEET_NAME=production"):
        await topology.declare(js, load({"FLEET_NAME": "staging"}))
    assert await configs(js) == before
    assert await topology.declare(js, load({"FLEET_NAME": "production"})) == []


async def test_what_an_older_version_has_made_is_adopted(js: JetStreamContext) -> None:
    await topology.declare(js, load({}))
    for config in (await configs(js)).values():
        more = {"subjects": ["control.>"]} if config.name == subjects.DELIBERATION_CONTROL else {}
        await js.update_stream(config.evolve(metadata={}, description=None, **more))
    await topology.declare(js, load({}))
    assert {config.metadata["fleet"] for config in (await configs(js)).values() if config.metadata} == {"fleet"}
    for stream, consumer in topology.consumers(load({})):
        info = await js.consumer_info(stream, str(consumer.durable_name))
        assert info.config.metadata is not None
        assert info.config.metadata["fleet"] == "fleet"


async def test_a_stream_is_mended_and_an_operators_own_settings_stay(js: JetStreamContext) -> None:
    await topology.declare(js, load({}))
    config = (await js.stream_info(subjects.DELIBERATIONS)).config
    changed = {"max_age": 600.0, "allow_direct": False, "subjects": [subjects.COMPLETED]}
    own = {"max_bytes": 1_000_000_000, "metadata": {**(config.metadata or {}), "team": "platform"}}
    await js.update_stream(config.evolve(**changed, **own))
    await topology.declare(js, load({}))
    mended = (await js.stream_info(subjects.DELIBERATIONS)).config
    assert (mended.max_age, mended.allow_direct, mended.subjects) == (config.max_age, True, config.subjects)
    assert mended.max_bytes == 1_000_000_000
    assert mended.metadata is not None
    assert mended.metadata["team"] == "platform"
    assert mended.retention == RetentionPolicy.LIMITS
