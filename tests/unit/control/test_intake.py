"""What escapes a handler."""

from typing import Any

import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from fleet.control.intake import OutboxHolder, Received, served_only


async def test_what_escapes_a_handler_is_logged() -> None:
    """FastStream says nothing of it, and the message would come again and again unseen."""

    async def handler(_: Received[Any]) -> None:
        raise RuntimeError("the store is on fire")

    serve = served_only("STREAM", "consumer", ("some.subject",), handler)
    reply = "$JS.ACK.STREAM.consumer.1.7.7.1700000000000000000.0"
    msg = Msg(_client=None, subject="some.subject", reply=reply, data=b"{}")
    with capture_logs() as logs, pytest.raises(RuntimeError):
        await serve((msg, OutboxHolder()))  # type: ignore[arg-type]
    assert [(event["event"], event["stream"], event["sequence"], event["exc_info"]) for event in logs] == [
        ("message.not_handled", "STREAM", 7, True)
    ]
