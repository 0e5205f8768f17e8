"""Published messages are CloudEvents in binary mode: their headers are read back with the CloudEvents SDK."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.formats.json import JSONFormat

from fleet import subjects
from fleet.messages.headers import headers
from tests.support import agents
from tests.support.fleets.control_plane import running
from tests.support.waiting import WITHIN_S


def read(sent: dict[str, str], body: bytes) -> Any:
    return from_binary(HTTPMessage(headers=sent, body=body), JSONFormat())


async def test_an_event_is_a_cloud_event(nats_url: str) -> None:
    """Every attribute arrives, and the data is the body."""
    async with running(nats_url, agents.answer) as fleet:
        seen: asyncio.Queue[Any] = asyncio.Queue()
        await fleet.nc.subscribe("deliberation.*", cb=seen.put)
        await fleet.nc.flush()
        await fleet.request(task_id="cloudy", num_agents=1)
        async with asyncio.timeout(WITHIN_S):
            while (msg := await seen.get()).subject != subjects.COMPLETED:
                pass
    event = read(msg.headers, msg.data)
    assert (event.get_type(), event.get_subject(), event.get_source()) == (
        subjects.COMPLETED,
        "cloudy",
        "/fleet/collector",
    )
    assert event.get_id().startswith("cloudy.terminal.")
    assert event.get_specversion() == "1.0"
    assert event.get_datacontenttype() == "application/json"
    assert event.get_time() <= datetime.now(UTC)
    assert event.get_data() == json.loads(msg.data)


@pytest.mark.parametrize("task_id", ["ü", "two words", 'a"b', "50%", "d-1"])
def test_a_strange_task_id_survives(task_id: str) -> None:
    """A rejection names whatever the client sent."""
    sent = headers(subjects.REJECTED, "7.rejected", "/fleet/dispatcher", task_id, "00-a-b-01")
    assert sent["ce-subject"].isascii()
    assert read(sent, b"{}").get_subject() == task_id
