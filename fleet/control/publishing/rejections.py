"""Builds the rejection of a request that breaks a rule."""

from fleet.clock import now_ms
from fleet.control.intake import IncomingMessage
from fleet.errors import BadRequest
from fleet.messages import DeliberationRejected
from fleet.times import rfc3339


def rejection(error: BadRequest, message: IncomingMessage) -> DeliberationRejected:
    """As the client of the request is told."""
    return DeliberationRejected(
        task_id=error.task_id,
        tenant=message.tenant,
        code=error.code,  # type: ignore[arg-type]
        path=error.path,
        error=error.error,
        stream_sequence=message.delivery.sequence,
        rejected_at=rfc3339(now_ms()),
        run=message.delivery.run,
        message_id=message.message_id,
        correlation=error.correlation,
    )
