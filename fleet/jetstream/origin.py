"""Tells where a message comes from, as far as NATS shows it.

Permissions say who may publish what. They do not say where a consumer delivers to, nor where the server sends what was
asked for: both take any subject that a client names. Such a message still shows what it is: what a consumer delivers
keeps the subject and the place of what is stored, and what was read directly carries `Nats-Stream`.
"""

from collections.abc import Collection

from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import RawStreamMsg

from fleet.logger import Logger, Seldom
from fleet.tenants.names import PREFIX

log = Logger(__name__)
_foreign, _not_answered = Seldom(), Seldom()

CONTROL_INBOX, WORKER_INBOX = "_INBOX.control", "_INBOX.worker"
"""Inboxes of their own: who could listen there would learn the next names, and could have answers delivered to them."""
_COPIED_FROM = "Nats-Stream"
_ACK = "$JS.ACK."
_V1_TOKENS, _V1_TIME = 9, 7
"""Of the reply subject of a delivery, where the server has no domain in it."""
_NOT_FOR_REPLIES = ("deliberation", "agent", "agents", "control", "fleet", "deadletter", PREFIX)


def published(msg: Msg, *subjects: str) -> bool:
    """Whether what core NATS brought was published under one of these subjects, and is no copy of a stored message."""
    genuine = msg.subject in subjects and not msg.reply.startswith(_ACK) and not is_copy(msg)
    if not genuine and (count := _foreign.count(msg.subject)) is not None:
        log.warning("message.foreign", subject=msg.subject, expected=subjects, bytes=len(msg.data), count=count)
    return genuine


def delivered(msg: Msg, stream: str, consumer: str, subjects: Collection[str]) -> bool:
    """Whether this consumer delivered it from this stream, under a subject that is served here."""
    try:
        meta = msg.metadata
    except (Error, ValueError, IndexError):
        if (count := _foreign.count(msg.subject)) is not None:
            expected = f"{stream}/{consumer}"
            log.warning("message.foreign", subject=msg.subject, expected=expected, bytes=len(msg.data), count=count)
        return False
    genuine = (meta.stream, meta.consumer) == (stream, consumer) and msg.subject in subjects
    came = f"{meta.stream}/{meta.consumer}"
    if not genuine and (count := _foreign.count(came)) is not None:
        expected = f"{stream}/{consumer}"
        log.warning("message.foreign", subject=msg.subject, expected=expected, came_from=came, count=count)
    return genuine


def is_copy(msg: Msg) -> bool:
    """Whether the server sent it as the answer to somebody who read a stream."""
    return _COPIED_FROM in (msg.headers or {})


def run_of(msg: Msg | RawStreamMsg) -> str:
    """Names a stored message as its sequence cannot: when its stream stored it, in microseconds, as hexadecimal digits.

    A stream that is restored, set back or made anew gives out its numbers again, and no time. Empty: not known.
    """
    if isinstance(msg, RawStreamMsg):
        return "" if msg.time is None else f"{round(msg.time.timestamp() * 1_000_000):x}"
    tokens = msg.reply.split(".")
    stored_ns = tokens[_V1_TIME] if len(tokens) == _V1_TOKENS else tokens[Msg.Ack.Timestamp]
    return f"{int(stored_ns) // 1000:x}"


def is_for_callers(subject: str) -> bool:
    """Whether it is one that callers may listen on: not one by which the fleet, or NATS, is told something."""
    first = subject.partition(".")[0]
    return not first.startswith("$") and first not in _NOT_FOR_REPLIES


def may_be_answered(reply: str) -> bool:
    """Whether a reply subject is for callers; one that is not is logged."""
    fine = is_for_callers(reply)
    if not fine and (count := _not_answered.count(reply.partition(".")[0])) is not None:
        log.warning("request.not_answered", reply=reply, count=count)
    return fine
