"""Whoever lists streams, consumers, buckets or endpoints is told what they are for."""

import json

from fleet import subjects
from fleet.config import load
from fleet.jetstream import topology
from tests.support import agents
from tests.support.fleets.control_plane import running
from tests.support.waiting import WITHIN_S


async def test_what_the_fleet_declares_says_what_it_is(nats_url: str) -> None:
    """On the server, buckets included; and each endpoint names the messages that it takes and gives."""
    async with running(nats_url, agents.answer, agent_protocol=True) as fleet:
        js = fleet.nc.jetstream()
        for info in await js.streams_info():
            name = str(info.config.name).removeprefix("KV_").removeprefix("OBJ_")
            assert info.config.description == subjects.DESCRIPTIONS[name]
        for stream, consumer in topology.consumers(load({})):
            info = await js.consumer_info(stream, str(consumer.durable_name))
            assert info.config.description == subjects.DESCRIPTIONS[str(consumer.durable_name)]
        endpoints = {}
        for service in (subjects.SERVICE, subjects.AGENTS_SERVICE):
            reply = await fleet.nc.request(f"$SRV.INFO.{service}", timeout=WITHIN_S)
            for endpoint in json.loads(reply.data)["endpoints"]:
                said = endpoint["metadata"].items()
                endpoints[endpoint["subject"]] = {name: text for name, text in said if name in ("request", "reply")}
        status = endpoints.pop(subjects.of_fleet(subjects.PROMPT_STATUS, "fleet"))
        assert status == {"reply": "Heartbeat"}
        assert endpoints == {
            subjects.of_fleet(subject, "fleet"): named for subject, named in subjects.ENDPOINT_MESSAGES.items()
        }


async def test_a_description_reaches_what_exists(nats_url: str) -> None:
    """A fleet that was there before is told, too."""
    async with running(nats_url, agents.answer) as fleet:
        js = fleet.nc.jetstream()
        name = subjects.DELIBERATIONS
        config = (await js.stream_info(name)).config
        await js.update_stream(config.evolve(description=None))
        assert not (await js.stream_info(name)).config.description
        await topology.declare(js, load({}))
        assert (await js.stream_info(name)).config.description == subjects.DESCRIPTIONS[name]
