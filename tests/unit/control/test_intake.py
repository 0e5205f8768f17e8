"""What escapes a handler."""

from typing import Any

import nats.errors
import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from fleet import subjects
from fleet.control.intake import IncomingMessage, Subscription, served_only
from fleet.jetstream.topology import MAX_DELIVER


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


class Msgs:
    """A connection that takes no acknowledgement: NATS is away."""

    def __init__(self) -> None:
        self.tried: list[bytes] = []

    async def publish(self, reply: str, body: bytes = b"") -> None:
        self.tried.append(body)
        raise nats.errors.TimeoutError


class NoLetters:
    """Nor a dead letter."""

    async def give_up(self, *_: Any) -> None:
        raise nats.errors.TimeoutError


@pytest.mark.parametrize("delivery", [1, MAX_DELIVER])
async def test_an_outage_of_nats_is_a_warning_and_the_message_comes_again(delivery: int) -> None:
    """It is no defect of the code: no traceback, however long it lasts, and whatever it hits."""

    async def handler(_: IncomingMessage) -> None:
        raise nats.errors.TimeoutError

    subscription = Subscription(subjects.COLLECTOR, "title", "description")
    away: Any = Msgs()
    letters: Any = NoLetters()
    serve = served_only(subscription, handler, letters, lambda: None)
    reply = f"$JS.ACK.{subjects.AGENT_RESPONSES}.{subjects.COLLECTOR}.{delivery}.7.7.1700000000000000000.0"
    with capture_logs() as logs:
        await serve(Msg(_client=away, subject=subjects.AGENT_FAILED, reply=reply, data=b"{}"))
    given_up = ["message.not_given_up"] if delivery == MAX_DELIVER else []
    assert [line["event"] for line in logs] == ["message.retried", *given_up, "delivery.not_settled"]
    assert {line["log_level"] for line in logs} == {"warning"}
    assert not any("exc_info" in line for line in logs)
    assert [body[:4] for body in away.tried] == [b"-NAK"]
