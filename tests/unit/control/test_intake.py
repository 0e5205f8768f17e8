"""What escapes a handler."""

from typing import Any

import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from fleet import subjects
from fleet.control.intake import IncomingMessage, Subscription, served_only


async def test_what_escapes_a_handler_is_logged() -> None:
    """FastStream says nothing of it, and the message would come again and again unseen."""

    async def handler(_: IncomingMessage) -> None:
        raise RuntimeError("the store is on fire")

    subscription = Subscription(subjects.COLLECTOR, "title", "description")
    nowhere: Any = None
    serve = served_only(subscription, handler, nowhere, lambda: None)
    reply = f"$JS.ACK.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}.1.7.7.1700000000000000000.0"
    msg = Msg(_client=None, subject=subjects.AGENT_FAILED, reply=reply, data=b"{}")
    with capture_logs() as logs, pytest.raises(RuntimeError):
        await serve(msg)
    assert [(event["event"], event["stream"], event["sequence"], event["exc_info"]) for event in logs] == [
        ("message.not_handled", subjects.AGENT_RESPONSES, 7, True)
    ]
