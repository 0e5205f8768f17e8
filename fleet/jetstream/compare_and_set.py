"""Stores a message as the next one of its subject, unless somebody else has stored one meanwhile."""

from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import APIError

WRONG_LAST_SEQUENCE = 10071
"""JetStream's code for it."""


async def store_after(
    js: JetStreamContext, subject: str, body: bytes, revision: int, timeout_s: float | None = None
) -> int | None:
    """`revision`: of the message that stands there, 0: none. Returns that of the new one; None: another one was faster.
    Raises what NATS does."""
    expected = {str(Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value): str(revision)}
    try:
        return (await js.publish(subject, body, headers=expected, timeout=timeout_s)).seq
    except APIError as error:
        if error.err_code == WRONG_LAST_SEQUENCE:
            return None
        raise
